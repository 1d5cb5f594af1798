//! Opening a shard: check once, map, and lend its tables.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::error::{ShardDefect, ShardError};
use super::header::{self, ShardTable};
use super::layout::{MAX_HEADER, PREFIX};
use crate::kernels::{self, Isa};
use crate::mmap::Mapping;
use crate::{Bags, EmbeddingTable, Output, PoolError, Pooling, Residency, RowFormat, Rows, guard};

/// Bytes that are read at a time to verify a table.
pub(super) const CHUNK: usize = 1 << 20;

/// How much of a shard is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Everything, including the checksums of all tables; this reads the whole file once.
    Checksums,
    /// The header, its checksum and the length of the file: fast whatever the size of the tables. [`Shard::verify`]
    /// checks single tables afterwards: a rank needs only its own.
    HeaderOnly,
}

/// An open shard file, mapped into memory. Cheap to clone; the mapping lives as long as a clone or a table of it does.
///
/// The file must not be modified in place while it is mapped, since lookups would return changed rows; [`ShardWriter`]
/// always replaces whole files instead. If another program truncates the file anyway, or its disk fails, the result
/// depends on [`guard`]: after [`guard::install`], lookups in its tables return [`PoolError::Lost`] from then on, and
/// other shards are not affected; without it SIGBUS ends the process, unless the tables were
/// [copied](crate::Load::Copied).
///
/// [`ShardWriter`]: super::ShardWriter
#[derive(Clone, Debug)]
pub struct Shard(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    map: Arc<Mapping>,
    tables: Vec<ShardTable>,
}

impl Shard {
    /// Opens and checks a shard. Only the header is read into memory; rows are paged in when first looked up.
    ///
    /// # Errors
    ///
    /// [`ShardError::Missing`], [`ShardError::NotAFile`], [`ShardError::Io`]; and [`ShardError::Corrupt`] with the
    /// [`ShardDefect`] of a file that is short, long, altered, of another version, or not a shard.
    pub fn open(path: impl AsRef<Path>, verify: Verify) -> Result<Self, ShardError> {
        let path = path.as_ref();
        // Opening a pipe would block until its other end is opened.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        match file {
            Ok(file) => Self::from_file(file, path, verify),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ShardError::Missing { file: path.to_owned() }),
            Err(error) => Err(ShardError::io(path, "opening")(error)),
        }
    }

    /// The same of a file that is open, for reading, and known by this path: for whoever has looked what it is.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn from_file(file: File, path: &Path, verify: Verify) -> Result<Self, ShardError> {
        let io = |action| ShardError::io(path, action);
        let metadata = file.metadata().map_err(io("opening"))?;
        if !metadata.is_file() {
            return Err(ShardError::NotAFile { file: path.to_owned() });
        }
        let found = metadata.len();
        let header = read_header(&file, found).map_err(io("reading the header"))?;
        let (tables, expected) = header.and_then(header::parse).map_err(ShardError::corrupt(path))?;
        if found != expected {
            let defect = if found < expected {
                ShardDefect::Short { expected, found }
            } else {
                ShardDefect::Long { expected, found }
            };
            return Err(ShardError::corrupt(path)(defect));
        }
        let map = Mapping::new(file, path).map_err(io("mapping"))?;
        // The file may have been truncated since its length was read.
        let mapped = map.bytes().len() as u64;
        if mapped != expected {
            return Err(ShardError::corrupt(path)(ShardDefect::Short { expected, found: mapped }));
        }
        let shard = Shard(Arc::new(Opened { map: Arc::new(map), tables }));
        if verify == Verify::Checksums {
            shard.tables().iter().try_for_each(|table| shard.verify(&table.tensor))?;
        }
        Ok(shard)
    }

    /// The path that the shard was opened by.
    pub fn path(&self) -> &Path {
        self.0.map.path()
    }

    /// The tables, in the order of their bytes in the file.
    pub fn tables(&self) -> &[ShardTable] {
        &self.0.tables
    }

    /// One table, by the name of its tensor. It keeps the mapping alive. Cost: two reference counts and a copy of the
    /// name.
    ///
    /// # Errors
    ///
    /// [`ShardError::NoTable`]; [`ShardError::Unguarded`].
    pub fn table(&self, name: &str) -> Result<MappedTable, ShardError> {
        let meta = self.find(name)?.clone();
        if guard::state() == guard::State::Displaced {
            return Err(ShardError::Unguarded { file: self.path().to_owned() });
        }
        Ok(MappedTable { map: Arc::clone(&self.0.map), meta })
    }

    /// Checks the bytes of one table against its checksum. Reads them once, through the file and not through the
    /// mapping, so a failing disk gives an error with or without a [`guard`].
    ///
    /// # Errors
    ///
    /// [`ShardError::NoTable`], [`ShardError::Io`], or [`ShardDefect::Checksum`] within [`ShardError::Corrupt`].
    pub fn verify(&self, name: &str) -> Result<(), ShardError> {
        self.verify_with(name, &mut |_| ())
    }

    /// [`verify`](Self::verify) with a progress callback: after every MiB it gets the number of the table's bytes done.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify).
    pub fn verify_with(&self, name: &str, progress: &mut dyn FnMut(u64)) -> Result<(), ShardError> {
        let table = self.find(name)?;
        let mut chunk = vec![0; CHUNK.min(table.bytes as usize)];
        let mut hash = Xxh3::new();
        let mut done = 0;
        while done < table.bytes {
            let length = (table.bytes - done).min(CHUNK as u64) as usize;
            let chunk = &mut chunk[..length];
            self.read_at(chunk, table.offset + done).map_err(|error| self.unreadable(table, error))?;
            hash.update(chunk);
            done += length as u64;
            progress(done);
        }
        let (expected, found) = (table.xxh3, hash.digest());
        if found != expected {
            let defect = ShardDefect::Checksum { table: name.to_owned(), expected, found };
            return Err(ShardError::corrupt(self.path())(defect));
        }
        Ok(())
    }

    pub(super) fn mapping(&self) -> &Mapping {
        &self.0.map
    }

    /// Bytes of the file, from an offset on.
    pub(super) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.0.map.file().read_exact_at(bytes, at)
    }

    /// Why the rows of a table cannot be read: the file was truncated after it was opened, or the system's error.
    pub(super) fn unreadable(&self, table: &ShardTable, error: io::Error) -> ShardError {
        let expected = table.offset + table.bytes;
        match self.0.map.file().metadata() {
            Ok(now) if now.len() < expected => {
                ShardError::corrupt(self.path())(ShardDefect::Short { expected, found: now.len() })
            }
            _ => ShardError::io(self.path(), "reading rows")(error),
        }
    }

    pub(super) fn find(&self, name: &str) -> Result<&ShardTable, ShardError> {
        let table = self.0.tables.iter().find(|table| table.tensor == name);
        table.ok_or_else(|| ShardError::NoTable { file: self.path().to_owned(), table: name.to_owned() })
    }
}

/// A table whose rows lie in a mapped shard file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MappedTable {
    map: Arc<Mapping>,
    meta: ShardTable,
}

impl MappedTable {
    /// What the shard's header says of the table.
    pub fn meta(&self) -> &ShardTable {
        &self.meta
    }

    /// The bytes of all rows, in place in the file's mapping. Call [`check`](Self::check) after reading them.
    pub fn row_bytes(&self) -> &[u8] {
        let start = self.meta.offset as usize;
        &self.map.bytes()[start..start + self.meta.bytes as usize]
    }

    /// Some of its rows, as a table whose rows count from 0.
    ///
    /// # Panics
    ///
    /// If there are not so many rows.
    pub fn run(self, rows: Range<u64>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.meta.rows, "rows {rows:?} of {}", self.meta.rows);
        let row_bytes = self.meta.row_format.row_bytes(self.meta.dim) as u64;
        let (first_row, offset) = (self.meta.first_row + rows.start, self.meta.offset + rows.start * row_bytes);
        let count = rows.end - rows.start;
        let meta = ShardTable { first_row, offset, rows: count, bytes: count * row_bytes, ..self.meta };
        MappedTable { meta, ..self }
    }

    /// All rows. Call [`check`](Self::check) after reading them.
    pub fn stored(&self) -> Rows<'_> {
        Rows::new(self.meta.row_format, self.meta.dim, self.row_bytes())
    }

    /// Checks that the rows read so far came from the file: they did not if it was truncated while mapped, or its disk
    /// failed. [`pool_to`](EmbeddingTable::pool_to) detects most of this itself, but not a cut within the file's last
    /// page: the rest of that page then reads as zeros without a signal, and only the file's length shows it.
    ///
    /// Cost: one system call.
    ///
    /// # Errors
    ///
    /// [`ShardDefect::Short`] within [`ShardError::Corrupt`], or [`ShardError::Io`] if the file is as long as it was.
    pub fn check(&self) -> Result<(), ShardError> {
        match self.map.lost().or_else(|| self.map.cut()) {
            None => Ok(()),
            Some(lost) => Err(match lost.found {
                Some(found) if found < lost.expected => {
                    ShardError::corrupt(&lost.file)(ShardDefect::Short { expected: lost.expected, found })
                }
                _ => ShardError::io(&lost.file, "reading mapped rows")(io::Error::other(
                    "its disk failed, or it was cut short and written again",
                )),
            }),
        }
    }

    /// What is left to say of rows that could not be read.
    #[cold]
    fn lost(&self) -> PoolError {
        let why = self.check().expect_err("asked because bytes were lost").to_string();
        PoolError::Lost { table: self.meta.table.clone(), why }
    }
}

impl EmbeddingTable for MappedTable {
    fn name(&self) -> &str {
        &self.meta.table
    }

    fn rows(&self) -> u64 {
        self.meta.rows
    }

    fn dim(&self) -> usize {
        self.meta.dim
    }

    fn row_format(&self) -> Option<RowFormat> {
        Some(self.meta.row_format)
    }

    fn bytes(&self) -> u64 {
        self.meta.bytes
    }

    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        kernels::pool(Isa::best(), self.stored(), bags, pooling, out);
        // Checked afterwards, since a file may be truncated at any time.
        if self.map.lost().is_some() { Err(self.lost()) } else { Ok(()) }
    }

    fn intact(&self) -> Result<(), PoolError> {
        self.check().map_err(|error| PoolError::Lost { table: self.meta.table.clone(), why: error.to_string() })
    }

    fn residency(&self) -> Option<Residency> {
        let start = self.meta.offset as usize;
        self.map.residency(start..start + self.meta.bytes as usize).ok()
    }
}

/// The `N` bytes of the header, or why there are none.
fn read_header(file: &File, found: u64) -> io::Result<Result<Vec<u8>, ShardDefect>> {
    if found < PREFIX {
        return Ok(Err(ShardDefect::Short { expected: PREFIX, found }));
    }
    let mut prefix = [0; PREFIX as usize];
    file.read_exact_at(&mut prefix, 0)?;
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEADER {
        return Ok(Err(ShardDefect::HeaderTooLarge { found: length }));
    }
    if PREFIX + length > found {
        return Ok(Err(ShardDefect::Short { expected: PREFIX + length, found }));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, PREFIX)?;
    Ok(Ok(header))
}
