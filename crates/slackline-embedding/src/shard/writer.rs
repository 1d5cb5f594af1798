//! Writing a shard, table after table, in bounded memory.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use xxhash_rust::xxh3::Xxh3;

use super::error::ShardError;
use super::header::{self, MAX_HEADER, PREFIX, ShardTable};
use crate::{MAX_DIM, RowFormat};

const BUFFER: usize = 1 << 20;

/// A table to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSpec {
    /// The table's name, which becomes the tensor's.
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

/// Writes one shard file.
///
/// The file appears under its name only with [`finish`](Self::finish), whole and synced to the disk; until then its bytes
/// are in a file `.<name>.<random>.partial` beside it, which is removed when the writer is dropped. A file that stood
/// under the name is replaced; who has mapped it keeps what they mapped. Memory: one buffer of 1 MiB, and the header.
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
    /// Gone after a failed write, and the temporary file with it.
    file: Option<BufWriter<NamedTempFile>>,
}

impl ShardWriter {
    /// Begins a shard of these tables; their rows follow in this order.
    ///
    /// # Errors
    ///
    /// [`ShardError::Spec`] if a name is used twice or reserved (`__metadata__`), a dimension is not in 1 to [`MAX_DIM`],
    /// the sizes overflow, or the header would become too large to be read; [`ShardError::Io`] if no file can be made in the folder of `path`.
    pub fn create(path: impl AsRef<Path>, tables: &[TableSpec]) -> Result<Self, ShardError> {
        let path = path.as_ref().to_owned();
        let tables = lay_out(&path, tables)?;
        let data = header::render(&tables).len() as u64;
        if let Some(last) = tables.last()
            && data - PREFIX > MAX_HEADER
        {
            let why = format!("the header would have {} bytes, and at most {MAX_HEADER} are accepted", data - PREFIX);
            return Err(ShardError::Spec { file: path, table: last.tensor.clone(), why });
        }
        let io = |action| ShardError::io(&path, action);
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".partial")
            // As any new file, less what the umask takes away; the default is readable by the owner only.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(&path))
            .map_err(io("creating a file beside it"))?;
        let mut file = BufWriter::with_capacity(BUFFER, file);
        // The header comes last, when the checksums are known. Until then its place holds zeros, which is no header at
        // all, so that a partial file can never be taken for a shard.
        file.seek(SeekFrom::Start(data)).map_err(io("seeking"))?;
        let mut writer =
            ShardWriter { path, tables, current: 0, written: 0, hash: Default::default(), file: Some(file) };
        writer.close_full_tables();
        Ok(writer)
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
        file.as_file().sync_all().map_err(io("syncing"))?;
        file.persist(path).map_err(|error| io("renaming")(error.error))?;
        // The name is on the disk only when the folder is.
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
            // Without flushing what could not be written; dropping the file removes it.
            drop(file.into_parts());
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
