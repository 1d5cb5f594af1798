//! The names of a file's rows.

use std::ops::Range;
use std::path::Path;

use crate::criteo::{Column, columns_of_header};
use crate::error::shorten;
use crate::lines::{Lines, Opened};
use crate::npz::NpzFile;
use crate::{DataError, Format};

/// Reads the id of every row, in order, to label what was computed from the file: the column `Id` of a CSV file, and
/// 0-based row numbers where there is none. The number of ids equals the number of samples that
/// [`Input`](crate::Input) reads from the same file.
///
/// This is a second, light pass: no other column is parsed, and memory is bounded by the longest line.
///
/// # Errors
///
/// As [`Input::open`](crate::Input::open) for the file; the iterator yields an error for a damaged file, or for a row that
/// ends before its id, and ends after it.
pub fn ids(path: impl AsRef<Path>, format: Option<Format>) -> Result<Ids, DataError> {
    let path = path.as_ref();
    let opened = Opened::open(path)?;
    let source = if format == Some(Format::Npz) || format.is_none() && opened.is_zip() {
        Source::Numbers(0..NpzFile::open(path)?.samples()? as u64)
    } else {
        let mut lines = opened.lines();
        let format = match format {
            Some(format) => format,
            None => Format::of_lines(&mut lines)?,
        };
        let header = if format == Format::CriteoCsv { lines.next()? } else { None };
        let columns = header.map_or(Vec::new(), |(_, line)| columns_of_header(line));
        let id = columns.iter().position(|&column| column == Column::Id);
        Source::Lines { lines, id, columns: columns.len(), row: 0 }
    };
    Ok(Ids { source })
}

/// The iterator that [`ids`] returns.
pub struct Ids {
    source: Source,
}

enum Source {
    Numbers(Range<u64>),
    Lines { lines: Lines, id: Option<usize>, columns: usize, row: u64 },
}

impl Iterator for Ids {
    type Item = Result<String, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match &mut self.source {
            Source::Numbers(range) => return range.next().map(|number| Ok(number.to_string())),
            Source::Lines { lines, id, columns, row } => next_id(lines, *id, *columns, row),
        };
        if result.is_err() {
            self.source = Source::Numbers(0..0);
        }
        result.transpose()
    }
}

fn next_id(lines: &mut Lines, id: Option<usize>, columns: usize, row: &mut u64) -> Result<Option<String>, DataError> {
    let path = lines.path().to_owned();
    let Some((line, text)) = lines.next()? else { return Ok(None) };
    let number = *row;
    *row += 1;
    let Some(id) = id else { return Ok(Some(number.to_string())) };
    let Some(field) = text.split(|&byte| byte == b',').nth(id) else {
        let found = text.split(|&byte| byte == b',').count();
        return Err(DataError::Columns { path, line, found, expected: format!("{columns} (as in the header)") });
    };
    match std::str::from_utf8(field) {
        Ok(field) => Ok(Some(field.to_owned())),
        Err(_) => {
            let column = Column::Id.to_string();
            Err(DataError::Value { path, line, column, value: shorten(field), expected: "UTF-8 text" })
        }
    }
}
