//! What can be wrong with a file of a model directory.

use std::path::PathBuf;

/// What is wrong with a file of a model directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryDefect {
    /// It is too large.
    #[error("{found} bytes, which is more than the limit of {most}")]
    TooLarge {
        /// Its length.
        found: u64,
        /// The limit.
        most: u64,
    },
    /// It cannot be parsed.
    #[error("cannot be parsed: {why}")]
    Syntax {
        /// The parser's message.
        why: String,
    },
    /// The directory has another version of the format, or does not name its version.
    #[error(
        "format_version {found}; this program reads version {}, as `slackline import` writes it",
        crate::FORMAT_VERSION
    )]
    Version {
        /// The version found.
        found: String,
    },
    /// The index names a path and not a plain file of the directory.
    #[error("the file of tensor {tensor} is {name:?}, which is not a plain file name")]
    FileName {
        /// The tensor.
        tensor: String,
        /// The name of the file.
        name: String,
    },
    /// The table of a tensor has a name with characters that a terminal does not show.
    #[error("the table of tensor {tensor} is named {name:?}, with control characters")]
    TableName {
        /// The tensor.
        tensor: String,
        /// The name of the table.
        name: String,
    },
    /// The configuration, the index, or a file that the index names is missing.
    #[error("the model directory has no such file")]
    Missing,
    /// A file is a symbolic link to somewhere else.
    #[error("is a link that leads out of the model directory, to {}", target.display())]
    Escapes {
        /// Where it leads.
        target: PathBuf,
    },
    /// A file is a directory, a pipe or the like.
    #[error("is not a regular file")]
    NotAFile,
    /// A dense tensor is not single precision.
    #[error("tensor {tensor} is of type {found}, not F32")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// A shard holds only a part of a table.
    #[error("table {table} starts at row {first_row}; only whole tables are supported")]
    PartialTable {
        /// The table.
        table: String,
        /// The first row.
        first_row: u64,
    },
    /// A tensor's bytes do not match their checksum.
    #[error("tensor {tensor} is corrupt: its checksum is {found:016x}, the header says {expected}")]
    Checksum {
        /// The tensor.
        tensor: String,
        /// The checksum in the header.
        expected: String,
        /// The checksum of the bytes.
        found: u64,
    },
}
