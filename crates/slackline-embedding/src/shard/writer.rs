//! Writing a shard, table after table, in bounded memory.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::error::{ShardDefect, ShardError};
use super::header::{self, ShardTable};
use super::layout::{MAX_HEADER, PREFIX};
use super::temporary::Temporary;
use crate::{MAX_DIM, RowFormat};

const BUFFER: usize = 1 << 20;

/// A table to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSpec {
    /// The table's name, also the name of its tensor.
    pub name: String,
    /// Its rows; there may be none.
    pub rows: u64,
    /// The columns of a row, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// How its rows are stored.
    pub row_format: RowFormat,
}

impl TableSpec {
    /// A whole table.
    pub fn new(name: impl Into<String>, rows: u64, dim: usize, row_format: RowFormat) -> Self {
        TableSpec { name: name.into(), rows, dim, row_format }
    }
}

/// The progress of a shard at some moment, with everything up to there on the disk: what another writer needs to
/// [resume](ShardWriter::resume) from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ShardMark {
    /// The XXH3-64 of each table that is full, in order.
    pub full: Vec<u64>,
    /// Bytes of the table after them.
    pub written: u64,
    /// The XXH3-64 of these bytes.
    pub xxh3: u64,
}

/// Writes one shard file.
///
/// The file appears under its name only with [`finish`](Self::finish), whole and synced to the disk; until then its
/// bytes are in a file `.<name>.<random>.partial` beside it, which is removed when the writer is dropped. An existing
/// file of that name is replaced; existing mappings keep the old contents. Memory: one buffer of 1 MiB, and the header.
///
/// For a shard that takes long to write, use [`create_kept`](Self::create_kept) instead. Its bytes are then in
/// `<name>.partial`, which stays however the writer ends, and [`resume`](Self::resume) continues from any
/// [`mark`](Self::mark) of it.
///
/// ```
/// use slackline_embedding::{EmbeddingTable, RowFormat, Shard, ShardWriter, TableSpec, Verify};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shard-0.safetensors");
/// let rows: [f32; 6] = [0.0, 0.1, 1.0, 1.1, 2.0, 2.1];
/// let mut writer = ShardWriter::create(&path, &[TableSpec::new("colour", 3, 2, RowFormat::F32)])?;
/// writer.write_rows(0, bytemuck::cast_slice(&rows))?;
/// writer.finish()?;
///
/// let table = Shard::open(&path, Verify::Checksums)?.table("colour")?;
/// assert_eq!((table.rows(), table.dim()), (3, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ShardWriter {
    path: PathBuf,
    /// Offsets count from the start of the data section; checksums are those of the tables that are full.
    tables: Vec<ShardTable>,
    /// The first table that is not full.
    current: usize,
    /// What came of it.
    written: u64,
    hash: Box<Xxh3>,
    /// Gone after a failed write, and a temporary file with it.
    file: Option<BufWriter<File>>,
    partial: Partial,
}

/// The file that is written to, by its name.
enum Partial {
    /// Removed unless it is renamed.
    Temporary(Temporary),
    Kept(PathBuf),
    Gone,
}

impl ShardWriter {
    /// Begins a shard of these tables; their rows follow in this order.
    ///
    /// # Errors
    ///
    /// [`ShardError::Spec`] if a name is used twice or reserved (`__metadata__`), a dimension is not in 1 to [`MAX_DIM`],
    /// the sizes overflow, or the header would become too large to be read; [`ShardError::Io`] if no file can be made in the
    /// folder of `path`.
    pub fn create(path: impl AsRef<Path>, tables: &[TableSpec]) -> Result<Self, ShardError> {
        let path = path.as_ref();
        let (tables, data) = planned(path, tables)?;
        let (file, name) = Temporary::beside(path).map_err(ShardError::io(path, "creating a file beside it"))?;
        Self::begin(path, tables, data, file, Partial::Temporary(name))
    }

    /// Begins a shard of these tables in `<name>.partial`, which is left there by whatever ends this writer before
    /// [`finish`](Self::finish); a file of that name is overwritten.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    pub fn create_kept(path: impl AsRef<Path>, tables: &[TableSpec]) -> Result<Self, ShardError> {
        let path = path.as_ref();
        let (tables, data) = planned(path, tables)?;
        let partial = partial_of(path);
        let file = File::create(&partial).map_err(ShardError::io(&partial, "creating it"))?;
        Self::begin(path, tables, data, file, Partial::Kept(partial))
    }

    fn begin(
        path: &Path,
        tables: Vec<ShardTable>,
        data: u64,
        file: File,
        partial: Partial,
    ) -> Result<Self, ShardError> {
        let mut file = BufWriter::with_capacity(BUFFER, file);
        // The header comes last, when the checksums are known. Until then its place holds zeros, which is no header at
        // all, so that a partial file can never be taken for a shard.
        file.seek(SeekFrom::Start(data)).map_err(ShardError::io(path, "seeking"))?;
        let (path, hash) = (path.to_owned(), Box::default());
        let mut writer = ShardWriter { path, tables, current: 0, written: 0, hash, file: Some(file), partial };
        writer.close_full_tables();
        Ok(writer)
    }

    /// Continues a shard of the same tables that [`create_kept`](Self::create_kept) began, from one of its marks.
    /// Anything written after the mark is cut off. `progress` gets the number of bytes of rows verified.
    ///
    /// Cost: reads everything up to the mark, to verify its checksums.
    ///
    /// # Errors
    ///
    /// [`ShardError::Corrupt`] with the partial file's name if it is shorter than the mark says or was altered, or the mark
    /// is not one of such tables; [`ShardError::Io`]; those of [`create`](Self::create) that concern the tables.
    pub fn resume(
        path: impl AsRef<Path>,
        tables: &[TableSpec],
        mark: &ShardMark,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, ShardError> {
        let path = path.as_ref();
        let (tables, data) = planned(path, tables)?;
        let partial = partial_of(path);
        let io = |action| ShardError::io(&partial, action);
        let corrupt = ShardError::corrupt(&partial);
        let current = mark.full.len();
        if current > tables.len() || mark.written > tables.get(current).map_or(0, |table| table.bytes) {
            let why = "the mark is not one of these tables".to_owned();
            return Err(corrupt(ShardDefect::Metadata { key: "mark".to_owned(), why }));
        }
        let file = File::options().read(true).write(true).open(&partial).map_err(io("opening it"))?;
        let found = file.metadata().map_err(io("opening it"))?.len();
        let end = data + tables[..current].iter().map(|table| table.bytes).sum::<u64>() + mark.written;
        // A file without a byte of rows may end before its data begin.
        if found < end && end > data {
            return Err(corrupt(ShardDefect::Short { expected: end, found }));
        }
        let mut writer = Self::begin(path, tables, data, file, Partial::Kept(partial.clone()))?;
        let (mut at, mut buffer) = (data, vec![0; BUFFER]);
        let parts = writer.tables.iter().map(|table| table.bytes).zip(&mark.full).map(|(bytes, full)| (bytes, *full));
        for (number, (bytes, expected)) in parts.chain([(mark.written, mark.xxh3)]).enumerate() {
            let (end, mut hash) = (at + bytes, Box::<Xxh3>::default());
            while at < end {
                let part = &mut buffer[..(end - at).min(BUFFER as u64) as usize];
                let file = writer.file.as_ref().expect("just begun").get_ref();
                file.read_exact_at(part, at).map_err(io("reading it again"))?;
                hash.update(part);
                at += part.len() as u64;
                progress(at - data);
            }
            let found = hash.digest();
            // The last one is the part of a table, and there may be none.
            if found != expected && (number < current || bytes > 0) {
                let table = writer.tables[number].tensor.clone();
                return Err(ShardError::corrupt(&partial)(ShardDefect::Checksum { table, expected, found }));
            }
            writer.hash = hash;
        }
        writer.tables.iter_mut().zip(&mark.full).for_each(|(table, &xxh3)| table.xxh3 = xxh3);
        (writer.current, writer.written) = (current, mark.written);
        let file = writer.file.as_mut().expect("just begun");
        file.get_ref().set_len(at.max(data)).map_err(io("cutting it"))?;
        file.seek(SeekFrom::Start(at)).map_err(io("seeking"))?;
        writer.close_full_tables();
        Ok(writer)
    }

    /// Syncs the shard to the disk and returns its progress.
    ///
    /// # Errors
    ///
    /// As [`write_rows`](Self::write_rows), if the disk is full or fails.
    pub fn mark(&mut self) -> Result<ShardMark, ShardError> {
        let Some(file) = &mut self.file else { return Err(ShardError::Abandoned { file: self.path.clone() }) };
        if let Err(error) = file.flush().and_then(|()| file.get_ref().sync_data()) {
            self.abandon();
            return Err(ShardError::io(&self.path, "writing rows")(error));
        }
        let full = self.tables[..self.current].iter().map(|table| table.xxh3).collect();
        Ok(ShardMark { full, written: self.written, xxh3: self.hash.digest() })
    }

    /// Appends `bytes` to the rows of table number `table`. Cuts between calls may fall anywhere, also within a row; a table
    /// is full, and the next one's turn comes, with the last of its `rows * row_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`ShardError::Order`] if another table's rows come next, [`ShardError::TooManyBytes`] if the table has no room for
    /// all of them (none is then written); [`ShardError::Io`] if the disk is full or fails, after which the writer is of no
    /// use any more and the temporary file is gone.
    pub fn write_rows(&mut self, table: usize, bytes: &[u8]) -> Result<(), ShardError> {
        let Some(file) = &mut self.file else { return Err(ShardError::Abandoned { file: self.path.clone() }) };
        if bytes.is_empty() && table < self.current {
            return Ok(());
        }
        if table != self.current || table >= self.tables.len() {
            return Err(ShardError::Order { file: self.path.clone(), expected: self.current, found: table });
        }
        let ShardTable { tensor, bytes: expected, .. } = &self.tables[table];
        let found = self.written + bytes.len() as u64;
        if found > *expected {
            return Err(ShardError::TooManyBytes {
                file: self.path.clone(),
                table: tensor.clone(),
                expected: *expected,
                found,
            });
        }
        if let Err(error) = file.write_all(bytes) {
            self.abandon();
            return Err(ShardError::io(&self.path, "writing rows")(error));
        }
        self.hash.update(bytes);
        self.written = found;
        self.close_full_tables();
        Ok(())
    }

    /// Writes the header, syncs the file to the disk, and gives it its name.
    ///
    /// # Errors
    ///
    /// [`ShardError::Unfinished`] if rows are missing, [`ShardError::Abandoned`] after a failed write, [`ShardError::Io`]
    /// if the disk is full or fails. Then there is no new file, and what stood under the name still does.
    pub fn finish(mut self) -> Result<(), ShardError> {
        let path = &self.path;
        if let Some(ShardTable { tensor, bytes, .. }) = self.tables.get(self.current) {
            return Err(ShardError::Unfinished {
                file: path.clone(),
                table: tensor.clone(),
                expected: *bytes,
                found: self.written,
            });
        }
        let Some(mut file) = self.file.take() else { return Err(ShardError::Abandoned { file: path.clone() }) };
        let io = |action| ShardError::io(path, action);
        // Seeking writes out what is buffered.
        file.seek(SeekFrom::Start(0)).map_err(io("writing rows"))?;
        file.write_all(&header::render(&self.tables)).map_err(io("writing the header"))?;
        let file = file.into_inner().map_err(|error| io("writing the header")(error.into_error()))?;
        file.sync_all().map_err(io("syncing"))?;
        match std::mem::replace(&mut self.partial, Partial::Gone) {
            Partial::Temporary(name) => name.rename(path).map_err(io("renaming"))?,
            Partial::Kept(name) => fs::rename(name, path).map_err(io("renaming"))?,
            Partial::Gone => return Err(ShardError::Abandoned { file: path.clone() }),
        }
        // The name is durable only after the folder is synced.
        File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(io("syncing its folder"))
    }

    fn close_full_tables(&mut self) {
        while let Some(table) = self.tables.get_mut(self.current)
            && self.written == table.bytes
        {
            table.xxh3 = self.hash.digest();
            self.hash.reset();
            self.written = 0;
            self.current += 1;
        }
    }

    fn abandon(&mut self) {
        if let Some(file) = self.file.take() {
            // Without flushing what could not be written; dropping a temporary file's name removes it.
            drop(file.into_parts());
            self.partial = Partial::Gone;
        }
    }
}

impl fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShardWriter { path, current, written, .. } = self;
        let mut writer = f.debug_struct("ShardWriter");
        writer.field("path", path).field("current", current).field("written", written).finish_non_exhaustive()
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// The tables with their places, and where the data section begins.
fn planned(path: &Path, tables: &[TableSpec]) -> Result<(Vec<ShardTable>, u64), ShardError> {
    let tables = lay_out(path, tables)?;
    let data = header::render(&tables).len() as u64;
    match tables.last() {
        Some(last) if data - PREFIX > MAX_HEADER => {
            let why = format!("the header would have {} bytes, and at most {MAX_HEADER} are accepted", data - PREFIX);
            Err(ShardError::Spec { file: path.to_owned(), table: last.tensor.clone(), why })
        }
        _ => Ok((tables, data)),
    }
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

fn lay_out(path: &Path, specs: &[TableSpec]) -> Result<Vec<ShardTable>, ShardError> {
    let mut tables = Vec::<ShardTable>::with_capacity(specs.len());
    let mut names = std::collections::HashSet::new();
    let mut offset = 0u64;
    for spec in specs {
        let TableSpec { name, rows, dim, row_format } = spec.clone();
        let refuse = |why: String| Err(ShardError::Spec { file: path.to_owned(), table: spec.name.clone(), why });
        if name == "__metadata__" {
            return refuse("safetensors reserve this name".to_owned());
        }
        if !names.insert(&spec.name) {
            return refuse("another table has this name".to_owned());
        }
        if !(1..=MAX_DIM).contains(&dim) {
            return refuse(format!("{dim} columns, not 1 to {MAX_DIM}"));
        }
        let bytes = rows.checked_mul(row_format.row_bytes(dim) as u64);
        // Far below the largest number, so that the header and the rounding to pages cannot overflow it either.
        let Some(end) = bytes.and_then(|bytes| offset.checked_add(bytes)).filter(|end| *end <= i64::MAX as u64 / 2)
        else {
            return refuse(format!("{rows} rows of {} bytes are too many", row_format.row_bytes(dim)));
        };
        let bytes = end - offset;
        tables.push(ShardTable {
            table: name.clone(),
            tensor: name,
            first_row: 0,
            rows,
            dim,
            row_format,
            offset,
            bytes,
            xxh3: 0,
        });
        offset = end;
    }
    Ok(tables)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
