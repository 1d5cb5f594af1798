//! Copies of the rows of a table that are looked up most.

use crate::{Bags, HeapTable, RowFormat, Rows};

/// Some rows of a table, copied, so that a rank can pool bags of nothing but these by itself.
///
/// A bag whose rows are all copied gives the same bits here as in the whole table: the same rows in the same order.
#[derive(Clone, Debug)]
pub struct HotRows {
    table: HeapTable,
    /// For each 64 rows of the whole table: which are here, and how many before them.
    words: Vec<(u64, u32)>,
    rows: u64,
}

impl HotRows {
    /// Copies `rows`, ascending, each once, of a table whose rows are `from`.
    ///
    /// Cost: the memory of the rows, and 12 bytes for every 64 rows of the table.
    ///
    /// # Panics
    ///
    /// If there are no such rows, or they don't ascend.
    pub fn new(name: &str, rows: &[u64], from: Rows<'_>) -> Self {
        assert!(rows.is_sorted_by(|one, next| one < next), "hot rows of {name} ascend");
        let mut words = vec![(0u64, 0u32); from.len().div_ceil(64) as usize];
        for row in rows {
            words[(row / 64) as usize].0 |= 1 << (row % 64);
        }
        let mut before = 0;
        for word in &mut words {
            word.1 = before;
            before += word.0.count_ones();
        }
        let bytes: Vec<u8> = rows.iter().flat_map(|row| from.row(*row)).copied().collect();
        let table = HeapTable::from_rows(name, Rows::new(from.format(), from.dim(), &bytes));
        HotRows { table, words, rows: from.len() }
    }

    /// The rows of the whole table.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How the rows are stored.
    pub fn row_format(&self) -> RowFormat {
        self.table.stored().format()
    }

    /// The copies, as a table of their own, whose rows have the numbers of [`position`](Self::position).
    pub fn table(&self) -> &HeapTable {
        &self.table
    }

    /// The number of a row of the whole table among the copies.
    #[inline]
    pub fn position(&self, row: u64) -> Option<u64> {
        let (word, before) = self.words[(row / 64) as usize];
        let bit = 1 << (row % 64);
        (word & bit != 0).then(|| u64::from(before + (word & (bit - 1)).count_ones()))
    }

    /// Whether all rows of a sample's bag are copied. True for an empty bag.
    ///
    /// # Panics
    ///
    /// If there is no such sample, or the bags were checked against more rows than the whole table has.
    pub fn has_all(&self, bags: &Bags<'_>, sample: usize) -> bool {
        let indices = bags.indices();
        bags.bag(sample).all(|at| self.position(indices.value(at) as u64).is_some())
    }
}
