//! One reader over all formats.

use std::path::Path;

use crate::criteo::{Column, CriteoReader};
use crate::lines::Opened;
use crate::npz_input::NpzReader;
use crate::{Batch, DataError, Format, InputShape};

/// An input file, read batch by batch.
///
/// Text formats are streamed: memory is bounded by two of the longest lines ([`MAX_LINE`](crate::MAX_LINE)) and the
/// caller's batch, whatever the size of the file, and a pipe can be read. An `.npz` archive is loaded when it is opened
/// (numbers as `f32` and `i64`); its memory is bounded by the size of its arrays.
///
/// # Criteo's formats
///
/// A dense feature becomes [`dense_transform`](crate::dense_transform) of its number, a category the row
/// `number modulo rows of the table`; empty fields are 0 and row 0. Lines may end with CR LF, the last line needs no end,
/// and blank lines are skipped (they count as lines, not as samples).
pub struct Input {
    format: Format,
    reader: Reader,
}

enum Reader {
    Criteo(Box<CriteoReader>),
    Npz(Box<NpzReader>),
}

impl Input {
    /// Opens a file; without a format it is found by content, as by [`Format::detect`].
    ///
    /// # Errors
    ///
    /// * [`DataError::Io`] and [`DataError::Corrupt`] for the file,
    /// * [`DataError::UnknownFormat`] if the content is none of the formats,
    /// * [`DataError::Header`], [`DataError::Columns`], [`DataError::Member`] and [`DataError::MemberValue`] if it does not
    ///   fit the shape,
    /// * [`DataError::Request`] for a table with no row or more than `i64::MAX`, or a Criteo file of one column.
    pub fn open(path: impl AsRef<Path>, format: Option<Format>, shape: &InputShape) -> Result<Input, DataError> {
        let path = path.as_ref();
        let opened = Opened::open(path)?;
        if format == Some(Format::Npz) || format.is_none() && opened.is_zip() {
            let reader = Reader::Npz(Box::new(NpzReader::open(path, shape)?));
            return Ok(Input { format: Format::Npz, reader });
        }
        let mut lines = opened.lines();
        let format = match format {
            Some(format) => format,
            None => Format::of_lines(&mut lines)?,
        };
        let reader = Reader::Criteo(Box::new(CriteoReader::new(lines, format, shape)?));
        Ok(Input { format, reader })
    }

    /// Replaces the batch by the next samples, at most `max_samples` of them; fewer only at the end of the input, and
    /// `false`, with an empty batch, after it. The batch's buffers are reused, and how samples are cut into batches does
    /// not change them.
    ///
    /// # Errors
    ///
    /// [`DataError::Columns`], [`DataError::Value`] and [`DataError::LineTooLong`] for a malformed row,
    /// [`DataError::Corrupt`] and [`DataError::Io`] for the file. The batch is then empty, and later calls return
    /// [`DataError::Spent`]. [`DataError::Request`] if `max_samples` is 0; nothing is changed then.
    pub fn next_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        if max_samples == 0 {
            return Err(DataError::Request { problem: "a batch of at most 0 samples".to_owned() });
        }
        match &mut self.reader {
            Reader::Criteo(reader) => reader.next_batch(max_samples, batch),
            Reader::Npz(reader) => Ok(reader.next_batch(max_samples, batch)),
        }
    }

    /// The format, given or found.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether batches have labels.
    pub fn has_labels(&self) -> bool {
        match &self.reader {
            Reader::Criteo(reader) => reader.has(Column::Label),
            Reader::Npz(reader) => reader.has_labels(),
        }
    }

    /// Whether rows have ids of their own, for [`ids`](crate::ids).
    pub fn has_ids(&self) -> bool {
        matches!(&self.reader, Reader::Criteo(reader) if reader.has(Column::Id))
    }

    /// Bytes of the file read so far, compressed if it is; up to a buffer (about 320 KiB) ahead of the batches. To be set
    /// against [`total_bytes`](Self::total_bytes).
    pub fn bytes_read(&self) -> u64 {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().bytes_read(),
            Reader::Npz(reader) => reader.bytes(),
        }
    }

    /// The size of the file; `None` for a pipe.
    pub fn total_bytes(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(reader) => reader.lines().total_bytes(),
            Reader::Npz(reader) => Some(reader.bytes()),
        }
    }

    /// How many samples the whole input has, where the format says so.
    pub fn samples_total(&self) -> Option<u64> {
        match &self.reader {
            Reader::Criteo(_) => None,
            Reader::Npz(reader) => Some(reader.samples() as u64),
        }
    }
}
