//! Checks of tables and batches against the shape of the model.

use slackline_data::Batch;
use slackline_embedding::{Bags, EmbeddingTable, Part};

use crate::{DlrmError, ModelConfig, Result};

/// Checks that a table is the one that the configuration has under this number.
pub(crate) fn check_table(config: &ModelConfig, number: usize, table: &dyn EmbeddingTable) -> Result<()> {
    let (expected_rows, expected_dim) = (config.rows()[number], config.dim());
    let (rows, dim) = (table.rows(), table.dim());
    if rows == expected_rows as u64 && dim == expected_dim {
        return Ok(());
    }
    let name = table.name().to_owned();
    Err(DlrmError::TableShape { number, name, rows, dim, expected_rows, expected_dim })
}

/// Checks that a table is the part that the plan describes.
pub(crate) fn check_part(config: &ModelConfig, part: &Part, table: &dyn EmbeddingTable) -> Result<()> {
    let number = part.table;
    let whole = part.rows == (0..config.rows()[number] as u64) && part.columns == (0..config.dim());
    let expected_rows = (part.rows.end - part.rows.start) as usize;
    if whole || (table.rows() == expected_rows as u64 && table.dim() == part.columns.len()) {
        return if whole { check_table(config, number, table) } else { Ok(()) };
    }
    let (name, rows, dim) = (table.name().to_owned(), table.rows(), table.dim());
    Err(DlrmError::TableShape { number, name, rows, dim, expected_rows, expected_dim: part.columns.len() })
}

/// Checks the numbers of dense values and tables in a batch. Lookups are checked by [`bags`].
pub(crate) fn check_batch(config: &ModelConfig, batch: &Batch) -> Result<()> {
    let expected = batch.samples.saturating_mul(config.dense_features());
    if batch.dense.len() != expected {
        return Err(wrong_batch(batch, "dense values".to_owned(), expected, batch.dense.len()));
    }
    if batch.tables.len() != config.tables() {
        return Err(wrong_batch(batch, "tables".to_owned(), config.tables(), batch.tables.len()));
    }
    Ok(())
}

/// Checks the lookups of some tables, given by number and name. The batch has passed [`check_batch`].
pub(crate) fn bags<'b, 't>(
    config: &ModelConfig,
    batch: &'b Batch,
    tables: impl Iterator<Item = (usize, &'t str)>,
) -> Result<Vec<Bags<'b>>> {
    tables
        .map(|(number, name)| {
            let input = &batch.tables[number];
            if input.offsets.len() != batch.samples + 1 {
                let what = format!("offsets of table {number} ({name})");
                return Err(wrong_batch(batch, what, batch.samples + 1, input.offsets.len()));
            }
            let weights = (!input.weights.is_empty()).then_some(input.weights.as_slice());
            Bags::new(name, config.rows()[number] as u64, &input.indices, &input.offsets, weights)
                .map_err(|error| error.counted_from(batch.first_sample).into())
        })
        .collect()
}

fn wrong_batch(batch: &Batch, what: String, expected: usize, found: usize) -> DlrmError {
    DlrmError::BatchShape { first_sample: batch.first_sample, samples: batch.samples, what, expected, found }
}
