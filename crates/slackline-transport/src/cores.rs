//! The processor cores that a thread may run on.
//!
//! Everything here concerns the calling thread. Threads and processes that it starts inherit its cores.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The numbers of the cores that this thread may run on, ascending. Empty if the system does not say.
pub fn available() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// The cores of [`available`], if there is one for each of `threads` threads; otherwise none.
pub fn one_each(threads: usize) -> Vec<usize> {
    let cores = available();
    if threads <= cores.len() { cores } else { Vec::new() }
}

/// How many threads can run at the same time: the number of cores, or less where a control group limits processor time.
/// At least 1.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Binds this thread to these cores. If the system refuses (some containers do), the thread stays where it is: binding
/// makes timings steadier and nothing else depends on it.
pub fn bind(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    let _ = sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_and_what_it_starts_have_its_core_and_no_other_thread_has() {
        let all = available();
        assert!(!all.is_empty());
        assert_eq!(one_each(all.len()), all);
        assert!(one_each(all.len() + 1).is_empty());
        let last = all[all.len() - 1];
        std::thread::spawn(move || {
            bind(&[last]);
            assert_eq!(available(), [last]);
            assert_eq!(std::thread::spawn(available).join().unwrap(), [last]);
            assert_eq!(count(), 1);
        })
        .join()
        .unwrap();
        assert_eq!(available(), all);
    }
}
