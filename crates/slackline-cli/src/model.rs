//! The commands that write model directories and inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use slackline_data::generate_criteo;
use slackline_dlrm::{
    DlrmError, ImportOptions, ImportReport, ImportedTable, ModelConfig, ModelDirectory, Printable, RowLoss, Written,
    write_synthetic,
};
use slackline_embedding::RowFormat;

use crate::args;
use crate::progress::{Progress, bytes};
use crate::{fail, paths, print, signals};

/// `slackline import`.
pub(crate) fn import(args: &args::ImportArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, [args.checkpoint.as_path(), &args.config].into_iter())?;
    signals::advise("; run the same command again to resume, or add --restart to start over");
    let mut progress = Progress::new("import");
    let mut options = ImportOptions::new(args.shards);
    options.rows = args.rows.clone();
    options.from_rows = args.from_rows.clone();
    options.ignore = args.ignore.clone();
    options.preprocessing = args.preprocessing;
    options.restart = args.restart;
    options.keep_every = args.keep_every << 20;
    let report = slackline_dlrm::import(&args.checkpoint, &args.config, &args.output, &options, &mut |at| {
        progress.share(at.done, at.total, "bytes");
    })?;
    drop(progress);
    print(&if args.json { import_json(args, &report) } else { import_text(args, &report) })?;
    Ok(fail::OK)
}

fn import_text(args: &args::ImportArgs, report: &ImportReport) -> String {
    let ImportReport { format, naming, source_files, source_bytes, tensors, tables, .. } = report;
    let read = bytes(*source_bytes);
    let checkpoint = args.checkpoint.to_string_lossy();
    let mut text = format!("read {}: {format}, {}, {read}; ", Printable(&checkpoint), counted(*source_files));
    text += &format!("names of the {naming}; {tensors} tensors of the model, {} of them tables\n", tables.len());
    for ImportedTable { table, tensor, rows, dim, found, kept, .. } in tables {
        let renamed = if table == tensor { String::new() } else { format!("  ({})", Printable(tensor)) };
        text += &format!("  {table:<20} {rows:>12} x {dim:<4} {found} -> {kept}{renamed}\n");
    }
    for narrow in ["f16", "bf16"] {
        if tables.iter().any(|table| table.found == narrow && table.kept == RowFormat::F32) {
            text += &format!(
                "{narrow} tables were stored as f32; --rows {narrow} stores the same values in half the bytes\n"
            );
        }
    }
    let Written { files, losses: lost, resumed, .. } = &report.written;
    if *resumed > 0 {
        text += &format!("resumed an import that had written {}\n", bytes(*resumed));
    }
    text += &wrote(&args.output, &report.config, files, report.written.table_bytes());
    text += &losses(lost);
    if !report.pooling_weights.is_empty() {
        text += &format!("learned weighted pooling: the rows were multiplied by {}\n", shown(&report.pooling_weights));
    }
    let mut list = |what: &str, names: &[String]| {
        if !names.is_empty() {
            text += &format!("unused {what}: {}\n", shown(names));
        }
    };
    list("keys of the configuration", &report.unused_keys);
    list("tensors of the checkpoint", &report.unused_tensors);
    list("other fields of the checkpoint", &report.skipped);
    text
}

/// Names of unknown origin, side by side.
fn shown(names: &[String]) -> String {
    names.iter().map(|name| Printable(name).to_string()).collect::<Vec<_>>().join(", ")
}

fn import_json(args: &args::ImportArgs, report: &ImportReport) -> String {
    let tables = report.tables.iter().map(|table| {
        json!({
            "name": table.table,
            "tensor": table.tensor,
            "rows": table.rows,
            "dim": table.dim,
            "found": table.found,
            "kept": table.kept.to_string(),
            "bytes": table.bytes,
        })
    });
    let losses = report.written.losses.iter().map(
        |loss| json!({ "name": loss.table, "kept": loss.format.to_string(), "largest": loss.largest, "rms": loss.rms }),
    );
    let files = report.written.files.iter().map(|(name, bytes)| json!({ "name": name, "table_bytes": bytes }));
    let object = json!({
        "checkpoint": args.checkpoint,
        "format": report.format.to_string(),
        "naming": report.naming.to_string(),
        "source_files": report.source_files,
        "source_bytes": report.source_bytes,
        "model": args.output,
        "config": report.config.to_json(),
        "tensors": report.tensors,
        "dense_values": report.dense_values,
        "tables": tables.collect::<Vec<_>>(),
        "table_bytes": report.written.table_bytes(),
        "losses": losses.collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
        "resumed_bytes": report.written.resumed,
        "pooling_weights": report.pooling_weights,
        "unused": {
            "configuration": report.unused_keys,
            "tensors": report.unused_tensors,
            "fields": report.skipped,
        },
    });
    crate::json_text(&object)
}

/// `slackline convert`.
pub(crate) fn convert(args: &args::ConvertArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, std::iter::once(args.model.as_path()))?;
    let mut progress = Progress::new("convert");
    let written = slackline_dlrm::convert(&args.model, &args.output, &args.rows, args.shards, &mut |at| {
        progress.share(at.done, at.total, "bytes");
    })?;
    drop(progress);
    let config = ModelDirectory::open(&args.output)?.config().clone();
    let text = wrote(&args.output, &config, &written.files, written.table_bytes());
    print(&(text + &losses(&written.losses)))?;
    Ok(fail::OK)
}

/// `slackline init`.
pub(crate) fn init(args: &args::InitArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, std::iter::once(args.config.as_path()))?;
    let mut config = read_config(&args.config)?;
    if let Some(trained) = args.preprocessing {
        config.record_preprocessing(trained).map_err(in_file(&args.config))?;
    }
    let mut progress = Progress::new("init");
    write_synthetic(&config, args.seed, &args.output, args.shards, &mut |at| {
        progress.share(at.done, at.total, "bytes")
    })?;
    drop(progress);
    let summary = ModelDirectory::open(&args.output)?.summary();
    print(&wrote(&args.output, &config, &summary.files, summary.table_bytes))?;
    Ok(fail::OK)
}

/// `slackline generate`.
pub(crate) fn generate(args: &args::GenerateArgs) -> Result<u8> {
    paths::refuse_inputs(&args.output, std::iter::once(args.config.as_path()))?;
    let config = read_config(&args.config)?;
    let mut progress = Progress::new("generate");
    generate_criteo(&config.input_shape(), args.rows, args.seed, &args.output, |rows| {
        progress.share(rows, args.rows, "rows");
    })?;
    drop(progress);
    print(&format!("wrote {}: {} rows\n", args.output.display(), args.rows))?;
    Ok(fail::OK)
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(ModelConfig::from_bytes(&text).map_err(in_file(path))?.config)
}

fn in_file(path: &Path) -> impl Fn(DlrmError) -> DlrmError {
    |source| DlrmError::ConfigFile { file: path.to_owned(), source: Box::new(source) }
}

fn wrote(out: &Path, config: &ModelConfig, files: &[(String, u64)], table_bytes: u64) -> String {
    let files = counted(files.iter().filter(|(name, _)| name.starts_with("tables-")).count());
    let (tables, dim, dense) = (config.tables(), config.dim(), config.dense_values());
    let out = out.to_string_lossy();
    let out = Printable(&out);
    let size = bytes(table_bytes);
    format!("wrote {out}: {tables} tables of {dim} columns, {size} in {files}; {dense} dense values\n")
}

/// The errors of tables whose rows were quantised or rounded.
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

fn counted(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
