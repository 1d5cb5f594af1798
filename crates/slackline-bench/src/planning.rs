//! Placements of skewed tables: what the planner predicts beside what the lookups of each rank take.
//!
//! The tables have the rows and pooling factors of MLPerf's DLRM (scaled down), their rows are drawn by Zipf's law. A trace
//! of some batches is profiled first; every placement is then measured on other batches: rank after rank, each alone on
//! one core with its own parts, all placements in turns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use slackline_data::{Access, Batch, Synthetic, SyntheticSpec, TableSpec};
use slackline_embedding::{
    BagBuffer, Bags, CostModel, EmbeddingTable, HeapTable, Plan, PlanOptions, Pooling, Profile, Profiler, RowFormat,
    Rows, Split, TableCost,
};

use crate::BenchError;
use crate::embedding::{bind, cores};
use crate::results::Spread;

/// Rows of the tables of MLPerf's DLRM v2.
const ROWS: [u64; 26] = [
    40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938,
    155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
];
/// Their lookups for one sample.
const HOTS: [u32; 26] = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1];
/// Rows that differ; a table repeats them.
const TILE: u64 = 1 << 12;

/// What to measure.
#[derive(Clone, Debug)]
pub struct PlanningOptions {
    /// Ranks of each placement.
    pub ranks: usize,
    /// By how much the tables are smaller than MLPerf's.
    pub scale: u64,
    /// Columns of a row.
    pub dim: usize,
    /// How rows are stored.
    pub format: RowFormat,
    /// Samples of a batch.
    pub batch: usize,
    /// Batches of the trace, and as many that are measured.
    pub batches: usize,
    /// Zipf's exponent of the indices.
    pub zipf: f64,
    /// Turns.
    pub turns: usize,
    /// Of the indices.
    pub seed: u64,
}

/// One placement.
#[derive(Clone, Debug, Serialize)]
pub struct PlanningLine {
    /// What the planner was told, and what it might do.
    pub name: String,
    /// How it was placed.
    pub kinds: String,
    /// Largest time of a rank over the mean, by the plan.
    pub predicted: f64,
    /// The same as measured, by turn.
    pub measured: Vec<f64>,
    /// The busiest rank's time for a batch by the plan, in microseconds.
    pub predicted_us: f64,
    /// The same as measured, by turn.
    pub measured_us: Vec<f64>,
    /// Each rank's time over its predicted time, medians.
    pub ratios: Vec<f64>,
}

/// One rank's tables and lookups.
struct Part {
    table: usize,
    held: HeapTable,
    /// Of the whole table.
    all_rows: u64,
    first_row: u64,
    buffer: BagBuffer,
    out: Vec<f32>,
}

/// Measures all placements.
///
/// # Errors
///
/// [`BenchError::Settings`] for numbers that make no run.
pub fn planning(options: &PlanningOptions) -> Result<Vec<PlanningLine>, BenchError> {
    let settings = |why: &dyn std::fmt::Display| BenchError::Settings(why.to_string());
    if [options.ranks, options.dim, options.batch, options.batches, options.turns, options.scale as usize].contains(&0)
    {
        return Err(settings(&"every number must be at least 1"));
    }
    let cores = cores();
    bind(&cores[..1.min(cores.len())]);
    let tables = tables(options)?;
    let batches = draw(options)?;
    let (trace, rest) = batches.split_at(options.batches);
    let row_bytes = options.format.row_bytes(options.dim) as u64;
    let unknown: Vec<TableCost> =
        tables.iter().map(|table| TableCost::new(table.name(), table.rows(), options.dim, row_bytes)).collect();
    let mut known = unknown.clone();
    profile(&tables, trace)?.apply(&mut known).map_err(|error| settings(&error))?;
    let mut counted = known.clone();
    counted.iter_mut().for_each(|table| table.measured_ns = None);
    let model = CostModel::measure();

    let (ranks, whole) = (options.ranks, PlanOptions { split: Split::Never, ..PlanOptions::default() });
    let with = |split, model: &CostModel| PlanOptions { split, model: model.clone(), ..PlanOptions::default() };
    let plans = [
        ("by number, as the reference splits", Plan::by_number(&known, ranks, CostModel::default())),
        ("whole, nothing known of lookups", blind(&unknown, &known, ranks)),
        ("whole, lookups counted, constants measured", Plan::make(&counted, ranks, &with(Split::Never, &model))),
        ("whole, times measured", Plan::make(&known, ranks, &whole)),
        ("columns, lookups counted, constants measured", Plan::make(&counted, ranks, &with(Split::Columns, &model))),
        ("columns, times measured", Plan::make(&known, ranks, &with(Split::Columns, &model))),
        ("rows, times measured", Plan::make(&known, ranks, &with(Split::Rows, &model))),
    ];
    let mut lines = Vec::new();
    let mut held = Vec::new();
    for (name, plan) in plans {
        let plan = plan.map_err(|error| settings(&error))?;
        let parts = |rank: usize| -> Vec<Part> {
            let part = |part: &slackline_embedding::Part| {
                let table = &tables[part.table];
                let whole = part.rows == (0..table.rows()) && part.columns == (0..table.dim());
                let held = if whole { table.clone() } else { table.part(part.rows.clone(), part.columns.clone()) };
                let out = vec![0.0; options.batch * held.dim()];
                Part {
                    table: part.table,
                    held,
                    all_rows: table.rows(),
                    first_row: part.rows.start,
                    buffer: BagBuffer::default(),
                    out,
                }
            };
            plan.parts_of(rank).iter().map(part).collect()
        };
        held.push((0..ranks).map(parts).collect::<Vec<_>>());
        let text = plan.to_string();
        let kinds =
            text.lines().next().and_then(|line| line.split_once(", ")).map_or("", |(_, kinds)| kinds).to_owned();
        let line = PlanningLine {
            name: name.to_owned(),
            kinds,
            predicted: plan.cost_imbalance(),
            measured: Vec::new(),
            predicted_us: (0..ranks).map(|rank| plan.cost_of(rank)).fold(0.0, f64::max) * options.batch as f64 / 1e3,
            measured_us: Vec::new(),
            ratios: Vec::new(),
        };
        lines.push((plan, line, vec![Vec::new(); ranks]));
    }
    // The first turn warms up.
    for turn in 0..=options.turns {
        for ((_, line, by_rank), held) in lines.iter_mut().zip(&mut held) {
            let mut times = Vec::with_capacity(ranks);
            for parts in held.iter_mut() {
                times.push(rank_us(parts, rest)?);
            }
            if turn == 0 {
                continue;
            }
            let (largest, sum) =
                times.iter().fold((0.0f64, 0.0), |(largest, sum), time| (largest.max(*time), sum + time));
            line.measured.push(largest * ranks as f64 / sum);
            line.measured_us.push(largest);
            by_rank.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        }
    }
    bind(&cores);
    let finish = |(plan, line, by_rank): (Plan, PlanningLine, Vec<Vec<f64>>)| {
        let ratio = |(rank, times): (usize, Vec<f64>)| {
            Spread::of(times).median / (plan.cost_of(rank) * options.batch as f64 / 1e3).max(1e-9)
        };
        PlanningLine { ratios: by_rank.into_iter().enumerate().map(ratio).collect(), ..line }
    };
    Ok(lines.into_iter().map(finish).collect())
}

/// Placed as if every table were looked up once, then judged by what is known.
fn blind(unknown: &[TableCost], known: &[TableCost], ranks: usize) -> Result<Plan, slackline_embedding::PlanError> {
    let plan = Plan::table_wise(unknown, ranks)?;
    let mut parts = plan.parts().to_vec();
    parts.iter_mut().for_each(|part| part.lookups_per_sample = known[part.table].lookups_per_sample);
    Plan::with_parts(CostModel::default(), known, ranks, parts, Vec::new(), BTreeMap::new())
}

/// The mean time of a batch, in microseconds.
fn rank_us(parts: &mut [Part], batches: &[Batch]) -> Result<f64, BenchError> {
    let mut elapsed = Duration::ZERO;
    for batch in batches {
        let begin = Instant::now();
        for Part { table, held, all_rows, first_row, buffer, out } in parts.iter_mut() {
            let input = &batch.tables[*table];
            let bags = Bags::new(held.name(), *all_rows, &input.indices, &input.offsets, None);
            let bags = bags.map_err(|error| BenchError::Settings(error.to_string()))?;
            let bags = if bags.rows() == held.rows() {
                bags
            } else {
                buffer.map(&bags, held.rows(), |row| row.checked_sub(*first_row).filter(|row| *row < held.rows()))
            };
            held.pool(&bags, Pooling::Sum, out).map_err(|error| BenchError::Settings(error.to_string()))?;
        }
        elapsed += begin.elapsed();
    }
    Ok(elapsed.as_secs_f64() * 1e6 / batches.len() as f64)
}

fn profile(tables: &[HeapTable], trace: &[Batch]) -> Result<Profile, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Settings(error.to_string());
    let mut profiler = Profiler::new(tables.iter().map(|table| (table.name().to_owned(), table.rows())));
    let mut out = Vec::new();
    // Once to warm up, once to count.
    for counts in [false, true] {
        for batch in trace {
            if counts {
                profiler.batch(batch.samples);
            }
            for (number, (table, input)) in tables.iter().zip(&batch.tables).enumerate() {
                let begin = Instant::now();
                let bags = Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, None);
                let bags = bags.map_err(|error| failed(&error))?;
                out.resize(batch.samples * table.dim(), 0.0);
                table.pool(&bags, Pooling::Sum, &mut out).map_err(|error| failed(&error))?;
                if counts {
                    profiler.lookups(number, &bags, begin.elapsed());
                }
            }
        }
    }
    Ok(profiler.finish(0))
}

fn rows(options: &PlanningOptions) -> impl Iterator<Item = u64> {
    // Small tables stay as they are.
    let scale = options.scale;
    ROWS.into_iter().map(move |rows| if rows > 100_000 { (rows / scale).max(1000) } else { rows })
}

fn tables(options: &PlanningOptions) -> Result<Vec<HeapTable>, BenchError> {
    let table = |(number, rows): (usize, u64)| {
        let tile = TILE.min(rows);
        let values = HeapTable::random("tile", tile, options.dim, number as u64);
        let values = values.to_format(options.format).map_err(|error| BenchError::Settings(error.to_string()))?;
        let mut bytes = values.stored().bytes().repeat(rows.div_ceil(tile) as usize);
        bytes.truncate(rows as usize * options.format.row_bytes(options.dim));
        Ok(HeapTable::from_rows(format!("table {number}"), Rows::new(options.format, options.dim, &bytes)))
    };
    rows(options).enumerate().map(table).collect()
}

fn draw(options: &PlanningOptions) -> Result<Vec<Batch>, BenchError> {
    let table = |(rows, hots): (u64, u32)| TableSpec {
        rows,
        pooling: slackline_data::Pooling::Fixed(hots),
        access: Access::Zipf(options.zipf),
    };
    let spec = SyntheticSpec {
        samples_per_batch: options.batch,
        dense_features: 1,
        tables: rows(options).zip(HOTS).map(table).collect(),
        seed: options.seed,
    };
    let source = Synthetic::new(&spec).map_err(|error| BenchError::Settings(error.to_string()))?;
    let draw = |number| {
        let mut batch = Batch::default();
        source.fill(number, &mut batch);
        batch
    };
    Ok((0..2 * options.batches as u64).map(draw).collect())
}

/// A table for people.
pub fn describe(lines: &[PlanningLine]) -> String {
    let mut text = format!(
        "{:<46} {:>9}  {:<18} {:>6}  {:>13}  {}\n",
        "placement", "predicted", "measured max/mean", "ratio", "busiest us", "ranks' times / predicted"
    );
    for line in lines {
        let Spread { median, min, max } = Spread::of(line.measured.clone());
        let busiest = Spread::of(line.measured_us.clone()).median;
        let ratios: Vec<String> = line.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        text += &format!(
            "{:<46} {:>9.3}  {median:.3} ({min:.3}-{max:.3}) {:>6.2}  {busiest:>6.0} /{:>5.0}  {}  {}\n",
            line.name,
            line.predicted,
            median / line.predicted,
            line.predicted_us,
            ratios.join(" "),
            line.kinds
        );
    }
    text + "max/mean: of the ranks' lookup times; ratio: measured over predicted; busiest us: measured / predicted\n"
}
