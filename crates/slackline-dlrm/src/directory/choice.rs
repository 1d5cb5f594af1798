//! The row format of each table, as chosen by name.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use slackline_embedding::RowFormat;

use super::tensors::{TensorSpec, all_table_tensors};
use crate::{DlrmError, ModelConfig, Result};

/// A row format for all tables, or for those whose names match a pattern.
///
/// Parsed from `FORMAT` or `PATTERN=FORMAT`. In a pattern `*` matches any text, `?` any character, and `[0-4]` one of a set
/// of characters.
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
    /// `None` for all tables.
    pattern: Option<Pattern>,
    format: RowFormat,
}

impl RowChoice {
    /// This format for all tables.
    pub fn all(format: RowFormat) -> Self {
        RowChoice { pattern: None, format }
    }

    /// The format of a table: that of the last choice that matches its name.
    pub fn of(choices: &[RowChoice], table: &str) -> Option<RowFormat> {
        choices.iter().rev().find(|choice| choice.fits(table)).map(|choice| choice.format)
    }

    pub(super) fn fits(&self, table: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(table))
    }

    /// Whether the choice is for all tables.
    pub(super) fn is_for_all(&self) -> bool {
        self.pattern.is_none()
    }

    /// The format.
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// Checks that every pattern matches some table; one that matches none is a typing error.
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

/// The format of each tensor in [`all_table_tensors`]: by the choices, or else by `otherwise`. Projections are matrices and
/// not rows, so choices don't apply to them.
pub(super) fn formats(
    config: &ModelConfig,
    choices: &[RowChoice],
    otherwise: impl Fn(&TensorSpec) -> RowFormat,
) -> Vec<RowFormat> {
    let format = |tensor: TensorSpec| match RowChoice::of(choices, &tensor.name) {
        Some(format) if !is_projection(&tensor.name) => format,
        _ => otherwise(&tensor),
    };
    all_table_tensors(config).into_iter().map(format).collect()
}

/// Whether a tensor of a table is a projection matrix. These stay in single precision.
pub(super) fn is_projection(tensor: &str) -> bool {
    tensor.ends_with(".proj.weight")
}
