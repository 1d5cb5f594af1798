//! `slackline inspect`: what is in a model directory, and whether it is whole.

use anyhow::Result;
use serde_json::json;
use slackline_dlrm::{ModelDirectory, Summary};
use slackline_embedding::Plan;

use crate::args::Inspect;
use crate::progress::Progress;
use crate::{fail, print};

/// Runs the command.
pub(crate) fn run(args: &Inspect) -> Result<u8> {
    let directory = ModelDirectory::open(&args.model)?;
    let plan = Plan::table_wise(&directory.tables(), args.ranks)?;
    if args.verify {
        verify(&directory)?;
    }
    let summary = directory.summary();
    print(&if args.json { to_json(args, &summary, &plan) } else { to_text(args, &summary, &plan) })?;
    Ok(fail::OK)
}

/// Reads everything and compares it with its checksums.
pub(crate) fn verify(directory: &ModelDirectory) -> Result<()> {
    let mut progress = Progress::new("verify");
    Ok(directory.verify(&mut |at| progress.share(at.done, at.total, "bytes"))?)
}

fn to_text(args: &Inspect, summary: &Summary, plan: &Plan) -> String {
    let checksums = match args.verify {
        true => "every tensor has its checksum",
        false => "headers checked; --verify reads the tensors too",
    };
    format!("{summary}\nchecksums     {checksums}\n\n{plan}\n")
}

fn to_json(args: &Inspect, summary: &Summary, plan: &Plan) -> String {
    let tables = summary.tables.iter().enumerate().map(|(number, table)| {
        json!({
            "number": number,
            "name": table.table,
            "rows": table.rows,
            "dim": table.dim,
            "row_format": table.row_format.to_string(),
            "bytes": table.bytes,
            "xxh3": format!("{:016x}", table.xxh3),
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
    format!("{object:#}\n")
}

/// Which of the model's tables a tensor belongs to.
fn table_number(tensor: &str) -> Option<usize> {
    tensor.split('.').nth(1)?.parse().ok()
}
