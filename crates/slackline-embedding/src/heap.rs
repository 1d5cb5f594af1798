//! A table in memory of the process.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::kernels::{self, Isa};
use crate::memory::Memory;
use crate::{Bags, EmbeddingTable, MAX_DIM, Output, PoolError, Pooling, Residency, RowFormat, Rows, UnfitValue};

/// A table in memory of this process (in huge pages, if it is large and the system has them), for tests, benchmarks, and
/// tables that are looked up too often to be mapped.
///
/// ```
/// use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling, RowFormat};
///
/// let table = HeapTable::from_fn("colour", 3, 2, |row, column| (10 * row + column as u64) as f32);
/// let bags = Bags::new("colour", table.rows(), &[2i64, 1], &[0i64, 2, 2], None)?;
/// let mut out = [f32::NAN; 4];
/// table.pool(&bags, Pooling::Sum, &mut out)?;
/// assert_eq!(out, [30.0, 32.0, 0.0, 0.0]);
///
/// let narrow = table.to_format(RowFormat::Bf16)?;
/// assert_eq!((table.bytes(), narrow.bytes()), (24, 12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeapTable {
    name: String,
    dim: usize,
    format: RowFormat,
    memory: Arc<Memory>,
}

impl HeapTable {
    /// A table of the rows `data`, `[data.len() / dim, dim]`, as `f32`.
    ///
    /// # Panics
    ///
    /// If `dim` is 0 or above [`MAX_DIM`], `data` is not a whole number of rows, or the table does not fit into memory.
    pub fn new(name: impl Into<String>, dim: usize, data: Vec<f32>) -> Self {
        let name = name.into();
        assert!((1..=MAX_DIM).contains(&dim), "table {name}: {dim} columns, not 1 to {MAX_DIM}");
        assert!(data.len().is_multiple_of(dim), "table {name}: {} values are no rows of {dim}", data.len());
        Self::filled(name, dim, RowFormat::F32, data.len() / dim, |bytes| {
            bytes.copy_from_slice(bytemuck::cast_slice(&data));
        })
    }

    /// A table of `rows` rows whose value at a row and a column is `value(row, column)`.
    ///
    /// # Panics
    ///
    /// If `dim` is 0 or above [`MAX_DIM`], or the table does not fit into memory.
    pub fn from_fn(name: impl Into<String>, rows: u64, dim: usize, mut value: impl FnMut(u64, usize) -> f32) -> Self {
        let name = name.into();
        assert!((1..=MAX_DIM).contains(&dim), "table {name}: {dim} columns, not 1 to {MAX_DIM}");
        Self::filled(name, dim, RowFormat::F32, rows as usize, |bytes| {
            for (row, bytes) in bytes.chunks_exact_mut(dim * size_of::<f32>()).enumerate() {
                for (column, bytes) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
                    *bytes = value(row as u64, column).to_le_bytes();
                }
            }
        })
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

    /// A table of rows that are bytes already.
    ///
    /// # Panics
    ///
    /// If the table does not fit into memory.
    pub fn from_rows(name: impl Into<String>, rows: Rows<'_>) -> Self {
        Self::filled(name.into(), rows.dim(), rows.format(), rows.len() as usize, |bytes| {
            bytes.copy_from_slice(rows.bytes());
        })
    }

    /// The same rows in another format.
    ///
    /// # Errors
    ///
    /// [`UnfitRow`] for the first row that has a value which the format cannot hold.
    ///
    /// # Panics
    ///
    /// If the table does not fit into memory.
    pub fn to_format(&self, format: RowFormat) -> Result<Self, UnfitRow> {
        let (ours, mut row) = (self.stored(), vec![0.0; self.dim]);
        let mut outcome = Ok(());
        let table = Self::filled(self.name.clone(), self.dim, format, ours.len() as usize, |bytes| {
            for (number, bytes) in bytes.chunks_exact_mut(format.row_bytes(self.dim)).enumerate() {
                ours.decode(number as u64, &mut row);
                if let Err(source) = format.encode(&row, bytes) {
                    outcome = Err(UnfitRow { table: self.name.clone(), row: number as u64, source });
                    return;
                }
            }
        });
        outcome.map(|()| table)
    }

    /// Some rows and columns, copied: a table of its own, whose rows count from 0.
    ///
    /// # Panics
    ///
    /// If there are no such rows or columns, a row of half bytes would be cut within a byte, or memory is short.
    pub fn part(&self, rows: Range<u64>, columns: Range<usize>) -> Self {
        let mut bytes = Vec::new();
        self.stored().run(rows).write_columns(columns.clone(), &mut bytes);
        Self::from_rows(self.name.clone(), Rows::new(self.format, columns.len(), &bytes))
    }

    /// All rows, as they are stored.
    pub fn stored(&self) -> Rows<'_> {
        Rows::new(self.format, self.dim, self.memory.bytes())
    }

    /// All rows of a table of `f32`, `[rows, dim]`.
    ///
    /// # Panics
    ///
    /// If the rows have another format.
    pub fn data(&self) -> &[f32] {
        assert_eq!(self.format, RowFormat::F32, "table {}", self.name);
        // Memory of no bytes has no address to speak of.
        bytemuck::try_cast_slice(self.memory.bytes()).unwrap_or_default()
    }

    fn filled(name: String, dim: usize, format: RowFormat, rows: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let fill = |bytes: &mut [u8]| {
            fill(bytes);
            Ok(())
        };
        let table = Self::read(name.clone(), dim, format, rows, fill);
        table.unwrap_or_else(|error| panic!("table {name}: {rows} rows: {error}"))
    }

    /// A table of rows that `fill` supplies as bytes.
    pub(crate) fn read(
        name: String,
        dim: usize,
        format: RowFormat,
        rows: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<Self> {
        let length = rows.checked_mul(format.row_bytes(dim)).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut memory = Memory::zeroed(length)?;
        fill(memory.bytes_mut())?;
        Ok(HeapTable { name, dim, format, memory: Arc::new(memory) })
    }
}

/// A row that does not fit into a format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("table {table}, row {row}, {source}")]
pub struct UnfitRow {
    /// The table.
    pub table: String,
    /// The row.
    pub row: u64,
    /// The value, and where it stands in the row.
    pub source: UnfitValue,
}

impl EmbeddingTable for HeapTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn rows(&self) -> u64 {
        self.stored().len()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn row_format(&self) -> Option<RowFormat> {
        Some(self.format)
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes().len() as u64
    }

    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        kernels::pool(Isa::best(), self.stored(), bags, pooling, out);
        Ok(())
    }

    fn residency(&self) -> Option<Residency> {
        self.memory.residency().ok()
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
        // Worked out from the published xoshiro256++ and splitmix64: another generator, or another order of the values,
        // would change every synthetic benchmark.
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
