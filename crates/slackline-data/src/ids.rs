//! The ids of the rows of a file.

use std::ops::Range;
use std::path::Path;

use crate::columns::{Column, columns_of_header};
use crate::error::shorten;
use crate::lines::{Lines, Opened};
use crate::{DataError, InputFormat};

/// Reads the id of every row, in order, to label results: the column `Id` of a CSV file, or row numbers from 0 if there is
/// none. There are as many ids as samples that [`Input`](crate::Input) reads from the same file.
///
/// This is a second, cheap pass over the file: no other column is parsed, and memory is that of the longest line.
///
/// # Errors
///
/// As [`Input::open`](crate::Input::open) for the file. The iterator gives an error for a damaged file or a row that ends
/// before its id, and ends after that.
pub fn ids(path: impl AsRef<Path>, format: Option<InputFormat>) -> Result<Ids, DataError> {
    let path = path.as_ref();
    let opened = Opened::open(path)?;
    let source = if format == Some(InputFormat::Npz) || format.is_none() && opened.is_zip() {
        Source::Numbers(0..samples_of_npz(path)?)
    } else {
        let mut lines = opened.lines()?;
        let format = match format {
            Some(format) => format,
            None => InputFormat::of_lines(&mut lines)?,
        };
        let header = if format == InputFormat::CriteoCsv { lines.next()? } else { None };
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

#[cfg(feature = "npz")]
fn samples_of_npz(path: &Path) -> Result<u64, DataError> {
    Ok(crate::npz::NpzFile::open(path)?.samples()? as u64)
}

#[cfg(not(feature = "npz"))]
fn samples_of_npz(path: &Path) -> Result<u64, DataError> {
    Err(DataError::missing(path, "npz"))
}
