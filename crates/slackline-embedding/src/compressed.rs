//! Tables that hold fewer values than they stand for.
//!
//! All are [`EmbeddingTable`]s over other tables, in any row format and wherever these lie:
//!
//! * [`RemappedTable`]: row `i` is another row of a smaller table. *Hashed* tables share rows (`i` modulo their number),
//!   *pruned* ones have lost some.
//! * [`QuotientRemainderTable`]: row `i` is made of row `i / c` of one table and row `i % c` of another (Shi et al.,
//!   Compositional Embeddings Using Complementary Partitions, arXiv:1909.02107).
//! * [`ProjectedTable`]: rows have fewer columns, and pooled vectors are multiplied by a matrix (Ginart et al., Mixed
//!   Dimension Embeddings, arXiv:1909.11810).
//!
//! A sample's vector depends neither on its batch nor on the kernel, as for plain tables.

mod projected;
mod quotient;
mod remapped;

use std::cell::Cell;

use crate::bags::BagBuffer;

pub use projected::{ProjectedTable, WrongProjection};
pub use quotient::{Combine, QuotientRemainderTable, WrongParts};
pub use remapped::{RemappedTable, RowMap, WrongMap};

#[cfg(doc)]
use crate::EmbeddingTable;

/// Samples whose vectors are pooled at a time, so that they stay in the cache until they are used.
const CHUNK: usize = 64;

/// A thread's room for derived lookups and for vectors that are not finished.
#[derive(Default)]
struct Scratch {
    bags: BagBuffer,
    first: Vec<f32>,
    second: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Vec<Scratch>> = const { Cell::new(Vec::new()) };
}

/// Lends room to `work`; a table of tables takes one for each level.
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut spare = SCRATCH.take();
    let mut scratch = spare.pop().unwrap_or_default();
    SCRATCH.set(spare);
    let result = work(&mut scratch);
    let mut spare = SCRATCH.take();
    spare.push(scratch);
    SCRATCH.set(spare);
    result
}
