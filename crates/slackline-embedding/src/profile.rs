//! Profiles: how often each table of a trace is looked up, and which of its rows.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Bags, Cuts, TableCost};

/// Equal runs of rows whose lookups are counted.
const RUNS: usize = 256;

/// Counts and times of some batches, for the planner. Written and read by serde.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The number of samples.
    pub samples: u64,
    /// One entry for each table, in order.
    pub tables: Vec<TableProfile>,
}

/// Counts and times of one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableProfile {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Lookups in all.
    pub lookups: u64,
    /// Different rows among them.
    pub used_rows: u64,
    /// The time to check and pool its lookups of one sample in the median batch, in nanoseconds; 0 if it was not measured. The
    /// median, so that a batch that lost its core for a while counts no more than another.
    pub ns_per_sample: f64,
    /// Lookups in each of equal runs of rows: row `i` is in run `i * runs / rows`.
    pub runs: Vec<u64>,
    /// The most looked-up rows with their number of lookups, the largest first.
    pub hot: Vec<(u64, u64)>,
}

/// The profile was made of other tables than those to be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the profile is of other tables: {why}")]
pub struct OtherTables {
    /// The first difference.
    pub why: String,
}

impl Profile {
    /// The planner's input for these tables: lookups, rows in use, how the lookups are spread over the rows, and the time if it
    /// was measured.
    ///
    /// # Errors
    ///
    /// [`OtherTables`] if these are not the profile's tables.
    pub fn apply(&self, tables: &mut [TableCost]) -> Result<(), OtherTables> {
        self.check(tables)?;
        for (table, profile) in tables.iter_mut().zip(&self.tables) {
            let samples = self.samples.max(1) as f64;
            table.lookups_per_sample = profile.lookups as f64 / samples;
            table.used_bytes = Some(profile.used_rows.saturating_mul(table.row_bytes).min(table.bytes()));
            table.measured_ns = (profile.ns_per_sample > 0.0).then_some(profile.ns_per_sample);
            let all: u64 = profile.runs.iter().sum();
            table.row_load = profile.runs.iter().map(|&run| run as f64 / all.max(1) as f64).collect();
            if all == 0 {
                table.row_load.clear();
            }
        }
        Ok(())
    }

    /// The rows whose copies on every rank save most of the exchange, within a limit of bytes a rank. Rows are ranked by the
    /// vectors that each saves if the other rows of its bags are copied as well. Rows that were looked up once are left out.
    ///
    /// # Errors
    ///
    /// [`OtherTables`] if these are not the profile's tables.
    pub fn hot_rows(&self, tables: &[TableCost], bytes: u64) -> Result<BTreeMap<usize, Vec<u64>>, OtherTables> {
        self.check(tables)?;
        let mut rows = Vec::new();
        for (number, (table, profile)) in tables.iter().zip(&self.tables).enumerate() {
            // Of compressed tables a row has no bytes of its own.
            if table.cuts != Cuts::Both || table.stored_bytes.is_some() {
                continue;
            }
            // Of a bag of many rows all have to be there: it is worth the less, the longer it is.
            let length = (profile.lookups as f64 / self.samples.max(1) as f64).max(1.0);
            let worth = table.dim as f64 / (table.row_bytes.max(1) as f64 * length * length);
            let often = profile.hot.iter().filter(|(_, count)| *count > 1);
            rows.extend(often.map(|&(row, count)| (count as f64 * worth, number, row)));
        }
        rows.sort_by(|one, other| other.0.total_cmp(&one.0).then((one.1, one.2).cmp(&(other.1, other.2))));
        let mut chosen = BTreeMap::<usize, Vec<u64>>::new();
        let mut left = bytes;
        for (_, number, row) in rows {
            let Some(rest) = left.checked_sub(tables[number].row_bytes) else { continue };
            left = rest;
            chosen.entry(number).or_default().push(row);
        }
        chosen.values_mut().for_each(|rows| rows.sort_unstable());
        Ok(chosen)
    }

    fn check(&self, tables: &[TableCost]) -> Result<(), OtherTables> {
        if self.tables.len() != tables.len() {
            return Err(OtherTables { why: format!("{} instead of {}", self.tables.len(), tables.len()) });
        }
        for (table, profile) in tables.iter().zip(&self.tables) {
            let outside = profile.hot.iter().any(|(row, _)| *row >= table.rows);
            if table.name != profile.name || table.rows != profile.rows || outside {
                let (name, rows) = (&profile.name, profile.rows);
                let why = format!("{name} of {rows} rows instead of {} of {}", table.name, table.rows);
                return Err(OtherTables { why });
            }
        }
        Ok(())
    }
}

/// Counts lookups, batch after batch.
#[derive(Clone, Debug)]
pub struct Profiler {
    samples: u64,
    tables: Vec<Counted>,
}

#[derive(Clone, Debug)]
struct Counted {
    name: String,
    rows: u64,
    counts: HashMap<u64, u64>,
    /// One entry for each measured batch.
    ns_per_sample: Vec<f64>,
}

impl Profiler {
    /// A profiler of tables with these names and numbers of rows.
    pub fn new(tables: impl IntoIterator<Item = (String, u64)>) -> Self {
        let none = |(name, rows)| Counted { name, rows, counts: HashMap::new(), ns_per_sample: Vec::new() };
        Profiler { samples: 0, tables: tables.into_iter().map(none).collect() }
    }

    /// Begins a batch of `samples` samples; its lookups follow with [`lookups`](Self::lookups).
    pub fn batch(&mut self, samples: usize) {
        self.samples += samples as u64;
    }

    /// Counts the lookups of one table in a batch, and the time to check and pool them if it was measured.
    ///
    /// Cost: an entry of a hash table for each row looked up.
    ///
    /// # Panics
    ///
    /// If there is no such table, or the bags were checked against another number of rows.
    pub fn lookups(&mut self, table: usize, bags: &Bags<'_>, elapsed: Option<Duration>) {
        let counted = &mut self.tables[table];
        assert_eq!(bags.rows(), counted.rows, "rows of {}", counted.name);
        let indices = bags.indices();
        for position in (0..bags.len()).flat_map(|sample| bags.bag(sample)) {
            *counted.counts.entry(indices.value(position) as u64).or_default() += 1;
        }
        let per_sample = |elapsed: Duration| elapsed.as_secs_f64() * 1e9 / bags.len().max(1) as f64;
        counted.ns_per_sample.extend(elapsed.map(per_sample));
    }

    /// What was counted, with at most so many of the most looked-up rows of each table.
    pub fn finish(self, hot: usize) -> Profile {
        let samples = self.samples;
        let table = |counted: Counted| {
            let Counted { name, rows, counts, mut ns_per_sample } = counted;
            let mut runs = vec![0; if counts.is_empty() { 0 } else { RUNS.min(rows as usize) }];
            let mut by_count: Vec<(u64, u64)> = counts.into_iter().collect();
            for (row, count) in &by_count {
                let run = u128::from(*row) * runs.len() as u128 / u128::from(rows);
                runs[run as usize] += count;
            }
            by_count.sort_by_key(|(row, count)| (std::cmp::Reverse(*count), *row));
            let (lookups, used_rows) = (by_count.iter().map(|(_, count)| count).sum(), by_count.len() as u64);
            by_count.truncate(hot);
            ns_per_sample.sort_unstable_by(f64::total_cmp);
            let ns_per_sample = ns_per_sample.get(ns_per_sample.len() / 2).copied().unwrap_or(0.0);
            TableProfile { name, rows, lookups, used_rows, ns_per_sample, runs, hot: by_count }
        };
        Profile { samples, tables: self.tables.into_iter().map(table).collect() }
    }
}
