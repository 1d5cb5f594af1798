//! Criteo's click logs: rows into batches.

use std::path::PathBuf;

use memchr::memchr_iter;

use crate::columns::{Column, csv_columns, tsv_columns};
use crate::error::shorten;
use crate::fields::{parse_dense, parse_hex, parse_label};
use crate::lines::Lines;
use crate::{Batch, DataError, InputFormat, InputShape};

pub(crate) struct CriteoReader {
    lines: Lines,
    separator: u8,
    columns: Vec<Column>,
    /// The columns, for errors.
    layout: String,
    dense_features: usize,
    table_rows: Vec<usize>,
    samples_read: u64,
    spent: bool,
}

impl CriteoReader {
    pub(crate) fn new(mut lines: Lines, format: InputFormat, shape: &InputShape) -> Result<Self, DataError> {
        shape.check_columns()?;
        let (separator, columns) = match format {
            InputFormat::CriteoCsv => (b',', csv_columns(&mut lines, shape)?),
            _ => (b'\t', tsv_columns(&mut lines, shape)?),
        };
        let layout = match (format, columns.contains(&Column::Label)) {
            (InputFormat::CriteoCsv, _) => "as in the header".to_owned(),
            (_, true) => format!("label, {shape}"),
            (_, false) => format!("{shape}, as in the first row"),
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
        if !self.take(max_samples, batch, Wanted::All)? {
            return Ok(false);
        }
        for table in &mut batch.tables {
            // One index in each bag.
            table.offsets.extend(0..=batch.samples as i64);
        }
        Ok(true)
    }

    /// Reads labels and ids only.
    pub(crate) fn skip_batch(&mut self, max_samples: usize, batch: &mut Batch) -> Result<bool, DataError> {
        self.take(max_samples, batch, Wanted::Marks)
    }

    fn take(&mut self, max_samples: usize, batch: &mut Batch, wanted: Wanted) -> Result<bool, DataError> {
        batch.reset(self.samples_read, self.table_rows.len());
        if self.spent {
            return Err(DataError::Spent { path: self.lines.path().to_owned() });
        }
        if let Err(error) = self.fill(max_samples, batch, wanted) {
            self.spent = true;
            batch.reset(self.samples_read, self.table_rows.len());
            return Err(error);
        }
        self.samples_read += batch.samples as u64;
        Ok(batch.samples > 0)
    }

    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    fn fill(&mut self, max_samples: usize, batch: &mut Batch, wanted: Wanted) -> Result<(), DataError> {
        while batch.samples < max_samples {
            let Some((number, line)) = self.lines.next()? else { break };
            let row = Row {
                separator: self.separator,
                columns: &self.columns,
                dense_features: self.dense_features,
                table_rows: &self.table_rows,
            };
            if let Err(problem) = row.parse(line, batch, wanted) {
                let path = self.lines.path().to_owned();
                return Err(problem.at(path, number, self.columns.len(), &self.layout));
            }
            batch.samples += 1;
        }
        Ok(())
    }
}

/// Which columns are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    /// Labels and ids.
    Marks,
}

/// How to parse a row.
struct Row<'a> {
    separator: u8,
    columns: &'a [Column],
    dense_features: usize,
    table_rows: &'a [usize],
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
    /// Appends one row to the batch, and allocates only memory of the batch.
    fn parse(&self, line: &[u8], batch: &mut Batch, wanted: Wanted) -> Result<(), RowProblem> {
        let base = batch.dense.len();
        if wanted == Wanted::All {
            batch.dense.resize(base + self.dense_features, 0.0);
        }
        let dense = &mut batch.dense[base..];
        let mut columns = self.columns.iter();
        let mut from = 0;
        for to in memchr_iter(self.separator, line).chain(std::iter::once(line.len())) {
            let field = &line[from..to];
            from = to + 1;
            let Some(&column) = columns.next() else { return Err(self.miscounted(line)) };
            let bad = |expected| RowProblem::Value { column, value: shorten(field), expected };
            match column {
                Column::Dense(_) | Column::Sparse(_) if wanted == Wanted::Marks => {}
                Column::Dense(number) => {
                    if !field.is_empty() {
                        dense[number] = parse_dense(field).ok_or_else(|| bad("a finite number"))?;
                    }
                }
                Column::Sparse(number) => {
                    let category = parse_hex(field).ok_or_else(|| bad("a hexadecimal number of at most 16 digits"))?;
                    batch.tables[number].indices.push((category % self.table_rows[number] as u64) as i64);
                }
                Column::Label => batch.labels.push(parse_label(field).ok_or_else(|| bad("a label from 0 to 1"))?),
                Column::Id => batch.ids.push(field),
                Column::Other => {}
            }
        }
        if columns.next().is_some() { Err(self.miscounted(line)) } else { Ok(()) }
    }

    #[cold]
    fn miscounted(&self, line: &[u8]) -> RowProblem {
        RowProblem::Count { found: memchr_iter(self.separator, line).count() + 1 }
    }
}
