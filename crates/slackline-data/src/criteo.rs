//! Criteo's click logs: rows into batches.

use std::path::PathBuf;

use memchr::{memchr, memchr_iter};

use crate::columns::{Column, csv_columns, tsv_columns};
use crate::error::shorten;
use crate::fields::{parse_dense, parse_hex, parse_label};
use crate::lines::Lines;
use crate::preprocessing::DenseTransform;
use crate::quotes::fields;
use crate::rows::Rows;
use crate::{Batch, DataError, InputFormat, InputShape};

pub(crate) struct CriteoReader {
    lines: Lines,
    separator: u8,
    columns: Vec<Column>,
    /// The columns, for errors.
    layout: String,
    dense_features: usize,
    transform: DenseTransform,
    rows: Rows,
}

impl CriteoReader {
    pub(crate) fn new(
        mut lines: Lines,
        format: InputFormat,
        shape: &InputShape,
        transform: DenseTransform,
        rows: Rows,
    ) -> Result<Self, DataError> {
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
        Ok(CriteoReader { lines, separator, columns, layout, dense_features: shape.dense_features, transform, rows })
    }

    pub(crate) fn fill(&mut self, max_samples: usize, batch: &mut Batch, wanted: Wanted) -> Result<(), DataError> {
        while batch.samples < max_samples {
            let Some((number, line)) = self.lines.next()? else { break };
            let row = Row {
                separator: self.separator,
                columns: &self.columns,
                dense_features: self.dense_features,
                transform: self.transform,
                rows: &self.rows,
            };
            if let Err(problem) = row.parse(line, batch, wanted) {
                let path = self.lines.path().to_owned();
                return Err(problem.at(path, number, self.columns.len(), &self.layout));
            }
            batch.samples += 1;
        }
        if wanted == Wanted::All {
            for table in &mut batch.tables {
                // One index in each bag.
                table.offsets.extend(0..=batch.samples as i64);
            }
        }
        Ok(())
    }

    /// Passes over rows without looking at their columns.
    pub(crate) fn skip(&mut self, samples: usize) -> Result<usize, DataError> {
        for skipped in 0..samples {
            if self.lines.next()?.is_none() {
                return Ok(skipped);
            }
        }
        Ok(samples)
    }

    pub(crate) fn has(&self, column: Column) -> bool {
        self.columns.contains(&column)
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }
}

/// Which columns are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// Labels and ids.
    Marks,
}

/// How to parse a row.
struct Row<'a> {
    separator: u8,
    columns: &'a [Column],
    dense_features: usize,
    transform: DenseTransform,
    rows: &'a Rows,
}

enum RowProblem {
    Count { found: usize },
    Quotes { problem: &'static str },
    Value { column: Column, value: String, expected: &'static str },
}

impl RowProblem {
    fn at(self, path: PathBuf, line: u64, columns: usize, layout: &str) -> DataError {
        match self {
            RowProblem::Count { found } => {
                DataError::Columns { path, line, found, expected: format!("{columns} ({layout})") }
            }
            RowProblem::Quotes { problem } => DataError::Quotes { path, line, problem },
            RowProblem::Value { column, value, expected } => {
                DataError::Value { path, line, column: column.to_string(), value, expected }
            }
        }
    }
}

impl Row<'_> {
    /// Appends one row to the batch. Without quotes it allocates only memory of the batch.
    fn parse(&self, line: &[u8], batch: &mut Batch, wanted: Wanted) -> Result<(), RowProblem> {
        let base = batch.dense.len();
        if wanted == Wanted::All {
            batch.dense.resize(base + self.dense_features, 0.0);
        }
        let mut take = |column, field: &[u8]| match (column, wanted) {
            (Column::Dense(_) | Column::Sparse(_), Wanted::Marks) => Ok(()),
            _ => self.take(column, field, base, batch),
        };
        let mut columns = self.columns.iter();
        if memchr(b'"', line).is_some() {
            let fields = fields(line, self.separator).map_err(|problem| RowProblem::Quotes { problem })?;
            if fields.len() != self.columns.len() {
                return Err(RowProblem::Count { found: fields.len() });
            }
            return columns.zip(&fields).try_for_each(|(column, field)| take(*column, field));
        }
        let mut from = 0;
        for to in memchr_iter(self.separator, line).chain(std::iter::once(line.len())) {
            let Some(&column) = columns.next() else { return Err(self.miscounted(line)) };
            take(column, &line[from..to])?;
            from = to + 1;
        }
        if columns.next().is_some() { Err(self.miscounted(line)) } else { Ok(()) }
    }

    /// Puts a value into the batch; the row's dense features begin at `base`.
    #[inline]
    fn take(&self, column: Column, field: &[u8], base: usize, batch: &mut Batch) -> Result<(), RowProblem> {
        let bad = |expected| RowProblem::Value { column, value: shorten(field), expected };
        match column {
            Column::Dense(number) => {
                let field = if field.is_empty() { b"0" } else { field };
                let value = parse_dense(field, self.transform);
                batch.dense[base + number] = value.ok_or_else(|| bad(self.transform.domain()))?;
            }
            Column::Sparse(number) => {
                let category = parse_hex(field).ok_or_else(|| bad("a hexadecimal number of at most 16 digits"))?;
                batch.tables[number].indices.push(self.rows.of_category(number, category).map_err(bad)?);
            }
            Column::Label => batch.labels.push(parse_label(field).ok_or_else(|| bad("a label from 0 to 1"))?),
            Column::Id => batch.ids.push(field),
            Column::Other => {}
        }
        Ok(())
    }

    #[cold]
    fn miscounted(&self, line: &[u8]) -> RowProblem {
        RowProblem::Count { found: memchr_iter(self.separator, line).count() + 1 }
    }
}
