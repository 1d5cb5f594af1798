//! The arguments about how an input is read.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use slackline_data::{DenseTransform, InputFormat, InputOptions, Preprocessing, SparseTransform};

/// How an input is read.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Reading the input")]
pub(crate) struct ReadingArgs {
    /// Input format, of those below [default: detected from the file's content]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<InputFormat>,
    /// What is done to dense features x: ln1p (ln(max(x, 0) + 1), the reference DLRM's), ln3 (ln(x + 3), TorchRec's and
    /// MLPerf's) or none [default: as the model was trained, or else ln1p, for raw values; none for prepared ones]
    #[arg(long, value_name = "TRANSFORM")]
    pub(crate) dense_transform: Option<DenseTransform>,
    /// How a category becomes a row: modulo (the number modulo the rows of the table), modulo-int32 (the same of a signed
    /// number of 32 bits, TorchRec's), dictionary:PREFIX (its position in PREFIX_fea_dict_0.npz and so on, which the
    /// reference's preprocessing writes) or none (it is a row number, and checked) [default: as the model was trained, or
    /// else modulo, for text; none otherwise]
    #[arg(long, value_name = "TRANSFORM")]
    pub(crate) sparse_transform: Option<SparseChoice>,
    /// Accept transforms that contradict the preprocessing that the model directory records
    #[arg(long)]
    pub(crate) override_preprocessing: bool,
    /// File of the dense features of formats multi-hot and npy [default: beside the input, named after it]
    #[arg(long, value_name = "FILE")]
    pub(crate) dense_file: Option<PathBuf>,
    /// File of the labels of formats multi-hot and npy [default: beside the input, named after it, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) labels_file: Option<PathBuf>,
}

impl ReadingArgs {
    /// How to read an input for a model that was trained so.
    pub(crate) fn options(&self, trained: Option<Preprocessing>) -> InputOptions {
        InputOptions {
            format: self.format,
            trained,
            dense: self.dense_transform,
            sparse: self.sparse_transform.as_ref().map(|choice| choice.transform),
            dictionary: self.sparse_transform.as_ref().and_then(|choice| choice.dictionary.clone()),
            contradict: self.override_preprocessing,
            dense_file: self.dense_file.clone(),
            labels_file: self.labels_file.clone(),
        }
    }
}

/// A transform of categories, with its dictionaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SparseChoice {
    transform: SparseTransform,
    dictionary: Option<PathBuf>,
}

impl FromStr for SparseChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(prefix) = text.strip_prefix("dictionary:") {
            let dictionary = Some(PathBuf::from(prefix));
            return Ok(SparseChoice { transform: SparseTransform::Dictionary, dictionary });
        }
        let transform = text.parse::<SparseTransform>().map_err(|error| error.to_string())?;
        if transform == SparseTransform::Dictionary {
            return Err("name the dictionaries: dictionary:PREFIX for PREFIX_fea_dict_0.npz and so on".to_owned());
        }
        Ok(SparseChoice { transform, dictionary: None })
    }
}

/// The formats, for the help of commands that read an input.
pub(crate) const FORMATS: &str = "\
Input formats (docs/inputs.md has the types and all details):
  criteo-tsv  label, dense features, hexadecimal categories, separated by tabs; the label is optional; .gz too
  criteo-csv  the same with commas and a header Id,Label,I1,…,C1,…; fields may be quoted; .gz too
  npz         members dense [B, D], and for each table i offsets_i [B] or [B + 1] and indices_i [N]; optionally weights_i \
[N] and labels [B]; values as the model takes them
  multi-hot   MLPerf's: members 0, 1, … [B, lookups], one for each table; dense and labels are members, or beside \
DAY_sparse_multi_hot.npz in DAY_dense.npy and DAY_labels.npy
  npy         TorchRec's: DAY_sparse.npy [B, T], DAY_dense.npy [B, D], and optionally DAY_labels.npy [B]; --input names any
  dlrm-npz    the reference's: members X_int [B, D], X_cat [B, T], and optionally y [B]
  dlrm-bin    the reference's: rows of int32: label, D dense features, T categories
";

/// Convert an input to another format, as a stream
///
/// Writes the values as the model takes them: a model reads the same from the new files, bit for bit, whatever transforms it
/// was trained with. Files grow in folders .NAME.partial and are renamed when they are whole; run an interrupted conversion again
/// to resume it.
#[derive(Args, Debug)]
#[command(after_help = format!("{FORMATS}\n{CONVERT_INPUT_HELP}"))]
pub(crate) struct ConvertInputArgs {
    /// Model directory, whose tables and recorded preprocessing say how to read the input
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The input to read
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Format to write: npz, multi-hot or npy
    #[arg(long, value_name = "FORMAT")]
    pub(crate) to: InputFormat,
    /// File to write; for multi-hot and npy that of the categories, with `sparse` in its name, beside which dense features and
    /// labels are written with `dense` and `labels` in its place
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

const CONVERT_INPUT_HELP: &str = "\
Examples:
  slackline convert-input model --input day_0.gz --to npy --output day_0_sparse.npy
  slackline convert-input model --input day_23_sparse_multi_hot.npz --to npz --output day_23.npz
  slackline convert-input model --input clicks.tsv --dense-transform ln3 --to multi-hot --output day_sparse_multi_hot.npz

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";
