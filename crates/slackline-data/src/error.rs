//! What can go wrong with an input, and where.

use std::io;
use std::path::{Path, PathBuf};

/// Why an input cannot be read or written. Every variant about a file names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `read`, `write`, …
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is damaged: a truncated or altered gzip stream or zip archive.
    #[error("{}: damaged: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The format needs a feature of this crate, and the program was built without it.
    #[error(
        "{}: a file in {feature} format, but this program was built without feature `{feature}` of slackline-data",
        path.display()
    )]
    MissingFeature {
        /// The file.
        path: PathBuf,
        /// The feature.
        feature: &'static str,
    },
    /// The format of the file cannot be told from its content.
    #[error("{}: format not recognised: {problem}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        problem: String,
    },
    /// A name that is not that of an [`InputFormat`](crate::InputFormat).
    #[error("unknown input format {name:?}: expected one of {}", known.join(", "))]
    UnknownFormatName {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
    /// The header line does not match the model.
    #[error("{}:{line}: header: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// What does not match.
        problem: String,
    },
    /// A row has too few or too many columns.
    #[error("{}:{line}: {found} columns, expected {expected}", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// Columns of this row.
        found: usize,
        /// The columns that it should have, and why.
        expected: String,
    },
    /// A value is not valid in its column.
    #[error("{}:{line}: column {column}: {value:?} is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// The name of the column, as in the header of Criteo's CSV files.
        column: String,
        /// The value, shortened.
        value: String,
        /// What is valid in the column.
        expected: &'static str,
    },
    /// The quotes of a row are not well formed.
    #[error("{}:{line}: {problem}", path.display())]
    Quotes {
        /// The file.
        path: PathBuf,
        /// The number of the row's first line, from 1.
        line: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A line is too long.
    #[error(
        "{}:{line}: line is longer than {limit} bytes{}",
        path.display(),
        if *quoted { ", since a quoted field that begins there is not closed" } else { "" }
    )]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// The longest line that is read.
        limit: usize,
        /// Whether a quoted field makes it so long.
        quoted: bool,
    },
    /// An array, in a file of its own or in an archive, is missing, malformed, or has the wrong type or shape.
    #[error("{}: {}{problem}", path.display(), of_member(member))]
    Member {
        /// The file.
        path: PathBuf,
        /// The name of the array in its archive, without `.npy`; empty for a file of its own.
        member: String,
        /// What is wrong.
        problem: String,
    },
    /// A value of an array is out of range.
    #[error("{}: {}sample {sample}: {value} is not {expected}", path.display(), of_member(member))]
    MemberValue {
        /// The file.
        path: PathBuf,
        /// The name of the array in its archive, without `.npy`; empty for a file of its own.
        member: String,
        /// The number of the sample in the whole file, from 0.
        sample: usize,
        /// The value.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// An earlier read failed, so the position in the file is unknown.
    #[error("{}: cannot continue after an earlier error", path.display())]
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

    #[cfg(not(all(feature = "gzip", feature = "npz")))]
    pub(crate) fn missing(path: &Path, feature: &'static str) -> Self {
        DataError::MissingFeature { path: path.to_owned(), feature }
    }

    #[cfg(feature = "npz")]
    pub(crate) fn array(path: &Path, member: &str, problem: impl Into<String>) -> Self {
        DataError::Member { path: path.to_owned(), member: member.to_owned(), problem: problem.into() }
    }
}

fn of_member(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("member {name}: ") }
}

/// The first names of a list, for an error message.
#[cfg(feature = "npz")]
pub(crate) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut words: Vec<String> =
        names.iter().take(SHOWN).map(|name| shorten(name.as_bytes()).escape_debug().to_string()).collect();
    if names.len() > SHOWN {
        words.push(format!("… ({} in all)", names.len()));
    }
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
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
