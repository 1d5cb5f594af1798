//! Which rank holds which table.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What one row costs beside its bytes, in nanoseconds: its address, and the share of a cache miss that the rows fetched
/// at the same time do not hide (about 100 ns, with several under way).
const LOOKUP_NS: f64 = 25.0;

/// What one byte of a row costs, in nanoseconds: one core of a server reads and adds about 10 GB/s of scattered rows.
const BYTE_NS: f64 = 0.1;

/// What the planner knows of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableCost {
    /// Its name, for people.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// The columns of a row.
    pub dim: usize,
    /// The bytes of a row as it is stored, scales and padding included.
    pub row_bytes: u64,
    /// How many rows are looked up for one sample on average, 0 or more: 1 for one-hot features, the mean length of the
    /// bags for others, measured on a trace where there is one.
    pub lookups_per_sample: f64,
}

impl TableCost {
    /// The estimated time to pool this table for one sample, in nanoseconds: `lookups * (25 + 0.1 * row_bytes)`.
    ///
    /// The constants are those of one core of a current server with rows in memory. Placement needs only the ratios of the
    /// tables' costs; so what matters of the constants is that a row costs as much as another 250 bytes.
    pub fn nanoseconds(&self) -> f64 {
        self.lookups_per_sample * (LOOKUP_NS + BYTE_NS * self.row_bytes as f64)
    }

    /// The memory that the table takes, in bytes; the largest number if it overflows, which no plan accepts.
    pub fn bytes(&self) -> u64 {
        self.rows.saturating_mul(self.row_bytes)
    }
}

/// A table-wise placement: every table lies, whole, on exactly one rank.
///
/// Equal inputs give equal plans, so every rank can compute it on its own. Written by serde as the tables and their ranks;
/// reading it back checks it as [`Plan::placed`] does. [`Display`](fmt::Display) shows a table for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanFile", into = "PlanFile")]
pub struct Plan {
    tables: Vec<TableCost>,
    placement: Vec<usize>,
    ranks: Vec<RankLoad>,
}

/// A placement that cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There is no rank to place tables on.
    #[error("a plan for 0 ranks")]
    NoRanks,
    /// A number of lookups that is negative, not a number, or too large to add up.
    #[error("table {table}: {lookups} lookups per sample")]
    Lookups {
        /// The table.
        table: String,
        /// The number given.
        lookups: f64,
    },
    /// The tables are larger than any memory.
    #[error("table {table}: {rows} rows of {row_bytes} bytes, with the tables before it, are more than can be counted")]
    TooLarge {
        /// The table at which the sum overflows.
        table: String,
        /// Its rows.
        rows: u64,
        /// The bytes of each.
        row_bytes: u64,
    },
    /// A table was placed on a rank that does not exist.
    #[error("table {table} is placed on rank {rank} of {ranks} ranks")]
    NoSuchRank {
        /// The table.
        table: String,
        /// The rank given.
        rank: usize,
        /// The number of ranks.
        ranks: usize,
    },
    /// There is not one rank for each table.
    #[error("{placed} placements for {tables} tables")]
    Placements {
        /// The tables.
        tables: usize,
        /// The placements.
        placed: usize,
    },
}

impl Plan {
    /// Places tables so that no rank has much more work than another, and then so that none has much more memory.
    ///
    /// First by cost ([`TableCost::nanoseconds`]): the most expensive table that is left goes to the rank with the least
    /// cost so far (longest processing time first), so the largest cost of a rank is at most 4/3 of the best possible
    /// (R. L. Graham, Bounds on multiprocessing timing anomalies, 1969). Ties go by bytes, then by number. Then tables are
    /// moved and swapped from the rank with the most bytes, as long as that lowers its bytes by a thousandth and leaves the
    /// largest cost where it is. With more ranks than tables some hold nothing.
    ///
    /// Cost: at most 4 passes over all pairs of tables for each table; milliseconds for hundreds of tables.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, or a table's numbers are impossible.
    ///
    /// # Examples
    ///
    /// ```
    /// use slackline_embedding::{Plan, TableCost};
    ///
    /// let table = |name: &str, rows, lookups_per_sample| {
    ///     TableCost { name: name.to_owned(), rows, dim: 16, row_bytes: 64, lookups_per_sample }
    /// };
    /// let plan = Plan::table_wise(&[table("user", 1_000_000, 1.0), table("genres", 30, 4.0), table("item", 9000, 3.0)], 2)?;
    /// assert_eq!(plan.rank_of(1), 0);
    /// assert_eq!(plan.tables_of(1), [0, 2]);
    /// assert_eq!(plan.cost_imbalance(), 1.0);
    /// # Ok::<(), slackline_embedding::PlanError>(())
    /// ```
    pub fn table_wise(tables: &[TableCost], ranks: usize) -> Result<Self, PlanError> {
        check(tables, ranks)?;
        let mut order: Vec<usize> = (0..tables.len()).collect();
        order.sort_by(|&a, &b| {
            let cost = tables[b].nanoseconds().total_cmp(&tables[a].nanoseconds());
            cost.then(tables[b].bytes().cmp(&tables[a].bytes())).then(a.cmp(&b))
        });
        let mut loads = vec![RankLoad::default(); ranks];
        let mut placement = vec![0; tables.len()];
        for table in order {
            let lighter = |a: &usize, b: &usize| {
                let (a, b) = (&loads[*a], &loads[*b]);
                a.cost.total_cmp(&b.cost).then(a.bytes.cmp(&b.bytes))
            };
            let rank = (0..ranks).min_by(lighter).expect("there is a rank");
            placement[table] = rank;
            loads[rank].bytes += tables[table].bytes();
            loads[rank].cost += tables[table].nanoseconds();
        }
        even_out_bytes(tables, &mut placement, loads);
        Self::placed(tables, ranks, placement)
    }

    /// A placement that somebody else made: table `i` lies on rank `placement[i]`.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, a rank does not exist, the lengths differ, or a table's numbers are impossible.
    pub fn placed(tables: &[TableCost], ranks: usize, placement: Vec<usize>) -> Result<Self, PlanError> {
        check(tables, ranks)?;
        if placement.len() != tables.len() {
            return Err(PlanError::Placements { tables: tables.len(), placed: placement.len() });
        }
        let mut loads = vec![RankLoad::default(); ranks];
        for (index, (table, &rank)) in tables.iter().zip(&placement).enumerate() {
            let Some(load) = loads.get_mut(rank) else {
                return Err(PlanError::NoSuchRank { table: table.name.clone(), rank, ranks });
            };
            load.tables.push(index);
            load.bytes += table.bytes();
            load.cost += table.nanoseconds();
        }
        Ok(Plan { tables: tables.to_vec(), placement, ranks: loads })
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// The tables, as they were given.
    pub fn tables(&self) -> &[TableCost] {
        &self.tables
    }

    /// The rank that holds table number `table`.
    ///
    /// # Panics
    ///
    /// If there is no such table.
    pub fn rank_of(&self, table: usize) -> usize {
        self.placement[table]
    }

    /// The numbers of the tables that `rank` holds, ascending.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn tables_of(&self, rank: usize) -> &[usize] {
        &self.ranks[rank].tables
    }

    /// The bytes of all rows that `rank` holds.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn bytes_of(&self, rank: usize) -> u64 {
        self.ranks[rank].bytes
    }

    /// The estimated time that `rank` needs to pool its tables for one sample, in nanoseconds.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn cost_of(&self, rank: usize) -> f64 {
        self.ranks[rank].cost
    }

    /// The largest cost of a rank divided by the mean: 1.0 is perfect balance (also if nothing costs anything), the number
    /// of ranks the worst.
    pub fn cost_imbalance(&self) -> f64 {
        imbalance(self.ranks.iter().map(|rank| rank.cost))
    }

    /// The same of the bytes.
    pub fn bytes_imbalance(&self) -> f64 {
        imbalance(self.ranks.iter().map(|rank| rank.bytes as f64))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tables, ranks) = (self.tables.len(), self.ranks.len());
        writeln!(f, "{tables} tables on {ranks} ranks, table-wise")?;
        let (cost, bytes) = (self.cost_imbalance(), self.bytes_imbalance());
        writeln!(f, "largest / mean: {cost:.3} of the cost, {bytes:.3} of the memory")?;
        write!(f, "rank  tables      memory  ns/sample  names")?;
        for (number, rank) in self.ranks.iter().enumerate() {
            let (count, memory, cost) = (rank.tables.len(), readable(rank.bytes), rank.cost);
            write!(f, "\n{number:>4}  {count:>6}  {memory:>10}  {cost:>9.1}")?;
            for (at, &table) in rank.tables.iter().take(NAMES).enumerate() {
                write!(f, "{}{}", if at == 0 { "  " } else { ", " }, self.tables[table].name)?;
            }
            if count > NAMES {
                write!(f, " and {} more", count - NAMES)?;
            }
        }
        Ok(())
    }
}

/// How many names a line of the shown plan lists.
const NAMES: usize = 8;

#[derive(Clone, Debug, Default, PartialEq)]
struct RankLoad {
    tables: Vec<usize>,
    bytes: u64,
    cost: f64,
}

/// A plan as it is written: what follows from the placement is left out, so that it cannot contradict it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    ranks: usize,
    tables: Vec<TableCost>,
    placement: Vec<usize>,
}

impl TryFrom<PlanFile> for Plan {
    type Error = PlanError;

    fn try_from(file: PlanFile) -> Result<Self, Self::Error> {
        Plan::placed(&file.tables, file.ranks, file.placement)
    }
}

impl From<Plan> for PlanFile {
    fn from(plan: Plan) -> Self {
        PlanFile { ranks: plan.ranks(), tables: plan.tables, placement: plan.placement }
    }
}

fn check(tables: &[TableCost], ranks: usize) -> Result<(), PlanError> {
    if ranks == 0 {
        return Err(PlanError::NoRanks);
    }
    let mut total = 0u64;
    let mut cost = 0.0;
    for table in tables {
        let TableCost { rows, row_bytes, lookups_per_sample: lookups, .. } = *table;
        cost += table.nanoseconds();
        if lookups < 0.0 || !cost.is_finite() {
            return Err(PlanError::Lookups { table: table.name.clone(), lookups });
        }
        let sum = rows.checked_mul(row_bytes).and_then(|bytes| total.checked_add(bytes));
        total = sum.ok_or_else(|| PlanError::TooLarge { table: table.name.clone(), rows, row_bytes })?;
    }
    Ok(())
}

/// Moves or swaps tables away from the rank with the most bytes while that lowers the larger bytes of the two ranks and
/// no rank's cost goes above what is the largest cost now.
fn even_out_bytes(tables: &[TableCost], placement: &mut [usize], mut loads: Vec<RankLoad>) {
    let limit = loads.iter().map(|load| load.cost).fold(0.0, f64::max);
    // Every step makes the ranks' bytes, sorted, lexicographically smaller, so the steps end by themselves; the count
    // bounds the time.
    for _ in 0..4 * tables.len() {
        let heavy = (0..loads.len()).max_by_key(|&rank| (loads[rank].bytes, Reverse(rank))).expect("there is a rank");
        let mut best = None;
        // A step that gains less than a thousandth is not worth its time, nor a plan that people cannot follow.
        let mut lowest = loads[heavy].bytes - loads[heavy].bytes / 1024;
        for out in (0..tables.len()).filter(|&table| placement[table] == heavy) {
            // A move to each other rank, or a swap with each table there.
            let moves = (0..loads.len()).map(|rank| (rank, None));
            let swaps = (0..tables.len()).map(|back| (placement[back], Some(back)));
            for (rank, back) in moves.chain(swaps).filter(|(rank, _)| *rank != heavy) {
                let (bytes, cost) = back.map_or((0, 0.0), |back| (tables[back].bytes(), tables[back].nanoseconds()));
                let here = loads[heavy].bytes - tables[out].bytes() + bytes;
                let there = loads[rank].bytes - bytes + tables[out].bytes();
                let cost_here = loads[heavy].cost - tables[out].nanoseconds() + cost;
                let cost_there = loads[rank].cost - cost + tables[out].nanoseconds();
                if here.max(there) < lowest && cost_here.max(cost_there) <= limit {
                    lowest = here.max(there);
                    best = Some((out, rank, back));
                }
            }
        }
        let Some((out, rank, back)) = best else { return };
        placement[out] = rank;
        if let Some(back) = back {
            placement[back] = heavy;
        }
        // Summed anew, so that no rounding piles up over many steps.
        for rank in [heavy, rank] {
            let held = || tables.iter().zip(&*placement).filter(|(_, at)| **at == rank).map(|(table, _)| table);
            loads[rank].bytes = held().map(TableCost::bytes).sum();
            loads[rank].cost = held().map(TableCost::nanoseconds).sum();
        }
    }
}

fn imbalance(loads: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
    let mean = loads.clone().sum::<f64>() / loads.len() as f64;
    if mean > 0.0 { loads.fold(0.0, f64::max) / mean } else { 1.0 }
}

fn readable(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().expect("a unit");
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}
