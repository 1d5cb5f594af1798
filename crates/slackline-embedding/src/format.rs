//! How one row of a table is laid out in memory and in a file.

use std::fmt;
use std::str::FromStr;

/// The largest number of columns that a table may have: far above any in use, and small enough that the bytes of a row
/// never overflow.
pub const MAX_DIM: usize = 1 << 20;

/// The layout of a table's rows. It is always named, never guessed from a row's size: two different 8-bit layouts are
/// in common use.
///
/// Written and parsed (also by serde, with feature `serde`) as the short name used in shard files and configurations.
///
/// ```
/// use slackline_embedding::RowFormat;
///
/// let format: RowFormat = "f32".parse()?;
/// assert_eq!(format.row_bytes(16), 64);
/// assert_eq!(format.to_string(), "f32");
/// # Ok::<(), slackline_embedding::UnknownRowFormat>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
#[non_exhaustive]
pub enum RowFormat {
    /// `f32`: `dim` little-endian IEEE single-precision values.
    F32,
    /// `f16`: `dim` little-endian IEEE half-precision values.
    F16,
    /// `bf16`: the upper halves of `dim` single-precision values, rounded.
    Bf16,
    /// PyTorch's `int8` (`quantized::embedding_bag_byte_prepack`): `dim` bytes, then an `f32` scale and an `f32` bias.
    /// A value is `byte * scale + bias`.
    Int8,
    /// PyTorch's `int4` (`quantized::embedding_bag_4bit_prepack`): half a byte for each column, the even column in the
    /// low half, then an `f16` scale and an `f16` bias.
    Int4,
    /// `int8-fbgemm`, the layout of FBGEMM's inference tables: an `f16` scale and an `f16` bias, then `dim` bytes.
    Int8Fbgemm,
    /// `int4-fbgemm`, the layout of FBGEMM's inference tables: an `f16` scale and an `f16` bias, then half a byte for
    /// each column, the even column in the low half.
    Int4Fbgemm,
}

/// Byte offsets of the parts of a quantised row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantised {
    pub(crate) bits: u32,
    pub(crate) values_at: usize,
    /// The bias directly follows the scale.
    pub(crate) scale_at: usize,
    /// Scale and bias are `f16`; else `f32`.
    pub(crate) half: bool,
}

impl RowFormat {
    /// All formats, in the order in which messages list them.
    pub const ALL: &'static [RowFormat] = &[
        RowFormat::F32,
        RowFormat::F16,
        RowFormat::Bf16,
        RowFormat::Int8,
        RowFormat::Int4,
        RowFormat::Int8Fbgemm,
        RowFormat::Int4Fbgemm,
    ];

    /// Bytes of one row of `dim` columns, scales and padding included; `dim` is at most [`MAX_DIM`].
    pub fn row_bytes(self, dim: usize) -> usize {
        match self {
            RowFormat::F32 => dim * size_of::<f32>(),
            RowFormat::F16 | RowFormat::Bf16 => dim * 2,
            RowFormat::Int8 => dim + 8,
            RowFormat::Int8Fbgemm => dim + 4,
            RowFormat::Int4 | RowFormat::Int4Fbgemm => dim.div_ceil(2) + 4,
        }
    }

    /// `None` for the formats of floating-point values.
    pub(crate) fn quantised(self, dim: usize) -> Option<Quantised> {
        let (bits, values_at, scale_at, half) = match self {
            RowFormat::F32 | RowFormat::F16 | RowFormat::Bf16 => return None,
            RowFormat::Int8 => (8, 0, dim, false),
            RowFormat::Int4 => (4, 0, dim.div_ceil(2), true),
            RowFormat::Int8Fbgemm => (8, 4, 0, true),
            RowFormat::Int4Fbgemm => (4, 4, 0, true),
        };
        Some(Quantised { bits, values_at, scale_at, half })
    }

    fn name(self) -> &'static str {
        match self {
            RowFormat::F32 => "f32",
            RowFormat::F16 => "f16",
            RowFormat::Bf16 => "bf16",
            RowFormat::Int8 => "int8",
            RowFormat::Int4 => "int4",
            RowFormat::Int8Fbgemm => "int8-fbgemm",
            RowFormat::Int4Fbgemm => "int4-fbgemm",
        }
    }
}

/// A row format name that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown row format {name:?}; known: {}", known())]
pub struct UnknownRowFormat {
    /// The name as it was given.
    pub name: String,
}

impl fmt::Display for RowFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RowFormat {
    type Err = UnknownRowFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().copied().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownRowFormat { name: name.to_owned() })
    }
}

impl TryFrom<String> for RowFormat {
    type Error = UnknownRowFormat;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<RowFormat> for String {
    fn from(format: RowFormat) -> Self {
        format.name().to_owned()
    }
}

fn known() -> String {
    RowFormat::ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_read_back_by_its_name() {
        for &format in RowFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn every_format_is_its_name_in_json_and_no_other_name_is_one() {
        for &format in RowFormat::ALL {
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{format}\""));
            assert_eq!(serde_json::from_str::<RowFormat>(&json).unwrap(), format);
        }
        for name in ["", "F32", "f32 ", "f64"] {
            assert!(serde_json::from_str::<RowFormat>(&format!("{name:?}")).is_err());
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        for name in ["", "F32", "f32 ", "f64"] {
            let error = name.parse::<RowFormat>().unwrap_err();
            let known = "f32, f16, bf16, int8, int4, int8-fbgemm, int4-fbgemm";
            assert_eq!(error.to_string(), format!("unknown row format {name:?}; known: {known}"));
        }
    }
}
