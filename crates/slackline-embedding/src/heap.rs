//! A table in ordinary memory.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::table::check_pool;
use crate::{Bags, EmbeddingTable, MAX_DIM, PoolError, Pooling, RowFormat, kernels};

/// A table of `f32` rows in a `Vec`, for tests, synthetic benchmarks and small tables.
///
/// ```
/// use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling};
///
/// let table = HeapTable::from_fn("colour", 3, 2, |row, column| (10 * row + column as u64) as f32);
/// let bags = Bags::new("colour", table.rows(), &[2i64, 1], &[0i64, 2, 2], None)?;
/// let mut out = [f32::NAN; 4];
/// table.pool(&bags, Pooling::Sum, &mut out)?;
/// assert_eq!(out, [30.0, 32.0, 0.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeapTable {
    name: String,
    rows: u64,
    dim: usize,
    data: Vec<f32>,
}

impl HeapTable {
    /// A table of the rows `data`, `[data.len() / dim, dim]`.
    ///
    /// # Panics
    ///
    /// If `dim` is 0 or above [`MAX_DIM`], or `data` is not a whole number of rows.
    pub fn new(name: impl Into<String>, dim: usize, data: Vec<f32>) -> Self {
        let name = name.into();
        assert!((1..=MAX_DIM).contains(&dim), "table {name}: {dim} columns, not 1 to {MAX_DIM}");
        assert!(data.len().is_multiple_of(dim), "table {name}: {} values are no rows of {dim}", data.len());
        HeapTable { name, rows: (data.len() / dim) as u64, dim, data }
    }

    /// A table of `rows` rows whose value at a row and a column is `value(row, column)`.
    ///
    /// # Panics
    ///
    /// If `dim` is 0 or above [`MAX_DIM`], or the table does not fit into memory.
    pub fn from_fn(name: impl Into<String>, rows: u64, dim: usize, mut value: impl FnMut(u64, usize) -> f32) -> Self {
        let data = (0..rows).flat_map(|row| (0..dim).map(move |column| (row, column)));
        Self::new(name, dim, data.map(|(row, column)| value(row, column)).collect())
    }

    /// A table of values spread evenly over `-1.0 .. 1.0`; equal seeds give equal tables on every machine and with every
    /// version.
    ///
    /// # Panics
    ///
    /// As [`from_fn`](Self::from_fn).
    pub fn random(name: impl Into<String>, rows: u64, dim: usize, seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        // 24 random bits are what a single-precision number holds exactly.
        Self::from_fn(name, rows, dim, |_, _| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0)
    }

    /// All rows, `[rows, dim]`.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

impl EmbeddingTable for HeapTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn row_format(&self) -> RowFormat {
        RowFormat::F32
    }

    fn bytes(&self) -> u64 {
        size_of_val(self.data.as_slice()) as u64
    }

    fn pool(&self, bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) -> Result<(), PoolError> {
        check_pool(self, bags, pooling, out)?;
        kernels::blocked::pool(&self.data, self.dim, bags, pooling, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_table() {
        let table = HeapTable::random("t", 2, 2, 7);
        assert_eq!(table.data(), HeapTable::random("t", 2, 2, 7).data());
        assert_ne!(table.data(), HeapTable::random("t", 2, 2, 8).data());
        // Worked out from the published xoshiro256++ and splitmix64: another generator, or another order of the values, would change every synthetic benchmark.
        let recorded: [u32; 4] = [3210979276, 3207061616, 1054788676, 3189052168];
        assert_eq!(table.data().iter().map(|value| value.to_bits()).collect::<Vec<_>>(), recorded);
    }

    #[test]
    fn random_values_fill_the_range_and_never_leave_it() {
        let table = HeapTable::random("t", 1000, 16, 1);
        assert!(table.data().iter().all(|value| (-1.0..1.0).contains(value)));
        let mean = table.data().iter().sum::<f32>() / 16_000.0;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!(table.data().iter().any(|value| *value > 0.99) && table.data().iter().any(|value| *value < -0.99));
    }

    #[test]
    #[should_panic(expected = "table t: 5 values are no rows of 2")]
    fn values_that_are_no_whole_rows_are_refused() {
        HeapTable::new("t", 2, vec![0.0; 5]);
    }
}
