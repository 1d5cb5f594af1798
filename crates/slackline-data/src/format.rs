//! The input formats, by name and by content.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::DataError;
use crate::error::shorten;
use crate::lines::{Lines, Opened};

/// The format of an input file. Text formats may be gzipped (feature `gzip`); the others need the feature `npz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputFormat {
    /// `criteo-tsv`: tab-separated, without a header: a label (none in test sets), integer features, hexadecimal categories.
    CriteoTsv,
    /// `criteo-csv`: the same with commas and a header `Id,Label,I1,…,C1,…`. `Id` and `Label` are optional, the order of the
    /// columns is free, and other columns are skipped.
    CriteoCsv,
    /// `npz`: a NumPy archive with `dense`, `offsets_i` and `indices_i`, and optionally `labels` and `weights_i`.
    Npz,
    /// `multi-hot`: MLPerf's NumPy archive with a member `[rows, lookups]` for each table, named by its number (`0` to `25`).
    /// Dense features and labels are members `dense` and `labels`, or lie in files beside it.
    MultiHot,
    /// `npy`: TorchRec's arrays of a day, in files beside each other: `day_0_sparse.npy` (`[rows, tables]`),
    /// `day_0_dense.npy` (`[rows, features]`) and, optionally, `day_0_labels.npy`.
    Npy,
    /// `dlrm-npz`: the reference DLRM's processed archive with `X_int`, `X_cat` and, optionally, `y`.
    DlrmNpz,
    /// `dlrm-bin`: the reference DLRM's binary: rows of little-endian `int32`, a label, dense features, categories.
    DlrmBin,
}

const ALL: [(&str, InputFormat); 7] = [
    (InputFormat::NAMES[0], InputFormat::CriteoTsv),
    (InputFormat::NAMES[1], InputFormat::CriteoCsv),
    (InputFormat::NAMES[2], InputFormat::Npz),
    (InputFormat::NAMES[3], InputFormat::MultiHot),
    (InputFormat::NAMES[4], InputFormat::Npy),
    (InputFormat::NAMES[5], InputFormat::DlrmNpz),
    (InputFormat::NAMES[6], InputFormat::DlrmBin),
];

impl InputFormat {
    /// The names of all formats.
    pub const NAMES: [&str; 7] = ["criteo-tsv", "criteo-csv", "npz", "multi-hot", "npy", "dlrm-npz", "dlrm-bin"];

    /// Finds the format of a file by content: the magic number of NumPy's files, the names of an archive's members, a label as
    /// a binary number, or the separator in the first line. A gzipped file is decompressed for that.
    ///
    /// # Errors
    ///
    /// [`DataError::UnknownFormat`] if there is neither, [`DataError::Io`], [`DataError::Corrupt`], or
    /// [`DataError::MissingFeature`] for a gzipped file without the feature `gzip`.
    pub fn detect(path: impl AsRef<Path>) -> Result<InputFormat, DataError> {
        let opened = Opened::open(path.as_ref())?;
        match InputFormat::of_start(&opened, path.as_ref())? {
            Some(format) => Ok(format),
            None => InputFormat::of_lines(&mut opened.lines()?),
        }
    }

    /// Whether rows are lines of text.
    pub fn is_text(self) -> bool {
        matches!(self, InputFormat::CriteoTsv | InputFormat::CriteoCsv)
    }

    /// Whether dense features are the numbers that were collected, and not yet what a model takes.
    pub fn has_raw_dense(self) -> bool {
        self.is_text() || matches!(self, InputFormat::DlrmNpz | InputFormat::DlrmBin)
    }

    /// The format of a file that is no text, by its first bytes.
    pub(crate) fn of_start(opened: &Opened, path: &Path) -> Result<Option<InputFormat>, DataError> {
        if opened.is_zip() {
            return of_archive(path).map(Some);
        }
        Ok(match () {
            () if opened.is_npy() => Some(InputFormat::Npy),
            () if opened.is_binary() => Some(InputFormat::DlrmBin),
            () => None,
        })
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

/// The format of an archive, by the names of its members.
#[cfg(feature = "npz")]
fn of_archive(path: &Path) -> Result<InputFormat, DataError> {
    let names = crate::npz::NpzFile::open(path)?.names();
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let bags = |kind: &str| names.iter().any(|name| name.starts_with(kind));
    if bags("offsets_") || bags("indices_") {
        Ok(InputFormat::Npz)
    } else if has("X_int") || has("X_cat") {
        Ok(InputFormat::DlrmNpz)
    } else if has("0") {
        Ok(InputFormat::MultiHot)
    } else {
        let problem = format!(
            "the archive holds {}; expected dense, offsets_0, indices_0, … (npz), 0, 1, … (multi-hot), or X_int, X_cat \
             and y (dlrm-npz)",
            crate::error::listed(&names)
        );
        Err(DataError::UnknownFormat { path: path.to_owned(), problem })
    }
}

#[cfg(not(feature = "npz"))]
fn of_archive(path: &Path) -> Result<InputFormat, DataError> {
    Err(DataError::missing(path, "npz"))
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(ALL.iter().find(|(_, format)| format == self).expect("every format is listed").0)
    }
}

impl FromStr for InputFormat {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let found = ALL.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| DataError::UnknownFormatName { name: name.to_owned(), known: InputFormat::NAMES.to_vec() })
    }
}
