//! What can be wrong with a checkpoint, and with what was asked of it.

use std::io;
use std::path::PathBuf;

use crate::DType;

/// Why a checkpoint cannot be read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused to open or read the file.
    #[error("{}: {cause}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The content is none of the formats that this crate reads.
    #[error(
        "{}: not a checkpoint: neither a PyTorch file (zip or legacy stream) nor safetensors nor an index of safetensors \
         nor a torchsnapshot directory",
        file.display()
    )]
    UnknownFormat {
        /// The file.
        file: PathBuf,
    },
    /// The file contradicts its own format: short, altered, or made to do harm.
    #[error("{}: {cause}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: Corrupt,
    },
    /// The file is sound but uses something that this crate does not read.
    #[error("{}: {what} is not supported", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it uses, for example "big-endian byte order".
        what: String,
    },
    /// A PyTorch file without one tensor in a place where we look, for example a whole pickled module.
    #[error(
        "{}: holds no tensor that can be read without running code (save `model.state_dict()`, not the model); it holds: {}",
        file.display(),
        holds.join(", ")
    )]
    NoTensors {
        /// The file.
        file: PathBuf,
        /// What it holds instead.
        holds: Vec<String>,
    },
    /// Two tensors have one name, as written or once `module.` is taken off.
    #[error("{}: two tensors are named `{tensor}` (a leading `module.` does not count)", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// Their name.
        tensor: String,
    },
    /// Two entries at the top of the file could both be the model.
    #[error("{}: both `{first}` and `{second}` hold tensors: which of them is the model is not clear", file.display())]
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
    /// The tensor's elements are of a type that cannot be read in the way asked for.
    #[error("{}: tensor `{tensor}` has elements of type {dtype}, which cannot be read as {wanted}", file.display())]
    WrongType {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The tensor repeats few stored bytes so often that it must not be read in one piece.
    #[error("{}: tensor `{tensor}` expands {stored} stored bytes to {bytes}: it can only be streamed", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its size in row-major order, in bytes.
        bytes: u64,
        /// The bytes it occupies in the file.
        stored: u64,
    },
}

/// What is wrong with the content of a file. Positions are bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// The file, or the part of it that is being read, ends too early.
    #[error("truncated at byte {at}: {what} wants {wanted} bytes more")]
    Truncated {
        /// Where it ends.
        at: u64,
        /// Bytes wanted from there on.
        wanted: u64,
        /// What was being read.
        what: &'static str,
    },
    /// The zip container is not well-formed.
    #[error("zip container at byte {at}: {what}")]
    Zip {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry of the zip container.
    #[error("zip entry `{entry}`: {what}")]
    Entry {
        /// The entry's name.
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
    /// A pickle instruction that does not fit what came before it.
    #[error("pickle at byte {at}: {what}")]
    Pickle {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Something is larger than any checkpoint needs it to be.
    #[error("at byte {at}: {what}, more than the limit of {limit}")]
    Limit {
        /// Where.
        at: u64,
        /// What is too large.
        what: &'static str,
        /// The largest value that is accepted.
        limit: u64,
    },
    /// A tensor can only be made by calling something that we do not know, and never call.
    #[error("pickle at byte {at}: a tensor depends on `{global}`, which is not among the known ways to make one")]
    ForbiddenGlobal {
        /// Where.
        at: u64,
        /// The Python object's qualified name.
        global: String,
    },
    /// A tensor's description contradicts itself or the bytes there are.
    #[error("tensor `{tensor}`: {what}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        what: String,
    },
    /// The legacy format's list of storages.
    #[error("storage `{key}` at byte {at}: {what}")]
    Storage {
        /// Where.
        at: u64,
        /// The storage's key.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// A JSON header or index.
    #[error("header: {what}")]
    Header {
        /// What is wrong, with line and column.
        what: String,
    },
    /// A snapshot's manifest.
    #[error("manifest: {what}")]
    Manifest {
        /// What is wrong, with line and column.
        what: String,
    },
    /// A snapshot's manifest places a tensor outside of the snapshot.
    #[error("manifest: location {location:?} leads out of the snapshot")]
    Escapes {
        /// The location.
        location: String,
    },
    /// It is not the file any more that it was when the checkpoint was opened.
    #[error("was replaced or changed its length after the checkpoint was opened")]
    Replaced,
}
