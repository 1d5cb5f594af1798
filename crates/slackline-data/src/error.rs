//! What can go wrong, and where.

use std::io;
use std::path::{Path, PathBuf};

/// Why an input could not be read or written. Every variant that concerns a file names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `read`, `write`, …
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is damaged: a truncated or altered gzip stream or zip archive.
    #[error("{}: damaged: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// Neither the content nor a given name says which format this is.
    #[error("{}: format not recognised: {problem}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        problem: String,
    },
    /// A name that is no [`Format`](crate::Format).
    #[error("{name:?} is no input format; known are criteo-tsv, criteo-csv and npz")]
    UnknownFormatName {
        /// The name.
        name: String,
    },
    /// The header line does not fit the model.
    #[error("{}:{line}: header: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: u64,
        /// What does not fit.
        problem: String,
    },
    /// A row has too few or too many columns.
    #[error("{}:{line}: {found} columns, expected {expected}", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: u64,
        /// Columns of this row.
        found: usize,
        /// Columns that it should have, and why.
        expected: String,
    },
    /// A value is not what its column holds.
    #[error("{}:{line}: column {column}: {value:?} is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: u64,
        /// The column's name, as in the header of Criteo's CSV files.
        column: String,
        /// The value, shortened.
        value: String,
        /// What the column holds.
        expected: &'static str,
    },
    /// A line is longer than any row can be.
    #[error("{}:{line}: line is longer than {limit} bytes", path.display())]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: u64,
        /// The longest line that is read.
        limit: usize,
    },
    /// A member of an `.npz` archive is missing, malformed, or has the wrong type or shape.
    #[error("{}: member {member}: {problem}", path.display())]
    Member {
        /// The file.
        path: PathBuf,
        /// The array's name, without `.npy`.
        member: String,
        /// What does not fit.
        problem: String,
    },
    /// A value in a member of an `.npz` archive is out of its range.
    #[error("{}: member {member}: sample {sample}: {value} is not {expected}", path.display())]
    MemberValue {
        /// The file.
        path: PathBuf,
        /// The array's name, without `.npy`.
        member: String,
        /// 0-based.
        sample: usize,
        /// The value.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// The input failed before, so its position is unknown.
    #[error("{}: cannot read on after an error", path.display())]
    Spent {
        /// The file.
        path: PathBuf,
    },
    /// The caller asked for something impossible: a shape, a row to write, or a specification of synthetic input.
    #[error("{problem}")]
    Request {
        /// What is impossible.
        problem: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        DataError::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn member(path: &Path, member: &str, problem: impl Into<String>) -> Self {
        DataError::Member { path: path.to_owned(), member: member.to_owned(), problem: problem.into() }
    }
}

/// A value for an error message: at most 40 bytes, whatever it contains.
pub(crate) fn shorten(value: &[u8]) -> String {
    const SHOWN: usize = 40;
    let mut text = String::from_utf8_lossy(&value[..value.len().min(SHOWN)]).into_owned();
    if value.len() > SHOWN {
        text.push('…');
    }
    text
}
