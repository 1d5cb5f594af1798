//! What can be wrong with a file of a model directory.

use std::path::PathBuf;

/// What is wrong with a file of a model directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryDefect {
    /// It is larger than such a file can be.
    #[error("{found} bytes, more than the {most} that such a file can have")]
    TooLarge {
        /// Its length.
        found: u64,
        /// The largest length that is read.
        most: u64,
    },
    /// It cannot be parsed.
    #[error("cannot be parsed: {why}")]
    Syntax {
        /// The parser's words.
        why: String,
    },
    /// The directory was written in another version of the format, or says nothing of its version.
    #[error("format_version {found}; this program reads version {}", crate::FORMAT_VERSION)]
    Version {
        /// The version found.
        found: String,
    },
    /// The index names a file that is not plainly a file of the directory.
    #[error("tensor {tensor} is said to be in {name:?}, which is not a plain file name")]
    FileName {
        /// The tensor.
        tensor: String,
        /// The name of the file.
        name: String,
    },
    /// The configuration, the index, or a file that the index names is missing.
    #[error("the model directory has no such file")]
    Missing,
    /// A file is a symbolic link to somewhere else.
    #[error("leads out of the model directory, to {}", target.display())]
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
    #[error("table {table} begins with row {first_row}; only whole tables are read")]
    PartialTable {
        /// The table.
        table: String,
        /// The first row.
        first_row: u64,
    },
    /// A tensor's bytes were altered.
    #[error("tensor {tensor} was altered: its checksum is {found:016x}, it should be {expected}")]
    Checksum {
        /// The tensor.
        tensor: String,
        /// The checksum in the header.
        expected: String,
        /// The checksum of the bytes.
        found: u64,
    },
}
