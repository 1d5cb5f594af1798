//! One reader for all formats.

use std::path::Path;

use crate::columns::Column;
use crate::criteo::CriteoReader;
use crate::lines::Opened;
#[cfg(feature = "npz")]
use crate::npz_input::NpzReader;
use crate::{Batch, DataError, InputFormat, InputShape, TableInput};

/// An input file, read batch by batch.
///
/// Text formats are streamed: memory is that of two of the longest lines ([`MAX_LINE`](crate::MAX_LINE)) and of the batch,
/// whatever the size of the file, and the file may be a pipe. An `.npz` archive is loaded when it is opened (numbers as `f32`
/// and `i64`): memory is that of its arrays.
///
/// # Criteo's formats
///
/// A dense feature becomes [`dense_transform`](crate::dense_transform) of its number; a category becomes the row
/// `number modulo rows of the table`. Empty fields give 0 and row 0. Lines may end with CR LF, the last line needs no line
/// end, and blank lines are skipped (they count as lines, not as samples).
pub struct Input {
    format: InputFormat,
    reader: Reader,
}

enum Reader {
    Criteo(Box<CriteoReader>),
    #[cfg(feature = "npz")]
    Npz(Box<NpzReader>),
}

impl Input {
    /// Opens a file. Without a `format` it is found by content, as by [`InputFormat::detect`].
    ///
    /// # Errors
    ///
    /// * [`DataError::Io`] and [`DataError::Corrupt`] for the file,
    /// * [`DataError::UnknownFormat`] if the file has none of the formats,
    /// * [`DataError::MissingFeature`] if its format needs a feature that is off,
    /// * [`DataError::Header`], [`DataError::Columns`], [`DataError::Member`] and [`DataError::MemberValue`] if it does not
    ///   match the shape,
    /// * [`DataError::Request`] for a table with no rows or more than `i64::MAX`, or a Criteo file of one column.
    pub fn open(path: impl AsRef<Path>, format: Option<InputFormat>, shape: &InputShape) -> Result<Input, DataError> {
        let path = path.as_ref();
        let opened = Opened::open(path)?;
        if format == Some(InputFormat::Npz) || format.is_none() && opened.is_zip() {
            return Ok(Input { format: InputFormat::Npz, reader: open_npz(path, shape)? });
        }
        let mut lines = opened.lines()?;
        let format = match format {
            Some(format) => format,
            None => InputFormat::of_lines(&mut lines)?,
        };
        let reader = Reader::Criteo(Box::new(CriteoReader::new(lines, format, shape)?));
        Ok(Input { format, reader })
    }

    /// Replaces the content of the batch by the next samples: `max_samples` of them, or fewer at the end of the input. After
    /// the end it returns `false` and the batch is empty. The buffers of the batch are reused. A sample does not depend on
    /// the batch that it is in.
    ///
    /// # Errors
    ///
    /// [`DataError::Columns`], [`DataError::Value`] and [`DataError::LineTooLong`] for a malformed row,
    /// [`DataError::Corrupt`] and [`DataError::Io`] for the file. The batch is then empty, and later calls return
    /// [`DataError::Spent`]. [`DataError::Request`] if `max_samples` is 0: then nothing changes.
    pub fn next_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        if max_samples == 0 {
            return Err(DataError::Request { problem: "max_samples is 0".to_owned() });
        }
        match &mut self.reader {
            Reader::Criteo(reader) => reader.next_batch(max_samples, batch),
            #[cfg(feature = "npz")]
            Reader::Npz(reader) => Ok(reader.next_batch(max_samples, batch)),
        }
    }

    /// As [`next_batch`](Self::next_batch) for samples of which only labels and ids are wanted: `dense` and the bags are then
    /// empty, and of text what stands in those columns is not looked at. For passing over rows that were predicted before.
    ///
    /// # Errors
    ///
    /// Those of [`next_batch`](Self::next_batch) that concern what is read.
    pub fn skip_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        match &mut self.reader {
            Reader::Criteo(reader) if max_samples > 0 => reader.skip_batch(max_samples, batch),
            _ => {
                let more = self.next_batch(max_samples, batch)?;
                batch.dense.clear();
                for TableInput { indices, offsets, weights } in &mut batch.tables {
                    indices.clear();
                    offsets.clear();
                    weights.clear();
                }
                Ok(more)
            }
        }
    }

    /// The format, given or found.
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// Whether batches have labels.
    pub fn has_labels(&self) -> bool {
        match &self.reader {
            Reader::Criteo(reader) => reader.has(Column::Label),
            #[cfg(feature = "npz")]
            Reader::Npz(reader) => reader.has_labels(),
        }
    }

    /// Whether rows have ids.
    pub fn has_ids(&self) -> bool {
        matches!(&self.reader, Reader::Criteo(reader) if reader.has(Column::Id))
    }

    /// Bytes of the file read so far (compressed ones, if it is gzipped), at most a buffer of about 320 KiB ahead of the
    /// batches. With [`total_bytes`](Self::total_bytes) it gives the progress.
    pub fn bytes_read(&self) -> u64 {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().bytes_read(),
            #[cfg(feature = "npz")]
            Reader::Npz(reader) => reader.bytes(),
        }
    }

    /// The size of the file; `None` for a pipe.
    pub fn total_bytes(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().total_bytes(),
            #[cfg(feature = "npz")]
            Reader::Npz(reader) => Some(reader.bytes()),
        }
    }

    /// The number of samples of the whole input, if the format has it.
    pub fn samples_total(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(_) => None,
            #[cfg(feature = "npz")]
            Reader::Npz(reader) => Some(reader.samples() as u64),
        }
    }
}

#[cfg(feature = "npz")]
fn open_npz(path: &Path, shape: &InputShape) -> Result<Reader, DataError> {
    Ok(Reader::Npz(Box::new(NpzReader::open(path, shape)?)))
}

#[cfg(not(feature = "npz"))]
fn open_npz(path: &Path, _: &InputShape) -> Result<Reader, DataError> {
    Err(DataError::missing(path, "npz"))
}
