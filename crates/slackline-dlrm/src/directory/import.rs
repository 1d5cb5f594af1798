//! Importing checkpoints of other programs into model directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use glob::Pattern;
use serde_json::{Map, Value, json};
use slackline_checkpoint::{Checkpoint, Format, TensorInfo};
use slackline_data::{Preprocessing, utf8};
use slackline_embedding::RowFormat;

use super::agreement;
use super::choice::{RowChoice, formats, is_projection};
use super::harmless::is_harmless;
use super::kept::{Keeping, write_kept};
use super::naming::{Names, Naming, interaction_order};
use super::packed::{Packed, WholeRows, packed};
use super::pooling::{PoolingWeights, is_weight};
use super::tensors::{TensorSpec, Weights, all_table_tensors, dense_tensors};
use super::write::{Layout, Progress, Written};
use crate::config::arguments;
use crate::{DlrmError, InteractionOp, ModelConfig, Result};

/// Options of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The number of shard files, at least 1. At most one file a table is written.
    pub shards: usize,
    /// The row formats of tables; the last choice that matches a table counts. Tables that match none keep the format of
    /// quantised rows, and otherwise become `f32`.
    pub rows: Vec<RowChoice>,
    /// The row formats of `uint8` tensors in the checkpoint, by table in the same way. They are never guessed.
    pub from_rows: Vec<RowChoice>,
    /// Tensors of the checkpoint, by patterns of their names there (`*`, `?`, `[0-4]`), that are known not to change the
    /// predictions. Others that are not known are refused.
    pub ignore: Vec<Pattern>,
    /// What was done to raw inputs when the model was trained: recorded in the model directory.
    pub preprocessing: Option<Preprocessing>,
    /// Whether unfinished work of an earlier import is thrown away instead of resumed.
    pub restart: bool,
    /// Bytes of rows between two syncs of the disk: the most that a killed import has to do again.
    pub keep_every: u64,
}

impl ImportOptions {
    /// Tables in `shards` files, as `f32`; a sync every 256 MiB.
    pub fn new(shards: usize) -> Self {
        Self {
            shards,
            rows: Vec::new(),
            from_rows: Vec::new(),
            ignore: Vec::new(),
            preprocessing: None,
            restart: false,
            keep_every: 256 << 20,
        }
    }
}

impl Default for ImportOptions {
    /// All tables in one file.
    fn default() -> Self {
        Self::new(1)
    }
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The format of the checkpoint.
    pub format: Format,
    /// The naming scheme of its tensors.
    pub naming: Naming,
    /// The number of files of the checkpoint.
    pub source_files: usize,
    /// Their bytes.
    pub source_bytes: u64,
    /// The model, with its top MLP as found in the checkpoint.
    pub config: ModelConfig,
    /// Keys of the configuration that have no effect here.
    pub unused_keys: Vec<String>,
    /// The number of tensors imported.
    pub tensors: usize,
    /// The table tensors among them.
    pub tables: Vec<ImportedTable>,
    /// Learned weights of pooling, by the checkpoint's names, that the rows of the tables were multiplied by.
    pub pooling_weights: Vec<String>,
    /// Tensors of the checkpoint that are not part of the model.
    pub unused_tensors: Vec<String>,
    /// Other contents of the checkpoint, such as training state.
    pub skipped: Vec<String>,
    /// Shard files, and the rounding errors of rows that are not kept as `f32`.
    pub written: Written,
    /// The number of weights and biases in both MLPs.
    pub dense_values: usize,
}

/// A table tensor, in the checkpoint and in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedTable {
    /// Its name in the model.
    pub table: String,
    /// Its name in the checkpoint.
    pub tensor: String,
    /// Its rows.
    pub rows: u64,
    /// Its columns.
    pub dim: usize,
    /// The element type in the checkpoint, or the row format that was named for it.
    pub found: String,
    /// The row format in the model.
    pub kept: RowFormat,
    /// Bytes in the model.
    pub bytes: u64,
}

/// Imports a checkpoint, in any format that [`Checkpoint`] reads, into a model directory at `out`.
///
/// `config` is a JSON file with arguments of the reference (see [`ModelConfig::from_json`]). Tensors have the names of the
/// reference: `emb_l.N.weight` (of compressed tables `emb_l.N.weight_q` and `weight_r`, or `emb_l.N.embs.weight` and
/// `proj.weight`), and `bot_l.N` and `top_l.N` with even `N`, each with `.weight` and `.bias`. Or they have the names of
/// TorchRec's DLRM ([`Naming`]); the inputs of its first top layer are then reordered. Names may have a common prefix, and
/// those of wrappers anywhere. Learned weights of pooling (`v_W_l.N`) are multiplied into the rows of their tables. Tensors
/// that are neither known nor the state of a training are refused. Every shape is checked before anything is written. Whole
/// tables are spread evenly over the shard files. The rows of a `uint8` table are in the format that the options name.
///
/// # Interrupted imports
///
/// The directory is written in `.NAME.partial` beside `out`, synced to the disk, and renamed when it is whole: there is never
/// half a model at `out`. If an import is killed, or the disk is full or fails, that folder stays, with a journal. The same
/// import then resumes there, after verifying the checksums of what is there. An import that fails for another reason leaves
/// nothing. While one import writes to a place, a second one is refused.
///
/// Memory: the weights of the MLPs and about 20 MiB (80 MiB if a row of a table in parts is larger than 8 MiB), whatever the
/// size of the tables.
///
/// # Errors
///
/// [`DlrmError::ConfigFile`], [`DlrmError::ConfigUnlike`], [`DlrmError::Checkpoint`]; [`DlrmError::TableCount`],
/// [`DlrmError::Widths`], [`DlrmError::TensorMissing`], [`DlrmError::TensorShape`] and [`DlrmError::TensorSurplus`] where
/// checkpoint and configuration disagree; [`DlrmError::UnsupportedModel`], [`DlrmError::UnknownTensor`],
/// [`DlrmError::UnknownNames`], [`DlrmError::SeveralModels`], [`DlrmError::TwoNames`], [`DlrmError::WeightedRow`];
/// [`DlrmError::RowsUnnamed`], [`DlrmError::RowBytes`], [`DlrmError::NotRows`] for tables of bytes;
/// [`DlrmError::Exists`] if there is anything at `out`; [`DlrmError::Locked`], [`DlrmError::OtherImport`],
/// [`DlrmError::Leftover`]; [`DlrmError::NoShards`], [`DlrmError::IdleChoice`], [`DlrmError::UnfitRow`];
/// [`DlrmError::Shard`] or [`DlrmError::Io`] if the disk is full or fails.
pub fn import(
    checkpoint: &Path,
    config: &Path,
    out: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ImportReport> {
    let in_file = |source| DlrmError::ConfigFile { file: config.to_owned(), source: Box::new(source) };
    let bytes = fs::read(config).map_err(DlrmError::io(config, "read"))?;
    let text = utf8(&bytes).map_err(|what| in_file(DlrmError::Text { what }))?;
    let object = arguments(text).map_err(in_file)?;
    let unlike = |source| match agreement::described(checkpoint) {
        Some(has) => {
            let (file, checkpoint, problem) = (config.to_owned(), checkpoint.to_owned(), Box::new(source));
            DlrmError::ConfigUnlike { file, problem, checkpoint, has }
        }
        None => in_file(source),
    };
    let (mut parsed, learned) = ModelConfig::of_checkpoint(object).map_err(unlike)?;
    if let Some(trained) = options.preprocessing {
        parsed.config.record_preprocessing(trained).map_err(in_file)?;
    }
    let opened = Checkpoint::open(checkpoint)?;
    let names = Names::of(opened.tensors(), opened.skipped(), checkpoint)?;
    let info = |ours: &str| opened.tensors().get(names.theirs(ours)?);
    parsed.config.settle_top(&agreement::layers(&info, "top_l")).map_err(in_file)?;
    let columns = |table: usize| Some(*info(&format!("emb_l.{table}.embs.weight"))?.shape.get(1)?);
    parsed.config.settle_columns(columns).map_err(in_file)?;
    let config = parsed.config;
    agreement::check(checkpoint, &names, &info, &config)?;
    let source = Source::new(&opened, &names, &config, checkpoint, learned, options)?;

    let tables = all_table_tensors(&config);
    RowChoice::check(&options.rows, &tables)?;
    let formats = formats(&config, &options.rows, |tensor| {
        // Products of quantised rows are not rows of the same format.
        let packed = source.packed.get(&tensor.name).filter(|_| !source.pooling.weighs(&tensor.name));
        packed.map_or(RowFormat::F32, |packed| packed.format)
    });
    let layout = Layout { shards: options.shards, formats };
    let binding = binding(&opened, checkpoint, &config, options)?;
    let keeping = Keeping { binding, every: options.keep_every, restart: options.restart };
    let written = write_kept(&config, &source, out, &layout, &keeping, progress)?;
    let kept = |(tensor, &kept): (&TensorSpec, &RowFormat)| {
        let tensor_name = names.theirs(&tensor.name).unwrap_or(&tensor.name);
        let (rows, dim) = (tensor.shape[0] as u64, tensor.shape[1]);
        let found = match source.packed.get(&tensor.name) {
            Some(packed) => packed.format.to_string(),
            None => info(&tensor.name).map_or(String::new(), |info| info.dtype.to_string()),
        };
        let (table, tensor, bytes) = (tensor.name.clone(), tensor_name.to_owned(), rows * kept.row_bytes(dim) as u64);
        ImportedTable { table, tensor, rows, dim, found, kept, bytes }
    };
    Ok(ImportReport {
        format: opened.format(),
        naming: names.naming,
        source_files: opened.files().count(),
        source_bytes: opened.files().map(|file| file.bytes).sum(),
        unused_keys: parsed.unused,
        tensors: source.tensors,
        tables: tables.iter().zip(&layout.formats).map(kept).collect(),
        pooling_weights: source.pooling.tensors().cloned().collect(),
        unused_tensors: source.unused,
        skipped: opened.skipped().to_vec(),
        written,
        dense_values: config.dense_values(),
        config,
    })
}

/// A checkpoint with all tensors of a model.
struct Source<'c> {
    checkpoint: &'c Checkpoint,
    names: &'c Names,
    /// The tables of bytes, by our names.
    packed: BTreeMap<String, Packed>,
    /// What the rows are multiplied by.
    pooling: PoolingWeights,
    /// The order of the inputs of the first top layer, if it differs from ours.
    order: Option<Vec<usize>>,
    /// The number of tensors of the model.
    tensors: usize,
    /// Tensors that are not part of the model, by the checkpoint's names.
    unused: Vec<String>,
}

/// Our name of the layer after the interaction.
const FIRST_TOP: &str = "top_l.0.weight";

impl<'c> Source<'c> {
    fn new(
        checkpoint: &'c Checkpoint,
        names: &'c Names,
        config: &ModelConfig,
        file: &Path,
        learned: bool,
        options: &ImportOptions,
    ) -> Result<Self> {
        let tables = all_table_tensors(config);
        RowChoice::check(&options.from_rows, &tables)?;
        let is_table: Vec<String> = tables.iter().filter(|t| !is_projection(&t.name)).map(|t| t.name.clone()).collect();
        let mut wanted: BTreeMap<String, TensorSpec> =
            dense_tensors(config).into_iter().chain(tables).map(|tensor| (tensor.name.clone(), tensor)).collect();
        let (tensors, mut unused, mut packed_tables) = (wanted.len(), Vec::new(), BTreeMap::new());
        let mut unknown = None;
        for (ours, theirs) in names.iter() {
            let (info, theirs) = (&checkpoint.tensors()[theirs], theirs.to_owned());
            match (wanted.remove(ours), argument_of(ours)) {
                (Some(tensor), _) if is_table.contains(&tensor.name) => {
                    if let Some(packed) = packed(file, &theirs, &tensor, info, &options.from_rows)? {
                        packed_tables.insert(tensor.name, packed);
                    } else {
                        check_shape(file, theirs, tensor, info)?;
                    }
                }
                (Some(tensor), _) => check_shape(file, theirs, tensor, info)?,
                (None, Some(_)) if theirs.ends_with(".weight_qscale") || theirs.ends_with(".weight_qbias") => {
                    let what =
                        "rows whose scales are in a tensor of their own (TorchRec's quantised modules)".to_owned();
                    return Err(DlrmError::UnsupportedModel { file: file.to_owned(), tensor: theirs, what });
                }
                (None, Some(argument)) => {
                    return Err(DlrmError::TensorSurplus { file: file.to_owned(), tensor: theirs, argument });
                }
                (None, None) if is_weight(ours) => {}
                (None, None) => {
                    if !is_harmless(&theirs) && !options.ignore.iter().any(|pattern| pattern.matches(&theirs)) {
                        unknown.get_or_insert((theirs.clone(), info.shape.clone()));
                    }
                    unused.push(theirs);
                }
            }
        }
        if let Some((ours, spec)) = wanted.pop_first() {
            let (file, tensor, hint) =
                (file.to_owned(), names.expected(&ours), names.instead_of(&ours, checkpoint.skipped()));
            return Err(DlrmError::TensorMissing { file, tensor, argument: spec.argument, hint });
        }
        // After what is missing: that may be there under another name.
        if let Some((tensor, shape)) = unknown {
            return Err(DlrmError::UnknownTensor { file: file.to_owned(), tensor, shape });
        }
        if let Some(beside) = checkpoint.skipped().iter().find(|name| is_weight(name)) {
            let what = "learned weights of pooling outside of the model's dict".to_owned();
            return Err(DlrmError::UnsupportedModel { file: file.to_owned(), tensor: beside.clone(), what });
        }
        let pooling = PoolingWeights::of(checkpoint, names, config, file, learned)?;
        let order = match names.naming {
            Naming::Reference => None,
            Naming::TorchRec if config.interaction_op() != InteractionOp::Dot || config.interaction_itself() => {
                let problem = "TorchRec's DLRM needs \"dot\" without arch_interaction_itself";
                return Err(DlrmError::Argument { argument: "arch_interaction_op", problem: problem.to_owned() });
            }
            Naming::TorchRec => Some(interaction_order(config.dim(), config.tables())),
        };
        unused.sort();
        Ok(Source { checkpoint, names, packed: packed_tables, pooling, order, tensors, unused })
    }

    fn theirs(&self, tensor: &TensorSpec) -> &'c str {
        self.names.theirs(&tensor.name).expect("every tensor of the model was found")
    }
}

impl Weights for Source<'_> {
    fn stream(&self, tensor: &TensorSpec, first: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let multiplier = |dim| self.pooling.multiplier(self.checkpoint, &tensor.name, dim, first);
        match tensor.shape.get(1).and_then(|&dim| multiplier(dim)) {
            Some(mut weights) => self.stream_stored(tensor, first, &mut |values| sink(weights.multiply(values)?)),
            None => self.stream_stored(tensor, first, sink),
        }
    }

    fn stream_rows(
        &self,
        tensor: &TensorSpec,
        format: RowFormat,
        first: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        match self.packed.get(&tensor.name) {
            Some(packed) if packed.format == format && !self.pooling.weighs(&tensor.name) => {
                self.rows(self.theirs(tensor), packed, tensor.shape[1], first, sink)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Source<'_> {
    /// Passes on the values of a tensor as the checkpoint has them.
    fn stream_stored(&self, tensor: &TensorSpec, first: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let theirs = self.theirs(tensor);
        if let Some(packed) = self.packed.get(&tensor.name) {
            let mut values = Vec::new();
            return self.rows(theirs, packed, tensor.shape[1], first, &mut |rows| {
                packed.decode(rows, tensor.shape[1], &mut values);
                sink(&values)
            });
        }
        match &self.order {
            // A dense layer is asked for whole.
            Some(order) if tensor.name == FIRST_TOP => {
                let values = self.checkpoint.read_f32(theirs)?;
                let ordered = |row: &[f32]| order.iter().map(|&input| row[input]).collect::<Vec<f32>>();
                values.chunks_exact(order.len()).try_for_each(|row| sink(&ordered(row)))
            }
            _ => self.checkpoint.stream_f32_from(theirs, first as usize, sink),
        }
    }

    /// Passes on whole rows of a table of bytes, without padding.
    fn rows(
        &self,
        theirs: &str,
        packed: &Packed,
        dim: usize,
        first: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (stored, used) = (packed.row_bytes, packed.format.row_bytes(dim));
        let (mut whole, mut plain) = (WholeRows::new(stored), Vec::new());
        self.checkpoint.stream_from(theirs, first as usize, 1 << 20, &mut |bytes: &[u8]| {
            whole.push(bytes, &mut |rows| {
                if stored == used {
                    return sink(rows);
                }
                plain.clear();
                rows.chunks_exact(stored).for_each(|row| plain.extend_from_slice(&row[..used]));
                sink(&plain)
            })
        })
    }
}

/// What makes two imports the same: one may resume the other only if all of this is equal.
fn binding(
    opened: &Checkpoint,
    checkpoint: &Path,
    config: &ModelConfig,
    options: &ImportOptions,
) -> Result<Map<String, Value>> {
    let path = fs::canonicalize(checkpoint).map_err(DlrmError::io(checkpoint, "open"))?;
    let file = |file: slackline_checkpoint::SourceFile| {
        let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let described = format!("{} bytes of {}.{:09}", file.bytes, modified.as_secs(), modified.subsec_nanos());
        (file.path.display().to_string(), Value::String(described))
    };
    let files: Map<String, Value> = opened.files().map(file).collect();
    let choices = |choices: &[RowChoice]| choices.iter().map(RowChoice::to_string).collect::<Vec<_>>();
    let mut binding = Map::new();
    for (key, value) in [
        ("checkpoint", json!(path.display().to_string())),
        ("files", Value::Object(files)),
        ("configuration", config.to_json()),
        ("shards", json!(options.shards)),
        ("rows", json!(choices(&options.rows))),
        ("from_rows", json!(choices(&options.from_rows))),
        ("slackline_version", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        binding.insert(key.to_owned(), value);
    }
    Ok(binding)
}

fn check_shape(file: &Path, theirs: String, tensor: TensorSpec, found: &TensorInfo) -> Result<()> {
    if found.shape != tensor.shape {
        return Err(DlrmError::TensorShape {
            file: file.to_owned(),
            tensor: theirs,
            expected: tensor.shape,
            found: found.shape.clone(),
            argument: tensor.argument,
        });
    }
    // Checked here so that it fails before anything is written.
    if !found.dtype.is_float() {
        let what = format!("a tensor of {}", found.dtype);
        return Err(DlrmError::UnsupportedModel { file: file.to_owned(), tensor: theirs, what });
    }
    Ok(())
}

/// The argument that determines the number of tensors of such a name, for names of tables and layers.
fn argument_of(name: &str) -> Option<&'static str> {
    let (prefix, _) = name.split_once('.')?;
    match prefix {
        "emb_l" => Some("arch_embedding_size"),
        "bot_l" => Some("arch_mlp_bot"),
        "top_l" => Some("arch_mlp_top"),
        _ => None,
    }
}
