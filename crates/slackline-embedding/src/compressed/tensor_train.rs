//! Tensor-train tables.

use std::ops::Range;
use std::sync::Arc;

use super::{Scratch, with_scratch};
use crate::table::check_pool;
use crate::{Bags, EmbeddingTable, MAX_DIM, Output, PoolError, Pooling, Residency, RowFormat};

/// Lookups whose rows are made at a time.
const BLOCK: usize = 32;

/// A table whose rows are products of small matrices, one from each of several *cores*: Yin et al., TT-Rec
/// (arXiv:2101.11714), in the layout of its FBTT-Embedding.
///
/// With `p[k]` rows in core `k`, row `i` is made of row `d[k]` of each, where `d` are the digits of `i` in the mixed base `p`,
/// the first core's the highest. A core's row is a matrix `[r[k], q[k], r[k + 1]]` in row-major order, where `r` are the ranks,
/// with 1 in front and behind; their product over the ranks, `[q[0], q[1], …]`, is the row. FBTT-Embedding's parameter
/// `tt_cores.k` is `[1, p[k], r[k] * q[k] * r[k + 1]]`: such a core's rows.
///
/// The matrices are multiplied from the first to the last; each value sums over a rank in ascending order, starting from
/// `+0.0`, each product and each sum rounded to single precision. The rows are pooled as those of a plain `f32` table.
///
/// Cost of a lookup: one row of each core, and as many multiplications as each product of matrices has: for three cores
/// `q[0] * r[1] * q[1] * r[2] + q[0] * q[1] * r[2] * q[2]`.
///
/// ```
/// use std::sync::Arc;
///
/// use slackline_embedding::compressed::TensorTrainTable;
/// use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling};
///
/// // A million rows of 16 columns, from two cores of 1000 rows of 4 columns and a rank of 8.
/// let cores = [0, 1].map(|seed| Arc::new(HeapTable::random("item", 1000, 4 * 8, seed)) as Arc<dyn EmbeddingTable>);
/// let table = TensorTrainTable::new(cores.into(), &[4, 4], &[8], 1_000_000)?;
/// assert_eq!((table.dim(), table.bytes()), (16, 256_000));
/// let bags = Bags::new("item", table.rows(), &[999_999i64, 3], &[0i64, 2], None)?;
/// let mut out = [0.0; 16];
/// table.pool(&bags, Pooling::Sum, &mut out)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TensorTrainTable {
    cores: Vec<Core>,
    rows: u64,
    dim: usize,
}

#[derive(Clone, Debug)]
struct Core {
    table: Arc<dyn EmbeddingTable>,
    /// Rows of the whole table that have the same digits up to this core's.
    below: u64,
    /// The rank towards the core before.
    rank: usize,
}

/// Cores that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: {why}")]
pub struct WrongCores {
    /// The table.
    pub table: String,
    /// What is wrong.
    pub why: String,
}

impl TensorTrainTable {
    /// A table of `rows` rows from cores, `columns` (`q`) of each of them, and the `ranks` between them, one fewer.
    /// Its name is that of the first core.
    ///
    /// # Errors
    ///
    /// [`WrongCores`] if there is no core, a core's rows have another length, the columns' product is no dimension, or the
    /// cores make fewer rows.
    pub fn new(
        cores: Vec<Arc<dyn EmbeddingTable>>,
        columns: &[usize],
        ranks: &[usize],
        rows: u64,
    ) -> Result<Self, WrongCores> {
        let table = cores.first().map_or(String::new(), |core| core.name().to_owned());
        let wrong = |why: String| WrongCores { table: table.clone(), why };
        if cores.is_empty() || columns.len() != cores.len() || ranks.len() + 1 != cores.len() {
            let [cores, columns, ranks] = [cores.len(), columns.len(), ranks.len()];
            return Err(wrong(format!(
                "{cores} cores with {columns} numbers of columns and {ranks} ranks between them"
            )));
        }
        let ranks = [&[1], ranks, &[1]].concat();
        for (number, (core, columns)) in cores.iter().zip(columns).enumerate() {
            let [left, right] = [ranks[number], ranks[number + 1]];
            if left.checked_mul(*columns).and_then(|values| values.checked_mul(right)) != Some(core.dim()) {
                let found = core.dim();
                let why = format!("core {number} has {found} values a row, and not {left} x {columns} x {right}");
                return Err(wrong(why));
            }
        }
        // None of the columns is 0, since no table has rows of no values.
        let dim = columns.iter().try_fold(1usize, |all, columns| all.checked_mul(*columns));
        let Some(dim) = dim.filter(|dim| *dim <= MAX_DIM) else {
            return Err(wrong(format!("rows of more than {MAX_DIM} columns")));
        };
        let mut below = vec![1u64; cores.len()];
        for number in (1..cores.len()).rev() {
            below[number - 1] = below[number].saturating_mul(cores[number].rows());
        }
        let made = below[0].saturating_mul(cores[0].rows());
        if made < rows {
            return Err(wrong(format!("its cores make {made} rows, not {rows}")));
        }
        let cores = cores.into_iter().zip(below).zip(ranks);
        let cores = cores.map(|((table, below), rank)| Core { table, below, rank }).collect();
        Ok(TensorTrainTable { cores, rows, dim })
    }

    /// Makes the rows of some lookups, in `first`, `[positions.len(), dim]`.
    fn make(&self, bags: &Bags<'_>, positions: Range<usize>, scratch: &mut Scratch) -> Result<(), PoolError> {
        let count = positions.len();
        let Scratch { bags: buffer, first, second, third, .. } = scratch;
        for (number, core) in self.cores.iter().enumerate() {
            let (held, width) = (core.table.rows(), core.table.dim());
            let digits = buffer.one_by_one(bags, positions.clone(), held, |row| row / core.below % held);
            second.resize(count * width, 0.0);
            core.table.pool(&digits, Pooling::Sum, second)?;
            if number == 0 {
                std::mem::swap(first, second);
                continue;
            }
            // [columns so far, rank] times [rank, columns and rank of this core].
            let (before, right) = (first.len() / count, width / core.rank);
            third.resize(count * before / core.rank * right, 0.0);
            let products = third.chunks_exact_mut(before / core.rank * right);
            for ((left, core_row), product) in first.chunks_exact(before).zip(second.chunks_exact(width)).zip(products)
            {
                for (left, sums) in left.chunks_exact(core.rank).zip(product.chunks_exact_mut(right)) {
                    multiply(left, core_row, sums);
                }
            }
            std::mem::swap(first, third);
        }
        Ok(())
    }
}

/// A vector `[rank]` times a matrix `[rank, sums.len()]`.
#[inline]
fn multiply(left: &[f32], matrix: &[f32], sums: &mut [f32]) {
    let right = sums.len();
    // So many sums at a time as there are registers for.
    let (blocks, rest) = sums.as_chunks_mut::<16>();
    for (number, block) in blocks.iter_mut().enumerate() {
        let mut sums = [0.0; 16];
        for (factor, row) in left.iter().zip(matrix.chunks_exact(right)) {
            let row = &row[number * 16..][..16];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
        }
        *block = sums;
    }
    let done = right - rest.len();
    rest.fill(0.0);
    for (factor, row) in left.iter().zip(matrix.chunks_exact(right)) {
        rest.iter_mut().zip(&row[done..]).for_each(|(sum, value)| *sum += factor * value);
    }
}

impl EmbeddingTable for TensorTrainTable {
    fn name(&self) -> &str {
        self.cores[0].table.name()
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn row_format(&self) -> RowFormat {
        let largest = self.cores.iter().max_by_key(|core| core.table.bytes());
        largest.expect("there is a core").table.row_format()
    }

    fn intact(&self) -> Result<(), PoolError> {
        self.cores.iter().try_for_each(|core| core.table.intact())
    }

    fn residency(&self) -> Option<Residency> {
        let mut all = Residency::default();
        for core in &self.cores {
            all += core.table.residency()?;
        }
        Some(all)
    }

    fn bytes(&self) -> u64 {
        self.cores.iter().map(|core| core.table.bytes()).sum()
    }

    /// Rows are made block by block, whichever samples they are for, and then added.
    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        check_pool(self, bags, pooling, &out)?;
        let end = bags.len().checked_sub(1).map_or(0, |last| bags.bag(last).end);
        with_scratch(|scratch| {
            let mut sum = std::mem::take(&mut scratch.sum);
            sum.resize(self.dim, 0.0);
            let mut made = 0..0;
            for sample in 0..bags.len() {
                sum.fill(0.0);
                let bag = bags.bag(sample);
                for position in bag.clone() {
                    if !made.contains(&position) {
                        made = position..(position + BLOCK).min(end);
                        self.make(bags, made.clone(), scratch)?;
                    }
                    let row = &scratch.first[(position - made.start) * self.dim..][..self.dim];
                    match bags.weights() {
                        Some(weights) => {
                            let weight = weights[position];
                            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
                        }
                        None => sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
                    }
                }
                if pooling == Pooling::Mean && !bag.is_empty() {
                    sum.iter_mut().for_each(|sum| *sum /= bag.len() as f32);
                }
                let (mut room, rest) = out.split_at(self.dim);
                out = rest;
                room.fill(&sum);
            }
            scratch.sum = sum;
            Ok(())
        })
    }
}
