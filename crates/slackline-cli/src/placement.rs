//! `slackline profile` and `slackline plan`: the cost of tables, and their placement on ranks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use slackline_data::{Batch, Input};
use slackline_dlrm::ModelDirectory;
use slackline_embedding::{Bags, CostModel, Load, Plan, PlanOptions, Pooling, Profile, Profiler, TableCost, Verify};

use crate::args;
use crate::fail::{self, Misuse};
use crate::output::{self, write_whole};
use crate::progress::{Progress, bytes};
use crate::{paths, print};

/// `slackline profile`.
pub(crate) fn profile(args: &args::ProfileArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, [args.model.as_path(), &args.input].into_iter())?;
    output::check(&args.output)?;
    let directory = ModelDirectory::open(&args.model)?;
    let config = directory.config();
    let all: Vec<usize> = (0..config.tables()).collect();
    // All pages present, as in a rank that has worked for a while.
    let tables = directory.load_tables(&all, Load::Prefaulted, Verify::HeaderOnly)?;
    let options = args.reading.options(config.preprocessing());
    let mut input = Input::open_with(&args.input, &options, &config.input_shape())?;
    paths::refuse_inputs(&args.output, input.files().iter().map(PathBuf::as_path))?;
    let mut profiler = Profiler::new(tables.iter().map(|table| (table.name().to_owned(), table.rows())));
    let mut progress = Progress::new("profile");
    // Each table has its own output buffer, as in a message: a shared one would stay in a cache.
    let mut outs = vec![Vec::new(); tables.len()];
    let (mut batch, mut samples) = (Batch::default(), 0);
    let limit = args.samples.unwrap_or(usize::MAX);
    while samples < limit && input.next_batch(args.batch.min(limit - samples), &mut batch)? {
        profiler.batch(batch.samples);
        for (number, ((table, lookups), out)) in tables.iter().zip(&batch.tables).zip(&mut outs).enumerate() {
            let weights = (!lookups.weights.is_empty()).then_some(&lookups.weights[..]);
            out.resize(batch.samples * table.dim(), 0.0);
            let begin = Instant::now();
            let bags = Bags::new(table.name(), table.rows(), &lookups.indices, &lookups.offsets, weights)
                .map_err(|error| error.counted_from(batch.first_sample))?;
            table.pool(&bags, Pooling::Sum, out)?;
            // The first batch warms up and is not timed.
            profiler.lookups(number, &bags, (samples > 0).then(|| begin.elapsed()));
        }
        samples += batch.samples;
        progress.at(|| format!("{samples} rows"));
    }
    drop(progress);
    if samples == 0 {
        bail!("{}: no rows", args.input.display());
    }
    let profile = profiler.finish(args.hot);
    let report = || print(&shown(&profile, &args.output));
    write_whole(&args.output, serde_json::to_string(&profile)?.as_bytes(), report)?;
    Ok(fail::OK)
}

fn shown(profile: &Profile, output: &Path) -> String {
    let mut text = format!("{} samples\n", profile.samples);
    text += &format!(
        "{:<24} {:>12} {:>14} {:>12} {:>11} {:>10}\n",
        "table", "rows", "lookups/sample", "rows used", "hottest 1 %", "ns/sample"
    );
    for table in &profile.tables {
        // How many of the lookups copies of a few rows would serve.
        let hundredth = (table.used_rows as usize).div_ceil(100);
        let hottest: u64 = table.hot.iter().take(hundredth).map(|(_, count)| count).sum();
        text += &format!(
            "{:<24} {:>12} {:>14.2} {:>12} {:>9.1} % {:>10.1}\n",
            table.name,
            table.rows,
            table.lookups as f64 / profile.samples as f64,
            table.used_rows,
            100.0 * hottest as f64 / table.lookups.max(1) as f64,
            table.ns_per_sample
        );
    }
    text += "hottest 1 %: share of lookups that hit the hottest 1 % of the used rows\n";
    text + &format!("wrote {}\n", output.display())
}

/// `slackline plan`.
pub(crate) fn plan(args: &args::PlanArgs) -> Result<u8> {
    if let Some(output) = &args.output {
        paths::refuse_inputs(output, [Some(args.model.as_path()), args.profile.as_deref()].into_iter().flatten())?;
        output::check(output)?;
    }
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
            return Err(Misuse(format!("--place {}: matches no table", placed.pattern)).into());
        }
        options.forced.extend(fitting.into_iter().map(|table| (table, placed.how)));
    }
    let plan = Plan::make(&tables, args.ranks, &options)?;
    let reference = Plan::by_number(&tables, args.ranks, options.model.clone())?;
    let report = || print(&if args.json { to_json(&plan, &reference) } else { to_text(args, &plan, &reference) });
    match &args.output {
        Some(output) => write_whole(output, serde_json::to_string(&plan)?.as_bytes(), report)?,
        None => report()?,
    }
    Ok(fail::OK)
}

fn to_text(args: &args::PlanArgs, plan: &Plan, reference: &Plan) -> String {
    let mut text = format!("{plan}\n\n");
    text += &format!(
        "for comparison, tables in equal numbers, as in the reference DLRM: largest / mean {:.3} of the cost, {:.3} of the memory\n",
        reference.cost_imbalance(),
        reference.bytes_imbalance()
    );
    text += &why(plan, args.balance);
    if let Some(limit) = args.memory {
        let fullest = (0..plan.ranks()).map(|rank| plan.bytes_of(rank)).max().unwrap_or_default();
        text += &format!("memory: at most {} per rank, limit {}\n", bytes(fullest), bytes(limit));
    }
    let source = match (&args.profile, args.calibrate) {
        (Some(_), _) => "measured by the profile",
        (None, true) => "estimated from costs measured on this machine and one lookup per table",
        (None, false) => "estimated from typical costs and one lookup per table; --profile measures them",
    };
    text += &format!("ns/sample: time of one core for a rank's lookups of one sample, {source}\n");
    if let Some(output) = &args.output {
        text += &format!("wrote {}\n", output.display());
    }
    text
}

/// One sentence that says what keeps the ranks from being balanced.
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
            "not balanced: {name} costs {cost:.1} ns/sample, and the mean of the ranks is {mean:.1}; split it \
             (--split, --place)\n"
        );
    }
    format!(
        "not balanced: {} parts on {} ranks; rank {busiest} has {:.1} ns/sample, of which {name} takes {cost:.1}\n",
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
    crate::json_text(&object)
}

/// The plan of a run: that of the file, or whole tables balanced by cost.
pub(crate) fn plan_for(file: Option<&Path>, tables: &[TableCost], ranks: usize) -> Result<Plan> {
    let Some(file) = file else { return Ok(Plan::table_wise(tables, ranks)?) };
    let plan: Plan = read_json(file)?;
    let same =
        |(one, other): (&TableCost, &TableCost)| (&one.name, one.rows, one.dim) == (&other.name, other.rows, other.dim);
    if plan.tables().len() != tables.len() || !plan.tables().iter().zip(tables).all(same) {
        bail!("{}: the plan is for another model", file.display());
    }
    if plan.ranks() != ranks {
        bail!("{}: the plan is for {} ranks, not {ranks}", file.display(), plan.ranks());
    }
    Ok(plan)
}

/// The ranks of the plan in a file.
pub(crate) fn ranks_of(file: &Path) -> Result<usize> {
    Ok(read_json::<Plan>(file)?.ranks())
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let text = slackline_data::utf8(&text).map_err(|what| anyhow!("{}: {what}", file.display()))?;
    serde_json::from_str(text).with_context(|| file.display().to_string())
}
