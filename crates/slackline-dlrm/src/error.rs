//! What can be wrong with a model, its files or a batch.

mod directory;

use std::io;
use std::path::{Path, PathBuf};

#[cfg(feature = "import")]
use slackline_checkpoint::CheckpointError;
#[cfg(feature = "distributed")]
use slackline_collective::CollectiveError;
use slackline_embedding::{BagError, PlanError, PoolError, RowFormat, ShardError, UnfitRow, UnfitTables};

pub use directory::DirectoryDefect;

/// Why a configuration, a model directory, a batch or a distributed round was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DlrmError {
    /// A configuration that is not a JSON object.
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),

    /// An argument of the configuration is missing, malformed, or disagrees with another one.
    #[error("{argument}: {problem}")]
    Argument {
        /// The argument by the reference's name, such as `arch_mlp_top`.
        argument: &'static str,
        /// What is wrong, with the numbers.
        problem: String,
    },

    /// A configuration file was refused.
    #[error("{}: {source}", file.display())]
    ConfigFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<DlrmError>,
    },

    /// The weights given for a layer do not have the layer's shape.
    #[error("a layer of {inputs} inputs and {outputs} outputs needs {expected} {what}, not {found}")]
    LayerShape {
        /// Width of the layer's input.
        inputs: usize,
        /// Width of the layer's output.
        outputs: usize,
        /// `weights` or `biases`.
        what: &'static str,
        /// How many the shape asks for.
        expected: usize,
        /// How many were given.
        found: usize,
    },

    /// An MLP was given another number of layers than the configuration has.
    #[error("{argument} has {expected} layers, weights are given for {found}")]
    Layers {
        /// `arch_mlp_bot` or `arch_mlp_top`.
        argument: &'static str,
        /// Layers by the configuration.
        expected: usize,
        /// Layers given.
        found: usize,
    },

    /// A table does not have the shape that the configuration gives it.
    #[error(
        "table {number} ({name}) has {rows} rows of {dim} values; the configuration says {expected_rows} of {expected_dim}"
    )]
    TableShape {
        /// The table's number in the model.
        number: usize,
        /// The table's own name.
        name: String,
        /// Its rows.
        rows: u64,
        /// The width of its rows.
        dim: usize,
        /// Rows by the configuration.
        expected_rows: usize,
        /// Width by the configuration.
        expected_dim: usize,
    },

    /// Another number of tables than needed.
    #[error("{what}: {found} tables instead of {expected}")]
    Tables {
        /// Which tables.
        what: &'static str,
        /// The number needed.
        expected: usize,
        /// The number found.
        found: usize,
    },

    /// A rank that the plan does not have.
    #[error("rank {rank} of a plan for {ranks} ranks")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// Ranks of the plan.
        ranks: usize,
    },

    /// A table has no such part.
    #[error("table {table}: {defect}")]
    NoPart {
        /// The number of the table.
        table: usize,
        /// Why not.
        defect: String,
    },
    /// A table number that the model does not have.
    #[error("table {table} of a model with {tables} tables")]
    NoSuchTable {
        /// The number asked for.
        table: usize,
        /// Tables of the model.
        tables: usize,
    },

    /// A checkpoint or a model directory lacks a tensor of the model.
    #[error("{}: no tensor {tensor}, which {argument} asks for", file.display())]
    TensorMissing {
        /// Where it was looked for.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The argument that makes it part of the model.
        argument: &'static str,
    },

    /// A checkpoint has more layers or tables than the configuration.
    #[error("{}: tensor {tensor} is beyond what {argument} describes", file.display())]
    TensorSurplus {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The argument that describes tensors of such names.
        argument: &'static str,
    },

    /// A tensor does not have the shape that the configuration gives it.
    #[error("{}: tensor {tensor} has shape {found:?}; {argument} asks for {expected:?}", file.display())]
    TensorShape {
        /// The file that holds it.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The argument that gives the expected shape.
        argument: &'static str,
    },

    /// The operating system refused.
    #[error("{}: {action}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },

    /// The directory to be written is there already.
    #[error("{}: exists already and is not overwritten", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },

    /// A file of a model directory is not what it must be.
    #[error("{}: {defect}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        defect: DirectoryDefect,
    },

    /// The directory gave way to another one while it was being opened.
    #[error("{}: was replaced while it was being opened; try again", path.display())]
    Replaced {
        /// The directory.
        path: PathBuf,
    },

    /// The model of a directory cannot replace the one that is being served.
    #[error("{}: {source}", path.display())]
    UnfitModel {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: UnfitModel,
    },

    /// A checkpoint holds a model, or a tensor, of a kind that is not computed here.
    #[error("{}: tensor {tensor}: {what} is not supported", file.display())]
    UnsupportedModel {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor that shows it.
        tensor: String,
        /// What it is part of.
        what: String,
    },

    /// Two tensors of a checkpoint are the same one of the model.
    #[error("{}: {first} and {second} are the same tensor of the model", file.display())]
    TwoNames {
        /// The checkpoint.
        file: PathBuf,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },

    /// A table is bytes, and nobody has said in which format.
    #[error(
        "{}: tensor {tensor} is bytes, {row_bytes} a row for {dim} columns: say in which format its rows are \
         (--from-rows); by their size: {fits}",
        file.display()
    )]
    RowsUnnamed {
        /// The checkpoint.
        file: PathBuf,
        /// The table's tensor.
        tensor: String,
        /// Bytes of one row.
        row_bytes: usize,
        /// Columns by the configuration.
        dim: usize,
        /// The formats that rows of that many bytes may have.
        fits: String,
    },

    /// A table's rows do not have the size of the format that they are said to be in.
    #[error("{}: tensor {tensor} has {found} bytes a row; {dim} columns of {format} take {expected}", file.display())]
    RowBytes {
        /// The checkpoint.
        file: PathBuf,
        /// The table's tensor.
        tensor: String,
        /// The format named.
        format: RowFormat,
        /// Columns by the configuration.
        dim: usize,
        /// Bytes of a row in that format, without padding.
        expected: usize,
        /// Bytes of a row in the checkpoint.
        found: usize,
    },

    /// A row format was named for a table whose elements are numbers.
    #[error("{}: tensor {tensor} is {found}, not bytes: its rows need no format (--from-rows)", file.display())]
    NotRows {
        /// The checkpoint.
        file: PathBuf,
        /// The table's tensor.
        tensor: String,
        /// Its element type.
        found: String,
    },

    /// Another import to the same place is at work.
    #[error("{}: locked by another import that is writing there", path.display())]
    Locked {
        /// The folder of unfinished work.
        path: PathBuf,
    },

    /// What lies beside the directory to be written was left by another import than this one.
    #[error("{}: left by an import that was not the same: {differs}; begin anew with --restart, or remove it", path.display())]
    OtherImport {
        /// The folder of unfinished work.
        path: PathBuf,
        /// The first difference.
        differs: String,
    },

    /// What an import left was altered since.
    #[error("{}: what an import left there cannot be gone on with: {why}; begin anew with --restart", path.display())]
    Leftover {
        /// The folder of unfinished work.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// A model cannot be written as 0 files.
    #[error("tables cannot be spread over 0 shard files")]
    NoShards,

    /// A choice of a row format that fits no table.
    #[error("row format {choice}: no table has such a name; tables are named emb_l.0.weight and on")]
    IdleChoice {
        /// As it was given.
        choice: String,
    },

    /// A row has a value that the format chosen for it cannot hold.
    #[error(transparent)]
    UnfitRow(#[from] UnfitRow),

    /// A checkpoint was refused.
    #[cfg(feature = "import")]
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// A shard file was refused.
    #[error(transparent)]
    Shard(#[from] ShardError),

    /// Tables could not be placed.
    #[error(transparent)]
    Plan(#[from] PlanError),

    /// A batch does not have the model's shape.
    #[error("samples {} to {}: {what}: {found} instead of {expected}", first_sample, first_sample + *samples as u64)]
    BatchShape {
        /// The batch's first sample.
        first_sample: u64,
        /// Its number of samples.
        samples: usize,
        /// What has the wrong number.
        what: String,
        /// The number needed.
        expected: usize,
        /// The number found.
        found: usize,
    },

    /// Lookups that do not fit their table. Samples are numbered from the beginning of the input, not of the batch.
    #[error(transparent)]
    Bags(#[from] BagError),

    /// Lookups that a table cannot pool.
    #[error(transparent)]
    Pool(#[from] PoolError),

    /// The exchange between the ranks failed.
    #[cfg(feature = "distributed")]
    #[error(transparent)]
    Collective(#[from] CollectiveError),

    /// A round was completed that this rank has not submitted, or out of order.
    #[error("rank {rank} was handed round {round}, but {}", match expected {
        Some(expected) => format!("its oldest submitted round is {expected}"),
        None => "all that it submitted is answered".to_owned(),
    })]
    UnexpectedRound {
        /// This rank.
        rank: usize,
        /// The round that was handed out.
        round: u64,
        /// The oldest round that this rank has submitted and not answered.
        expected: Option<u64>,
    },

    /// A message does not have the size that the plan gives it.
    #[error("round {round}: rank {from} sent rank {rank} {found} bytes of pooled vectors instead of {expected}")]
    MessageSize {
        /// The round.
        round: u64,
        /// The receiver.
        rank: usize,
        /// The sender.
        from: usize,
        /// Bytes by the plan.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
}

/// Why a model cannot replace the one that is being served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitModel {
    /// Another number of dense features.
    #[error("a model of {found} dense features cannot replace one of {expected}")]
    DenseFeatures {
        /// Those of the model being served.
        expected: usize,
        /// Those of the new one.
        found: usize,
    },
    /// Its tables.
    #[error(transparent)]
    Tables(#[from] UnfitTables),
}

/// Shorthand for results of this crate.
pub type Result<T, E = DlrmError> = std::result::Result<T, E>;

impl DlrmError {
    /// Turns the system's answer into an error that names the file.
    pub(crate) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| DlrmError::Io { file: file.to_owned(), action, source }
    }

    pub(crate) fn corrupt(file: &Path, defect: DirectoryDefect) -> Self {
        DlrmError::Corrupt { file: file.to_owned(), defect }
    }
}
