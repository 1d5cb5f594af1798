//! In which format the rows of each table are kept, and bringing them into it.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use slackline_embedding::{RowFormat, Rows, ShardWriter, UnfitRow};

use super::tensors::TensorSpec;
use crate::{DlrmError, Result};

/// One choice of a row format: for all tables, or for those whose name has a pattern.
///
/// Parsed from `FORMAT` or `PATTERN=FORMAT`, where a `*` in the pattern stands for any text, `?` for any character and
/// `[0-4]` for one of some characters.
///
/// ```
/// use slackline_dlrm::RowChoice;
/// use slackline_embedding::RowFormat;
///
/// let choices: Vec<RowChoice> = ["int8".parse()?, "emb_l.[0-3].*=f16".parse()?].into();
/// let of = |table| RowChoice::of(&choices, table);
/// assert_eq!(of("emb_l.2.weight"), Some(RowFormat::F16));
/// assert_eq!(of("emb_l.20.weight"), Some(RowFormat::Int8));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChoice {
    /// None for all tables.
    pattern: Option<Pattern>,
    format: RowFormat,
}

impl RowChoice {
    /// All tables.
    pub fn all(format: RowFormat) -> Self {
        RowChoice { pattern: None, format }
    }

    /// The format that the last fitting choice gives a table.
    pub fn of(choices: &[RowChoice], table: &str) -> Option<RowFormat> {
        choices.iter().rev().find(|choice| choice.fits(table)).map(|choice| choice.format)
    }

    fn fits(&self, table: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(table))
    }

    /// Checks that every pattern fits some table: one that does not is a slip.
    pub(super) fn check(choices: &[RowChoice], tables: &[TensorSpec]) -> Result<()> {
        match choices.iter().find(|choice| !tables.iter().any(|table| choice.fits(&table.name))) {
            Some(idle) => Err(DlrmError::IdleChoice { choice: idle.to_string() }),
            None => Ok(()),
        }
    }
}

impl FromStr for RowChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, format) = match text.rsplit_once('=') {
            Some((pattern, format)) => (Some(pattern), format),
            None => (None, text),
        };
        let pattern = pattern.map(Pattern::new).transpose().map_err(|error| format!("pattern: {error}"))?;
        Ok(RowChoice { pattern, format: format.parse().map_err(|error| format!("{error}"))? })
    }
}

impl fmt::Display for RowChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Some(pattern) => write!(f, "{pattern}={}", self.format),
            None => self.format.fmt(f),
        }
    }
}

/// What a table lost when its rows were brought into a format.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowLoss {
    /// The table's tensor.
    pub table: String,
    /// How its rows are kept.
    pub format: RowFormat,
    /// The largest difference of a value to what it was.
    pub largest: f64,
    /// The square root of the mean square of all differences.
    pub rms: f64,
}

/// Values on their way into a table of a shard, row by row.
pub(super) struct RowEncoder<'a> {
    writer: &'a mut ShardWriter,
    /// The table's place in the shard.
    place: usize,
    table: &'a str,
    format: RowFormat,
    /// A row that is not whole yet.
    part: Vec<f32>,
    dim: usize,
    row: u64,
    bytes: Vec<u8>,
    back: Vec<f32>,
    largest: f64,
    squares: f64,
}

impl<'a> RowEncoder<'a> {
    pub(super) fn new(
        writer: &'a mut ShardWriter,
        place: usize,
        table: &'a str,
        dim: usize,
        format: RowFormat,
    ) -> Self {
        let (part, back) = (Vec::with_capacity(dim), vec![0.0; dim]);
        RowEncoder {
            writer,
            place,
            table,
            format,
            part,
            dim,
            row: 0,
            bytes: Vec::new(),
            back,
            largest: 0.0,
            squares: 0.0,
        }
    }

    /// Takes the next values, which need not end with a row.
    pub(super) fn push(&mut self, mut values: &[f32]) -> Result<()> {
        if self.format == RowFormat::F32 {
            return Ok(self.writer.write_rows(self.place, bytemuck::cast_slice(values))?);
        }
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
        let rows = values.chunks_exact(self.dim);
        let rest = rows.remainder();
        for row in rows {
            self.encode(row)?;
        }
        self.part.extend_from_slice(rest);
        Ok(self.writer.write_rows(self.place, &self.bytes)?)
    }

    /// What was lost; `None` if nothing can be.
    pub(super) fn finish(self) -> Option<RowLoss> {
        let values = (self.row * self.dim as u64).max(1);
        (self.format != RowFormat::F32).then(|| RowLoss {
            table: self.table.to_owned(),
            format: self.format,
            largest: self.largest,
            rms: (self.squares / values as f64).sqrt(),
        })
    }

    fn encode(&mut self, row: &[f32]) -> Result<()> {
        let from = self.bytes.len();
        self.bytes.resize(from + self.format.row_bytes(self.dim), 0);
        let bytes = &mut self.bytes[from..];
        if let Err(source) = self.format.encode(row, bytes) {
            return Err(UnfitRow { table: self.table.to_owned(), row: self.row, source }.into());
        }
        Rows::new(self.format, self.dim, bytes).decode(0, &mut self.back);
        for (value, back) in row.iter().zip(&self.back) {
            // Infinities and NaNs come back as they were.
            let error = if value.is_finite() { (f64::from(*value) - f64::from(*back)).abs() } else { 0.0 };
            self.largest = self.largest.max(error);
            self.squares += error * error;
        }
        self.row += 1;
        Ok(())
    }
}
