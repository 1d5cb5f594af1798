//! Taking the current generation for one request, beside what locks would take.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use slackline_embedding::Generations;

/// Times `take` alone, and while another thread does the same all the time.
fn alone_and_contended(c: &mut Criterion, name: &str, take: impl Fn() + Sync) {
    let mut group = c.benchmark_group("taking the current generation");
    group.bench_function(format!("{name}, 1 thread"), |b| b.iter(&take));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                take();
            }
        });
        group.bench_function(format!("{name}, 2 threads"), |b| b.iter(&take));
        done.store(true, Ordering::Relaxed);
    });
}

fn taking(c: &mut Criterion) {
    let generations = Generations::new([1u64; 8]);
    alone_and_contended(c, "Generations", || {
        black_box(generations.current()[0]);
    });
    let lock = RwLock::new(Arc::new([1u64; 8]));
    alone_and_contended(c, "RwLock<Arc>", || {
        let taken = Arc::clone(&lock.read().expect("nobody panics"));
        black_box(taken[0]);
    });
    let mutex = Mutex::new(Arc::new([1u64; 8]));
    alone_and_contended(c, "Mutex<Arc>", || {
        let taken = Arc::clone(&mutex.lock().expect("nobody panics"));
        black_box(taken[0]);
    });
}

criterion_group!(generations, taking);
criterion_main!(generations);
