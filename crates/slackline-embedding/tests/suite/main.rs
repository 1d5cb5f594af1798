//! The integration tests of the crate, in one program; `lost` is another, since its tests take signals.

mod bags;
mod conformance;
#[cfg(feature = "generations")]
mod generations;
mod parts;
#[cfg(feature = "plan")]
mod plan;
mod pooling;
mod rows;
mod shard;
mod shard_damage;
mod torch;

/// The README shows the example as it is, without its head.
#[test]
fn the_readme_shows_the_example() {
    let example = include_str!("../../examples/shard.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../README.md").contains(body), "README.md and examples/shard.rs differ");
}
