//! The shape of an input: what the model needs of each sample.

use std::fmt;

use crate::DataError;

/// What an input must have for each sample.
///
/// Its text is how errors name it: "13 dense features and 26 tables".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputShape {
    /// Dense features of a sample.
    pub dense_features: usize,
    /// Rows of each table, in the order of the model: at least 1, at most `i64::MAX`.
    pub table_rows: Vec<usize>,
}

impl InputShape {
    /// Checks that every table can have an index.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        for (table, &rows) in self.table_rows.iter().enumerate() {
            if rows == 0 || i64::try_from(rows).is_err() {
                return Err(DataError::Request { problem: format!("table {table} has {rows} rows") });
            }
        }
        Ok(())
    }

    /// Checks that a row of this shape differs from a blank line.
    pub(crate) fn check_columns(&self) -> Result<(), DataError> {
        self.check()?;
        if self.dense_features.saturating_add(self.table_rows.len()) < 2 {
            let problem = "a Criteo file needs at least two columns of features".to_owned();
            return Err(DataError::Request { problem });
        }
        Ok(())
    }
}

impl fmt::Display for InputShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        let (dense, tables) = (self.dense_features, self.table_rows.len());
        write!(f, "{dense} dense feature{} and {tables} table{}", plural(dense), plural(tables))
    }
}
