//! How raw values become what a model takes: transforms of dense features, and categories into rows.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{DataError, InputFormat};

/// What a dense feature becomes. A missing one is 0 before the transform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenseTransform {
    /// `ln1p`: `ln(max(x, 0) + 1)`, as the reference DLRM does it.
    #[default]
    Ln1p,
    /// `ln3`: `ln(x + 3)`, as TorchRec's and MLPerf's preprocessing does it. Numbers of -3 and below are refused.
    Ln3,
    /// `none`: the number itself.
    None,
}

/// Which row of its table a category becomes. A missing category is the number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SparseTransform {
    /// `modulo`: the number modulo the rows of the table; the number of a text is not negative.
    #[default]
    Modulo,
    /// `modulo-int32`: the same of the number as a signed integer of 32 bits, as in TorchRec's arrays.
    ModuloInt32,
    /// `dictionary`: the position of the number among those that the reference's preprocessing met.
    Dictionary,
    /// `none`: the number itself, which must be a row of the table.
    None,
}

/// What was done to raw values when a model was trained.
///
/// Its text is `DENSE,SPARSE`, such as `ln1p,modulo`. These names are read, too: `dlrm` for `ln1p,dictionary`, `torchrec` for
/// `ln3,modulo-int32`, and `mlperf` for `ln3,none`.
///
/// # Examples
///
/// ```
/// let torchrec: slackline_data::Preprocessing = "torchrec".parse()?;
/// assert_eq!(torchrec.to_string(), "ln3,modulo-int32");
/// # Ok::<(), slackline_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Preprocessing {
    /// Dense features.
    pub dense: DenseTransform,
    /// Categories.
    pub sparse: SparseTransform,
}

/// How an input is read: what is not given follows from the file and from how the model was trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputOptions {
    /// The format; without one it is found by content.
    pub format: Option<InputFormat>,
    /// What was done when the model was trained, if that is known.
    pub trained: Option<Preprocessing>,
    /// What is done to the file's dense features.
    pub dense: Option<DenseTransform>,
    /// How the file's categories become rows.
    pub sparse: Option<SparseTransform>,
    /// With [`SparseTransform::Dictionary`]: what the names of the dictionaries begin with, before `_fea_dict_0.npz`.
    pub dictionary: Option<PathBuf>,
    /// Accepts transforms that differ from those of the training.
    pub contradict: bool,
    /// The file of the dense features, where the format keeps them in one of their own.
    pub dense_file: Option<PathBuf>,
    /// The file of the labels, likewise.
    pub labels_file: Option<PathBuf>,
}

impl DenseTransform {
    /// The transformed feature, computed in `f64` and rounded once; `None` where there is no finite result.
    ///
    /// The result is the nearest `f32` on every platform, except where it is within an `f64` rounding error of the middle
    /// between two. NumPy's vectorised `np.log` on `float32`, which the reference DLRM and TorchRec use, differs in the last
    /// bit for 3 % of the integers. On 400 samples that PyTorch scored, both give its predictions to 3e-7.
    ///
    /// # Examples
    ///
    /// ```
    /// use slackline_data::DenseTransform;
    /// assert_eq!(DenseTransform::Ln1p.apply(-2.0), Some(0.0));
    /// assert_eq!(DenseTransform::Ln1p.apply(1.0), Some(std::f32::consts::LN_2));
    /// assert_eq!(DenseTransform::Ln3.apply(-2.0), Some(0.0));
    /// assert_eq!(DenseTransform::Ln3.apply(-3.0), None);
    /// ```
    pub fn apply(self, x: f64) -> Option<f32> {
        let value = match self {
            DenseTransform::Ln1p if x.is_nan() => return None,
            DenseTransform::Ln1p => (x.max(0.0) + 1.0).ln() as f32,
            DenseTransform::Ln3 => (x + 3.0).ln() as f32,
            DenseTransform::None => x as f32,
        };
        value.is_finite().then_some(value)
    }

    /// What is computed, with its formula.
    pub fn formula(self) -> &'static str {
        match self {
            DenseTransform::Ln1p => "ln(max(x, 0) + 1)",
            DenseTransform::Ln3 => "ln(x + 3)",
            DenseTransform::None => "as in the file",
        }
    }

    /// What is accepted.
    pub(crate) fn domain(self) -> &'static str {
        match self {
            DenseTransform::Ln1p => "a finite number",
            DenseTransform::Ln3 => "a finite number above -3, whose ln(x + 3) is taken",
            DenseTransform::None => "a finite float32",
        }
    }
}

impl SparseTransform {
    /// What is done, in words.
    pub fn rule(self) -> &'static str {
        match self {
            SparseTransform::Modulo => "number modulo rows of the table",
            SparseTransform::ModuloInt32 => "number as int32, modulo rows of the table",
            SparseTransform::Dictionary => "position in the dictionary",
            SparseTransform::None => "row numbers as in the file",
        }
    }
}

const DENSE: [(&str, DenseTransform); 3] =
    [("ln1p", DenseTransform::Ln1p), ("ln3", DenseTransform::Ln3), ("none", DenseTransform::None)];

const SPARSE: [(&str, SparseTransform); 4] = [
    ("modulo", SparseTransform::Modulo),
    ("modulo-int32", SparseTransform::ModuloInt32),
    ("dictionary", SparseTransform::Dictionary),
    ("none", SparseTransform::None),
];

const NAMED: [(&str, Preprocessing); 3] = [
    ("dlrm", Preprocessing { dense: DenseTransform::Ln1p, sparse: SparseTransform::Dictionary }),
    ("torchrec", Preprocessing { dense: DenseTransform::Ln3, sparse: SparseTransform::ModuloInt32 }),
    ("mlperf", Preprocessing { dense: DenseTransform::Ln3, sparse: SparseTransform::None }),
];

fn find<T: Copy>(list: &[(&str, T)], what: &str, name: &str) -> Result<T, DataError> {
    let names = || list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = list.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| DataError::Request { problem: format!("{name:?} is no {what}: expected one of {}", names()) })
}

fn name_of<T: Copy + PartialEq>(list: &[(&'static str, T)], value: T) -> &'static str {
    list.iter().find(|(_, known)| *known == value).expect("every variant is in its list").0
}

impl FromStr for DenseTransform {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        find(&DENSE, "dense transform", name)
    }
}

impl fmt::Display for DenseTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(&DENSE, *self))
    }
}

impl FromStr for SparseTransform {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        find(&SPARSE, "sparse transform", name)
    }
}

impl fmt::Display for SparseTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(&SPARSE, *self))
    }
}

impl FromStr for Preprocessing {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        match text.split_once(',') {
            Some((dense, sparse)) => Ok(Preprocessing { dense: dense.trim().parse()?, sparse: sparse.trim().parse()? }),
            None => find(&NAMED, "preprocessing (DENSE,SPARSE such as ln1p,modulo, or a name)", text),
        }
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.dense, self.sparse)
    }
}

/// What is done to the values of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transforms {
    /// Dense features.
    pub dense: DenseTransform,
    /// Categories.
    pub sparse: SparseTransform,
}

impl Transforms {
    /// What is done to a file of this format: what the options say, or else what the model was trained with if the file holds
    /// raw values, and nothing if it holds prepared ones.
    ///
    /// # Errors
    ///
    /// [`DataError::Request`] if the options contradict how the model was trained, or name no dictionary where one is needed.
    pub fn of(format: InputFormat, options: &InputOptions) -> Result<Transforms, DataError> {
        let trained = options.trained.unwrap_or_default();
        let usual_dense = if format.has_raw_dense() { trained.dense } else { DenseTransform::None };
        let usual_sparse = match trained.sparse {
            raw if format.is_text() => raw,
            // Harmless where the rows are numbered already, and right where they are not.
            modulo @ (SparseTransform::Modulo | SparseTransform::ModuloInt32)
                if options.trained.is_some() && format != InputFormat::Npz =>
            {
                modulo
            }
            _ => SparseTransform::None,
        };
        let dense = options.dense.unwrap_or(usual_dense);
        let sparse = options.sparse.unwrap_or(usual_sparse);
        if options.trained.is_some() && !options.contradict {
            let refuse = |option: &str, given: &dyn fmt::Display, usual: &dyn fmt::Display| {
                let problem = format!(
                    "{option} {given}: the model was trained with {trained}, so values of a file of format {format} need \
                     `{usual}`; --override-preprocessing insists"
                );
                Err(DataError::Request { problem })
            };
            if dense != usual_dense && dense != trained.dense {
                return refuse("--dense-transform", &dense, &usual_dense);
            }
            // A raw file must be treated as in training, and a prepared one must not be treated otherwise.
            if format.has_raw_dense() && dense != trained.dense {
                return refuse("--dense-transform", &dense, &usual_dense);
            }
            if sparse != usual_sparse && (sparse != trained.sparse || format.is_text()) {
                return refuse("--sparse-transform", &sparse, &usual_sparse);
            }
        }
        if sparse == SparseTransform::Dictionary && options.dictionary.is_none() {
            let problem = "categories become rows by a dictionary, as when the model was trained: name it with \
                           --sparse-transform dictionary:PREFIX (the files PREFIX_fea_dict_0.npz and so on)";
            return Err(DataError::Request { problem: problem.to_owned() });
        }
        Ok(Transforms { dense, sparse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        format: InputFormat,
        trained: Option<&str>,
        dense: Option<&str>,
        sparse: Option<&str>,
    ) -> Result<String, String> {
        let options = InputOptions {
            trained: trained.map(|text| text.parse().unwrap()),
            dense: dense.map(|name| name.parse().unwrap()),
            sparse: sparse.map(|name| name.parse().unwrap()),
            dictionary: Some("d".into()),
            ..InputOptions::default()
        };
        let found = Transforms::of(format, &options).map_err(|error| error.to_string())?;
        Ok(format!("{},{}", found.dense, found.sparse))
    }

    #[test]
    fn what_is_done_follows_from_file_and_training() {
        use InputFormat::*;
        for (format, trained, dense, sparse, expected) in [
            (CriteoTsv, None, None, None, "ln1p,modulo"),
            (CriteoTsv, Some("torchrec"), None, None, "ln3,modulo-int32"),
            (CriteoCsv, Some("dlrm"), None, None, "ln1p,dictionary"),
            (CriteoCsv, None, Some("ln3"), Some("none"), "ln3,none"),
            (Npz, None, None, None, "none,none"),
            (Npz, Some("torchrec"), None, None, "none,none"),
            (Npz, Some("torchrec"), Some("ln3"), None, "ln3,none"),
            (Npy, None, None, None, "none,none"),
            (Npy, Some("torchrec"), None, None, "none,modulo-int32"),
            (DlrmBin, None, None, None, "ln1p,none"),
            (DlrmBin, Some("dlrm"), None, None, "ln1p,none"),
            (DlrmNpz, Some("ln3,modulo"), None, None, "ln3,modulo"),
        ] {
            assert_eq!(of(format, trained, dense, sparse).as_deref(), Ok(expected), "{format} {trained:?}");
        }
        for (format, trained, dense, sparse, option) in [
            (CriteoTsv, "torchrec", Some("ln1p"), None, "--dense-transform ln1p"),
            (CriteoTsv, "torchrec", Some("none"), None, "--dense-transform none"),
            (CriteoTsv, "torchrec", None, Some("modulo"), "--sparse-transform modulo"),
            (CriteoTsv, "dlrm", None, Some("none"), "--sparse-transform none"),
            (Npz, "torchrec", Some("ln1p"), None, "--dense-transform ln1p"),
            (Npy, "torchrec", None, Some("dictionary"), "--sparse-transform dictionary"),
        ] {
            let refused = of(format, Some(trained), dense, sparse).unwrap_err();
            assert!(refused.contains(option) && refused.contains("--override-preprocessing"), "{refused}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for text in ["ln1p,modulo", "ln3,modulo-int32", "none,none", "ln1p,dictionary"] {
            assert_eq!(text.parse::<Preprocessing>().unwrap().to_string(), text);
        }
        for text in ["", "ln1p", "ln2,modulo", "ln1p,hash", "criteo"] {
            let refused = text.parse::<Preprocessing>().unwrap_err().to_string();
            assert!(refused.contains("expected one of"), "{refused}");
        }
    }
}
