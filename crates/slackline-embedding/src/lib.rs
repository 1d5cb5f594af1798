//! Embedding tables: what a rank holds of a model's sparse part, and how it is looked up.
//!
//! * [`Bags`] are the lookups of one table, checked once against its rows; after that every layer trusts them.
//! * [`EmbeddingTable`] is what callers hold: a name, a shape, and [`pool`](EmbeddingTable::pool). [`MappedTable`] lies
//!   in a [`Shard`] file mapped into memory, [`HeapTable`] in a `Vec`.
//! * [`kernels`] reduce rows to pooled vectors. They all sum in index order, so all give the same bits.
//! * [`ShardWriter`] and [`Shard`] write and read shard files: safetensors with checksums and a page-aligned data section.
//! * [`Plan`] says which rank holds which table.
//!
//! This crate knows no running ranks and no transports: the planner is given a number of ranks and nothing more. It does
//! no threading of its own either; [`Bags::samples`] cuts a batch into runs that callers may pool on different threads. Shards are
//! for Unix, where a renamed file leaves the mapping of the old one alone.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("shard files hold little-endian rows and are used in place");

mod bags;
mod format;
mod heap;
pub mod kernels;
// The one place with `unsafe`: mapping a file.
#[allow(unsafe_code)]
mod mmap;
mod plan;
mod shard;
mod table;

pub use bags::{BagError, Bags, Indices};
pub use format::{MAX_DIM, RowFormat, UnknownRowFormat};
pub use heap::HeapTable;
pub use plan::{Plan, PlanError, TableCost};
pub use shard::{MappedTable, Shard, ShardDefect, ShardError, ShardTable, ShardWriter, TableSpec, Verify};
pub use table::{EmbeddingTable, PoolError, Pooling};
