//! The tests of the collective: one property suite over every transport, faults, and the protocol as a model.

mod common;
mod faults;
mod hidden;
mod mixture;
mod polled;
mod processes;
mod simulation;
mod streams;
mod threads;

/// The README shows the example as it is, without its head.
#[test]
fn the_readme_shows_the_example() {
    let example = include_str!("../../examples/lag_threads.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../README.md").contains(body), "README.md and examples/lag_threads.rs differ");
}
