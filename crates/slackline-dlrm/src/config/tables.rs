//! Which tables are compressed, and how.

use slackline_embedding::compressed::Combine;

use super::wrong;
use crate::Result;

/// The arguments of the reference that compress tables, unchecked. The default compresses none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compression {
    /// `qr_flag`, with its arguments.
    pub quotient_remainder: Option<QuotientRemainder>,
    /// `md_flag`, with its arguments.
    pub mixed_dimensions: Option<MixedDimensions>,
    /// `max_ind_range`: larger tables store only that many rows, and row numbers are taken modulo it.
    pub max_ind_range: Option<usize>,
}

/// `qr_flag`: tables of more than `qr_threshold` rows are quotient-remainder tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotientRemainder {
    /// `qr_operation`: how the two vectors are combined.
    pub operation: Combine,
    /// `qr_collisions`: the rows of the remainder table.
    pub collisions: usize,
    /// `qr_threshold`.
    pub threshold: usize,
}

impl Default for QuotientRemainder {
    /// The reference's defaults.
    fn default() -> Self {
        QuotientRemainder { operation: Combine::Multiply, collisions: 4, threshold: 200 }
    }
}

/// `md_flag`: tables of more than `md_threshold` rows have fewer columns, the fewer the more rows they have, and a
/// projection to the full width.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedDimensions {
    /// `md_threshold`.
    pub threshold: usize,
    /// `md_temperature`: how fast the columns decrease.
    pub temperature: f64,
    /// `md_round_dims`: whether columns are rounded to powers of 2.
    pub round: bool,
    /// The columns of each table, as found in a checkpoint. `None` computes them from the other arguments.
    pub dims: Option<Vec<usize>>,
}

impl Default for MixedDimensions {
    /// The reference's defaults.
    fn default() -> Self {
        MixedDimensions { threshold: 200, temperature: 0.3, round: false, dims: None }
    }
}

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableKind {
    /// Uncompressed.
    Plain,
    /// With fewer rows; row numbers are taken modulo their number.
    Hashed {
        /// The stored rows.
        held: usize,
    },
    /// As two tables, of quotients and remainders.
    QuotientRemainder {
        /// Rows of the remainder table.
        collisions: usize,
        /// How the two vectors are combined.
        operation: Combine,
    },
    /// With fewer columns and a projection; or with all columns and no projection.
    MixedDimension {
        /// The stored columns.
        columns: usize,
    },
}

impl Compression {
    /// How tables of these rows are stored. Pooled vectors have `dim` columns; `given` is the width in the configuration.
    pub(super) fn kinds(&self, rows: &[usize], given: usize, dim: usize) -> Result<Vec<TableKind>> {
        if let Some(qr) = &self.quotient_remainder
            && qr.collisions == 0
        {
            return Err(wrong("qr_collisions", "must be at least 1".into()));
        }
        if self.max_ind_range == Some(0) {
            return Err(wrong("max_ind_range", "must be at least 1".into()));
        }
        let dims = match &self.mixed_dimensions {
            None => Vec::new(),
            Some(MixedDimensions { dims: Some(dims), .. }) => {
                if dims.len() != rows.len() || dims.iter().any(|dim_of| !(1..=dim).contains(dim_of)) {
                    let problem = format!("{dims:?} are not {} numbers from 1 to {dim}", rows.len());
                    return Err(wrong("md_dims", problem));
                }
                dims.clone()
            }
            Some(md) => {
                if !(md.temperature >= 0.0 && md.temperature.is_finite()) {
                    return Err(wrong(
                        "md_temperature",
                        format!("must be a finite number of at least 0, not {}", md.temperature),
                    ));
                }
                solve(rows, md, dim)
            }
        };
        let kind = |(table, &rows): (usize, &usize)| {
            let held = self.max_ind_range.filter(|most| *most < rows);
            match (&self.quotient_remainder, &self.mixed_dimensions) {
                (Some(qr), _) if rows > qr.threshold => {
                    TableKind::QuotientRemainder { collisions: qr.collisions, operation: qr.operation }
                }
                (_, Some(md)) if rows > md.threshold => TableKind::MixedDimension { columns: dims[table] },
                _ => held.map_or(TableKind::Plain, |held| TableKind::Hashed { held }),
            }
        };
        let kinds: Vec<TableKind> = rows.iter().enumerate().map(kind).collect();
        let concatenates =
            |kind: &TableKind| matches!(kind, TableKind::QuotientRemainder { operation: Combine::Concatenate, .. });
        // Concatenated vectors are twice as wide, so either all tables are of that kind or none.
        if let Some(table) = kinds.iter().position(|kind| concatenates(kind) != (given != dim)) {
            let problem = format!(
                "with concat, vectors have {} columns, but table {table} of {} rows has {given} (see qr_threshold)",
                2 * given,
                rows[table]
            );
            return Err(wrong("qr_operation", problem));
        }
        Ok(kinds)
    }
}

/// Columns by the alpha power rule of the reference: `dim * (smallest / rows)^temperature`, at least 1, where `smallest` is
/// the number of rows of the smallest table.
fn solve(rows: &[usize], md: &MixedDimensions, dim: usize) -> Vec<usize> {
    let smallest = rows.iter().copied().min().unwrap_or(1) as f64;
    let columns = |&rows: &usize| {
        let columns = (dim as f64 * (smallest / rows as f64).powf(md.temperature)).max(1.0).round_ties_even();
        let columns = if md.round { columns.log2().round_ties_even().exp2() } else { columns };
        (columns as usize).clamp(1, dim)
    };
    rows.iter().map(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_shrink_with_the_rows_as_the_reference_has_them() {
        // torch: md_solver(torch.tensor([1000, 10, 5, 100000]), 0.3, d0=16), with and without rounding to powers of 2.
        let md = MixedDimensions::default();
        assert_eq!(solve(&[1000, 10, 5, 100_000], &md, 16), [3, 13, 16, 1]);
        let md = MixedDimensions { round: true, ..md };
        assert_eq!(solve(&[1000, 10, 5, 100_000], &md, 16), [4, 16, 16, 1]);
    }

    #[test]
    fn thresholds_say_which_tables_are_compressed() {
        let qr = Compression { quotient_remainder: Some(QuotientRemainder::default()), ..Compression::default() };
        let kinds = qr.kinds(&[200, 201], 8, 8).unwrap();
        let quotient = TableKind::QuotientRemainder { collisions: 4, operation: Combine::Multiply };
        assert_eq!(kinds, [TableKind::Plain, quotient]);
        let hashed = Compression { max_ind_range: Some(100), ..Compression::default() };
        assert_eq!(hashed.kinds(&[100, 101], 8, 8).unwrap(), [TableKind::Plain, TableKind::Hashed { held: 100 }]);
        let concat = QuotientRemainder { operation: Combine::Concatenate, ..QuotientRemainder::default() };
        let concat = Compression { quotient_remainder: Some(concat), ..Compression::default() };
        assert!(concat.kinds(&[201, 300], 8, 16).is_ok());
        let error = concat.kinds(&[201, 200], 8, 16).unwrap_err().to_string();
        assert!(error.contains("qr_operation") && error.contains("table 1 of 200 rows"), "{error}");
    }
}
