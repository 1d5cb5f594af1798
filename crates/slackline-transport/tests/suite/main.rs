//! The tests of the transports. Under `--cfg loom` only the model checker's.

#[cfg(not(loom))]
mod conformance;
#[cfg(not(loom))]
mod guards;
#[cfg(loom)]
mod loom;
#[cfg(all(not(loom), feature = "launch"))]
mod processes;
#[cfg(not(loom))]
mod sim;
#[cfg(not(loom))]
mod sim_faults;
#[cfg(not(loom))]
mod talk;
#[cfg(not(loom))]
mod threads;
#[cfg(not(loom))]
mod traffic;
#[cfg(not(loom))]
mod wakers;
#[cfg(not(loom))]
mod wrappers_checked;
#[cfg(not(loom))]
mod wrappers_delay;
#[cfg(not(loom))]
mod wrappers_threads;

/// The README shows the example as it is, without its head.
#[test]
fn the_readme_shows_the_example() {
    let example = include_str!("../../examples/ring_threads.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../README.md").contains(body), "README.md and examples/ring_threads.rs differ");
}

/// So does the guide with the transport that it writes.
#[test]
fn the_guide_shows_the_example() {
    let example = include_str!("../../examples/queues.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../../../docs/extending.md").contains(body), "extending.md and examples/queues.rs differ");
}
