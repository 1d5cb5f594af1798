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
    /// The configuration is not a JSON object.
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),

    /// A configuration that is no text.
    #[error("{what}")]
    Text {
        /// What it is.
        what: &'static str,
    },

    /// An argument of the configuration is missing, malformed, or contradicts another one.
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

    /// The weights of a layer do not have the layer's shape.
    #[error("a layer of {inputs} inputs and {outputs} outputs needs {expected} {what}, not {found}")]
    LayerShape {
        /// Width of the layer's input.
        inputs: usize,
        /// Width of the layer's output.
        outputs: usize,
        /// `weights` or `biases`.
        what: &'static str,
        /// The number that the shape requires.
        expected: usize,
        /// The number given.
        found: usize,
    },

    /// An MLP was given another number of layers than the configuration has.
    #[error("{argument} has {expected} layers, but there are weights for {found}")]
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

    /// The wrong number of tables.
    #[error("{what}: expected {expected} tables, found {found}")]
    Tables {
        /// Which tables.
        what: &'static str,
        /// The number needed.
        expected: usize,
        /// The number found.
        found: usize,
    },

    /// A batch for a model that has been drained.
    #[error("a batch was submitted to a model that has been drained")]
    Drained,

    /// A rank's part of a model and its end of the collective belong to different ranks.
    #[error("the model is the part of rank {rank} of {ranks}, and the collective the end of rank {found} of {of}")]
    Member {
        /// The model's rank.
        rank: usize,
        /// Ranks of the plan.
        ranks: usize,
        /// The collective's rank.
        found: usize,
        /// Ranks of the collective.
        of: usize,
    },

    /// A rank that the plan does not have.
    #[error("there is no rank {rank}: the plan has {ranks} ranks")]
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
    #[error("there is no table {table}: the model has {tables} tables")]
    NoSuchTable {
        /// The number asked for.
        table: usize,
        /// Tables of the model.
        tables: usize,
    },

    /// A checkpoint or a model directory lacks a tensor of the model.
    #[error("{}: tensor {tensor} is missing; {argument} requires it{hint}", file.display())]
    TensorMissing {
        /// Where it was looked for.
        file: PathBuf,
        /// Its name.
        tensor: String,
        /// The argument that makes it part of the model.
        argument: &'static str,
        /// What is there instead, after a semicolon; empty if nothing is known.
        hint: String,
    },

    /// No tensor of a checkpoint has a name of a known model.
    #[error(
        "{}: no tensor has a name of the reference DLRM (emb_l.0.weight, bot_l.0.weight, top_l.0.weight) or of TorchRec's \
         (sparse_arch…, dense_arch…, over_arch…){hint}",
        file.display()
    )]
    UnknownNames {
        /// The checkpoint.
        file: PathBuf,
        /// What is there instead, after a semicolon.
        hint: String,
    },

    /// A checkpoint holds several models, whose tensors have different prefixes.
    #[error("{}: tensors of several models, named {}; save one of them alone", file.display(), prefixes.join(" and "))]
    SeveralModels {
        /// The checkpoint.
        file: PathBuf,
        /// What their names begin with, such as `net.…`.
        prefixes: Vec<String>,
    },

    /// A checkpoint has another number of tables than the configuration.
    #[error(
        "{}: {} tables ({}), but arch_embedding_size lists {} ({})", file.display(), found.len(), listed(found),
        expected.len(), listed(expected)
    )]
    TableCount {
        /// The checkpoint.
        file: PathBuf,
        /// The rows of its tables.
        found: Vec<usize>,
        /// The rows by the configuration.
        expected: Vec<usize>,
    },

    /// The layers of an MLP in a checkpoint are not those of the configuration.
    #[error("{}: its layers have the widths {found:?}, but {argument} is {expected:?}{hint}", file.display())]
    Widths {
        /// The checkpoint.
        file: PathBuf,
        /// `arch_mlp_bot` or `arch_mlp_top`.
        argument: &'static str,
        /// The widths by the configuration; those of the top MLP begin with the computed width of the interaction.
        expected: Vec<usize>,
        /// The widths in the checkpoint.
        found: Vec<usize>,
        /// What would explain it, after a semicolon; empty if nothing would.
        hint: String,
    },

    /// A configuration was refused, and the checkpoint tells what it should say.
    #[error("{}: {problem}; the tensors of {} have {has}", file.display(), checkpoint.display())]
    ConfigUnlike {
        /// The configuration file.
        file: PathBuf,
        /// What is wrong with it.
        problem: Box<DlrmError>,
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The arguments that follow from its tensors.
        has: String,
    },

    /// A checkpoint has a tensor whose meaning is not known.
    #[error(
        "{}: tensor {tensor} of shape {shape:?} is not a part of the model that is known here, and may change its \
         predictions; if it does not (training state, a metric), add --ignore '{tensor}'",
        file.display()
    )]
    UnknownTensor {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// A value of a table becomes infinite when it is multiplied with the learned weight of its row.
    #[error(
        "table {table}, row {row}: column {column}: {value} times the pooling weight {weight} is too large for f32"
    )]
    WeightedRow {
        /// The table's tensor.
        table: String,
        /// The row.
        row: u64,
        /// The column.
        column: usize,
        /// The value.
        value: f32,
        /// The weight of the row.
        weight: f32,
    },

    /// What was given as a model directory is something else.
    #[error("{}: not a model directory: {what}; {advice}", path.display())]
    NotAModel {
        /// The path given.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        advice: String,
    },

    /// A checkpoint has more layers or tables than the configuration.
    #[error("{}: tensor {tensor} is not part of the model that {argument} describes", file.display())]
    TensorSurplus {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The argument that describes tensors of such names.
        argument: &'static str,
    },

    /// A tensor does not have the shape that the configuration gives it.
    #[error("{}: tensor {tensor} has shape {found:?}; {argument} requires {expected:?}", file.display())]
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

    /// The operating system reported an error.
    #[error("{}: cannot {action}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What could not be done, such as `open`.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },

    /// There is something at the path of the directory to be written.
    #[error("{}: already exists and is not overwritten", path.display())]
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

    /// The directory was replaced by another one while it was being opened.
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

    /// A checkpoint holds a model, or a tensor, of a kind that is not supported.
    #[error("{}: tensor {tensor}: {what} is not supported", file.display())]
    UnsupportedModel {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor that shows it.
        tensor: String,
        /// What it is part of.
        what: String,
    },

    /// Two tensors of a checkpoint map to the same tensor of the model.
    #[error("{}: {first} and {second} are the same tensor of the model", file.display())]
    TwoNames {
        /// The checkpoint.
        file: PathBuf,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },

    /// A table of bytes, whose row format was not named.
    #[error(
        "{}: tensor {tensor} has rows of {row_bytes} bytes for {dim} columns: name their format (--from-rows); \
         formats of that size: {fits}",
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
        /// The formats whose rows have that many bytes.
        fits: String,
    },

    /// A table's rows do not have the size of the format named for them.
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
    #[error("{}: tensor {tensor} is {found}, not bytes: --from-rows does not apply to it", file.display())]
    NotRows {
        /// The checkpoint.
        file: PathBuf,
        /// The table's tensor.
        tensor: String,
        /// Its element type.
        found: String,
    },

    /// Another import is writing to the same place.
    #[error("{}: locked by another run, which is writing there", path.display())]
    Locked {
        /// The folder of unfinished work.
        path: PathBuf,
    },

    /// The unfinished work beside the directory to be written belongs to a different import.
    #[error("{}: left by a different import ({differs}); start over with --restart, or remove it", path.display())]
    OtherImport {
        /// The folder of unfinished work.
        path: PathBuf,
        /// The first difference.
        differs: String,
    },

    /// Unfinished work was altered.
    #[error("{}: the unfinished import cannot be resumed: {why}; start over with --restart", path.display())]
    Leftover {
        /// The folder of unfinished work.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// Zero shard files were asked for.
    #[error("tables cannot be spread over 0 shard files")]
    NoShards,

    /// A row format was chosen for tables that don't exist.
    #[error("row format {choice}: no table has such a name; tables are named emb_l.0.weight, emb_l.1.weight and so on")]
    IdleChoice {
        /// The choice as given.
        choice: String,
    },

    /// A row has a value that its row format cannot represent.
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
    #[error(
        "samples {first_sample} to {}: expected {expected} {what}, found {found}",
        first_sample.saturating_add(*samples as u64)
    )]
    BatchShape {
        /// The batch's first sample.
        first_sample: u64,
        /// Its samples.
        samples: usize,
        /// What there is the wrong number of.
        what: String,
        /// The right number.
        expected: usize,
        /// The number found.
        found: usize,
    },

    /// Lookups that do not fit their table. Samples are numbered from the start of the input, not of the batch.
    #[error(transparent)]
    Bags(#[from] BagError),

    /// A table could not pool its lookups.
    #[error(transparent)]
    Pool(#[from] PoolError),

    /// The exchange between the ranks failed.
    #[cfg(feature = "distributed")]
    #[error(transparent)]
    Collective(#[from] CollectiveError),

    /// A round is not the oldest one that this rank has pooled and not answered.
    #[error("rank {rank} was given round {round}, but {}", match expected {
        Some(expected) => format!("its oldest unanswered round is {expected}"),
        None => "it has answered all its rounds".to_owned(),
    })]
    UnexpectedRound {
        /// This rank.
        rank: usize,
        /// The round given.
        round: u64,
        /// The oldest round that this rank has not answered.
        expected: Option<u64>,
    },

    /// A message does not have the size that follows from the plan.
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
        /// Bytes received.
        found: usize,
    },
}

/// The first numbers of a list, and how many more there are.
fn listed(numbers: &[usize]) -> String {
    const MOST: usize = 32;
    let more = if numbers.len() > MOST { format!(", and {} more", numbers.len() - MOST) } else { String::new() };
    format!("rows {:?}{more}", &numbers[..numbers.len().min(MOST)])
}

/// Why a model cannot replace the one that is being served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitModel {
    /// The number of dense features differs.
    #[error("a model with {found} dense features cannot replace one with {expected}")]
    DenseFeatures {
        /// Dense features of the model being served.
        expected: usize,
        /// Dense features of the new model.
        found: usize,
    },
    /// A table does not fit.
    #[error(transparent)]
    Tables(#[from] UnfitTables),
}

/// Shorthand for results of this crate.
pub type Result<T, E = DlrmError> = std::result::Result<T, E>;

impl DlrmError {
    /// Turns an error of the system into one that names the file; `action` follows "cannot".
    pub(crate) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| DlrmError::Io { file: file.to_owned(), action, source }
    }

    pub(crate) fn corrupt(file: &Path, defect: DirectoryDefect) -> Self {
        DlrmError::Corrupt { file: file.to_owned(), defect }
    }
}
