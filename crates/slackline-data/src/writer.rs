//! Click logs in Criteo's format, written whole or not at all.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

use crate::{DataError, InputShape};

/// One row to write; `None` is a missing value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriteoRow {
    /// Clicked or not.
    pub label: bool,
    /// `[dense_features]`.
    pub dense: Vec<Option<i64>>,
    /// One category a table, written as at least 8 hexadecimal digits.
    pub sparse: Vec<Option<u64>>,
}

/// Writes rows in Criteo's format under a temporary name beside the file, which [`finish`](Self::finish) renames. A writer
/// that is dropped before leaves nothing behind.
///
/// Tab-separated, or with a header, ids (0-based row numbers) and commas if the name ends with `.csv`; gzipped if the name
/// ends with `.gz` (so `.csv.gz` is both).
pub struct CriteoWriter {
    path: PathBuf,
    sink: Sink,
    csv: bool,
    dense_features: usize,
    tables: usize,
    rows: u64,
    line: Vec<u8>,
}

impl CriteoWriter {
    /// Starts a file, and writes its header if it has one. A file that is there stays until [`finish`](Self::finish).
    ///
    /// # Errors
    ///
    /// [`DataError::Io`], or [`DataError::Request`] for a shape that [`Input`](crate::Input) can't read.
    pub fn create(path: impl AsRef<Path>, shape: &InputShape) -> Result<CriteoWriter, DataError> {
        shape.check_columns()?;
        let path = path.as_ref().to_owned();
        let gzip = path.extension() == Some(OsStr::new("gz"));
        let inner = if gzip { path.with_extension("") } else { path.clone() };
        let csv = inner.extension() == Some(OsStr::new("csv"));
        let file =
            BufWriter::with_capacity(128 << 10, temporary(&path).map_err(|e| DataError::io(&path, "create", e))?);
        let sink =
            if gzip { Sink::Gzip(Box::new(GzEncoder::new(file, Compression::default()))) } else { Sink::Plain(file) };
        let (dense_features, tables) = (shape.dense_features, shape.table_rows.len());
        let mut writer = CriteoWriter { path, sink, csv, dense_features, tables, rows: 0, line: Vec::new() };
        if csv {
            writer.line.extend_from_slice(b"Id,Label");
            (1..=dense_features).try_for_each(|number| write!(writer.line, ",I{number}")).expect("a Vec takes all");
            (1..=tables).try_for_each(|number| write!(writer.line, ",C{number}")).expect("a Vec takes all");
            writer.put_line()?;
        }
        Ok(writer)
    }

    /// Appends one row.
    ///
    /// # Errors
    ///
    /// [`DataError::Request`] if the row does not have the file's columns; nothing is written then. [`DataError::Io`].
    pub fn write(&mut self, row: &CriteoRow) -> Result<(), DataError> {
        if row.dense.len() != self.dense_features || row.sparse.len() != self.tables {
            let problem = format!(
                "{}: row {} has {} dense features and {} categories, the file {} and {}",
                self.path.display(),
                self.rows,
                row.dense.len(),
                row.sparse.len(),
                self.dense_features,
                self.tables
            );
            return Err(DataError::Request { problem });
        }
        self.format(row).expect("a Vec takes all");
        self.put_line()?;
        self.rows += 1;
        Ok(())
    }

    /// Ends the file, gives it its name, and returns the number of rows. The data has reached the disk.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; a file that had the name is then untouched.
    pub fn finish(self) -> Result<u64, DataError> {
        let CriteoWriter { path, sink, rows, .. } = self;
        let file = match sink {
            Sink::Plain(file) => Ok(file),
            Sink::Gzip(encoder) => encoder.finish(),
        };
        let file = file.and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let file = file.and_then(|file| file.as_file().sync_all().map(|()| file));
        let file = file.map_err(|e| DataError::io(&path, "write", e))?;
        file.persist(&path).map_err(|e| DataError::io(&path, "rename the temporary file to", e.error))?;
        Ok(rows)
    }

    fn format(&mut self, row: &CriteoRow) -> io::Result<()> {
        let separator = if self.csv { ',' } else { '\t' };
        let line = &mut self.line;
        if self.csv {
            write!(line, "{},", self.rows)?;
        }
        write!(line, "{}", u8::from(row.label))?;
        for value in &row.dense {
            match value {
                Some(value) => write!(line, "{separator}{value}")?,
                None => write!(line, "{separator}")?,
            }
        }
        for category in &row.sparse {
            match category {
                Some(category) => write!(line, "{separator}{category:08x}")?,
                None => write!(line, "{separator}")?,
            }
        }
        Ok(())
    }

    fn put_line(&mut self) -> Result<(), DataError> {
        self.line.push(b'\n');
        let written = match &mut self.sink {
            Sink::Plain(file) => file.write_all(&self.line),
            Sink::Gzip(encoder) => encoder.write_all(&self.line),
        };
        self.line.clear();
        written.map_err(|e| DataError::io(&self.path, "write", e))
    }
}

enum Sink {
    Plain(BufWriter<NamedTempFile>),
    Gzip(Box<GzEncoder<BufWriter<NamedTempFile>>>),
}

/// A temporary file in the folder of `path`, with the permissions of an ordinary file.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".slackline-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
