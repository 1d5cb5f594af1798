//! The portable fast kernel: a block of columns is summed over a whole bag in registers, and stored once.
//!
//! The blocks are arrays of a constant length, which the compiler turns into vector registers; the usual dimensions have
//! code of their own, in which row addresses are shifts and no column loop is left over.

use crate::bags::Index;
use crate::{Bags, Indices, Pooling};

/// The widest block, in columns: 8 registers of 128 bits, half of what any 64-bit machine has, so that none spills.
const WIDEST: usize = 32;

/// Pools `bags` over the rows `data`, `[bags.rows(), dim]`, into `out`, `[bags.len(), dim]`; see
/// [`EmbeddingTable::pool`](crate::EmbeddingTable::pool) for what is computed. Gives the bits of
/// [`naive::pool`](super::naive::pool).
///
/// # Panics
///
/// If a length does not fit the others, `dim` is 0, or a mean of weighted bags is asked for.
pub fn pool(data: &[f32], dim: usize, bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) {
    super::check(data, dim, bags, pooling, out);
    match bags.indices() {
        Indices::I32(indices) => by_dim(data, dim, indices, bags, pooling, out),
        Indices::I64(indices) => by_dim(data, dim, indices, bags, pooling, out),
    }
}

fn by_dim<I: Index>(data: &[f32], dim: usize, indices: &[I], bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) {
    match dim {
        4 => fixed::<4, I>(data, indices, bags, pooling, out),
        8 => fixed::<8, I>(data, indices, bags, pooling, out),
        16 => fixed::<16, I>(data, indices, bags, pooling, out),
        32 => fixed::<32, I>(data, indices, bags, pooling, out),
        64 => fixed::<64, I>(data, indices, bags, pooling, out),
        128 => fixed::<128, I>(data, indices, bags, pooling, out),
        _ => samples(data, dim, indices, bags, pooling, out),
    }
}

fn fixed<const D: usize, I: Index>(data: &[f32], indices: &[I], bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) {
    samples(data, D, indices, bags, pooling, out);
}

#[inline(always)]
fn samples<I: Index>(data: &[f32], dim: usize, indices: &[I], bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) {
    for (sample, out) in out.chunks_exact_mut(dim).enumerate() {
        let at = bags.bag(sample);
        let divisor = (pooling == Pooling::Mean && !at.is_empty()).then_some(at.len() as f32);
        let bag = Bag { data, dim, weights: bags.weights().map(|weights| &weights[at.clone()]), indices: &indices[at] };
        let column = bag.columns::<WIDEST>(0, divisor, out);
        let column = bag.columns::<16>(column, divisor, out);
        let column = bag.columns::<8>(column, divisor, out);
        let column = bag.columns::<4>(column, divisor, out);
        bag.columns::<1>(column, divisor, out);
    }
}

/// The lookups of one sample.
struct Bag<'a, I> {
    data: &'a [f32],
    dim: usize,
    indices: &'a [I],
    weights: Option<&'a [f32]>,
}

impl<I: Index> Bag<'_, I> {
    /// Pools as many whole blocks of `W` columns as there are from `column` on; returns the first column not pooled.
    #[inline(always)]
    fn columns<const W: usize>(&self, mut column: usize, divisor: Option<f32>, out: &mut [f32]) -> usize {
        while self.dim - column >= W {
            let mut sum = self.sum::<W>(column);
            if let Some(divisor) = divisor {
                sum.iter_mut().for_each(|sum| *sum /= divisor);
            }
            out[column..column + W].copy_from_slice(&sum);
            column += W;
        }
        column
    }

    #[inline(always)]
    fn sum<const W: usize>(&self, column: usize) -> [f32; W] {
        let mut sum = [0.0; W];
        match self.weights {
            None => {
                for &index in self.indices {
                    let row = self.block::<W>(index, column);
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
            }
            Some(weights) => {
                for (&index, weight) in self.indices.iter().zip(weights) {
                    let row = self.block::<W>(index, column);
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += weight * value;
                    }
                }
            }
        }
        sum
    }

    #[inline(always)]
    fn block<const W: usize>(&self, index: I, column: usize) -> &[f32; W] {
        let at = index.row() * self.dim + column;
        self.data[at..].first_chunk().expect("the bags were checked against the rows of this table")
    }
}
