//! What can be wrong with a checkpoint, or with a request for one of its tensors.

use std::io;
use std::path::PathBuf;

use crate::DType;

/// Why a checkpoint cannot be read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system failed to open or read the file.
    #[error("{}: {cause}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The file is in none of the known formats.
    #[error(
        "{}: not a checkpoint: expected a PyTorch file (zip or legacy), a safetensors file, an index of safetensors files \
         or a torchsnapshot directory",
        file.display()
    )]
    UnknownFormat {
        /// The file.
        file: PathBuf,
    },
    /// A file or directory of another kind.
    #[error("{}: not a checkpoint but {kind}; {advice}", file.display())]
    Foreign {
        /// The file or directory.
        file: PathBuf,
        /// What it is, for example "a TorchScript archive (torch.jit.save)".
        kind: &'static str,
        /// How its tensors can be brought into a format that is read.
        advice: &'static str,
    },
    /// A zip file that PyTorch did not write.
    #[error("{}: a zip file without `data.pkl`: not a PyTorch checkpoint", file.display())]
    NotPyTorch {
        /// The file.
        file: PathBuf,
    },
    /// The format needs a feature of this crate, and the program was built without it.
    #[error(
        "{}: a {feature} directory, but this program was built without feature `{feature}` of slackline-checkpoint",
        file.display()
    )]
    MissingFeature {
        /// The file.
        file: PathBuf,
        /// The feature.
        feature: &'static str,
    },
    /// The file contradicts its own format: it is truncated, altered or malicious.
    #[error("{}: {cause}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: Corrupt,
    },
    /// The file is valid, but uses something that this crate does not read.
    #[error("{}: not supported: {what}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it uses, for example "big-endian byte order".
        what: String,
    },
    /// A file without a tensor where tensors are looked for, for example a whole pickled module.
    #[error(
        "{}: no tensor can be read without running code (save `model.state_dict()`, not the model); the file contains: {}",
        file.display(),
        holds.join(", ")
    )]
    NoTensors {
        /// The file.
        file: PathBuf,
        /// What it contains instead.
        holds: Vec<String>,
    },
    /// Two tensors have the same name, as written or without a leading `module.`.
    #[error("{}: two tensors are named `{tensor}` (without a leading `module.`)", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// Their name.
        tensor: String,
    },
    /// Two entries at the top level of the file could be the model.
    #[error("{}: both `{first}` and `{second}` contain tensors: which one is the model is unclear", file.display())]
    AmbiguousModel {
        /// The file.
        file: PathBuf,
        /// One of them.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// There is no tensor of that name.
    #[error("{}: no tensor named `{tensor}`", file.display())]
    NoSuchTensor {
        /// The file.
        file: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// The elements of the tensor are of a type that cannot be read as requested.
    #[error("{}: tensor `{tensor}` has elements of type {dtype}, which cannot be read as {wanted}", file.display())]
    WrongType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// What was requested.
        wanted: &'static str,
    },
    /// A finite element is beyond the largest `f32`.
    #[error("{}: tensor `{tensor}`: the element at {position:?} is {value:e}, which is too large for f32", file.display())]
    Overflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The place of the element along each dimension.
        position: Vec<usize>,
        /// Its value.
        value: f64,
    },
    /// The tensor repeats few stored bytes so often that it can only be streamed.
    #[error(
        "{}: tensor `{tensor}` expands {stored} stored bytes to {bytes} bytes: stream it instead of reading it at once",
        file.display()
    )]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its size in row-major order, in bytes.
        bytes: u64,
        /// The bytes that it takes in the file.
        stored: u64,
    },
}

impl From<CheckpointError> for io::Error {
    /// Keeps the kind of an error of the operating system, and the checkpoint's error as the inner one.
    fn from(error: CheckpointError) -> Self {
        let kind = match &error {
            CheckpointError::Io { cause, .. } => cause.kind(),
            CheckpointError::NoSuchTensor { .. } => io::ErrorKind::NotFound,
            CheckpointError::WrongType { .. } | CheckpointError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            CheckpointError::Unsupported { .. } | CheckpointError::MissingFeature { .. } => io::ErrorKind::Unsupported,
            CheckpointError::Corrupt { .. }
            | CheckpointError::UnknownFormat { .. }
            | CheckpointError::Foreign { .. }
            | CheckpointError::Overflow { .. }
            | CheckpointError::NotPyTorch { .. }
            | CheckpointError::NoTensors { .. }
            | CheckpointError::DuplicateTensor { .. }
            | CheckpointError::AmbiguousModel { .. } => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// What is wrong with the content of a file. Positions are bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The file ends too early.
    #[error("truncated at byte {at}: {what} needs {missing} more byte{}", if *missing == 1 { "" } else { "s" })]
    Truncated {
        /// Where the file, or the part of it that was read, ends.
        at: u64,
        /// How many bytes are missing.
        missing: u64,
        /// What was read.
        what: &'static str,
    },
    /// The directory of the zip file is malformed.
    #[error("zip file at byte {at}: {what}")]
    Zip {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry of the zip file is missing or malformed.
    #[error("zip entry `{entry}`: {what}")]
    Entry {
        /// The name of the entry.
        entry: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A byte that is no pickle instruction.
    #[error("pickle at byte {at}: unknown opcode {opcode:#04x}")]
    UnknownOpcode {
        /// Where.
        at: u64,
        /// The byte.
        opcode: u8,
    },
    /// A pickle instruction that does not fit the values before it.
    #[error("pickle at byte {at}: {what}")]
    Pickle {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Something is larger than in any real checkpoint.
    #[error("at byte {at}: {what} (the limit is {limit})")]
    Limit {
        /// Where.
        at: u64,
        /// What is too large.
        what: &'static str,
        /// The largest accepted value.
        limit: u64,
    },
    /// A tensor could only be made by calling an unknown Python object, and none is ever called.
    #[error("pickle at byte {at}: a tensor depends on `{global}`, which is not a known way to make one")]
    ForbiddenGlobal {
        /// Where.
        at: u64,
        /// The qualified name of the Python object.
        global: String,
    },
    /// The description of a tensor contradicts itself or its data.
    #[error("tensor `{tensor}`: {what}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// An entry of the legacy format's list of storages is malformed.
    #[error("storage `{key}` at byte {at}: {what}")]
    Storage {
        /// Where.
        at: u64,
        /// The key of the storage.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// A JSON header or index is malformed.
    #[error("header: {what}")]
    Header {
        /// What is wrong, with line and column.
        what: String,
    },
    /// The manifest of a torchsnapshot is malformed.
    #[error("manifest: {what}")]
    Manifest {
        /// What is wrong, with line and column.
        what: String,
    },
    /// The manifest of a torchsnapshot names a file outside of its directory.
    #[error("manifest: location {location:?} is outside of the snapshot")]
    Escapes {
        /// The location.
        location: String,
    },
    /// The file is not the one that was opened.
    #[error("the file was replaced or its length changed after the checkpoint was opened")]
    Replaced,
}
