//! The input formats, by name and by content.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::DataError;
use crate::error::shorten;
use crate::lines::{Lines, Opened};

/// The format of an input file. Text formats may be gzipped (feature `gzip`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputFormat {
    /// `criteo-tsv`: tab-separated, without a header: a label (none in test sets), integer features, hexadecimal categories.
    CriteoTsv,
    /// `criteo-csv`: the same with commas and a header `Id,Label,I1,…,C1,…`. `Id` and `Label` are optional, the order of the
    /// columns is free, and other columns are skipped.
    CriteoCsv,
    /// `npz`: a NumPy archive with `dense`, `offsets_i` and `indices_i`, and optionally `labels` and `weights_i` (feature
    /// `npz`).
    Npz,
}

impl InputFormat {
    /// Finds the format of a file by content: the magic number of a zip archive, or the separator in the first line. A
    /// gzipped file is decompressed for that.
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownFormat`] if there is neither, [`DataError::Io`], [`DataError::Corrupt`], or
    /// [`DataError::MissingFeature`] for a gzipped file without the feature `gzip`.
    pub fn detect(path: impl AsRef<Path>) -> Result<InputFormat, DataError> {
        let opened = Opened::open(path.as_ref())?;
        if opened.is_zip() { Ok(InputFormat::Npz) } else { InputFormat::of_lines(&mut opened.lines()?) }
    }

    /// Finds which of the text formats this is, without taking a line.
    pub(crate) fn of_lines(lines: &mut Lines) -> Result<InputFormat, DataError> {
        let path = lines.path().to_owned();
        let Some((_, line)) = lines.peek()? else {
            return Err(DataError::UnknownFormat { path, problem: "the file is empty".to_owned() });
        };
        if line.contains(&b'\t') {
            Ok(InputFormat::CriteoTsv)
        } else if line.contains(&b',') {
            Ok(InputFormat::CriteoCsv)
        } else {
            let problem = format!("no tab or comma in the first line {:?}", shorten(line));
            Err(DataError::UnknownFormat { path, problem })
        }
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            InputFormat::CriteoTsv => "criteo-tsv",
            InputFormat::CriteoCsv => "criteo-csv",
            InputFormat::Npz => "npz",
        })
    }
}

impl FromStr for InputFormat {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "criteo-tsv" => Ok(InputFormat::CriteoTsv),
            "criteo-csv" => Ok(InputFormat::CriteoCsv),
            "npz" => Ok(InputFormat::Npz),
            _ => Err(DataError::UnknownFormatName { name: name.to_owned() }),
        }
    }
}
