//! The formats, by name and by content.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::DataError;
use crate::error::shorten;
use crate::lines::{Lines, Opened};

/// An input format. Text formats may be gzipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `criteo-tsv`: no header; a label (left out in test sets), integer features, hexadecimal categories; tabs.
    CriteoTsv,
    /// `criteo-csv`: the same with commas and a header `Id,Label,I1,…,C1,…`; `Id` and `Label` may be missing, columns may
    /// come in any order, and columns of other names are skipped.
    CriteoCsv,
    /// `npz`: a NumPy archive with `dense`, `offsets_i`, `indices_i`, and perhaps `labels` and `weights_i`.
    Npz,
}

impl Format {
    /// Finds the format by content: the magic number of a zip archive, or the separator in the first line. Gzip is looked
    /// through.
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownFormat`] where there is neither, [`DataError::Io`], or [`DataError::Corrupt`].
    pub fn detect(path: impl AsRef<Path>) -> Result<Format, DataError> {
        let opened = Opened::open(path.as_ref())?;
        if opened.is_zip() { Ok(Format::Npz) } else { Format::of_lines(&mut opened.lines()) }
    }

    /// Which of the text formats this is; takes no line.
    pub(crate) fn of_lines(lines: &mut Lines) -> Result<Format, DataError> {
        let path = lines.path().to_owned();
        let Some((_, line)) = lines.peek()? else {
            return Err(DataError::UnknownFormat { path, problem: "the file is empty".to_owned() });
        };
        if line.contains(&b'\t') {
            Ok(Format::CriteoTsv)
        } else if line.contains(&b',') {
            Ok(Format::CriteoCsv)
        } else {
            let problem = format!("no tab or comma in the first line {:?}", shorten(line));
            Err(DataError::UnknownFormat { path, problem })
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::CriteoTsv => "criteo-tsv",
            Format::CriteoCsv => "criteo-csv",
            Format::Npz => "npz",
        })
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "criteo-tsv" => Ok(Format::CriteoTsv),
            "criteo-csv" => Ok(Format::CriteoCsv),
            "npz" => Ok(Format::Npz),
            _ => Err(DataError::UnknownFormatName { name: name.to_owned() }),
        }
    }
}
