//! The commands that make model directories and inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use slackline_data::{InputShape, generate_criteo};
use slackline_dlrm::{DlrmError, ImportOptions, ModelConfig, ModelDirectory, RowLoss, write_synthetic};

use crate::args;
use crate::progress::{Progress, bytes};
use crate::{fail, print};

/// `slackline import`.
pub(crate) fn import(args: &args::Import) -> Result<u8> {
    let mut progress = Progress::new("import");
    let mut options = ImportOptions::new(args.shards);
    options.rows = args.rows.clone();
    let report = slackline_dlrm::import(&args.checkpoint, &args.config, &args.out, &options, &mut |at| {
        progress.share(at.done, at.total, "bytes");
    })?;
    drop(progress);
    let mut text = said(&args.out, &report.config, &report.written.files, report.written.table_bytes());
    text += &losses(&report.written.losses);
    let mut list = |what: &str, names: &[String]| {
        if !names.is_empty() {
            text += &format!("not used, {what}: {}\n", names.join(", "));
        }
    };
    list("of the configuration", &report.unused_keys);
    list("tensors of the checkpoint", &report.unused_tensors);
    list("other fields of the checkpoint", &report.skipped);
    print(&text)?;
    Ok(fail::OK)
}

/// `slackline convert`.
pub(crate) fn convert(args: &args::Convert) -> Result<u8> {
    let mut progress = Progress::new("convert");
    let written = slackline_dlrm::convert(&args.model, &args.out, &args.rows, args.shards, &mut |at| {
        progress.share(at.done, at.total, "bytes");
    })?;
    drop(progress);
    let config = ModelDirectory::open(&args.out)?.config().clone();
    let text = said(&args.out, &config, &written.files, written.table_bytes());
    print(&(text + &losses(&written.losses)))?;
    Ok(fail::OK)
}

/// `slackline init`.
pub(crate) fn init(args: &args::Init) -> Result<u8> {
    let config = read_config(&args.config)?;
    let mut progress = Progress::new("init");
    write_synthetic(&config, args.seed, &args.out, args.shards, &mut |at| progress.share(at.done, at.total, "bytes"))?;
    drop(progress);
    let summary = ModelDirectory::open(&args.out)?.summary();
    print(&said(&args.out, &config, &summary.files, summary.table_bytes))?;
    Ok(fail::OK)
}

/// `slackline generate`.
pub(crate) fn generate(args: &args::Generate) -> Result<u8> {
    let config = read_config(&args.config)?;
    let mut progress = Progress::new("generate");
    generate_criteo(&input_shape(&config), args.rows, args.seed, &args.out, |rows| {
        progress.share(rows, args.rows, "rows");
    })?;
    drop(progress);
    print(&format!("wrote {}: {} rows\n", args.out.display(), args.rows))?;
    Ok(fail::OK)
}

/// What an input has to provide for a model.
pub(crate) fn input_shape(config: &ModelConfig) -> InputShape {
    InputShape {
        dense_features: config.dense_features(),
        table_rows: config.rows().iter().map(|&rows| rows as u64).collect(),
    }
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let parsed = ModelConfig::from_json(&text)
        .map_err(|source| DlrmError::ConfigFile { file: path.to_owned(), source: Box::new(source) })?;
    Ok(parsed.config)
}

fn said(out: &Path, config: &ModelConfig, files: &[(String, u64)], table_bytes: u64) -> String {
    let shards = files.iter().filter(|(name, _)| name.starts_with("tables-")).count();
    let (tables, dim, dense) = (config.tables(), config.dim(), config.dense_values());
    let out = out.display();
    let size = bytes(table_bytes);
    format!("wrote {out}: {tables} tables of {dim} columns, {size} in {shards} files; {dense} dense values\n")
}

/// What narrower rows cost, by table.
fn losses(losses: &[RowLoss]) -> String {
    let line = |loss: &RowLoss| {
        format!(
            "{:<20} {:<11} largest error {:.3e}, rms {:.3e}\n",
            loss.table,
            loss.format.to_string(),
            loss.largest,
            loss.rms
        )
    };
    losses.iter().map(line).collect()
}
