//! From a checkpoint that somebody else wrote to a model directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slackline_checkpoint::{Checkpoint, TensorInfo};
use slackline_embedding::RowFormat;

use super::rows::RowChoice;
use super::tensors::{TensorSpec, Weights, all_table_tensors, argument_of, dense_tensors};
use super::write::{Layout, Progress, Written, write};
use crate::{DlrmError, ModelConfig, Result};

/// How a checkpoint is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Over how many shard files the tables are spread, at least 1; at most one file a table is written.
    pub shards: usize,
    /// How rows are kept, by table; the last choice that fits counts, and `f32` where none does.
    pub rows: Vec<RowChoice>,
}

impl ImportOptions {
    /// Tables in `shards` files, as `f32`.
    pub fn new(shards: usize) -> Self {
        Self { shards, rows: Vec::new() }
    }
}

impl Default for ImportOptions {
    /// All tables in one file.
    fn default() -> Self {
        Self::new(1)
    }
}

/// What an import did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The model, with its top MLP as the checkpoint settles it.
    pub config: ModelConfig,
    /// Keys of the configuration that mean nothing here.
    pub unused_keys: Vec<String>,
    /// Tensors that were imported.
    pub tensors: usize,
    /// Tensors of the checkpoint that are no part of the model.
    pub unused_tensors: Vec<String>,
    /// What else the checkpoint holds: training fields and the like.
    pub skipped: Vec<String>,
    /// Shard files, and what rows lost that are not kept as `f32`.
    pub written: Written,
    /// Weights and biases of both MLPs, in values.
    pub dense_values: usize,
}

/// Imports a checkpoint in any format that [`Checkpoint`] reads into a model directory at `out`.
///
/// `config` is a JSON file of the reference's arguments (see [`ModelConfig::from_json`]); tensors have the reference's
/// names: `emb_l.N.weight` (`emb_l.N.weight_q` and `weight_r`, or `emb_l.N.embs.weight` and `proj.weight`, of compressed
/// tables), and `bot_l.N` and `top_l.N` with `N` even, each with `.weight` and `.bias`. Every shape is
/// checked before anything is written. Rows are kept in the format that the options say, from single precision, and whole
/// tables spread evenly over the shard files.
///
/// The directory is written under a temporary name beside `out`, synced to the disk, and renamed when whole; an import
/// that fails or is killed leaves no `out`. Memory: the weights of the MLPs and a few MiB, whatever the size of the
/// tables.
///
/// # Errors
///
/// [`DlrmError::ConfigFile`], [`DlrmError::Checkpoint`]; [`DlrmError::TensorMissing`], [`DlrmError::TensorShape`] and
/// [`DlrmError::TensorSurplus`] where checkpoint and configuration disagree; [`DlrmError::Exists`] if there is anything at
/// `out`; [`DlrmError::NoShards`], [`DlrmError::IdleChoice`], [`DlrmError::UnfitRow`]; [`DlrmError::Shard`] or [`DlrmError::Io`] if the disk is full or fails.
pub fn import(
    checkpoint: &Path,
    config: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ImportReport> {
    let in_file = |source| DlrmError::ConfigFile { file: config.to_owned(), source: Box::new(source) };
    let text = fs::read_to_string(config).map_err(DlrmError::io(config, "reading it"))?;
    let mut parsed = ModelConfig::from_json(&text).map_err(in_file)?;
    let opened = Checkpoint::open(checkpoint)?;
    let found = opened.tensors();
    parsed.config.settle_top(&layers(found, "top_l")).map_err(in_file)?;
    let columns = |table: usize| Some(*found.get(&format!("emb_l.{table}.embs.weight"))?.shape.get(1)?);
    parsed.config.settle_columns(columns).map_err(in_file)?;
    let config = parsed.config;

    let tables = all_table_tensors(&config);
    let mut wanted: BTreeMap<String, TensorSpec> =
        dense_tensors(&config).into_iter().chain(tables).map(|tensor| (tensor.name.clone(), tensor)).collect();
    let tensors = wanted.len();
    let mut unused_tensors = Vec::new();
    for (name, info) in found {
        match (wanted.remove(name), argument_of(name)) {
            (Some(tensor), _) => check_shape(checkpoint, tensor, info)?,
            (None, Some(argument)) => {
                return Err(DlrmError::TensorSurplus { file: checkpoint.to_owned(), tensor: name.clone(), argument });
            }
            (None, None) => unused_tensors.push(name.clone()),
        }
    }
    if let Some((tensor, spec)) = wanted.pop_first() {
        return Err(DlrmError::TensorMissing { file: checkpoint.to_owned(), tensor, argument: spec.argument });
    }
    let layout = Layout::new(&config, options.shards, &options.rows, |_| RowFormat::F32);
    let written = write(&config, &opened, out, &layout, progress)?;
    Ok(ImportReport {
        unused_keys: parsed.unused,
        tensors,
        unused_tensors,
        skipped: opened.skipped().to_vec(),
        written,
        dense_values: config.dense_values(),
        config,
    })
}

impl Weights for Checkpoint {
    fn stream(&self, tensor: &TensorSpec, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.stream_f32(&tensor.name, sink)
    }
}

/// Shapes of the weights of an MLP's layers, as far as they are there.
fn layers(found: &BTreeMap<String, TensorInfo>, prefix: &str) -> Vec<[usize; 2]> {
    let shape = |layer: usize| found.get(&format!("{prefix}.{}.weight", 2 * layer))?.shape[..].try_into().ok();
    (0..).map_while(shape).collect()
}

fn check_shape(file: &Path, tensor: TensorSpec, found: &TensorInfo) -> Result<()> {
    if found.shape == tensor.shape {
        return Ok(());
    }
    Err(DlrmError::TensorShape {
        file: file.to_owned(),
        tensor: tensor.name,
        expected: tensor.shape,
        found: found.shape.clone(),
        argument: tensor.argument,
    })
}
