//! How one row of a table is laid out in memory and in a file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest number of columns that a table may have: far above any in use, and small enough that the bytes of a row
/// never overflow.
pub const MAX_DIM: usize = 1 << 20;

/// The layout of a table's rows. It is always named, never guessed from a row's size: two different 8-bit layouts are in
/// use in the field.
///
/// Written and parsed (also by serde) as the short name that stands in shard files and configurations.
///
/// ```
/// use slackline_embedding::RowFormat;
///
/// let format: RowFormat = "f32".parse()?;
/// assert_eq!(format.row_bytes(16), 64);
/// assert_eq!(format.to_string(), "f32");
/// # Ok::<(), slackline_embedding::UnknownRowFormat>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum RowFormat {
    /// `dim` little-endian IEEE single-precision values.
    F32,
}

impl RowFormat {
    /// Every format there is, in the order of their names in messages.
    pub const ALL: &'static [RowFormat] = &[RowFormat::F32];

    /// Bytes of one row of `dim` columns, scales and padding included; `dim` is at most [`MAX_DIM`].
    pub fn row_bytes(self, dim: usize) -> usize {
        match self {
            RowFormat::F32 => dim * size_of::<f32>(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            RowFormat::F32 => "f32",
        }
    }
}

/// A row format by a name that this version does not know.
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
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{format}\""));
            assert_eq!(serde_json::from_str::<RowFormat>(&json).unwrap(), format);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        for name in ["", "F32", "f32 ", "f64"] {
            let error = name.parse::<RowFormat>().unwrap_err();
            assert_eq!(error.to_string(), format!("unknown row format {name:?}; known: f32"));
            assert!(serde_json::from_str::<RowFormat>(&format!("{name:?}")).is_err());
        }
    }
}
