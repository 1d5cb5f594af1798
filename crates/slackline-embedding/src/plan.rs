//! Which rank holds which tables, or which parts of them.

mod cost;
mod error;
mod measure;
mod planner;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use cost::{CostModel, Cuts, Level, TableCost};
pub use error::{PlanError, Shortfall};
pub use planner::{Forced, PlanOptions, Split};

/// The most ranks that a plan is made for.
pub(crate) const MAX_RANKS: usize = 1 << 20;

/// A run of rows and a run of columns of one table, on one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The number of the table.
    pub table: usize,
    /// Which rank holds it.
    pub rank: usize,
    /// Its rows.
    pub rows: Range<u64>,
    /// Its columns.
    pub columns: Range<usize>,
    /// How many of its rows are looked up for one sample on average.
    pub lookups_per_sample: f64,
}

/// A placement: every value of every table lies on exactly one rank, but for tables that lie, whole, on all of them, and
/// for hot rows, of which every rank has a copy as well.
///
/// A table may be whole on one rank (*table-wise*), cut into runs of columns (*column-wise*) or of rows (*row-wise*) or of
/// both, or *replicated*; different tables in different ways.
///
/// Equal inputs give equal plans, so every rank can compute it on its own. Written by serde as the tables and their parts;
/// reading it back checks it as [`Plan::with_parts`] does. [`Display`](fmt::Display) shows a table for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanFile", into = "PlanFile")]
pub struct Plan {
    model: CostModel,
    tables: Vec<TableCost>,
    /// Ordered by table, columns, rows.
    parts: Vec<Part>,
    /// Ascending.
    replicated: Vec<usize>,
    hot: BTreeMap<usize, Vec<u64>>,
    ranks: Vec<RankLoad>,
}

impl Plan {
    /// Places whole tables so that no rank has much more work than another, and then so that none has much more memory.
    ///
    /// First by cost ([`CostModel::nanoseconds`], with the constants of [`CostModel::default`]): the most expensive table
    /// that is left goes to the rank with the least cost so far (longest processing time first), so the largest cost of a
    /// rank is at most 4/3 of the best possible (R. L. Graham, Bounds on multiprocessing timing anomalies, 1969). Ties go by
    /// bytes, then by number. Then tables are moved and swapped from the rank with the most bytes, as long as that lowers
    /// its bytes by a thousandth and leaves the largest cost where it is. With more ranks than tables some hold nothing.
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
    /// let table = |name: &str, rows, lookups| TableCost::new(name, rows, 16, 64).lookups(lookups);
    /// let plan = Plan::table_wise(&[table("user", 1_000_000, 1.0), table("genres", 30, 4.0), table("item", 9000, 3.0)], 2)?;
    /// assert_eq!(plan.rank_of(1), Some(0));
    /// assert_eq!(plan.tables_of(1), [0, 2]);
    /// assert_eq!(plan.cost_imbalance(), 1.0);
    /// # Ok::<(), slackline_embedding::PlanError>(())
    /// ```
    pub fn table_wise(tables: &[TableCost], ranks: usize) -> Result<Self, PlanError> {
        Self::make(tables, ranks, &PlanOptions { split: Split::Never, ..PlanOptions::default() })
    }

    /// A given placement of whole tables: table `i` lies on rank `placement[i]`.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, a rank does not exist, the lengths differ, or a table's numbers are impossible.
    pub fn placed(tables: &[TableCost], ranks: usize, placement: Vec<usize>) -> Result<Self, PlanError> {
        if placement.len() != tables.len() {
            return Err(PlanError::Placements { tables: tables.len(), placed: placement.len() });
        }
        let whole = |(table, rank): (usize, usize)| Part {
            table,
            rank,
            rows: 0..tables[table].rows,
            columns: 0..tables[table].dim,
            lookups_per_sample: tables[table].lookups_per_sample,
        };
        let parts = placement.into_iter().enumerate().map(whole).collect();
        Self::with_parts(CostModel::default(), tables, ranks, parts, Vec::new(), BTreeMap::new())
    }

    /// Whole tables in the order of their numbers, as many on each rank (the first ranks have one more, if they don't come
    /// out even): how the reference DLRM splits them, whatever they cost. For comparison.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, or a table's numbers are impossible.
    pub fn by_number(tables: &[TableCost], ranks: usize, model: CostModel) -> Result<Self, PlanError> {
        let (each, more) = (tables.len() / ranks.max(1), tables.len() % ranks.max(1));
        let part = |(table, cost): (usize, &TableCost)| {
            let rank = if table < more * (each + 1) { table / (each + 1) } else { (table - more) / each.max(1) };
            let (rows, columns) = (0..cost.rows, 0..cost.dim);
            Part { table, rank, rows, columns, lookups_per_sample: cost.lookups_per_sample }
        };
        let parts = tables.iter().enumerate().map(part).collect();
        Self::with_parts(model, tables, ranks, parts, Vec::new(), BTreeMap::new())
    }

    /// A placement that somebody else made: the parts of all tables that are not `replicated`, and for some tables, which
    /// are whole on one rank, rows that every rank is to have a copy of.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, a rank or table does not exist, the parts of a table leave values out or hold
    /// some twice, or a table's numbers are impossible.
    pub fn with_parts(
        model: CostModel,
        tables: &[TableCost],
        ranks: usize,
        mut parts: Vec<Part>,
        mut replicated: Vec<usize>,
        mut hot: BTreeMap<usize, Vec<u64>>,
    ) -> Result<Self, PlanError> {
        check(&model, tables, ranks)?;
        parts.sort_by_key(|part| (part.table, part.columns.start, part.rows.start));
        replicated.sort_unstable();
        replicated.dedup();
        let placed = parts.iter().map(|part| part.table).chain(replicated.iter().copied()).chain(hot.keys().copied());
        if let Some(table) = placed.max().filter(|table| *table >= tables.len()) {
            return Err(PlanError::NoSuchTable { table, tables: tables.len() });
        }
        let mut loads = vec![RankLoad::default(); ranks];
        for (number, table) in tables.iter().enumerate() {
            let (from, to) = (first_of(&parts, number), first_of(&parts, number + 1));
            let parts = &parts[from..to];
            let is_replicated = replicated.binary_search(&number).is_ok();
            check_parts(table, parts, is_replicated, ranks)?;
            if let Some(rows) = hot.get_mut(&number) {
                rows.sort_unstable();
                rows.dedup();
                check_hot(table, rows, parts.len())?;
            }
            for part in parts {
                let load = &mut loads[part.rank];
                load.bytes += part.bytes(table);
                load.cost += model.part(table, part);
                load.parts.push(part.clone());
            }
            let copied = hot.get(&number).map_or(0, |rows| rows.len() as u64 * table.row_bytes);
            for load in &mut loads {
                load.bytes += copied;
                if is_replicated {
                    load.bytes += table.bytes();
                    load.cost += model.nanoseconds(table) / ranks as f64;
                }
            }
        }
        hot.retain(|_, rows| !rows.is_empty());
        Ok(Plan { model, tables: tables.to_vec(), parts, replicated, hot, ranks: loads })
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// The tables, as they were given.
    pub fn tables(&self) -> &[TableCost] {
        &self.tables
    }

    /// What the costs were reckoned with.
    pub fn model(&self) -> &CostModel {
        &self.model
    }

    /// All parts, ordered by table, then columns, then rows.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The parts that `rank` holds, in the same order.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn parts_of(&self, rank: usize) -> &[Part] {
        &self.ranks[rank].parts
    }

    /// The numbers of the tables that all ranks hold, ascending.
    pub fn replicated(&self) -> &[usize] {
        &self.replicated
    }

    /// The rows of a table that every rank has a copy of, ascending.
    pub fn hot_rows(&self, table: usize) -> &[u64] {
        self.hot.get(&table).map_or(&[], Vec::as_slice)
    }

    /// The rank that holds table number `table` whole; none if it is cut or replicated.
    ///
    /// # Panics
    ///
    /// If there is no such table.
    pub fn rank_of(&self, table: usize) -> Option<usize> {
        assert!(table < self.tables.len(), "table {table} of {}", self.tables.len());
        let first = first_of(&self.parts, table);
        match &self.parts[first..] {
            [one, rest @ ..] if one.table == table && rest.first().is_none_or(|next| next.table != table) => {
                Some(one.rank)
            }
            _ => None,
        }
    }

    /// The numbers of the tables that `rank` holds parts of, ascending; replicated ones are not among them.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn tables_of(&self, rank: usize) -> Vec<usize> {
        let mut tables: Vec<usize> = self.ranks[rank].parts.iter().map(|part| part.table).collect();
        tables.dedup();
        tables
    }

    /// The bytes of all rows that `rank` holds, copies included.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn bytes_of(&self, rank: usize) -> u64 {
        self.ranks[rank].bytes
    }

    /// The estimated time that `rank` needs to pool its parts for one sample of the batch that the ranks share, in
    /// nanoseconds. What hot rows take off is not counted.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn cost_of(&self, rank: usize) -> f64 {
        self.ranks[rank].cost
    }

    /// The same of one part.
    ///
    /// # Panics
    ///
    /// If it is of a table that the plan does not have.
    pub fn cost_of_part(&self, part: &Part) -> f64 {
        self.model.part(&self.tables[part.table], part)
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

    /// How the tables are placed, in a few words.
    fn kinds(&self) -> String {
        let cut = |table: usize| {
            let parts = || self.parts.iter().filter(move |part| part.table == table);
            let rows = parts().any(|part| part.rows != (0..self.tables[table].rows));
            (rows, parts().any(|part| part.columns != (0..self.tables[table].dim)))
        };
        let count = |kind| (0..self.tables.len()).filter(|table| cut(*table) == kind).count();
        let whole = count((false, false)) - self.replicated.len();
        if whole == self.tables.len() && self.hot.is_empty() {
            return "table-wise".to_owned();
        }
        let kinds = [
            (whole, "table-wise"),
            (count((true, false)), "row-wise"),
            (count((false, true)), "column-wise"),
            (count((true, true)), "by rows and columns"),
            (self.replicated.len(), "replicated"),
            (self.hot.len(), "with hot rows"),
        ];
        let kinds = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }

    fn part_name(&self, part: &Part) -> String {
        let table = &self.tables[part.table];
        let mut name = table.name.clone();
        if part.rows != (0..table.rows) {
            name += &format!(" rows {}..{}", part.rows.start, part.rows.end);
        }
        if part.columns != (0..table.dim) {
            name += &format!(" columns {}..{}", part.columns.start, part.columns.end);
        }
        name
    }
}

impl Part {
    /// The bytes that it takes.
    pub fn bytes(&self, table: &TableCost) -> u64 {
        let all = u128::from(table.rows.max(1)) * table.dim.max(1) as u128;
        let here = u128::from(self.rows.end - self.rows.start) * self.columns.len() as u128;
        if table.rows == 0 { 0 } else { (u128::from(table.bytes()) * here / all) as u64 }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tables, ranks) = (self.tables.len(), self.ranks.len());
        let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        writeln!(f, "{} on {}, {}", counted(tables, "table"), counted(ranks, "rank"), self.kinds())?;
        let (cost, bytes) = (self.cost_imbalance(), self.bytes_imbalance());
        writeln!(f, "largest / mean: {cost:.3} of the cost, {bytes:.3} of the memory")?;
        let names = |names: &mut dyn Iterator<Item = String>, f: &mut fmt::Formatter<'_>, count: usize| {
            for (at, name) in names.take(NAMES).enumerate() {
                write!(f, "{}{name}", if at == 0 { "  " } else { ", " })?;
            }
            if count > NAMES { write!(f, " and {} more", count - NAMES) } else { Ok(()) }
        };
        write!(f, "rank  tables      memory  ns/sample  names")?;
        for (number, rank) in self.ranks.iter().enumerate() {
            let (count, memory, cost) = (rank.parts.len(), readable(rank.bytes), rank.cost);
            write!(f, "\n{number:>4}  {count:>6}  {memory:>10}  {cost:>9.1}")?;
            names(&mut rank.parts.iter().map(|part| self.part_name(part)), f, count)?;
        }
        if !self.replicated.is_empty() {
            let bytes: u64 = self.replicated.iter().map(|table| self.tables[*table].bytes()).sum();
            write!(f, "\n all  {:>6}  {:>10}           ", self.replicated.len(), readable(bytes))?;
            names(&mut self.replicated.iter().map(|table| self.tables[*table].name.clone()), f, self.replicated.len())?;
        }
        if !self.hot.is_empty() {
            let rows: usize = self.hot.values().map(Vec::len).sum();
            write!(f, "\n all  {rows} hot rows of {} tables", self.hot.len())?;
        }
        Ok(())
    }
}

/// How many names a line of the shown plan lists.
const NAMES: usize = 8;

#[derive(Clone, Debug, Default, PartialEq)]
struct RankLoad {
    parts: Vec<Part>,
    bytes: u64,
    cost: f64,
}

/// A plan as it is written: what follows from the placement is left out, so that it cannot contradict it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    ranks: usize,
    model: CostModel,
    tables: Vec<TableCost>,
    parts: Vec<Part>,
    replicated: Vec<usize>,
    hot: BTreeMap<usize, Vec<u64>>,
}

impl TryFrom<PlanFile> for Plan {
    type Error = PlanError;

    fn try_from(file: PlanFile) -> Result<Self, Self::Error> {
        Plan::with_parts(file.model, &file.tables, file.ranks, file.parts, file.replicated, file.hot)
    }
}

impl From<Plan> for PlanFile {
    fn from(plan: Plan) -> Self {
        let (ranks, Plan { model, tables, parts, replicated, hot, .. }) = (plan.ranks(), plan);
        PlanFile { ranks, model, tables, parts, replicated, hot }
    }
}

fn check(model: &CostModel, tables: &[TableCost], ranks: usize) -> Result<(), PlanError> {
    if ranks == 0 {
        return Err(PlanError::NoRanks);
    }
    // A plan may come from a file: the number is not to decide how much memory is asked for.
    if ranks > MAX_RANKS {
        return Err(PlanError::TooManyRanks { ranks });
    }
    let mut total = 0u64;
    let mut cost = 0.0;
    for table in tables {
        let TableCost { rows, row_bytes, lookups_per_sample: lookups, .. } = *table;
        cost += model.nanoseconds(table);
        let measured = table.measured_ns.is_none_or(|measured| measured >= 0.0);
        let counted = table.row_load.iter().all(|share| (0.0..=1.0).contains(share));
        if lookups.is_nan() || lookups < 0.0 || !cost.is_finite() || !measured || !counted {
            return Err(PlanError::Lookups { table: table.name.clone(), lookups });
        }
        let whole = rows.checked_mul(row_bytes).map(|_| table.bytes());
        let sum =
            whole.and_then(|bytes| total.checked_add(bytes)).filter(|sum| sum.checked_mul(ranks as u64).is_some());
        total = sum.ok_or_else(|| PlanError::TooLarge { table: table.name.clone(), rows, row_bytes })?;
    }
    Ok(())
}

/// Where a table's parts begin among those of all tables, in order.
fn first_of(parts: &[Part], table: usize) -> usize {
    parts.partition_point(|part| part.table < table)
}

/// Checks that the parts, in order, hold every value once: runs of columns, each of runs of rows.
fn check_parts(table: &TableCost, parts: &[Part], replicated: bool, ranks: usize) -> Result<(), PlanError> {
    let wrong = |why: String| Err(PlanError::Parts { table: table.name.clone(), why });
    if replicated {
        return if parts.is_empty() { Ok(()) } else { wrong("replicated, and placed as well".to_owned()) };
    }
    for part in parts {
        if part.rank >= ranks {
            return Err(PlanError::NoSuchRank { table: table.name.clone(), rank: part.rank, ranks });
        }
        if part.lookups_per_sample.is_nan() || part.lookups_per_sample < 0.0 {
            let lookups = part.lookups_per_sample;
            return Err(PlanError::Lookups { table: table.name.clone(), lookups });
        }
        let rows_cut = part.rows != (0..table.rows);
        let columns_cut = part.columns != (0..table.dim);
        for (cut, allowed, by) in
            [(rows_cut, table.cuts.by_rows(), "rows"), (columns_cut, table.cuts.by_columns(), "columns")]
        {
            if cut && !allowed {
                return wrong(format!("cannot be cut by {by}"));
            }
        }
    }
    let mut column = 0;
    for band in parts.chunk_by(|one, next| one.columns == next.columns) {
        let columns = &band[0].columns;
        if columns.start != column || columns.end <= columns.start {
            return wrong(format!("columns {columns:?} come where column {column} should"));
        }
        column = columns.end;
        let mut row = 0;
        for part in band {
            if part.rows.start != row || (part.rows.end <= row && table.rows > 0) {
                return wrong(format!("rows {:?} come where row {row} should", part.rows));
            }
            row = part.rows.end;
        }
        if row != table.rows {
            return wrong(format!("the parts have {row} of {} rows", table.rows));
        }
    }
    if column == table.dim { Ok(()) } else { wrong(format!("the parts have {column} of {} columns", table.dim)) }
}

fn check_hot(table: &TableCost, rows: &[u64], parts: usize) -> Result<(), PlanError> {
    let wrong = |why: String| Err(PlanError::Parts { table: table.name.clone(), why });
    match rows.last() {
        Some(_) if parts != 1 => wrong("has hot rows, but is not whole on one rank".to_owned()),
        Some(row) if *row >= table.rows => wrong(format!("hot row {row} of {} rows", table.rows)),
        _ => Ok(()),
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
