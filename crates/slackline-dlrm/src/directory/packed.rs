//! Tables of bytes in a checkpoint: rows that PyTorch or FBGEMM has quantised.

use std::path::Path;

use slackline_checkpoint::{DType, TensorInfo};
use slackline_embedding::{RowFormat, Rows};

use super::choice::RowChoice;
use super::tensors::TensorSpec;
use crate::{DlrmError, Result};

/// The rows of such a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) format: RowFormat,
    /// Bytes of one row, padding included.
    pub(super) row_bytes: usize,
}

impl Packed {
    /// Decodes rows without padding.
    pub(super) fn decode(&self, rows: &[u8], dim: usize, values: &mut Vec<f32>) {
        let rows = Rows::new(self.format, dim, rows);
        values.resize(rows.len() as usize * dim, 0.0);
        for (row, values) in (0..).zip(values.chunks_exact_mut(dim)) {
            rows.decode(row, values);
        }
    }
}

/// FBGEMM pads rows to a multiple of this in tables for a GPU.
const ALIGNMENT: usize = 16;

/// The row formats that tables of bytes may have.
const FORMATS: [RowFormat; 4] = [RowFormat::Int8, RowFormat::Int4, RowFormat::Int8Fbgemm, RowFormat::Int4Fbgemm];

/// How a table's rows are packed, by the formats named for it; `None` if its elements are numbers.
pub(super) fn packed(
    file: &Path,
    theirs: &str,
    table: &TensorSpec,
    found: &TensorInfo,
    choices: &[RowChoice],
) -> Result<Option<Packed>> {
    let (file, tensor) = (file.to_owned(), theirs.to_owned());
    let choice = RowChoice::of(choices, &table.name);
    let (rows, dim) = (table.shape[0], table.shape[1]);
    if found.dtype != DType::U8 {
        // A choice for all tables applies to those of bytes.
        let meant = choices.iter().any(|choice| !choice.is_for_all() && choice.fits(&table.name));
        return if meant { Err(DlrmError::NotRows { file, tensor, found: found.dtype.to_string() }) } else { Ok(None) };
    }
    let row_bytes = match found.shape[..] {
        [found_rows, row_bytes] if found_rows == rows => row_bytes,
        _ => {
            let (expected, found, argument) = (table.shape.clone(), found.shape.clone(), table.argument);
            return Err(DlrmError::TensorShape { file, tensor, expected, found, argument });
        }
    };
    let Some(format) = choice else {
        let fits: Vec<String> =
            FORMATS.iter().filter(|format| fits(**format, dim, row_bytes)).map(|format| format.to_string()).collect();
        let fits = if fits.is_empty() { "none".to_owned() } else { fits.join(", ") };
        return Err(DlrmError::RowsUnnamed { file, tensor, row_bytes, dim, fits });
    };
    if !FORMATS.contains(&format) || !fits(format, dim, row_bytes) {
        let expected = format.row_bytes(dim);
        return Err(DlrmError::RowBytes { file, tensor, format, dim, expected, found: row_bytes });
    }
    Ok(Some(Packed { format, row_bytes }))
}

fn fits(format: RowFormat, dim: usize, row_bytes: usize) -> bool {
    let plain = format.row_bytes(dim);
    let padded = matches!(format, RowFormat::Int8Fbgemm | RowFormat::Int4Fbgemm);
    row_bytes == plain || padded && row_bytes == plain.next_multiple_of(ALIGNMENT)
}

/// Regroups pieces of any length into whole rows.
pub(super) struct WholeRows {
    row_bytes: usize,
    part: Vec<u8>,
}

impl WholeRows {
    pub(super) fn new(row_bytes: usize) -> Self {
        WholeRows { row_bytes, part: Vec::with_capacity(row_bytes) }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if !self.part.is_empty() {
            let (first, rest) = bytes.split_at(bytes.len().min(self.row_bytes - self.part.len()));
            self.part.extend_from_slice(first);
            bytes = rest;
            if self.part.len() == self.row_bytes {
                sink(&self.part)?;
                self.part.clear();
            }
        }
        let (rows, rest) = bytes.split_at(bytes.len() / self.row_bytes * self.row_bytes);
        self.part.extend_from_slice(rest);
        if rows.is_empty() { Ok(()) } else { sink(rows) }
    }
}
