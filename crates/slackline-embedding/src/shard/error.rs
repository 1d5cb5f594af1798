//! What can go wrong with a shard file.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::{MAX_HEADER, PAGE, VERSION};
use crate::UnknownRowFormat;

/// A shard file that could not be written, opened or used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// There is no such file.
    #[error("{}: no such shard file", file.display())]
    Missing {
        /// The file asked for.
        file: PathBuf,
    },
    /// The path names a folder, a pipe or a device.
    #[error("{}: not a regular file", file.display())]
    NotAFile {
        /// The path asked for.
        file: PathBuf,
    },
    /// The operating system reported an error.
    #[error("{}: {action} failed: {source}", file.display())]
    Io {
        /// The file concerned.
        file: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Rows cannot be locked in memory.
    #[error(
        "{}: locking {bytes} bytes into memory failed{}: {source}",
        file.display(),
        limit.map_or(String::new(), |limit| format!(" (this process may lock {limit} in all: ulimit -l, LimitMEMLOCK)"))
    )]
    Lock {
        /// The file.
        file: PathBuf,
        /// The bytes that were to be locked.
        bytes: u64,
        /// The bytes that the process may lock in total; `None` for no limit.
        limit: Option<u64>,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The program installed the guard of mapped shards, and a later SIGBUS handler replaced it ([`crate::guard`]).
    #[error(
        "{}: not mapped, since another SIGBUS handler has displaced the guard (install the guard after it, or load copied)",
        file.display()
    )]
    Unguarded {
        /// The file.
        file: PathBuf,
    },
    /// The file is not a whole and unaltered shard.
    #[error("{}: {defect}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        defect: Box<ShardDefect>,
    },
    /// The shard has no tensor of that name.
    #[error("{}: no table {table} in this shard", file.display())]
    NoTable {
        /// The shard.
        file: PathBuf,
        /// The name asked for.
        table: String,
    },
    /// The table has no such part.
    #[error("{}: table {table} cannot be cut to {what}", file.display())]
    NoPart {
        /// The shard.
        file: PathBuf,
        /// The table.
        table: String,
        /// What was asked for.
        what: String,
    },
    /// A table that cannot be written: the name is taken or reserved, or the shape is impossible.
    #[error("{}: table {table} cannot be written: {why}", file.display())]
    Spec {
        /// The shard to be written.
        file: PathBuf,
        /// The table.
        table: String,
        /// What is wrong with it.
        why: String,
    },
    /// Rows were written for a table other than the next one.
    #[error("{}: rows for table number {found}, but table number {expected} comes next", file.display())]
    Order {
        /// The shard being written.
        file: PathBuf,
        /// The first table that is not full; the number of tables if all are.
        expected: usize,
        /// The table given.
        found: usize,
    },
    /// More bytes were written than the table has.
    #[error("{}: table {table} takes {expected} bytes, not {found}", file.display())]
    TooManyBytes {
        /// The shard being written.
        file: PathBuf,
        /// The table.
        table: String,
        /// All its bytes.
        expected: u64,
        /// The bytes it would have had with those refused.
        found: u64,
    },
    /// The shard was finished before all rows were written.
    #[error("{}: table {table} has only {found} of its {expected} bytes", file.display())]
    Unfinished {
        /// The shard being written; its name is still free, or holds what it held before.
        file: PathBuf,
        /// The first table that is not full.
        table: String,
        /// All its bytes.
        expected: u64,
        /// The bytes written.
        found: u64,
    },
    /// An earlier write had failed, so nothing more can be written.
    #[error("{}: given up after a failed write", file.display())]
    Abandoned {
        /// The shard that was being written.
        file: PathBuf,
    },
}

/// What is wrong with a damaged or foreign file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardDefect {
    /// The file ends too early.
    #[error("the file is short: {expected} bytes by its header, {found} in the file")]
    Short {
        /// The expected length in bytes, as far as the rest of the header shows.
        expected: u64,
        /// The actual length in bytes.
        found: u64,
    },
    /// The file goes on after its last tensor.
    #[error("the file is too long: {expected} bytes by its header, {found} in the file")]
    Long {
        /// The expected length in bytes.
        expected: u64,
        /// The actual length in bytes.
        found: u64,
    },
    /// The header is impossibly long.
    #[error("the header would have {found} bytes; at most {MAX_HEADER} are accepted")]
    HeaderTooLarge {
        /// Its length by the first 8 bytes of the file.
        found: u64,
    },
    /// The header is not a safetensors header.
    #[error("the header cannot be parsed: {why}")]
    HeaderSyntax {
        /// What the parser found.
        why: String,
    },
    /// The metadata do not name the format of a shard.
    #[error("a safetensors file, but not a slackline.shard (format: {})", found.as_deref().unwrap_or("none"))]
    Format {
        /// The `format` found.
        found: Option<String>,
    },
    /// The shard has a version that this program cannot read.
    #[error("shard version {found}; this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: String,
    },
    /// A key of the metadata is missing or malformed.
    #[error("metadata {key}: {why}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The header was altered.
    #[error("the header was altered: its checksum is {found:016x}, it should be {expected:016x}")]
    HeaderChecksum {
        /// The checksum that the header states.
        expected: u64,
        /// The checksum that it has.
        found: u64,
    },
    /// The data section does not start on a page boundary, so it cannot be mapped.
    #[error("the data start at byte {at}, which is not a multiple of {PAGE}")]
    Alignment {
        /// Where they start.
        at: u64,
    },
    /// A table's rows are in a format that this program does not know.
    #[error("table {table}: {source}")]
    RowFormat {
        /// The tensor.
        table: String,
        /// The format.
        #[source]
        source: UnknownRowFormat,
    },
    /// A tensor's entry and its metadata disagree.
    #[error("table {table}: its {what} is {entry} by the tensor's entry, but {metadata} by the metadata")]
    Contradiction {
        /// The tensor.
        table: String,
        /// What they differ in.
        what: &'static str,
        /// What the tensor's entry says.
        entry: String,
        /// What follows from the metadata.
        metadata: String,
    },
    /// A shape that no table can have.
    #[error("table {table}: {rows} rows from row {first_row} on, {dim} columns: impossible")]
    Shape {
        /// The tensor.
        table: String,
        /// Its rows.
        rows: u64,
        /// The number of its first row.
        first_row: u64,
        /// Its columns.
        dim: u64,
    },
    /// Bytes of the data section that belong to no tensor.
    #[error("table {table} starts at byte {found} of the data, but {expected} is the first byte not used: a hole")]
    Hole {
        /// The tensor after the hole.
        table: String,
        /// Where it should start.
        expected: u64,
        /// Where it starts.
        found: u64,
    },
    /// Two tensors share bytes of the data section.
    #[error("table {table} starts at byte {found} of the data, but {expected} is the first byte not used: an overlap")]
    Overlap {
        /// The later tensor.
        table: String,
        /// Where it should start.
        expected: u64,
        /// Where it starts.
        found: u64,
    },
    /// A table's bytes were altered.
    #[error("table {table} was altered: its checksum is {found:016x}, it should be {expected:016x}")]
    Checksum {
        /// The tensor.
        table: String,
        /// The checksum that the header gives.
        expected: u64,
        /// The checksum of the bytes.
        found: u64,
    },
}

impl ShardError {
    /// Turns the system's error for `action` into an error that names the file.
    pub(super) fn io(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| ShardError::Io { file: file.to_owned(), action, source }
    }

    pub(super) fn corrupt(file: &Path) -> impl FnOnce(ShardDefect) -> Self {
        move |defect| ShardError::Corrupt { file: file.to_owned(), defect: Box::new(defect) }
    }
}
