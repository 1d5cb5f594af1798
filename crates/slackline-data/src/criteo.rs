//! Criteo click logs: where the columns are, and rows into batches.

use std::path::PathBuf;

use memchr::memchr_iter;

use crate::error::shorten;
use crate::lines::Lines;
use crate::{Batch, DataError, Format, InputShape, dense_transform};

/// What one column of a row holds; numbers are 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Label,
    Dense(usize),
    Sparse(usize),
    /// A CSV column that no one asked for.
    Other,
}

pub(crate) struct CriteoReader {
    lines: Lines,
    separator: u8,
    columns: Vec<Column>,
    /// What the columns are, for errors.
    layout: String,
    dense_features: usize,
    table_rows: Vec<u64>,
    samples_read: u64,
    spent: bool,
}

impl CriteoReader {
    pub(crate) fn new(mut lines: Lines, format: Format, shape: &InputShape) -> Result<Self, DataError> {
        shape.check_columns()?;
        let (separator, columns) = match format {
            Format::CriteoCsv => (b',', csv_columns(&mut lines, shape)?),
            _ => (b'\t', tsv_columns(&mut lines, shape)?),
        };
        let features = features_of(shape);
        let layout = match (format, columns.contains(&Column::Label)) {
            (Format::CriteoCsv, _) => "as in the header".to_owned(),
            (_, true) => format!("label, {features}"),
            (_, false) => format!("{features}, as in the first row"),
        };
        Ok(CriteoReader {
            lines,
            separator,
            columns,
            layout,
            dense_features: shape.dense_features,
            table_rows: shape.table_rows.clone(),
            samples_read: 0,
            spent: false,
        })
    }

    pub(crate) fn next_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        batch.reset(self.samples_read, self.table_rows.len());
        if self.spent {
            return Err(DataError::Spent { path: self.lines.path().to_owned() });
        }
        if let Err(error) = self.fill(max_samples, batch) {
            self.spent = true;
            batch.reset(self.samples_read, self.table_rows.len());
            return Err(error);
        }
        self.samples_read += batch.samples as u64;
        for table in &mut batch.tables {
            // One index a bag.
            table.offsets.extend(0..=batch.samples as i64);
        }
        Ok(batch.samples > 0)
    }

    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    fn fill(&mut self, max_samples: usize, batch: &mut Batch) -> Result<(), DataError> {
        while batch.samples < max_samples {
            let Some((number, line)) = self.lines.next()? else { break };
            let row = Row {
                separator: self.separator,
                columns: &self.columns,
                dense_features: self.dense_features,
                table_rows: &self.table_rows,
            };
            if let Err(problem) = row.parse(line, batch) {
                let path = self.lines.path().to_owned();
                return Err(problem.at(path, number, self.columns.len(), &self.layout));
            }
            batch.samples += 1;
        }
        Ok(())
    }
}

/// The columns that a CSV header names.
pub(crate) fn columns_of_header(line: &[u8]) -> Vec<Column> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    line.split(|&byte| byte == b',').map(column_of_name).collect()
}

fn column_of_name(name: &[u8]) -> Column {
    let name = name.trim_ascii();
    if name.eq_ignore_ascii_case(b"id") {
        return Column::Id;
    }
    if name.eq_ignore_ascii_case(b"label") {
        return Column::Label;
    }
    let number = || -> Option<usize> {
        let digits = name.get(1..).filter(|digits| digits.first().is_some_and(|&d| d.is_ascii_digit() && d != b'0'))?;
        std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?.checked_sub(1)
    };
    match (name.first(), number()) {
        (Some(b'I' | b'i'), Some(number)) => Column::Dense(number),
        (Some(b'C' | b'c'), Some(number)) => Column::Sparse(number),
        _ => Column::Other,
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Column::Id => f.write_str("Id"),
            Column::Label => f.write_str("Label"),
            Column::Dense(number) => write!(f, "I{}", number + 1),
            Column::Sparse(number) => write!(f, "C{}", number + 1),
            Column::Other => f.write_str("(other)"),
        }
    }
}

fn features_of(shape: &InputShape) -> String {
    format!("{} dense features and {} tables", shape.dense_features, shape.table_rows.len())
}

fn csv_columns(lines: &mut Lines, shape: &InputShape) -> Result<Vec<Column>, DataError> {
    let path = lines.path().to_owned();
    let header_error = |line, problem| DataError::Header { path, line, problem };
    let Some((line, header)) = lines.next()? else {
        return Err(header_error(1, "the file is empty".to_owned()));
    };
    let columns = columns_of_header(header);
    let mut dense = vec![false; shape.dense_features];
    let mut sparse = vec![false; shape.table_rows.len()];
    let (mut id, mut label) = ([false], [false]);
    for column in &columns {
        let seen = match column {
            Column::Other => continue,
            Column::Id => id.get_mut(0),
            Column::Label => label.get_mut(0),
            Column::Dense(number) => dense.get_mut(*number),
            Column::Sparse(number) => sparse.get_mut(*number),
        };
        match seen {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(header_error(line, format!("column {column} stands twice"))),
            None => {
                let problem = format!("column {column}, but the model has {}", features_of(shape));
                return Err(header_error(line, problem));
            }
        }
    }
    let missing_dense = dense.iter().position(|seen| !seen).map(Column::Dense);
    let missing_sparse = sparse.iter().position(|seen| !seen).map(Column::Sparse);
    if let Some(column) = missing_dense.or(missing_sparse) {
        let problem = format!("no column {column}, but the model has {}", features_of(shape));
        return Err(header_error(line, problem));
    }
    Ok(columns)
}

fn tsv_columns(lines: &mut Lines, shape: &InputShape) -> Result<Vec<Column>, DataError> {
    let path = lines.path().to_owned();
    let features = (0..shape.dense_features).map(Column::Dense);
    let features = features.chain((0..shape.table_rows.len()).map(Column::Sparse));
    let labelled = || std::iter::once(Column::Label).chain(features.clone()).collect();
    let count = shape.dense_features + shape.table_rows.len();
    let Some((line, row)) = lines.peek()? else { return Ok(features.collect()) };
    match memchr_iter(b'\t', row).count() + 1 {
        found if found == count + 1 => Ok(labelled()),
        found if found == count => Ok(features.collect()),
        found => {
            let expected = format!("{} (label, {}) or {count} (no label)", count + 1, features_of(shape));
            Err(DataError::Columns { path, line, found, expected })
        }
    }
}

/// How to parse a row.
struct Row<'a> {
    separator: u8,
    columns: &'a [Column],
    dense_features: usize,
    table_rows: &'a [u64],
}

enum RowProblem {
    Count { found: usize },
    Value { column: Column, value: String, expected: &'static str },
}

impl RowProblem {
    fn at(self, path: PathBuf, line: u64, columns: usize, layout: &str) -> DataError {
        match self {
            RowProblem::Count { found } => {
                DataError::Columns { path, line, found, expected: format!("{columns} ({layout})") }
            }
            RowProblem::Value { column, value, expected } => {
                DataError::Value { path, line, column: column.to_string(), value, expected }
            }
        }
    }
}

impl Row<'_> {
    /// Appends one row to the batch. Allocates nothing but room in the batch.
    fn parse(&self, line: &[u8], batch: &mut Batch) -> Result<(), RowProblem> {
        let base = batch.dense.len();
        batch.dense.resize(base + self.dense_features, 0.0);
        let dense = &mut batch.dense[base..];
        let mut columns = self.columns.iter();
        let mut from = 0;
        for to in memchr_iter(self.separator, line).chain(std::iter::once(line.len())) {
            let field = &line[from..to];
            from = to + 1;
            let Some(&column) = columns.next() else { return Err(self.miscounted(line)) };
            let bad = |expected| RowProblem::Value { column, value: shorten(field), expected };
            match column {
                Column::Dense(number) => {
                    if !field.is_empty() {
                        dense[number] = parse_dense(field).ok_or_else(|| bad("a finite number"))?;
                    }
                }
                Column::Sparse(number) => {
                    let category = parse_hex(field).ok_or_else(|| bad("a hexadecimal number of at most 16 digits"))?;
                    batch.tables[number].indices.push((category % self.table_rows[number]) as i64);
                }
                Column::Label => batch.labels.push(parse_label(field).ok_or_else(|| bad("a label from 0 to 1"))?),
                Column::Id | Column::Other => {}
            }
        }
        if columns.next().is_some() { Err(self.miscounted(line)) } else { Ok(()) }
    }

    #[cold]
    fn miscounted(&self, line: &[u8]) -> RowProblem {
        RowProblem::Count { found: memchr_iter(self.separator, line).count() + 1 }
    }
}

fn parse_dense(field: &[u8]) -> Option<f32> {
    let (negative, digits) = match field.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, field),
    };
    // Fifteen digits are exact in f64.
    if !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit) {
        let value = digits.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        return Some(if negative || value == 0 { 0.0 } else { dense_transform(value as f64) });
    }
    parse_finite(field).map(dense_transform)
}

fn parse_label(field: &[u8]) -> Option<f32> {
    match field {
        b"0" => Some(0.0),
        b"1" => Some(1.0),
        _ => parse_finite(field).filter(|label| (0.0..=1.0).contains(label)).map(|label| label as f32),
    }
}

fn parse_finite(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The number that a category stands for; 0 for an empty field, `None` where it is no number.
fn parse_hex(field: &[u8]) -> Option<u64> {
    if field.len() > 16 {
        return None;
    }
    let (mut value, mut wrong) = (0u64, 0u8);
    for &digit in field {
        let nibble = NIBBLES[usize::from(digit)];
        wrong |= nibble;
        value = value << 4 | u64::from(nibble & 15);
    }
    (wrong < 16).then_some(value)
}

/// The value of a hexadecimal digit, 16 where it is none.
static NIBBLES: [u8; 256] = {
    let mut nibbles = [16; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[b"0123456789abcdef"[digit] as usize] = digit as u8;
        nibbles[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    nibbles
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_fields() {
        assert_eq!(parse_hex(b""), Some(0));
        assert_eq!(parse_hex(b"68fd1e64"), Some(0x68fd_1e64));
        assert_eq!(parse_hex(b"FFFFFFFFFFFFFFFF"), Some(u64::MAX));
        for bad in ["10000000000000000", "0x1", "g", " 1", "1 ", "-1", "1.0", "é"] {
            assert_eq!(parse_hex(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn dense_fields() {
        assert_eq!(parse_dense(b"0"), Some(0.0));
        assert_eq!(parse_dense(b"-3"), Some(0.0));
        assert_eq!(parse_dense(b"-0.5"), Some(0.0));
        assert_eq!(parse_dense(b"260.0"), parse_dense(b"260"));
        assert_eq!(parse_dense(b"17668"), Some((17669f64).ln() as f32));
        assert_eq!(parse_dense(b"123456789012345678"), Some((123456789012345679f64).ln() as f32));
        for bad in ["-", "--1", "nan", "inf", "1e999", "1,0", "0x10", " 1", "1_000"] {
            assert_eq!(parse_dense(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn labels() {
        assert_eq!(parse_label(b"1.0"), Some(1.0));
        for bad in ["", "2", "-1", "yes", "nan"] {
            assert_eq!(parse_label(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn header_names_in_any_case_and_order() {
        use Column::*;
        let found = columns_of_header(b"\xef\xbb\xbfC2, id ,i1,LABEL,time,I0,C01,I13");
        assert_eq!(found, [Sparse(1), Id, Dense(0), Label, Other, Other, Other, Dense(12)]);
    }
}
