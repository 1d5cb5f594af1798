//! The integration tests of the crate, in one program; `lost` is another, since its tests take signals.

mod bags;
mod conformance;
mod generations;
mod parts;
mod plan;
mod pooling;
mod rows;
mod shard;
mod shard_damage;
mod torch;
