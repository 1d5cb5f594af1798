//! `slackline inspect`: the contents of a model directory, and whether it is complete.

use anyhow::Result;
use serde_json::json;
use slackline_dlrm::{ModelDirectory, Summary};
use slackline_embedding::{Plan, Residency};

use crate::args::InspectArgs;
use crate::progress::{Progress, bytes};
use crate::{fail, print};

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<u8> {
    let directory = ModelDirectory::open(&args.model)?;
    let plan = Plan::table_wise(&directory.tables(), args.ranks)?;
    if args.verify {
        verify(&directory)?;
    }
    let summary = directory.summary();
    let residency = args.residency.then(|| directory.residency());
    let residency = residency.as_deref();
    print(&match args.json {
        true => to_json(args, &summary, &plan, residency),
        false => to_text(args, &summary, &plan, residency),
    })?;
    Ok(fail::OK)
}

/// Reads every file and verifies the checksums.
pub(crate) fn verify(directory: &ModelDirectory) -> Result<()> {
    let mut progress = Progress::new("verify");
    Ok(directory.verify(&mut |at| progress.share(at.done, at.total, "bytes"))?)
}

fn to_text(args: &InspectArgs, summary: &Summary, plan: &Plan, residency: Option<&[Option<Residency>]>) -> String {
    let checksums = match args.verify {
        true => "verified",
        false => "headers verified; --verify checks the tensors too",
    };
    let residency = residency.map_or(String::new(), |residency| resident(summary, residency));
    format!("{summary}\nchecksums     {checksums}\n{residency}\n{plan}\n")
}

/// How much of each table is in the page cache.
fn resident(summary: &Summary, residency: &[Option<Residency>]) -> String {
    let mut all = Residency::default();
    let mut text = String::new();
    for (table, residency) in summary.tables.iter().zip(residency) {
        let Some(residency) = residency else { continue };
        all += *residency;
        let share = 100.0 * residency.resident as f64 / residency.bytes.max(1) as f64;
        text += &format!("  {:<20} {share:5.1} %\n", table.table);
    }
    let share = 100.0 * all.resident as f64 / all.bytes.max(1) as f64;
    format!("page cache    {} of {} ({share:.1} %)\n{text}", bytes(all.resident), bytes(all.bytes))
}

fn to_json(args: &InspectArgs, summary: &Summary, plan: &Plan, residency: Option<&[Option<Residency>]>) -> String {
    let tables = summary.tables.iter().enumerate().map(|(number, table)| {
        json!({
            "number": number,
            "name": table.table,
            "rows": table.rows,
            "dim": table.dim,
            "row_format": table.row_format.to_string(),
            "bytes": table.bytes,
            "xxh3": format!("{:016x}", table.xxh3),
            "resident_bytes": residency.and_then(|residency| residency[number]).map(|residency| residency.resident),
            "rank": table_number(&table.table).and_then(|table| plan.rank_of(table)),
        })
    });
    let ranks = (0..plan.ranks()).map(|rank| {
        json!({ "tables": plan.tables_of(rank), "bytes": plan.bytes_of(rank), "ns_per_sample": plan.cost_of(rank) })
    });
    let files = summary.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
    let object = json!({
        "model": args.model,
        "written_by": summary.written_by,
        "config": summary.config.to_json(),
        "dense_values": summary.dense_values,
        "table_bytes": summary.table_bytes,
        "tables": tables.collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
        "plan": {
            "ranks": ranks.collect::<Vec<_>>(),
            "cost_imbalance": plan.cost_imbalance(),
            "bytes_imbalance": plan.bytes_imbalance(),
        },
        "verified": args.verify,
    });
    crate::json_text(&object)
}

/// Which of the model's tables a tensor belongs to.
fn table_number(tensor: &str) -> Option<usize> {
    tensor.split('.').nth(1)?.parse().ok()
}
