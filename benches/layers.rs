//! Interaction, layers and a round of the exchange.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slackline_collective::{Exchange, Group, GroupOptions, LaneOptions};
use slackline_dlrm::{Arguments, DenseModel, InteractionScratch, MlpScratch, ModelConfig};
use slackline_transport::{Endpoint, GroupShape, Lane, threads};

const SAMPLES: usize = 128;

/// The dense part of the reference's Kaggle model.
fn kaggle() -> DenseModel {
    let arguments = Arguments {
        sparse_feature_size: 16,
        embedding_size: vec![10; 26],
        mlp_bot: vec![13, 512, 256, 64, 16],
        mlp_top: vec![512, 256, 1],
        ..Arguments::default()
    };
    DenseModel::random(ModelConfig::new(arguments).expect("the configuration is valid"), 1)
}

fn interaction(c: &mut Criterion) {
    let model = kaggle();
    let vectors = vec![0.5f32; SAMPLES * 16];
    let tables = vec![vectors.as_slice(); 26];
    let mut out = vec![0.0; SAMPLES * model.interaction().width()];
    let mut scratch = InteractionScratch::default();
    let mut group = c.benchmark_group("interaction");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    group.bench_function("27 vectors of 16", |b| {
        b.iter(|| model.interaction().interact(&vectors, black_box(&tables), SAMPLES, &mut scratch, &mut out));
    });
}

fn mlp(c: &mut Criterion) {
    let model = kaggle();
    let mlp = model.bottom_mlp();
    let mut group = c.benchmark_group("bottom MLP 13-512-256-64-16");
    for samples in [1, 16, 128] {
        let input = vec![0.5f32; samples * mlp.inputs()];
        let mut out = vec![0.0; samples * mlp.outputs()];
        let mut scratch = MlpScratch::default();
        group.throughput(Throughput::Elements(samples as u64));
        group.bench_function(BenchmarkId::from_parameter(samples), |b| {
            b.iter(|| mlp.forward(black_box(&input), samples, &mut scratch, &mut out));
        });
    }
}

/// One round of two ranks, with as many bytes to each.
fn round<E: Endpoint>(exchange: &mut Exchange<'_, E>, bytes: usize) -> bool {
    let mut round = exchange.begin(&[bytes; 2]).expect("the round before was taken");
    for message in round.messages_mut() {
        message.fill(1);
    }
    round.publish().expect("the group is whole");
    let complete = exchange.take().expect("the group is whole").expect("without lag a published round is due");
    !complete.message(0).is_empty()
}

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange, 2 threads");
    for bytes in [1 << 10, 64 << 10] {
        let options = LaneOptions::lag(0);
        let shape = GroupShape { ranks: 2, lanes: vec![options.shape(bytes)] };
        let mut endpoints = threads::group(&shape).expect("the shape is valid").into_iter();
        let join = |endpoint| {
            let options = GroupOptions::new([options]).deadline(Duration::from_secs(600));
            Group::new(endpoint, options).expect("the shape fits the options")
        };
        let mut first = join(endpoints.next().expect("two endpoints"));
        let mut second = join(endpoints.next().expect("two endpoints"));
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut exchange = second.lane(Lane(0));
                // Until the other has left: its messages are empty from then on.
                while round(&mut exchange, bytes) {}
                while exchange.drain().expect("the group is whole").is_some() {}
            });
            let mut exchange = first.lane(Lane(0));
            group.throughput(Throughput::Bytes(2 * bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{bytes} bytes to each")), |b| {
                b.iter(|| round(&mut exchange, bytes));
            });
            while exchange.drain().expect("the group is whole").is_some() {}
        });
    }
}

criterion_group!(layers, interaction, mlp, exchange);
criterion_main!(layers);
