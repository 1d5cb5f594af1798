//! What the planner knows about tables, and its estimate of the cost of lookups.

use serde::{Deserialize, Serialize};

use super::Part;

/// What the planner knows about one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableCost {
    /// Its name, for people.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// The columns of a row.
    pub dim: usize,
    /// The bytes that are read to look up a row, scales and padding included.
    pub row_bytes: u64,
    /// How many rows are looked up for one sample on average, 0 or more: 1 for one-hot features, the mean length of the
    /// bags for others, measured on a trace where there is one.
    pub lookups_per_sample: f64,
    /// How the table may be cut.
    #[serde(default)]
    pub cuts: Cuts,
    /// The size of the table in bytes, if it is not `rows * row_bytes`: compressed tables take fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// The bytes of the rows that a trace looks up, each counted once: what competes for the caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// The measured time to pool the table for one sample, in nanoseconds, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_ns: Option<f64>,
    /// The share of the lookups in each of several equal runs of rows; empty if not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_load: Vec<f64>,
}

/// How a table may be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cuts {
    /// Rows and columns.
    #[default]
    Both,
    /// Rows only: tables with few columns that are projected to more.
    Rows,
    /// Columns only: tables in which a row's number does not say where its values lie.
    Columns,
    /// Neither.
    Neither,
}

impl Cuts {
    pub(crate) fn by_rows(self) -> bool {
        matches!(self, Cuts::Both | Cuts::Rows)
    }

    pub(crate) fn by_columns(self) -> bool {
        matches!(self, Cuts::Both | Cuts::Columns)
    }
}

impl TableCost {
    /// A table that is looked up once a sample.
    pub fn new(name: impl Into<String>, rows: u64, dim: usize, row_bytes: u64) -> Self {
        TableCost {
            name: name.into(),
            rows,
            dim,
            row_bytes,
            lookups_per_sample: 1.0,
            cuts: Cuts::Both,
            stored_bytes: None,
            used_bytes: None,
            measured_ns: None,
            row_load: Vec::new(),
        }
    }

    /// The same with so many lookups for one sample.
    #[must_use]
    pub fn lookups(self, lookups_per_sample: f64) -> Self {
        TableCost { lookups_per_sample, ..self }
    }

    /// The memory that the table takes, in bytes; saturates at the largest number, which no plan accepts.
    pub fn bytes(&self) -> u64 {
        self.stored_bytes.unwrap_or_else(|| self.rows.saturating_mul(self.row_bytes))
    }

    /// The share of the lookups that falls into a run of rows.
    pub(crate) fn share(&self, rows: &std::ops::Range<u64>) -> f64 {
        if *rows == (0..self.rows) {
            return 1.0;
        }
        let all = self.rows.max(1) as f64;
        let (from, to) = (rows.start as f64 / all, rows.end as f64 / all);
        if self.row_load.is_empty() {
            return to - from;
        }
        let runs = self.row_load.len() as f64;
        let overlap = |at: usize| {
            let (first, last) = (at as f64 / runs, (at + 1) as f64 / runs);
            (to.min(last) - from.max(first)).max(0.0) * runs
        };
        self.row_load.iter().enumerate().map(|(at, share)| share * overlap(at)).sum()
    }

    /// The row before which about this share of the lookups to the rows of `rows` falls.
    pub(crate) fn row_at(&self, rows: &std::ops::Range<u64>, share: f64) -> u64 {
        let wanted = share * self.share(rows);
        let (mut low, mut high) = (rows.start, rows.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.share(&(rows.start..middle)) < wanted { low = middle + 1 } else { high = middle }
        }
        low
    }
}

/// What pooling costs on one core of a machine.
///
/// For one sample and one table: `lookups * (lookup_ns + byte_ns * bytes of a row) + vector_ns + value_ns * columns`,
/// where the first two depend on how many bytes of the table are in use, since those decide which cache serves them. A run
/// of rows takes `pick_ns` more for each lookup of the whole table, to pick those that are its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// By the bytes in use, ascending; larger tables cost what the last level says.
    pub levels: Vec<Level>,
    /// To begin and end a bag, in nanoseconds.
    pub vector_ns: f64,
    /// To write one value of a pooled vector, in nanoseconds.
    pub value_ns: f64,
    /// To check whether a lookup goes to a run of rows, in nanoseconds.
    pub pick_ns: f64,
}

/// What a row costs in tables of up to some size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// The largest table that the level is for, in bytes in use.
    pub bytes: u64,
    /// To find a row, in nanoseconds: its address, and what the rows fetched meanwhile do not hide of a cache miss.
    pub lookup_ns: f64,
    /// To read and add one byte of a row, in nanoseconds.
    pub byte_ns: f64,
}

impl Default for CostModel {
    /// One core of a current server with rows in memory: 25 ns a row and 0.1 ns a byte, so a row costs as much as another
    /// 250 bytes. Placement needs only the ratios of the tables' costs; [`measure`](Self::measure) knows this machine.
    fn default() -> Self {
        CostModel {
            levels: vec![Level { bytes: u64::MAX, lookup_ns: 25.0, byte_ns: 0.1 }],
            vector_ns: 0.0,
            value_ns: 0.0,
            pick_ns: 1.0,
        }
    }
}

impl CostModel {
    /// The time to pool a whole table for one sample, in nanoseconds: measured if known, otherwise estimated.
    pub fn nanoseconds(&self, table: &TableCost) -> f64 {
        table.measured_ns.unwrap_or_else(|| self.reckoned(table, table.lookups_per_sample, table.dim, 1.0))
    }

    /// The same for a part of it.
    pub(crate) fn part(&self, table: &TableCost, part: &Part) -> f64 {
        let (lookups, columns) = (part.lookups_per_sample, part.columns.len());
        let share = if table.lookups_per_sample > 0.0 { lookups / table.lookups_per_sample } else { 1.0 };
        let reckoned = self.reckoned(table, lookups, columns, share);
        let pooling = match table.measured_ns {
            None => reckoned,
            Some(measured) => {
                let whole = self.reckoned(table, table.lookups_per_sample, table.dim, 1.0);
                if whole > 0.0 { measured * reckoned / whole } else { measured }
            }
        };
        let picked = if part.rows == (0..table.rows) { 0.0 } else { table.lookups_per_sample };
        pooling + self.pick_ns * picked
    }

    fn reckoned(&self, table: &TableCost, lookups: f64, columns: usize, share: f64) -> f64 {
        let width = columns as f64 / table.dim.max(1) as f64;
        let used = table.used_bytes.unwrap_or_else(|| table.bytes()) as f64 * width * share;
        let level = self.levels.iter().find(|level| used <= level.bytes as f64).or(self.levels.last());
        let row = level.map_or(0.0, |level| level.lookup_ns + level.byte_ns * table.row_bytes as f64 * width);
        lookups * row + self.vector_ns + self.value_ns * columns as f64
    }
}
