//! From a checkpoint that somebody else wrote to a model directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};
use slackline_checkpoint::{Checkpoint, Format, TensorInfo};
use slackline_embedding::RowFormat;

use super::choice::{RowChoice, formats, is_projection};
use super::kept::{Keeping, write_kept};
use super::naming::{Names, Naming, interaction_order};
use super::packed::{Packed, WholeRows, packed};
use super::tensors::{TensorSpec, Weights, all_table_tensors, dense_tensors};
use super::write::{Layout, Progress, Written};
use crate::{DlrmError, InteractionOp, ModelConfig, Result};

/// How a checkpoint is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Over how many shard files the tables are spread, at least 1; at most one file a table is written.
    pub shards: usize,
    /// How rows are kept, by table; the last choice that fits counts. Where none does, rows that are quantised in the
    /// checkpoint stay as they are, and others become `f32`.
    pub rows: Vec<RowChoice>,
    /// In which format the rows of `uint8` tensors are, by table, in the same way. It is never guessed.
    pub from_rows: Vec<RowChoice>,
    /// Whether what an earlier import left unfinished is thrown away instead of gone on with.
    pub restart: bool,
    /// Bytes of rows after which the disk is synced and progress written down: what a killed import may have to do again.
    pub keep_every: u64,
}

impl ImportOptions {
    /// Tables in `shards` files, as `f32`; progress kept every 256 MiB.
    pub fn new(shards: usize) -> Self {
        Self { shards, rows: Vec::new(), from_rows: Vec::new(), restart: false, keep_every: 256 << 20 }
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
    /// The format of the checkpoint.
    pub format: Format,
    /// Whose names its tensors have.
    pub naming: Naming,
    /// How many files the checkpoint has.
    pub source_files: usize,
    /// Their bytes.
    pub source_bytes: u64,
    /// The model, with its top MLP as the checkpoint settles it.
    pub config: ModelConfig,
    /// Keys of the configuration that mean nothing here.
    pub unused_keys: Vec<String>,
    /// Tensors that were imported.
    pub tensors: usize,
    /// The tensors of tables among them.
    pub tables: Vec<ImportedTable>,
    /// Tensors of the checkpoint that are no part of the model.
    pub unused_tensors: Vec<String>,
    /// What else the checkpoint holds: training fields and the like.
    pub skipped: Vec<String>,
    /// Shard files, and what rows lost that are not kept as `f32`.
    pub written: Written,
    /// Weights and biases of both MLPs, in values.
    pub dense_values: usize,
}

/// A tensor of a table as it was found and is kept.
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
    /// How its rows were found: an element type, or the row format that was named for them.
    pub found: String,
    /// How they are kept.
    pub kept: RowFormat,
    /// The bytes that they are kept in.
    pub bytes: u64,
}

/// Imports a checkpoint in any format that [`Checkpoint`] reads into a model directory at `out`.
///
/// `config` is a JSON file of the reference's arguments (see [`ModelConfig::from_json`]). Tensors have the reference's
/// names: `emb_l.N.weight` (`emb_l.N.weight_q` and `weight_r`, or `emb_l.N.embs.weight` and `proj.weight`, of compressed
/// tables), and `bot_l.N` and `top_l.N` with `N` even, each with `.weight` and `.bias`; or those of TorchRec's DLRM
/// ([`Naming`]), whose first top layer is brought into our order of the interaction. Every shape is checked before anything
/// is written. Tables are spread whole and evenly over the shard files. A table of `uint8` holds rows in a format that the
/// options name.
///
/// # What is left when it does not end well
///
/// The directory grows in `.NAME.partial` beside `out`, is synced to the disk, and renamed when whole: there is never half a
/// model at `out`. An import that is killed, or that a full or failing disk ends, leaves that folder with a journal, and the
/// same import goes on from there, after it has compared what is there with its checksums. One that ends for what it was
/// given leaves nothing. Of two imports to one place at a time, the second is refused.
///
/// Memory: the weights of the MLPs and some 20 MiB (80 where a row in parts is larger than 8 MiB), whatever the size of the
/// tables.
///
/// # Errors
///
/// [`DlrmError::ConfigFile`], [`DlrmError::Checkpoint`]; [`DlrmError::TensorMissing`], [`DlrmError::TensorShape`] and
/// [`DlrmError::TensorSurplus`] where checkpoint and configuration disagree; [`DlrmError::UnsupportedModel`],
/// [`DlrmError::TwoNames`]; [`DlrmError::RowsUnnamed`], [`DlrmError::RowBytes`], [`DlrmError::NotRows`] for tables of bytes;
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
    let text = fs::read_to_string(config).map_err(DlrmError::io(config, "reading it"))?;
    let mut parsed = ModelConfig::from_json(&text).map_err(in_file)?;
    let opened = Checkpoint::open(checkpoint)?;
    let names = Names::of(opened.tensors(), checkpoint)?;
    let info = |ours: &str| opened.tensors().get(names.theirs(ours)?);
    parsed.config.settle_top(&layers(&info, "top_l")).map_err(in_file)?;
    let columns = |table: usize| Some(*info(&format!("emb_l.{table}.embs.weight"))?.shape.get(1)?);
    parsed.config.settle_columns(columns).map_err(in_file)?;
    let config = parsed.config;
    let source = Source::new(&opened, &names, &config, checkpoint, options)?;

    let tables = all_table_tensors(&config);
    RowChoice::check(&options.rows, &tables)?;
    let formats = formats(&config, &options.rows, |tensor| {
        source.packed.get(&tensor.name).map_or(RowFormat::F32, |packed| packed.format)
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
        unused_tensors: source.unused,
        skipped: opened.skipped().to_vec(),
        written,
        dense_values: config.dense_values(),
        config,
    })
}

/// A checkpoint whose tensors have been found to be those of a model.
struct Source<'c> {
    checkpoint: &'c Checkpoint,
    names: &'c Names,
    /// The tables of bytes, by our name.
    packed: BTreeMap<String, Packed>,
    /// The inputs of the first top layer, where they come in another order.
    order: Option<Vec<usize>>,
    /// Tensors of the model.
    tensors: usize,
    /// Tensors that are no part of it, by the checkpoint's names.
    unused: Vec<String>,
}

/// Our name of the layer that takes the interaction.
const FIRST_TOP: &str = "top_l.0.weight";

impl<'c> Source<'c> {
    fn new(
        checkpoint: &'c Checkpoint,
        names: &'c Names,
        config: &ModelConfig,
        file: &Path,
        options: &ImportOptions,
    ) -> Result<Self> {
        let tables = all_table_tensors(config);
        RowChoice::check(&options.from_rows, &tables)?;
        let is_table: Vec<String> = tables.iter().filter(|t| !is_projection(&t.name)).map(|t| t.name.clone()).collect();
        let mut wanted: BTreeMap<String, TensorSpec> =
            dense_tensors(config).into_iter().chain(tables).map(|tensor| (tensor.name.clone(), tensor)).collect();
        let (tensors, mut unused, mut packed_tables) = (wanted.len(), Vec::new(), BTreeMap::new());
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
                (None, None) => unused.push(theirs),
            }
        }
        if let Some((ours, spec)) = wanted.pop_first() {
            let (file, tensor) = (file.to_owned(), names.expected(&ours));
            return Err(DlrmError::TensorMissing { file, tensor, argument: spec.argument });
        }
        let order = match names.naming {
            Naming::Reference => None,
            Naming::TorchRec if config.interaction_op() != InteractionOp::Dot || config.interaction_itself() => {
                let problem = "TorchRec's DLRM takes every product of two vectors once: \"dot\", without itself";
                return Err(DlrmError::Argument { argument: "arch_interaction_op", problem: problem.to_owned() });
            }
            Naming::TorchRec => Some(interaction_order(config.dim(), config.tables())),
        };
        unused.sort();
        Ok(Source { checkpoint, names, packed: packed_tables, order, tensors, unused })
    }

    fn theirs(&self, tensor: &TensorSpec) -> &'c str {
        self.names.theirs(&tensor.name).expect("every tensor of the model was found")
    }
}

impl Weights for Source<'_> {
    fn stream(&self, tensor: &TensorSpec, first: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
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

    fn stream_rows(
        &self,
        tensor: &TensorSpec,
        format: RowFormat,
        first: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        match self.packed.get(&tensor.name) {
            Some(packed) if packed.format == format => {
                self.rows(self.theirs(tensor), packed, tensor.shape[1], first, sink)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Source<'_> {
    /// Whole rows of a table of bytes, without what they are padded with.
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

/// What makes two imports the same: the next one may only go on with what this one left if all of this is equal.
fn binding(
    opened: &Checkpoint,
    checkpoint: &Path,
    config: &ModelConfig,
    options: &ImportOptions,
) -> Result<Map<String, Value>> {
    let path = fs::canonicalize(checkpoint).map_err(DlrmError::io(checkpoint, "opening it"))?;
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

/// Shapes of the weights of an MLP's layers, as far as they are there.
fn layers<'i>(info: &dyn Fn(&str) -> Option<&'i TensorInfo>, prefix: &str) -> Vec<[usize; 2]> {
    let shape = |layer: usize| info(&format!("{prefix}.{}.weight", 2 * layer))?.shape[..].try_into().ok();
    (0..).map_while(shape).collect()
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
    // Otherwise found only when the tensor's turn comes.
    if !found.dtype.is_float() {
        let what = format!("a tensor of {}", found.dtype);
        return Err(DlrmError::UnsupportedModel { file: file.to_owned(), tensor: theirs, what });
    }
    Ok(())
}

/// The argument that says how many tensors of such a name there are, for names of tables and layers.
fn argument_of(name: &str) -> Option<&'static str> {
    let (prefix, _) = name.split_once('.')?;
    match prefix {
        "emb_l" => Some("arch_embedding_size"),
        "bot_l" => Some("arch_mlp_bot"),
        "top_l" => Some("arch_mlp_top"),
        _ => None,
    }
}
