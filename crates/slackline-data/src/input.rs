//! One reader for all formats.

use std::path::{Path, PathBuf};

use crate::columns::Column;
use crate::criteo::{CriteoReader, Wanted};
#[cfg(feature = "npz")]
use crate::fixed::FixedReader;
use crate::lines::Opened;
#[cfg(feature = "npz")]
use crate::npz_input::BagsReader;
use crate::preprocessing::{InputOptions, SparseTransform, Transforms};
use crate::rows::{Rows, dictionary_file};
use crate::{Batch, DataError, InputFormat, InputShape, TableInput};

/// An input, read batch by batch.
///
/// All formats are streamed: memory is that of the batch and of buffers (for text two of the longest lines,
/// [`MAX_LINE`](crate::MAX_LINE); at most 64 KiB for each array, and 1 MiB for one in Fortran order), whatever the size of the
/// file. Text may come from a pipe; arrays are read at their places in the file. A column of an array that is deflated *and* in
/// Fortran order is found by inflating all that comes before it, once.
///
/// # Text
///
/// Without [options](InputOptions), a dense feature `x` becomes `ln(max(x, 0) + 1)`, and a category the row
/// `number modulo rows of the table`. Empty fields are the number 0. Fields may be quoted, also around separators and line
/// ends; two quotes in a quoted field stand for one. Lines may end with CR LF, the last line needs no line end, a byte order
/// mark is passed over, and blank lines are skipped (they count as lines, not as samples).
pub struct Input {
    path: PathBuf,
    format: InputFormat,
    transforms: Transforms,
    reader: Reader,
    tables: usize,
    dictionaries: Vec<PathBuf>,
    samples_read: u64,
    spent: bool,
}

enum Reader {
    Criteo(Box<CriteoReader>),
    #[cfg(feature = "npz")]
    Bags(Box<BagsReader>),
    #[cfg(feature = "npz")]
    Fixed(Box<FixedReader>),
}

impl Input {
    /// Opens a file. Without a `format` it is found by content, as by [`InputFormat::detect`].
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>, format: Option<InputFormat>, shape: &InputShape) -> Result<Input, DataError> {
        Input::open_with(path, &InputOptions { format, ..InputOptions::default() }, shape)
    }

    /// Opens a file, and those beside it that belong to it.
    ///
    /// # Errors
    ///
    /// * [`DataError::Io`] and [`DataError::Corrupt`] for the file,
    /// * [`DataError::UnknownFormat`] if the file has none of the formats,
    /// * [`DataError::MissingFeature`] if its format needs a feature that is off,
    /// * [`DataError::Header`], [`DataError::Columns`] and [`DataError::Member`] if it does not match the shape,
    /// * [`DataError::Request`] for a table with no rows or more than `i64::MAX`, a Criteo file of one column, options that
    ///   contradict each other, or a file that is missed beside this one.
    pub fn open_with(path: impl AsRef<Path>, options: &InputOptions, shape: &InputShape) -> Result<Input, DataError> {
        let path = path.as_ref();
        shape.check()?;
        let opened = Opened::open(path)?;
        let known = match options.format {
            Some(format) => Some(format),
            None => InputFormat::of_start(&opened, path)?,
        };
        let (format, lines) = match known {
            Some(format) if !format.is_text() => (format, None),
            _ => {
                let mut lines = opened.lines()?;
                (known.map_or_else(|| InputFormat::of_lines(&mut lines), Ok)?, Some(lines))
            }
        };
        if !matches!(format, InputFormat::MultiHot | InputFormat::Npy) {
            for (option, given) in [("--dense-file", &options.dense_file), ("--labels-file", &options.labels_file)] {
                if let Some(given) = given {
                    let (path, given) = (path.display(), given.display());
                    let problem = format!("{path}: {format} is read from one file; leave out {option} {given}");
                    return Err(DataError::Request { problem });
                }
            }
        }
        let transforms = Transforms::of(format, options)?;
        let dictionaries = match (transforms.sparse, &options.dictionary) {
            (SparseTransform::Dictionary, Some(prefix)) => {
                (0..shape.table_rows.len()).map(|table| dictionary_file(prefix, table)).collect()
            }
            _ => Vec::new(),
        };
        let rows = Rows::new(transforms.sparse, options, shape)?;
        let reader = match lines {
            Some(lines) => Reader::Criteo(Box::new(CriteoReader::new(lines, format, shape, transforms.dense, rows)?)),
            None => open_arrays(path, format, options, shape, transforms, rows)?,
        };
        let tables = shape.table_rows.len();
        let path = path.to_owned();
        Ok(Input { path, format, transforms, reader, tables, dictionaries, samples_read: 0, spent: false })
    }

    /// Replaces the content of the batch by the next samples: `max_samples` of them, or fewer at the end of the input. After
    /// the end it returns `false` and the batch is empty. The buffers of the batch are reused. A sample does not depend on
    /// the batch that it is in.
    ///
    /// # Errors
    ///
    /// [`DataError::Columns`], [`DataError::Value`], [`DataError::Quotes`] and [`DataError::LineTooLong`] for a malformed row,
    /// [`DataError::MemberValue`] for a malformed value, [`DataError::Member`], [`DataError::Corrupt`] and [`DataError::Io`]
    /// for the file. The batch is then empty, and later calls return [`DataError::Spent`]. [`DataError::Request`] if
    /// `max_samples` is 0: then nothing changes.
    pub fn next_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        self.read(max_samples, batch, Wanted::All)
    }

    fn read(&mut self, max_samples: usize, batch: &mut Batch, wanted: Wanted) -> Result<bool, DataError> {
        if max_samples == 0 {
            return Err(DataError::Request { problem: "max_samples is 0".to_owned() });
        }
        batch.reset(self.samples_read, self.tables);
        if self.spent {
            return Err(DataError::Spent { path: self.path.clone() });
        }
        let filled = match &mut self.reader {
            Reader::Criteo(reader) => reader.fill(max_samples, batch, wanted),
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => reader.fill(self.samples_read as usize, max_samples, batch),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => reader.fill(self.samples_read as usize, max_samples, batch),
        };
        if let Err(error) = filled {
            self.spent = true;
            batch.reset(self.samples_read, self.tables);
            return Err(error);
        }
        self.samples_read += batch.samples as u64;
        Ok(batch.samples > 0)
    }

    /// Passes over samples, and returns how many: fewer than asked for at the end of the input. The next batch has the same
    /// samples, with the same numbers, as if those before had been read. Values that are passed over are not looked at, and
    /// the checksum of an archive's member of which stored bytes were passed over is not compared.
    ///
    /// Cost: that of finding line ends in text, of inflating in deflated arrays, of the offsets in `npz`; hardly any otherwise.
    ///
    /// # Errors
    ///
    /// As [`next_batch`](Self::next_batch).
    pub fn skip(&mut self, samples: u64) -> Result<u64, DataError> {
        if self.spent {
            return Err(DataError::Spent { path: self.path.clone() });
        }
        let samples = usize::try_from(samples).unwrap_or(usize::MAX);
        let skipped = match &mut self.reader {
            Reader::Criteo(reader) => reader.skip(samples),
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => reader.skip(samples),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => reader.skip(samples),
        };
        let skipped = skipped.inspect_err(|_| self.spent = true)? as u64;
        self.samples_read += skipped;
        Ok(skipped)
    }

    /// As [`next_batch`](Self::next_batch) for samples of which only labels and ids are wanted: `dense` and the bags are then
    /// empty, and of text what stands in those columns is not looked at. For passing over rows that were predicted before.
    ///
    /// # Errors
    ///
    /// Those of [`next_batch`](Self::next_batch) that concern what is read.
    pub fn skip_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        let more = self.read(max_samples, batch, Wanted::Marks)?;
        batch.dense.clear();
        for TableInput { indices, offsets, weights } in &mut batch.tables {
            indices.clear();
            offsets.clear();
            weights.clear();
        }
        Ok(more)
    }

    /// The format, given or found.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// What is done to the file's values.
    pub fn transforms(&self) -> Transforms {
        self.transforms
    }

    /// The files that are read: the one given, those beside it, and dictionaries.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone()];
        #[cfg(feature = "npz")]
        if let Reader::Fixed(reader) = &self.reader {
            files = reader.files().to_vec();
        }
        files.extend_from_slice(&self.dictionaries);
        files
    }

    /// The lookups that all samples together have in each table, if the format has them; text has one for each sample.
    pub fn lookups_total(&self) -> Option<Vec<u64>> {
        match &self.reader {
            Reader::Criteo(_) => None,
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => Some(reader.lookups()),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => Some(reader.lookups()),
        }
    }

    /// The lookups of the samples read so far in each table.
    #[cfg(feature = "npz")]
    pub(crate) fn lookups_read(&self) -> Vec<u64> {
        match &self.reader {
            Reader::Criteo(_) => vec![self.samples_read; self.tables],
            Reader::Bags(reader) => reader.lookups_read(),
            Reader::Fixed(reader) => {
                let samples = (reader.samples() as u64).max(1);
                reader.lookups().iter().map(|total| total / samples * self.samples_read).collect()
            }
        }
    }

    /// Whether lookups in a table have weights.
    #[cfg(feature = "npz")]
    pub(crate) fn has_weights(&self, table: usize) -> bool {
        matches!(&self.reader, Reader::Bags(reader) if reader.has_weights(table))
    }

    /// Whether batches have labels.
    pub fn has_labels(&self) -> bool {
        match &self.reader {
            Reader::Criteo(reader) => reader.has(Column::Label),
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => reader.has_labels(),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => reader.has_labels(),
        }
    }

    /// Whether rows have ids.
    pub fn has_ids(&self) -> bool {
        matches!(&self.reader, Reader::Criteo(reader) if reader.has(Column::Id))
    }

    /// Bytes read so far (compressed ones, if text is gzipped), at most a buffer of about 320 KiB ahead of the batches; of
    /// arrays, their share of the samples. With [`total_bytes`](Self::total_bytes) it gives the progress.
    pub fn bytes_read(&self) -> u64 {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().bytes_read(),
            #[cfg(feature = "npz")]
            _ => {
                let (total, samples) = (self.total_bytes().unwrap_or(0), self.samples_total().unwrap_or(0));
                (u128::from(total) * u128::from(self.samples_read) / u128::from(samples.max(1))) as u64
            }
        }
    }

    /// The size of all files; `None` for a pipe.
    pub fn total_bytes(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().total_bytes(),
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => Some(reader.bytes()),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => Some(reader.bytes()),
        }
    }

    /// The number of samples of the whole input, if the format has it.
    pub fn samples_total(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(_) => None,
            #[cfg(feature = "npz")]
            Reader::Bags(reader) => Some(reader.samples() as u64),
            #[cfg(feature = "npz")]
            Reader::Fixed(reader) => Some(reader.samples() as u64),
        }
    }
}

#[cfg(feature = "npz")]
fn open_arrays(
    path: &Path,
    format: InputFormat,
    options: &InputOptions,
    shape: &InputShape,
    transforms: Transforms,
    rows: Rows,
) -> Result<Reader, DataError> {
    let Transforms { dense, sparse } = transforms;
    if format == InputFormat::Npz {
        return Ok(Reader::Bags(Box::new(BagsReader::open(path, shape, dense, rows, sparse)?)));
    }
    Ok(Reader::Fixed(Box::new(FixedReader::open(path, format, options, shape, dense, rows)?)))
}

#[cfg(not(feature = "npz"))]
fn open_arrays(
    path: &Path,
    _: InputFormat,
    _: &InputOptions,
    _: &InputShape,
    _: Transforms,
    _: Rows,
) -> Result<Reader, DataError> {
    Err(DataError::missing(path, "npz"))
}
