//! Rows as bytes, in one of the formats: making them from values and reading them back.

use std::ops::Range;

use half::{bf16, f16};

use crate::format::Quantised;
use crate::{MAX_DIM, RowFormat};

/// The rows of a table: `[len, row_bytes]` bytes in a named format. Cheap to copy; it owns nothing.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    format: RowFormat,
    dim: usize,
    bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Rows of `dim` columns in `bytes`, which need no alignment.
    ///
    /// # Panics
    ///
    /// If `dim` is 0 or above [`MAX_DIM`], or `bytes` is not a whole number of rows.
    pub fn new(format: RowFormat, dim: usize, bytes: &'a [u8]) -> Self {
        assert!((1..=MAX_DIM).contains(&dim), "{dim} columns, not 1 to {MAX_DIM}");
        let row = format.row_bytes(dim);
        assert!(bytes.len().is_multiple_of(row), "{} bytes are no rows of {row}", bytes.len());
        Rows { format, dim, bytes }
    }

    /// The number of rows.
    pub fn len(&self) -> u64 {
        (self.bytes.len() / self.format.row_bytes(self.dim)) as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How a row is laid out.
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// The columns of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All rows.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of one row.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, row: u64) -> &'a [u8] {
        let bytes = self.format.row_bytes(self.dim);
        &self.bytes[row as usize * bytes..][..bytes]
    }

    /// Some of the rows, in place.
    ///
    /// # Panics
    ///
    /// If the rows are out of range.
    pub fn run(&self, rows: Range<u64>) -> Rows<'a> {
        let bytes = self.format.row_bytes(self.dim);
        Rows { bytes: &self.bytes[rows.start as usize * bytes..rows.end as usize * bytes], ..*self }
    }

    /// Appends some columns of every row to `out`. Stored values are copied unchanged, with the row's scale and bias if
    /// it has them, so they read back bit for bit the same.
    ///
    /// # Panics
    ///
    /// If the columns are out of range, or a row of half bytes would be cut within a byte.
    pub fn write_columns(&self, columns: Range<usize>, out: &mut Vec<u8>) {
        assert!(columns.start < columns.end && columns.end <= self.dim, "columns {columns:?} of {}", self.dim);
        let two_values = self.format.row_bytes(2) - self.format.row_bytes(0);
        let byte_of = |column: usize| {
            let on_a_byte = two_values > 1 || column.is_multiple_of(2) || column == self.dim;
            assert!(on_a_byte, "column {column} begins within a byte");
            (column * two_values).div_ceil(2)
        };
        let (values_at, parts) = match self.format.quantised(self.dim) {
            None => (0, None),
            Some(parts) => (parts.values_at, Some(parts)),
        };
        let values = values_at + byte_of(columns.start)..values_at + byte_of(columns.end);
        for row in self.bytes.chunks_exact(self.format.row_bytes(self.dim)) {
            match parts {
                None => out.extend_from_slice(&row[values.clone()]),
                Some(parts) => {
                    let width = if parts.half { 4 } else { 8 };
                    let scale = &row[parts.scale_at..parts.scale_at + width];
                    let (first, second) = if parts.values_at == 0 {
                        (&row[values.clone()], scale)
                    } else {
                        (scale, &row[values.clone()])
                    };
                    out.extend_from_slice(first);
                    out.extend_from_slice(second);
                }
            }
        }
    }

    /// Decodes one row into `out`, of length `dim`. This is exact, since `f32` holds the values of all formats, except
    /// that `byte * scale + bias` is rounded (once, as by a fused multiply-add).
    ///
    /// # Panics
    ///
    /// If there is no such row, or `out` has another length.
    pub fn decode(&self, row: u64, out: &mut [f32]) {
        assert_eq!(out.len(), self.dim, "values of a row");
        let bytes = self.row(row);
        for (column, out) in out.iter_mut().enumerate() {
            *out = match self.format.quantised(self.dim) {
                None => float(self.format, bytes, column),
                Some(parts) => {
                    let (scale, bias) = parts.scale_and_bias(bytes);
                    f32::from(parts.code(bytes, column)).mul_add(scale, bias)
                }
            };
        }
    }
}

/// A value that a row format cannot hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("column {column}: {value} does not fit into {format} rows")]
pub struct UnfitValue {
    /// Where it stands in its row.
    pub column: usize,
    /// The value.
    pub value: f32,
    /// The format.
    pub format: RowFormat,
}

impl RowFormat {
    /// Encodes one row of `row.len()` values into `out`, of length [`row_bytes`](Self::row_bytes).
    ///
    /// `f16` and `bf16` round to the nearest, ties to even. `int8` and `int4` give the bytes of PyTorch's
    /// `embedding_bag_byte_prepack` and `embedding_bag_4bit_prepack`: the row's smallest value is the bias, its range over
    /// 255 or 15 the scale. The formats of FBGEMM are made from the same codes; for `int8-fbgemm` scale and bias are rounded
    /// to `f16` afterwards, as FBGEMM does.
    ///
    /// # Errors
    ///
    /// [`UnfitValue`] for an infinity or NaN in a quantised row, and for a finite value that would become infinite: one above
    /// 65504 in a format that stores it, or the scale, or the bias, as `f16`; one that `bf16` rounds to infinity; one whose
    /// code in an `int8` row would stand for infinity. The contents of `out` are then unspecified.
    ///
    /// # Panics
    ///
    /// If `out` has another length.
    pub fn encode(self, row: &[f32], out: &mut [u8]) -> Result<(), UnfitValue> {
        assert_eq!(out.len(), self.row_bytes(row.len()), "bytes of a row");
        let Some(parts) = self.quantised(row.len()) else {
            return self.encode_floats(row, out);
        };
        let unfit = |fits: &dyn Fn(f32) -> bool| {
            let found = row.iter().copied().enumerate().find(|(_, value)| !fits(*value));
            found.map_or(Ok(()), |(column, value)| Err(UnfitValue { column, value, format: self }))
        };
        unfit(&|value| value.is_finite())?;
        let lowest = row.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if parts.half {
            unfit(&|value| f16::from_f32(value).is_finite())?;
        }
        // The range of two finite values may be infinite.
        unfit(&|_| (highest - lowest).is_finite())?;
        let (codes, scale, bias) = if parts.bits == 8 {
            let range = highest - lowest;
            let inverse = 255.0 / (range + 1e-8);
            (Codes { inverse, lowest, last: 255.0 }, range / 255.0, lowest)
        } else {
            // The bias is rounded before the range is taken.
            let lowest = f16::from_f32(lowest).to_f32();
            let range = highest - lowest;
            let mut scale = f16::from_f32(if range == 0.0 { 1.0 } else { range / 15.0 }).to_f32();
            if scale == 0.0 || (1.0 / scale).is_infinite() {
                scale = 1.0;
            }
            (Codes { inverse: 1.0 / scale, lowest, last: 15.0 }, scale, lowest)
        };
        // Rounded up, the scale may take the largest code beyond what the row's largest value was.
        let scale = if parts.half { f16::from_f32(scale).to_f32() } else { scale };
        unfit(&|value| f32::from(codes.of(value)).mul_add(scale, bias).is_finite())?;
        parts.write(row, &codes, scale, bias, out);
        Ok(())
    }

    fn encode_floats(self, row: &[f32], out: &mut [u8]) -> Result<(), UnfitValue> {
        for (column, &value) in row.iter().enumerate() {
            match self {
                RowFormat::F16 => {
                    let rounded = f16::from_f32(value);
                    if rounded.is_infinite() && value.is_finite() {
                        return Err(UnfitValue { column, value, format: self });
                    }
                    out[2 * column..][..2].copy_from_slice(&rounded.to_le_bytes());
                }
                RowFormat::Bf16 => {
                    let rounded = bf16::from_f32(value);
                    if rounded.is_infinite() && value.is_finite() {
                        return Err(UnfitValue { column, value, format: self });
                    }
                    out[2 * column..][..2].copy_from_slice(&rounded.to_le_bytes());
                }
                _ => out[4 * column..][..4].copy_from_slice(&value.to_le_bytes()),
            }
        }
        Ok(())
    }
}

/// How values become codes.
struct Codes {
    inverse: f32,
    lowest: f32,
    last: f32,
}

impl Codes {
    fn of(&self, value: f32) -> u8 {
        ((value - self.lowest) * self.inverse).round_ties_even().clamp(0.0, self.last) as u8
    }
}

impl Quantised {
    fn write(self, row: &[f32], codes: &Codes, scale: f32, bias: f32, out: &mut [u8]) {
        let values = &mut out[self.values_at..];
        if self.bits == 8 {
            values.iter_mut().zip(row).for_each(|(out, value)| *out = codes.of(*value));
        } else {
            for (out, pair) in values.iter_mut().zip(row.chunks(2)) {
                *out = codes.of(pair[0]) | pair.get(1).map_or(0, |value| codes.of(*value) << 4);
            }
        }
        let at = self.scale_at;
        if self.half {
            out[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            out[at + 2..at + 4].copy_from_slice(&f16::from_f32(bias).to_le_bytes());
        } else {
            out[at..at + 4].copy_from_slice(&scale.to_le_bytes());
            out[at + 4..at + 8].copy_from_slice(&bias.to_le_bytes());
        }
    }

    pub(crate) fn scale_and_bias(self, row: &[u8]) -> (f32, f32) {
        let at = &row[self.scale_at..];
        if self.half {
            (f16::from_le_bytes([at[0], at[1]]).to_f32(), f16::from_le_bytes([at[2], at[3]]).to_f32())
        } else {
            let word = |from: usize| f32::from_le_bytes([at[from], at[from + 1], at[from + 2], at[from + 3]]);
            (word(0), word(4))
        }
    }

    pub(crate) fn code(self, row: &[u8], column: usize) -> u8 {
        let values = &row[self.values_at..];
        if self.bits == 8 { values[column] } else { values[column / 2] >> (column % 2 * 4) & 15 }
    }
}

/// One value of a row in a format of floating-point values.
pub(crate) fn float(format: RowFormat, row: &[u8], column: usize) -> f32 {
    match format {
        RowFormat::F16 => f16::from_le_bytes([row[2 * column], row[2 * column + 1]]).to_f32(),
        RowFormat::Bf16 => bf16::from_le_bytes([row[2 * column], row[2 * column + 1]]).to_f32(),
        _ => f32::from_le_bytes(row[4 * column..][..4].try_into().expect("4 bytes")),
    }
}
