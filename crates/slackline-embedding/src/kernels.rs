//! Pooling kernels over plain slices: the inner loops of [`EmbeddingTable::pool`](crate::EmbeddingTable::pool).
//!
//! All of them add in the same order and give the same bits; [`naive`] says what is right, the others are fast. They are
//! public so that property tests and benchmarks can compare them; everybody else goes through a table.

pub mod blocked;
pub mod naive;

use crate::{Bags, Pooling};

/// The preconditions that all kernels share. They are invariants of the tables above, so breaking one is a panic.
fn check(data: &[f32], dim: usize, bags: &Bags<'_>, pooling: Pooling, out: &[f32]) {
    assert!(dim > 0, "a table without columns");
    assert_eq!(Some(data.len() as u64), bags.rows().checked_mul(dim as u64), "bags of another table");
    assert_eq!(Some(out.len()), bags.len().checked_mul(dim), "an output of another size");
    assert!(pooling == Pooling::Sum || bags.weights().is_none(), "a mean of weighted rows");
}
