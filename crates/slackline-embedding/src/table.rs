//! What every table can do, wherever its rows lie and in whatever format.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::{BagError, Bags, Indices, Residency, RowFormat};

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

    /// The rows that can be looked up; [`Bags`] for this table are checked against this number. A compressed table holds
    /// fewer.
    fn rows(&self) -> u64;

    /// The columns of a row, at least 1: the length of a pooled vector.
    fn dim(&self) -> usize;

    /// How the rows are stored; `None` if they are not, but computed. A compressed table names the format of its largest part.
    fn row_format(&self) -> Option<RowFormat> {
        None
    }

    /// The bytes that all rows take: what the table costs in memory, or in the page cache.
    fn bytes(&self) -> u64;

    /// Pools every bag into one vector.
    ///
    /// `out` is `[bags.len(), dim]`, row-major and contiguous; all of it is overwritten, with zeros for an empty bag. It
    /// may be reused as soon as the call returns, and what it held before does not matter.
    ///
    /// Every element is summed on its own, in single precision, starting from `+0.0` and adding the rows in the order of
    /// the indices. From rows of floating-point values, a weighted one is multiplied first, and the product rounded. From
    /// quantised rows, `sum + bias` is rounded and then `byte * scale + (sum + bias)`, rounded once, scale and bias having been
    /// multiplied by the weight: the arithmetic of PyTorch and FBGEMM. A mean is the sum divided by the number of rows.
    /// Last, the result is rounded to the type of `out`, to the nearest and ties to even. So a sample's vector depends
    /// neither on its batch nor on the kernel, to the last bit; only which of several NaN patterns comes out is not fixed.
    ///
    /// [Compressed](crate::compressed) tables say what they make of the sums.
    ///
    /// Cost: each row is read once for each time it is looked up, `out` is written once, nothing is allocated (but for
    /// buffers of a thread that compressed tables keep).
    ///
    /// # Errors
    ///
    /// [`PoolError`] if `bags` were not checked against as many rows as this table has, `out` has the wrong length, or a
    /// mean is asked for of weighted bags ([`PoolError::check`] finds all three); `out` is then untouched. And
    /// [`PoolError::Lost`] or [`PoolError::Other`] if rows could not be read; what `out` holds is then undefined.
    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) -> Result<(), PoolError>;

    /// Checks that all rows looked up so far were the table's own. A lookup in a mapped file that was cut short is an error
    /// by itself, unless the cut is within the file's last page. Call this before releasing the results of a long run.
    ///
    /// Cost: one system call for each file that is mapped.
    ///
    /// # Errors
    ///
    /// [`PoolError::Lost`].
    fn intact(&self) -> Result<(), PoolError> {
        Ok(())
    }

    /// How much of [`bytes`](Self::bytes) is in memory; none if that cannot be told.
    ///
    /// Cost: some system calls, and a byte for each page of the table: for people and readiness checks.
    fn residency(&self) -> Option<Residency> {
        None
    }

    /// [`pool_to`](Self::pool_to) in single precision.
    ///
    /// # Errors
    ///
    /// Those of [`pool_to`](Self::pool_to).
    fn pool(&self, bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) -> Result<(), PoolError> {
        self.pool_to(bags, pooling, Output::F32(out))
    }
}

impl<'a> Bags<'a> {
    /// [`new`](Self::new) with the name and the rows of `table`.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn of(
        table: &dyn EmbeddingTable,
        indices: impl Into<Indices<'a>>,
        offsets: impl Into<Indices<'a>>,
        weights: Option<&'a [f32]>,
    ) -> Result<Self, BagError> {
        Self::new(table.name(), table.rows(), indices, offsets, weights)
    }
}

/// Where pooled vectors go, and in which precision.
#[derive(Debug)]
pub enum Output<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Half precision; larger sums than 65504 become infinite, which [`pool_finite`](crate::pool_finite) refuses.
    F16(&'a mut [f16]),
    /// The upper half of single precision.
    Bf16(&'a mut [bf16]),
}

impl<'a> Output<'a> {
    /// The first `at` values, and the rest.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn split_at(self, at: usize) -> (Output<'a>, Output<'a>) {
        match self {
            Output::F32(out) => {
                let (first, rest) = out.split_at_mut(at);
                (Output::F32(first), Output::F32(rest))
            }
            Output::F16(out) => {
                let (first, rest) = out.split_at_mut(at);
                (Output::F16(first), Output::F16(rest))
            }
            Output::Bf16(out) => {
                let (first, rest) = out.split_at_mut(at);
                (Output::Bf16(first), Output::Bf16(rest))
            }
        }
    }

    /// Rounds values to the type of the output, to the nearest and ties to even.
    ///
    /// # Panics
    ///
    /// If there are not as many values as there is room for.
    pub fn fill(&mut self, values: &[f32]) {
        match self {
            Output::F32(out) => out.copy_from_slice(values),
            Output::F16(out) => out.convert_from_f32_slice(values),
            Output::Bf16(out) => out.convert_from_f32_slice(values),
        }
    }

    /// The values that there is room for.
    pub fn len(&self) -> usize {
        match self {
            Output::F32(out) => out.len(),
            Output::F16(out) => out.len(),
            Output::Bf16(out) => out.len(),
        }
    }

    /// Whether there is no room at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rounds one value, as [`fill`](Self::fill) does, and puts it at position `at`.
    ///
    /// # Panics
    ///
    /// If `at` is not below [`len`](Self::len).
    #[inline]
    pub fn set(&mut self, at: usize, value: f32) {
        match self {
            Output::F32(out) => out[at] = value,
            Output::F16(out) => out[at] = f16::from_f32(value),
            Output::Bf16(out) => out[at] = bf16::from_f32(value),
        }
    }
}

/// A call of [`EmbeddingTable::pool_to`] that failed: its arguments do not fit together, or rows could not be read.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// Rows could not be read: the file that they are mapped from was cut short, or its disk failed. What the output holds is
    /// of no use, and every later lookup of a table of that file fails as well.
    #[error("table {table}: {why}")]
    Lost {
        /// The table.
        table: String,
        /// The file, and what is wrong with it.
        why: String,
    },
    /// Another failure of the table. Tables of this crate have none.
    #[error("table {table}: {source}")]
    Other {
        /// The table.
        table: String,
        /// What failed.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// A sum that is finite in single precision is infinite in the narrower type of the output.
    #[error("table {table}, sample {sample}: column {column} of the pooled vector is {value}, too large for {format}")]
    Narrow {
        /// The table.
        table: String,
        /// The sample, from where the bags, or the [`PoolJob`](crate::PoolJob), begin.
        sample: usize,
        /// The column.
        column: usize,
        /// The sum.
        value: f32,
        /// The type of the output: `f16` or `bf16`.
        format: &'static str,
    },
    /// A mean of weighted rows is not defined (PyTorch refuses it as well).
    #[error("table {table}: mean pooling takes no weights")]
    WeightedMean {
        /// The table.
        table: String,
    },
}

impl PoolError {
    /// A failure of the table named `table` that is not one of the others.
    pub fn other(table: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        PoolError::Other { table: table.to_owned(), source: source.into().into() }
    }

    /// The check that every implementation of [`EmbeddingTable::pool_to`] begins with.
    ///
    /// # Errors
    ///
    /// [`PoolError::Rows`], [`PoolError::OutputLength`] or [`PoolError::WeightedMean`] if the arguments do not fit together.
    pub fn check(
        table: &dyn EmbeddingTable,
        bags: &Bags<'_>,
        pooling: Pooling,
        out: &Output<'_>,
    ) -> Result<(), PoolError> {
        let name = || table.name().to_owned();
        if bags.rows() != table.rows() {
            return Err(PoolError::Rows { table: name(), rows: table.rows(), checked: bags.rows() });
        }
        let (samples, dim) = (bags.len(), table.dim());
        if samples.checked_mul(dim) != Some(out.len()) {
            return Err(PoolError::OutputLength { table: name(), samples, dim, found: out.len() });
        }
        if pooling == Pooling::Mean && bags.weights().is_some() {
            return Err(PoolError::WeightedMean { table: name() });
        }
        Ok(())
    }
}
