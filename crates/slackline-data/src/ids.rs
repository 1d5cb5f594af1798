//! The ids of the rows of a file.

use std::ops::Range;
use std::path::Path;

use crate::columns::{Column, columns_of_header};
use crate::error::shorten;
use crate::lines::{Lines, Opened};
use crate::quotes::fields;
use crate::{DataError, Input, InputFormat, InputOptions, InputShape};

/// Reads the id of every row, in order, to label results: the column `Id` of a CSV file, or row numbers from 0 if there is
/// none. There are as many ids as samples that [`Input`] reads from the same file.
///
/// This is a second, cheap pass over the file: no other column is parsed, and memory is that of the longest line.
///
/// # Errors
///
/// As [`Input::open_with`] for the file. The iterator gives an error for a damaged file or a row that ends before its id, and
/// ends after that.
pub fn ids(path: impl AsRef<Path>, options: &InputOptions, shape: &InputShape) -> Result<Ids, DataError> {
    let path = path.as_ref();
    let opened = Opened::open(path)?;
    let known = match options.format {
        Some(format) => Some(format),
        None => InputFormat::of_start(&opened, path)?,
    };
    if known.is_some_and(|format| !format.is_text()) {
        let samples = Input::open_with(path, options, shape)?.samples_total();
        return Ok(Ids { source: Source::Numbers(0..samples.expect("arrays have a number of rows")) });
    }
    let mut lines = opened.lines()?;
    let format = known.map_or_else(|| InputFormat::of_lines(&mut lines), Ok)?;
    let is_csv = format == InputFormat::CriteoCsv;
    lines.separated_by(if is_csv { b',' } else { b'\t' });
    let header = if is_csv { lines.next()? } else { None };
    let columns = header.map(|(line, header)| {
        let wrong = |problem| DataError::Quotes { path: path.to_owned(), line, problem };
        columns_of_header(header).map_err(wrong)
    });
    let columns = columns.transpose()?.unwrap_or_default();
    let id = columns.iter().position(|&column| column == Column::Id);
    Ok(Ids { source: Source::Lines { lines, id, columns: columns.len(), row: 0 } })
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
    let fields = fields(text, b',').map_err(|problem| DataError::Quotes { path: path.clone(), line, problem })?;
    let Some(field) = fields.get(id) else {
        let found = fields.len();
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
