//! What every table can do, wherever its rows lie and in whatever format.

use std::fmt;

use crate::{Bags, RowFormat};

/// How the rows of a bag become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The sum of the rows, each multiplied by its weight where the bags have weights.
    Sum,
    /// The sum of the rows divided by their number. Not for bags with weights.
    Mean,
}

/// A table, or the part of one that is held here, that can be looked up.
///
/// Callers hold `Arc<dyn EmbeddingTable>` or `&dyn EmbeddingTable` and never learn how rows are stored.
pub trait EmbeddingTable: Send + Sync + fmt::Debug {
    /// The name of the table, as the model has it.
    fn name(&self) -> &str;

    /// The rows held here; [`Bags`] for this table are checked against this number.
    fn rows(&self) -> u64;

    /// The columns of a row, at least 1: the length of a pooled vector.
    fn dim(&self) -> usize;

    /// How the rows are stored.
    fn row_format(&self) -> RowFormat;

    /// The bytes that all rows take: what the table costs in memory, or in the page cache.
    fn bytes(&self) -> u64;

    /// Pools every bag into one vector.
    ///
    /// `out` is `[bags.len(), dim]`, row-major and contiguous; all of it is overwritten, with zeros for an empty bag. It
    /// may be reused as soon as the call returns, and what it held before does not matter.
    ///
    /// Every element is summed on its own, in single precision, starting from `+0.0` and adding the rows in the order of
    /// the indices (a weighted row is multiplied first, and the product rounded). A mean is that sum divided by the number
    /// of rows. So a sample's vector depends neither on its batch nor on the kernel, to the last bit; only which of
    /// several NaN patterns comes out is not fixed.
    ///
    /// Cost: each row is read once for each time it is looked up, `out` is written once, nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`PoolError`] if `bags` were not checked against as many rows as this table has, `out` has the wrong length, or a
    /// mean is asked for of weighted bags. `out` is then untouched.
    fn pool(&self, bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) -> Result<(), PoolError>;
}

/// A call of [`EmbeddingTable::pool`] whose arguments do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The bags were checked against another number of rows than the table has.
    #[error("table {table} has {rows} rows, but its bags were checked against {checked}")]
    Rows {
        /// The table.
        table: String,
        /// The rows that it has.
        rows: u64,
        /// The rows that the indices were checked against.
        checked: u64,
    },
    /// The output has not exactly one vector for each sample.
    #[error("table {table}: the output has {found} values, but {samples} samples of dimension {dim} need {}", samples * dim)]
    OutputLength {
        /// The table.
        table: String,
        /// The samples of the bags.
        samples: usize,
        /// The columns of the table.
        dim: usize,
        /// The values that the output has room for.
        found: usize,
    },
    /// A mean of weighted rows is not defined (PyTorch refuses it as well).
    #[error("table {table}: mean pooling takes no weights")]
    WeightedMean {
        /// The table.
        table: String,
    },
}

/// The check that every implementation of [`EmbeddingTable::pool`] begins with.
pub(crate) fn check_pool(
    table: &impl EmbeddingTable,
    bags: &Bags<'_>,
    pooling: Pooling,
    out: &[f32],
) -> Result<(), PoolError> {
    let name = || table.name().to_owned();
    if bags.rows() != table.rows() {
        return Err(PoolError::Rows { table: name(), rows: table.rows(), checked: bags.rows() });
    }
    if bags.len().checked_mul(table.dim()) != Some(out.len()) {
        return Err(PoolError::OutputLength { table: name(), samples: bags.len(), dim: table.dim(), found: out.len() });
    }
    if pooling == Pooling::Mean && bags.weights().is_some() {
        return Err(PoolError::WeightedMean { table: name() });
    }
    Ok(())
}
