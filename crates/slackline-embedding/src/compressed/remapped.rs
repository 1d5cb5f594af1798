//! Tables whose rows are other rows of a smaller table.

use std::sync::Arc;

use super::{CHUNK, with_scratch};
use crate::{Bags, EmbeddingTable, Output, PoolError, Pooling, Residency, RowFormat};

/// Maps a row to a row of a smaller table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowMap {
    /// Row `i` is row `i` modulo the smaller table's rows: the reference's `max_ind_range`.
    Modulo,
    /// Row `i` is row `i / divisor`.
    Quotient {
        /// Rows that share one.
        divisor: u64,
    },
    /// Row `i` is the row that entry `i` gives; a negative entry means a row of zeros: FBGEMM's index remapping.
    Remap(Arc<[i32]>),
}

/// A table of `rows` rows that are rows of a smaller one.
///
/// ```
/// use std::sync::Arc;
///
/// use slackline_embedding::compressed::{RemappedTable, RowMap};
/// use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling};
///
/// let small = HeapTable::from_fn("item", 3, 2, |row, column| (10 * row + column as u64) as f32);
/// let hashed = RemappedTable::new(Arc::new(small), 1000, RowMap::Modulo)?;
/// let bags = Bags::new("item", hashed.rows(), &[998i64], &[0i64, 1], None)?;
/// let mut out = [0.0; 2];
/// hashed.pool(&bags, Pooling::Sum, &mut out)?;
/// assert_eq!(out, [20.0, 21.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RemappedTable {
    table: Arc<dyn EmbeddingTable>,
    rows: u64,
    map: RowMap,
}

/// A map that points outside the smaller table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: {why}")]
pub struct WrongMap {
    /// The table.
    pub table: String,
    /// What is wrong.
    pub why: String,
}

impl RemappedTable {
    /// A table of `rows` rows over a smaller one.
    ///
    /// Cost: one pass over the entries of a [`RowMap::Remap`].
    ///
    /// # Errors
    ///
    /// [`WrongMap`] if a row maps outside the smaller table, or the number of entries differs from the number of rows.
    pub fn new(table: Arc<dyn EmbeddingTable>, rows: u64, map: RowMap) -> Result<Self, WrongMap> {
        let held = table.rows();
        let why = match &map {
            RowMap::Modulo if held == 0 && rows > 0 => Some(format!("{rows} rows of none")),
            RowMap::Quotient { divisor: 0 } => Some("a division of rows by 0".to_owned()),
            RowMap::Quotient { divisor } if rows.div_ceil(*divisor) > held => {
                Some(format!("{rows} rows by {divisor} are {}, but there are {held}", rows.div_ceil(*divisor)))
            }
            RowMap::Remap(entries) if entries.len() as u64 != rows => {
                Some(format!("{} entries for {rows} rows", entries.len()))
            }
            RowMap::Remap(entries) => {
                let outside = entries.iter().position(|&entry| i64::from(entry) >= held as i64);
                outside.map(|row| format!("row {row} is row {} of {held}", entries[row]))
            }
            _ => None,
        };
        match why {
            Some(why) => Err(WrongMap { table: table.name().to_owned(), why }),
            None => Ok(RemappedTable { table, rows, map }),
        }
    }

    fn row(&self, row: u64) -> Option<u64> {
        match &self.map {
            RowMap::Modulo => Some(row % self.table.rows()),
            RowMap::Quotient { divisor } => Some(row / divisor),
            RowMap::Remap(entries) => u64::try_from(entries[row as usize]).ok(),
        }
    }
}

impl EmbeddingTable for RemappedTable {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.table.dim()
    }

    fn row_format(&self) -> Option<RowFormat> {
        self.table.row_format()
    }

    fn intact(&self) -> Result<(), PoolError> {
        self.table.intact()
    }

    fn residency(&self) -> Option<Residency> {
        self.table.residency()
    }

    fn bytes(&self) -> u64 {
        let map = if let RowMap::Remap(entries) = &self.map { size_of_val(&**entries) as u64 } else { 0 };
        self.table.bytes() + map
    }

    /// Pools like any table; a pruned row counts as a row of zeros.
    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        let dim = self.dim();
        with_scratch(|scratch| {
            for from in (0..bags.len()).step_by(CHUNK) {
                let chunk = bags.samples(from..(from + CHUNK).min(bags.len()));
                let (mut room, rest) = out.split_at(chunk.len() * dim);
                out = rest;
                let mapped = scratch.bags.map(&chunk, self.table.rows(), |row| self.row(row));
                if pooling == Pooling::Sum || mapped.lookups() == chunk.lookups() {
                    self.table.pool_to(&mapped, pooling, room)?;
                    continue;
                }
                // Pruned rows count for the mean.
                scratch.first.resize(chunk.len() * dim, 0.0);
                self.table.pool(&mapped, Pooling::Sum, &mut scratch.first)?;
                for (sample, vector) in scratch.first.chunks_exact_mut(dim).enumerate() {
                    let count = chunk.bag(sample).len().max(1) as f32;
                    vector.iter_mut().for_each(|value| *value /= count);
                }
                room.fill(&scratch.first);
            }
            Ok(())
        })
    }
}
