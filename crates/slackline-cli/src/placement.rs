//! `slackline profile` and `slackline plan`: what tables cost, and which rank holds them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use slackline_data::{Batch, Format, Input};
use slackline_dlrm::ModelDirectory;
use slackline_embedding::{Bags, CostModel, Load, Plan, PlanOptions, Pooling, Profile, Profiler, TableCost, Verify};

use crate::args;
use crate::fail::{self, Misuse};
use crate::model::input_shape;
use crate::output::write_whole;
use crate::print;
use crate::progress::{Progress, bytes};

/// `slackline profile`.
pub(crate) fn profile(args: &args::ProfileArgs) -> Result<u8> {
    let directory = ModelDirectory::open(&args.model)?;
    let config = directory.config();
    let all: Vec<usize> = (0..config.tables()).collect();
    // As they are when a rank has worked for a while.
    let tables = directory.load_tables(&all, Load::Prefaulted, Verify::HeaderOnly)?;
    let format = args.format.map_or_else(|| Format::detect(&args.input), Ok)?;
    let mut input = Input::open(&args.input, Some(format), &input_shape(config))?;
    let mut profiler = Profiler::new(tables.iter().map(|table| (table.name().to_owned(), table.rows())));
    let mut progress = Progress::new("profile");
    // Room of its own for each, as messages are: one that is written again and again would stay in a cache.
    let mut outs = vec![Vec::new(); tables.len()];
    let (mut batch, mut samples) = (Batch::default(), 0);
    let limit = args.samples.unwrap_or(usize::MAX);
    while samples < limit && input.next_batch(args.batch.min(limit - samples), &mut batch)? {
        profiler.batch(batch.samples);
        for (number, ((table, lookups), out)) in tables.iter().zip(&batch.tables).zip(&mut outs).enumerate() {
            let weights = (!lookups.weights.is_empty()).then_some(&lookups.weights[..]);
            out.resize(batch.samples * table.dim(), 0.0);
            let begin = Instant::now();
            let bags = Bags::new(table.name(), table.rows(), &lookups.indices, &lookups.offsets, weights)?;
            table.pool(&bags, Pooling::Sum, out)?;
            // The first batch brings pages and code into place.
            profiler.lookups(number, &bags, (samples > 0).then(|| begin.elapsed()));
        }
        samples += batch.samples;
        progress.at(|| format!("{samples} rows"));
    }
    drop(progress);
    if samples == 0 {
        bail!("{}: no rows to look up", args.input.display());
    }
    let profile = profiler.finish(args.hot);
    write_whole(&args.output, serde_json::to_string(&profile)?.as_bytes())?;
    print(&shown(&profile, &args.output))?;
    Ok(fail::OK)
}

fn shown(profile: &Profile, output: &Path) -> String {
    let mut text = format!("{} samples\n", profile.samples);
    text += &format!(
        "{:<24} {:>12} {:>14} {:>12} {:>10} {:>10}\n",
        "table", "rows", "lookups/sample", "rows used", "hottest %", "ns/sample"
    );
    for table in &profile.tables {
        // What a hundredth of the rows in use takes of the lookups: how much a few copies would save.
        let hundredth = (table.used_rows as usize).div_ceil(100);
        let hottest: u64 = table.hot.iter().take(hundredth).map(|(_, count)| count).sum();
        text += &format!(
            "{:<24} {:>12} {:>14.2} {:>12} {:>10.1} {:>10.1}\n",
            table.name,
            table.rows,
            table.lookups as f64 / profile.samples as f64,
            table.used_rows,
            100.0 * hottest as f64 / table.lookups.max(1) as f64,
            table.ns_per_sample
        );
    }
    text += "hottest %: of the lookups, those of the hundredth of the used rows that is looked up most\n";
    text + &format!("wrote {}\n", output.display())
}

/// `slackline plan`.
pub(crate) fn plan(args: &args::PlanArgs) -> Result<u8> {
    let directory = ModelDirectory::open(&args.model)?;
    let mut tables = directory.tables();
    let mut options = PlanOptions {
        memory: args.memory,
        split: args.split.into(),
        replicate: args.replicate,
        balance: args.balance,
        ..PlanOptions::default()
    };
    if args.calibrate {
        options.model = CostModel::measure();
    }
    if let Some(file) = &args.profile {
        let profile: Profile = read_json(file)?;
        profile.apply(&mut tables).with_context(|| file.display().to_string())?;
        if args.hot > 0 {
            options.hot = profile.hot_rows(&tables, args.hot)?;
        }
    }
    for placed in &args.place {
        let fitting: Vec<usize> =
            (0..tables.len()).filter(|table| placed.pattern.matches(&tables[*table].name)).collect();
        if fitting.is_empty() {
            return Err(Misuse(format!("--place {}: fits no table", placed.pattern)).into());
        }
        options.forced.extend(fitting.into_iter().map(|table| (table, placed.how)));
    }
    let plan = Plan::make(&tables, args.ranks, &options)?;
    if let Some(output) = &args.output {
        write_whole(output, serde_json::to_string(&plan)?.as_bytes())?;
    }
    let reference = Plan::by_number(&tables, args.ranks, options.model.clone())?;
    print(&if args.json { to_json(&plan, &reference) } else { to_text(args, &plan, &reference) })?;
    Ok(fail::OK)
}

fn to_text(args: &args::PlanArgs, plan: &Plan, reference: &Plan) -> String {
    let mut text = format!("{plan}\n\n");
    text += &format!(
        "tables by number, as the reference splits them: largest / mean {:.3} of the cost, {:.3} of the memory\n",
        reference.cost_imbalance(),
        reference.bytes_imbalance()
    );
    text += &why(plan, args.balance);
    if let Some(limit) = args.memory {
        let fullest = (0..plan.ranks()).map(|rank| plan.bytes_of(rank)).max().unwrap_or_default();
        text += &format!("memory: at most {} of {} a rank\n", bytes(fullest), bytes(limit));
    }
    let source = match (&args.profile, args.calibrate) {
        (Some(_), _) => "times were measured by the profile",
        (None, true) => "times are reckoned with constants measured here, and one lookup a table",
        (None, false) => "times are reckoned with typical constants and one lookup a table; --profile knows better",
    };
    text += &format!("ns/sample: the time of one core to look up a rank's tables for one sample; {source}\n");
    if let Some(output) = &args.output {
        text += &format!("wrote {}\n", output.display());
    }
    text
}

/// What keeps the ranks from being equal, in a sentence.
fn why(plan: &Plan, balance: f64) -> String {
    if plan.cost_imbalance() <= balance {
        return String::new();
    }
    let costs: Vec<f64> = (0..plan.ranks()).map(|rank| plan.cost_of(rank)).collect();
    let mean = costs.iter().sum::<f64>() / costs.len() as f64;
    let busiest = (0..costs.len()).max_by(|one, other| costs[*one].total_cmp(&costs[*other])).unwrap_or_default();
    let parts = plan.parts_of(busiest).iter();
    let dearest = parts.max_by(|one, other| plan.cost_of_part(one).total_cmp(&plan.cost_of_part(other)));
    let Some(dearest) = dearest else { return String::new() };
    let (name, cost) = (&plan.tables()[dearest.table].name, plan.cost_of_part(dearest));
    if cost > mean {
        return format!(
            "why not equal: a part of {name} costs {cost:.1} ns/sample, and the mean of the ranks is {mean:.1}; cut it \
             (--split, --place)\n"
        );
    }
    format!(
        "why not equal: {} parts on {} ranks; rank {busiest} has {:.1} ns/sample, of which {name} is {cost:.1}\n",
        plan.parts().len(),
        plan.ranks(),
        costs[busiest]
    )
}

fn to_json(plan: &Plan, reference: &Plan) -> String {
    let ranks = (0..plan.ranks()).map(|rank| {
        json!({ "parts": plan.parts_of(rank), "bytes": plan.bytes_of(rank), "ns_per_sample": plan.cost_of(rank) })
    });
    let hot = (0..plan.tables().len()).map(|table| (table, plan.hot_rows(table).len())).filter(|(_, rows)| *rows > 0);
    let object = json!({
        "ranks": ranks.collect::<Vec<_>>(),
        "replicated": plan.replicated(),
        "hot_rows": hot.collect::<BTreeMap<_, _>>(),
        "cost_imbalance": plan.cost_imbalance(),
        "bytes_imbalance": plan.bytes_imbalance(),
        "by_number": {
            "cost_imbalance": reference.cost_imbalance(),
            "bytes_imbalance": reference.bytes_imbalance(),
        },
        "model": plan.model(),
    });
    format!("{object:#}\n")
}

/// The plan of a run: the one in the file, or tables whole and by their cost.
pub(crate) fn plan_for(file: Option<&Path>, tables: &[TableCost], ranks: usize) -> Result<Plan> {
    let Some(file) = file else { return Ok(Plan::table_wise(tables, ranks)?) };
    let plan: Plan = read_json(file)?;
    let same =
        |(one, other): (&TableCost, &TableCost)| (&one.name, one.rows, one.dim) == (&other.name, other.rows, other.dim);
    if plan.tables().len() != tables.len() || !plan.tables().iter().zip(tables).all(same) {
        bail!("{}: a plan for another model", file.display());
    }
    if plan.ranks() != ranks {
        bail!("{}: a plan for {} ranks, not {ranks}", file.display(), plan.ranks());
    }
    Ok(plan)
}

/// The ranks of the plan in a file.
pub(crate) fn ranks_of(file: &Path) -> Result<usize> {
    Ok(read_json::<Plan>(file)?.ranks())
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
    serde_json::from_slice(&text).with_context(|| file.display().to_string())
}
