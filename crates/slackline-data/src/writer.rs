//! Writing click logs in Criteo's format.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

#[cfg(feature = "gzip")]
use flate2::{Compression, write::GzEncoder};

use crate::{DataError, InputShape, WholeFile};

/// One row to write; `None` is a missing value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriteoRow {
    /// Whether it is a click.
    pub label: bool,
    /// `[dense_features]`.
    pub dense: Vec<Option<i64>>,
    /// One category for each table, written as at least 8 hexadecimal digits.
    pub sparse: Vec<Option<u64>>,
}

/// Writes rows in Criteo's format to a [`WholeFile`], which appears under its name with [`finish`](Self::finish). A writer
/// that is dropped before that leaves nothing behind.
///
/// The format depends on the name of the file: CSV with a header and ids (row numbers from 0) if it ends with `.csv` or
/// `.csv.gz`, else tab-separated; gzipped if it ends with `.gz`.
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
    /// Starts a file, with a header if it is CSV. An existing file stays until [`finish`](Self::finish) replaces it.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`], [`DataError::Request`] for a shape that [`Input`](crate::Input) cannot read, or
    /// [`DataError::MissingFeature`] for a `.gz` file without the feature `gzip`.
    pub fn create(path: impl AsRef<Path>, shape: &InputShape) -> Result<CriteoWriter, DataError> {
        shape.check_columns()?;
        let path = path.as_ref().to_owned();
        let gzip = path.extension() == Some(OsStr::new("gz"));
        let inner = if gzip { path.with_extension("") } else { path.clone() };
        let csv = inner.extension() == Some(OsStr::new("csv"));
        let file = WholeFile::create(&path).map_err(|e| DataError::io(&path, "write", e))?;
        let file = BufWriter::with_capacity(128 << 10, file);
        let sink = if gzip { gzip_sink(file, &path)? } else { Sink::Plain(file) };
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
    /// [`DataError::Request`] if the row does not have the columns of the file: then nothing is written. [`DataError::Io`].
    pub fn write(&mut self, row: &CriteoRow) -> Result<(), DataError> {
        if row.dense.len() != self.dense_features || row.sparse.len() != self.tables {
            let problem = format!(
                "{}: row {} has {} dense features and {} categories, but the file has {} and {}",
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

    /// Finishes the file, syncs it to the disk, renames it, and returns the number of rows.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]: then an existing file of that name is unchanged.
    pub fn finish(self) -> Result<u64, DataError> {
        let CriteoWriter { path, sink, rows, .. } = self;
        let file = match sink {
            Sink::Plain(file) => Ok::<_, io::Error>(file),
            #[cfg(feature = "gzip")]
            Sink::Gzip(encoder) => encoder.finish(),
        };
        let file = file.and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        file.and_then(WholeFile::finish).map_err(|e| DataError::io(&path, "write", e))?;
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
            #[cfg(feature = "gzip")]
            Sink::Gzip(encoder) => encoder.write_all(&self.line),
        };
        self.line.clear();
        written.map_err(|e| DataError::io(&self.path, "write", e))
    }
}

enum Sink {
    Plain(BufWriter<WholeFile>),
    #[cfg(feature = "gzip")]
    Gzip(Box<GzEncoder<BufWriter<WholeFile>>>),
}

#[cfg(feature = "gzip")]
fn gzip_sink(file: BufWriter<WholeFile>, _: &Path) -> Result<Sink, DataError> {
    Ok(Sink::Gzip(Box::new(GzEncoder::new(file, Compression::default()))))
}

#[cfg(not(feature = "gzip"))]
fn gzip_sink(_: BufWriter<WholeFile>, path: &Path) -> Result<Sink, DataError> {
    Err(DataError::missing(path, "gzip"))
}
