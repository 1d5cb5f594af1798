//! The integration tests of the crate, in one binary: a module for each subject.

mod common;
mod directory;
mod directory_damage;
#[cfg(feature = "distributed")]
mod distributed;
#[cfg(feature = "distributed")]
mod fake;
#[cfg(feature = "import")]
mod foreign;
mod forward;
#[cfg(feature = "import")]
mod golden;
#[cfg(feature = "distributed")]
mod over_collectives;
#[cfg(feature = "distributed")]
mod over_fake;
mod quantised;
#[cfg(feature = "import")]
mod resume;
mod serving;
#[cfg(feature = "import")]
mod sources;

/// The README shows the example as it is, without its head.
#[test]
fn the_readme_shows_the_example() {
    let example = include_str!("../../examples/predict.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../README.md").contains(body), "README.md and examples/predict.rs differ");
}
