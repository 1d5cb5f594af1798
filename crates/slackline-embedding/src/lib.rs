//! Embedding tables: what a rank holds of a model's sparse part, and how it is looked up.
//!
//! * [`Bags`] are the lookups of one table, checked once against its rows; after that every layer trusts them.
//! * [`EmbeddingTable`] is what callers hold: a name, a shape, and [`pool`](EmbeddingTable::pool). [`MappedTable`] lies
//!   in a [`Shard`] file mapped into memory, [`HeapTable`] in memory of the process.
//! * [`compressed`] tables stand for more rows, or wider ones, than they hold.
//! * [`conformance`] checks an [`EmbeddingTable`] of your own.
//! * [`RowFormat`] names how rows are stored, [`Rows`] are such rows: made from values, and read back.
//! * [`kernels`] reduce rows to pooled vectors. They all sum in index order, so all give the same bits.
//! * [`ShardWriter`] and [`Shard`] write and read shard files: safetensors with checksums and a page-aligned data section.
//! * [`Generations`] replace all tables at once while requests go on, each of which sees one generation.
//! * [`HotRows`] are copies of the rows that are looked up most.
//! * [`Plan`] says which rank holds which tables, or which parts of them; a [`Profile`] of a trace tells it what is looked
//!   up, and [`CostModel`] what that costs.
//! * [`guard`] turns the SIGBUS of a mapped shard that is cut short into an error. A program has to ask for it.
//!
//! Features, none of which is on by default: `threads` ([`pool_all`]), `generations` ([`Generations`]), `plan` ([`Plan`], [`Profile`],
//! [`CostModel`]), `serde` ([`RowFormat`] and [`ShardMark`] are written and read by serde; part of `plan`).
//!
//! This crate does not communicate and starts no threads: the planner takes a number of ranks, [`pool_all`] a thread pool.
//! Shards are for Unix, where replacing a file by renaming leaves the mapping of the old one intact.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("shard files hold little-endian rows and are used in place");

mod bags;
pub mod compressed;
pub mod conformance;
mod finite;
mod format;
#[cfg(feature = "generations")]
mod generation;
pub mod guard;
mod heap;
mod hot;
pub mod kernels;
mod memory;
// `unsafe` for mapping files, and for living on when one fails.
#[allow(unsafe_code)]
mod mmap;
#[cfg(feature = "threads")]
mod parallel;
#[cfg(feature = "plan")]
mod plan;
#[cfg(feature = "plan")]
mod profile;
mod residency;
mod rows;
mod shard;
mod sync;
mod table;

pub use bags::{BagBuffer, BagError, Bags, Indices};
pub use finite::pool_finite;
pub use format::{MAX_DIM, RowFormat, UnknownRowFormat};
#[cfg(feature = "generations")]
pub use generation::{Generation, Generations, Retired, Successor, TableSet, UnfitTables};
pub use heap::{HeapTable, UnfitRow};
pub use hot::HotRows;
#[cfg(feature = "threads")]
pub use parallel::{PoolJob, pool_all};
#[cfg(feature = "plan")]
pub use plan::{CostModel, Cuts, Forced, Level, Part, Plan, PlanError, PlanOptions, Shortfall, Split, TableCost};
#[cfg(feature = "plan")]
pub use profile::{OtherTables, Profile, Profiler, TableProfile};
pub use residency::Residency;
pub use rows::{Rows, UnfitValue};
pub use shard::{
    Load, MappedTable, Shard, ShardDefect, ShardError, ShardMark, ShardTable, ShardWriter, TableSpec, Verify,
};
pub use table::{EmbeddingTable, Output, PoolError, Pooling};
// Its types are in public signatures: `f16` and `bf16` in [`Output`].
pub use half;
// The thread pool of [`pool_all`].
#[cfg(feature = "threads")]
pub use rayon;
