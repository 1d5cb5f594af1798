//! Encoding values as rows of a table, and the rounding errors of that.

use serde::{Deserialize, Serialize};
use slackline_embedding::{RowFormat, Rows, UnfitRow};

use crate::Result;

/// The rounding errors of a table whose rows were converted to another format.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowLoss {
    /// The table's tensor.
    pub table: String,
    /// The new format.
    pub format: RowFormat,
    /// The largest absolute error of a value.
    pub largest: f64,
    /// The root mean square of all errors.
    pub rms: f64,
}

/// The rounding errors of a table so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Rows encoded.
    pub(super) rows: u64,
    /// The bits of two `f64`, since JSON may not preserve their values: the largest error and the sum of all squares.
    largest: u64,
    squares: u64,
}

impl Tally {
    fn add(&mut self, row: &[f32], back: &[f32]) {
        let (mut largest, mut squares) = (f64::from_bits(self.largest), f64::from_bits(self.squares));
        for (value, back) in row.iter().zip(back) {
            // Infinities and NaNs are preserved.
            let error = if value.is_finite() { (f64::from(*value) - f64::from(*back)).abs() } else { 0.0 };
            largest = largest.max(error);
            squares += error * error;
        }
        self.rows += 1;
        (self.largest, self.squares) = (largest.to_bits(), squares.to_bits());
    }

    /// The errors of the whole table; `None` if the format is exact.
    pub(super) fn loss(&self, table: &str, format: RowFormat, dim: usize) -> Option<RowLoss> {
        let values = (self.rows * dim as u64).max(1);
        (format != RowFormat::F32).then(|| RowLoss {
            table: table.to_owned(),
            format,
            largest: f64::from_bits(self.largest),
            rms: (f64::from_bits(self.squares) / values as f64).sqrt(),
        })
    }
}

/// Encodes values as whole rows.
pub(super) struct RowEncoder<'a> {
    table: &'a str,
    format: RowFormat,
    /// The values of an incomplete row.
    part: Vec<f32>,
    dim: usize,
    bytes: Vec<u8>,
    back: Vec<f32>,
    pub(super) tally: Tally,
}

impl<'a> RowEncoder<'a> {
    pub(super) fn new(table: &'a str, dim: usize, format: RowFormat, tally: Tally) -> Self {
        let (part, back) = (Vec::with_capacity(dim), vec![0.0; dim]);
        RowEncoder { table, format, part, dim, bytes: Vec::new(), back, tally }
    }

    /// Takes the next values, which may end within a row. Returns the rows that they complete, and the errors so far.
    pub(super) fn push(&mut self, mut values: &[f32]) -> Result<(&[u8], Tally)> {
        self.bytes.clear();
        if !self.part.is_empty() {
            let (first, rest) = values.split_at(values.len().min(self.dim - self.part.len()));
            self.part.extend_from_slice(first);
            values = rest;
            if self.part.len() == self.dim {
                let row = std::mem::take(&mut self.part);
                self.encode(&row)?;
                self.part = row;
                self.part.clear();
            }
        }
        let (rows, rest) = values.split_at(values.len() / self.dim * self.dim);
        if self.format == RowFormat::F32 {
            self.bytes.extend_from_slice(bytemuck::cast_slice(rows));
        } else {
            rows.chunks_exact(self.dim).try_for_each(|row| self.encode(row))?;
        }
        self.part.extend_from_slice(rest);
        Ok((&self.bytes, self.tally))
    }

    fn encode(&mut self, row: &[f32]) -> Result<()> {
        if self.format == RowFormat::F32 {
            self.bytes.extend_from_slice(bytemuck::cast_slice(row));
            return Ok(());
        }
        let from = self.bytes.len();
        self.bytes.resize(from + self.format.row_bytes(self.dim), 0);
        let bytes = &mut self.bytes[from..];
        if let Err(source) = self.format.encode(row, bytes) {
            return Err(UnfitRow { table: self.table.to_owned(), row: self.tally.rows, source }.into());
        }
        Rows::new(self.format, self.dim, bytes).decode(0, &mut self.back);
        self.tally.add(row, &self.back);
        Ok(())
    }
}
