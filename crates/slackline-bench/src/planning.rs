//! Plans for skewed tables: the lookup times that the planner estimates, beside measured ones.
//!
//! The tables have the rows (scaled down) and pooling factors of MLPerf's DLRM; indices follow Zipf's law. A trace of some
//! batches is profiled first. Every plan is then measured on other batches: one rank after the other, on one core, with the
//! parts of that rank. The plans take turns.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Instant;

use serde::Serialize;
use slackline_data::{Access, Batch, Synthetic, SyntheticSpec, SyntheticTable};
use slackline_embedding::{
    BagBuffer, Bags, CostModel, EmbeddingTable, HeapTable, Part, Plan, PlanError, PlanOptions, Pooling, Profile,
    Profiler, RowFormat, Rows, Split, TableCost,
};
use slackline_transport::cores;

use crate::BenchError;
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
    /// Number of ranks.
    pub ranks: usize,
    /// The rows of MLPerf's large tables are divided by this.
    pub scale: u64,
    /// Columns of a row.
    pub dim: usize,
    /// How rows are stored.
    pub format: RowFormat,
    /// Samples of a batch.
    pub batch: usize,
    /// Batches of the trace; as many others are measured.
    pub batches: usize,
    /// Zipf exponent of the indices.
    pub zipf: f64,
    /// Number of turns.
    pub turns: usize,
    /// Random seed of the indices.
    pub seed: u64,
}

/// One plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanningLine {
    /// What the planner knows and may do.
    pub name: String,
    /// The kinds of placement that the plan uses.
    pub kinds: String,
    /// Largest lookup time of a rank divided by the mean, estimated.
    pub predicted: f64,
    /// The same, from the measured median time of each rank.
    pub measured: f64,
    /// The same, by turn.
    pub by_turn: Vec<f64>,
    /// Estimated time of the busiest rank for a batch, in microseconds.
    pub predicted_us: f64,
    /// Measured median time of the busiest rank, in microseconds.
    pub measured_us: f64,
    /// Measured over estimated time, by rank.
    pub ratios: Vec<f64>,
}

/// A plan, and the parts on its ranks.
struct Placement<'a> {
    name: &'a str,
    plan: Plan,
    held: Vec<Vec<Held>>,
    /// Microseconds for a batch, by rank and turn.
    times: Vec<Vec<f64>>,
}

/// One part on its rank.
struct Held {
    part: Part,
    table: HeapTable,
    /// Of the whole table.
    all_rows: u64,
    buffer: BagBuffer,
    out: Vec<f32>,
}

/// Measures all plans.
///
/// # Errors
///
/// [`BenchError::Settings`] for numbers that make no run.
pub fn planning(options: &PlanningOptions) -> Result<Vec<PlanningLine>, BenchError> {
    let numbers = [options.ranks, options.dim, options.batch, options.batches, options.turns, options.scale as usize];
    if numbers.contains(&0) {
        return Err(settings("every number must be at least 1"));
    }
    let all = cores::available();
    cores::bind(&all[..1.min(all.len())]);
    let tables = tables(options)?;
    let batches = draw(options)?;
    let (trace, rest) = batches.split_at(options.batches);
    let mut placements = Vec::new();
    for (name, plan) in plans(options, &tables, trace)? {
        let parts = |rank| plan.parts_of(rank).iter().map(|part| Held::new(&tables[part.table], part, options.batch));
        let held = (0..options.ranks).map(|rank| parts(rank).collect()).collect();
        placements.push(Placement { name, plan, held, times: vec![Vec::new(); options.ranks] });
    }
    // The first turn warms up.
    for turn in 0..=options.turns {
        for placement in &mut placements {
            for (held, times) in placement.held.iter_mut().zip(&mut placement.times) {
                let time = rank_us(held, rest)?;
                times.extend((turn > 0).then_some(time));
            }
        }
    }
    cores::bind(&all);
    Ok(placements.into_iter().map(|placement| placement.line(options.batch)).collect())
}

/// The plans, named by what the planner knows and may do.
fn plans<'a>(
    options: &PlanningOptions,
    tables: &[HeapTable],
    trace: &[Batch],
) -> Result<Vec<(&'a str, Plan)>, BenchError> {
    let row_bytes = options.format.row_bytes(options.dim) as u64;
    let unknown: Vec<TableCost> =
        tables.iter().map(|table| TableCost::new(table.name(), table.rows(), options.dim, row_bytes)).collect();
    let mut known = unknown.clone();
    profile(tables, trace)?.apply(&mut known).map_err(settings)?;
    let mut counted = known.clone();
    counted.iter_mut().for_each(|table| table.measured_ns = None);
    let model = CostModel::measure();

    let ranks = options.ranks;
    let with = |split| PlanOptions { split, model: model.clone(), ..PlanOptions::default() };
    let plans = [
        ("by number, as the reference splits", Plan::by_number(&known, ranks, model.clone())),
        ("whole, nothing known of lookups", blind(&unknown, &known, ranks)),
        ("whole, times measured", Plan::make(&known, ranks, &with(Split::Never))),
        ("columns, times measured", Plan::make(&known, ranks, &with(Split::Columns))),
        ("rows, times measured", Plan::make(&known, ranks, &with(Split::Rows))),
        ("columns, lookups counted, costs reckoned", Plan::make(&counted, ranks, &with(Split::Columns))),
    ];
    plans.into_iter().map(|(name, plan)| Ok((name, plan.map_err(settings)?))).collect()
}

impl Placement<'_> {
    fn line(self, batch: usize) -> PlanningLine {
        let Placement { name, plan, times, .. } = self;
        let (ranks, us) = (plan.ranks(), batch as f64 / 1e3);
        let medians: Vec<f64> = times.iter().map(|times| Spread::of(times.clone()).median).collect();
        let imbalance = |times: &mut dyn Iterator<Item = f64>| {
            let (largest, sum) = times.fold((0.0f64, 0.0), |(largest, sum), time| (largest.max(time), sum + time));
            largest * ranks as f64 / sum
        };
        let turns = times.first().map_or(0, Vec::len);
        let text = plan.to_string();
        let kinds = text.lines().next().and_then(|line| line.split_once(", ")).map_or("", |(_, kinds)| kinds);
        PlanningLine {
            name: name.to_owned(),
            kinds: kinds.to_owned(),
            predicted: plan.cost_imbalance(),
            measured: imbalance(&mut medians.iter().copied()),
            by_turn: (0..turns).map(|turn| imbalance(&mut times.iter().map(|times| times[turn]))).collect(),
            predicted_us: (0..ranks).map(|rank| plan.cost_of(rank)).fold(0.0, f64::max) * us,
            measured_us: medians.iter().copied().fold(0.0, f64::max),
            ratios: medians.iter().enumerate().map(|(rank, time)| time / (plan.cost_of(rank) * us)).collect(),
        }
    }
}

impl Held {
    fn new(table: &HeapTable, part: &Part, batch: usize) -> Self {
        let whole = part.rows == (0..table.rows()) && part.columns == (0..table.dim());
        let held = if whole { table.clone() } else { table.part(part.rows.clone(), part.columns.clone()) };
        let (all_rows, buffer) = (table.rows(), BagBuffer::default());
        Held { out: vec![0.0; batch * held.dim()], part: part.clone(), table: held, all_rows, buffer }
    }
}

/// Placed as if every table were looked up once, then judged by what is known.
fn blind(unknown: &[TableCost], known: &[TableCost], ranks: usize) -> Result<Plan, PlanError> {
    let plan = Plan::table_wise(unknown, ranks)?;
    let mut parts = plan.parts().to_vec();
    parts.iter_mut().for_each(|part| part.lookups_per_sample = known[part.table].lookups_per_sample);
    Plan::with_parts(CostModel::default(), known, ranks, parts, Vec::new(), BTreeMap::new())
}

/// The mean time of a batch, in microseconds.
fn rank_us(held: &mut [Held], batches: &[Batch]) -> Result<f64, BenchError> {
    let begin = Instant::now();
    for batch in batches {
        for Held { part, table, all_rows, buffer, out } in held.iter_mut() {
            let input = &batch.tables[part.table];
            let bags = Bags::new(table.name(), *all_rows, &input.indices, &input.offsets, None).map_err(settings)?;
            let bags = if part.rows == (0..*all_rows) { bags } else { buffer.run(&bags, part.rows.clone()) };
            table.pool(&bags, Pooling::Sum, out).map_err(settings)?;
        }
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / batches.len() as f64)
}

fn profile(tables: &[HeapTable], trace: &[Batch]) -> Result<Profile, BenchError> {
    let mut profiler = Profiler::new(tables.iter().map(|table| (table.name().to_owned(), table.rows())));
    // Each its own, as messages are: one that is written again and again would stay in a cache.
    let mut outs = vec![Vec::new(); tables.len()];
    // Once to warm up, once to count.
    for counts in [false, true] {
        for batch in trace {
            if counts {
                profiler.batch(batch.samples);
            }
            for (number, ((table, input), out)) in tables.iter().zip(&batch.tables).zip(&mut outs).enumerate() {
                out.resize(batch.samples * table.dim(), 0.0);
                let begin = Instant::now();
                let bags = Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, None);
                let bags = bags.map_err(settings)?;
                table.pool(&bags, Pooling::Sum, out).map_err(settings)?;
                if counts {
                    profiler.lookups(number, &bags, Some(begin.elapsed()));
                }
            }
        }
    }
    Ok(profiler.finish(0))
}

fn settings(why: impl Display) -> BenchError {
    BenchError::Settings(why.to_string())
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
        let values = values.to_format(options.format).map_err(settings)?;
        let mut bytes = values.stored().bytes().repeat(rows.div_ceil(tile) as usize);
        bytes.truncate(rows as usize * options.format.row_bytes(options.dim));
        Ok(HeapTable::from_rows(format!("table {number}"), Rows::new(options.format, options.dim, &bytes)))
    };
    rows(options).enumerate().map(table).collect()
}

fn draw(options: &PlanningOptions) -> Result<Vec<Batch>, BenchError> {
    let table = |(rows, hots): (u64, u32)| SyntheticTable {
        rows,
        pooling: slackline_data::PoolingFactor::Fixed(hots),
        access: Access::Zipf(options.zipf),
    };
    let spec = SyntheticSpec {
        samples_per_batch: options.batch,
        dense_features: 1,
        tables: rows(options).zip(HOTS).map(table).collect(),
        seed: options.seed,
    };
    let source = Synthetic::new(&spec).map_err(settings)?;
    let draw = |number| {
        let mut batch = Batch::default();
        source.fill(number, &mut batch);
        batch
    };
    Ok((0..2 * options.batches as u64).map(draw).collect())
}

/// A readable table.
pub fn describe(lines: &[PlanningLine]) -> String {
    let mut text = format!(
        "{:<42} {:>9}  {:<19} {:>5}  {:>13}  {}\n",
        "plan", "estimated", "measured max/mean", "ratio", "busiest us", "measured / estimated, by rank"
    );
    for line in lines {
        let Spread { min, max, .. } = Spread::of(line.by_turn.clone());
        let ratios: Vec<String> = line.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        text += &format!(
            "{:<42} {:>9.3}  {:.3} ({min:.3}-{max:.3}) {:>5.2}  {:>6.0} /{:>5.0}  {}  {}\n",
            line.name,
            line.predicted,
            line.measured,
            line.measured / line.predicted,
            line.measured_us,
            line.predicted_us,
            ratios.join(" "),
            line.kinds
        );
    }
    text + "max/mean: of the ranks' median lookup times (smallest-largest of the turns); ratio: measured over estimated;\n\
            busiest us: time of the busiest rank for a batch, measured / estimated\n"
}
