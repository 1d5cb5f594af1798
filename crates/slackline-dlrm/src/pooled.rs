//! What the local and the distributed pass share about batches, tables and pooled vectors.

use slackline_data::Batch;
use slackline_embedding::{BagError, Bags, EmbeddingTable};

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

/// Checks the batch's numbers of dense values and tables. The lookups are checked by [`bags`].
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

/// The checked lookups of the given tables (number and table); the batch has passed [`check_batch`].
pub(crate) fn bags<'b, 't>(
    config: &ModelConfig,
    batch: &'b Batch,
    tables: impl Iterator<Item = (usize, &'t dyn EmbeddingTable)>,
) -> Result<Vec<Bags<'b>>> {
    tables
        .map(|(number, table)| {
            debug_assert_eq!(table.dim(), config.dim());
            let input = &batch.tables[number];
            if input.offsets.len() != batch.samples + 1 {
                let what = format!("offsets of table {number} ({})", table.name());
                return Err(wrong_batch(batch, what, batch.samples + 1, input.offsets.len()));
            }
            let weights = (!input.weights.is_empty()).then_some(input.weights.as_slice());
            Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, weights)
                .map_err(|error| counted_from(batch.first_sample, error).into())
        })
        .collect()
}

/// Pooled vectors as they came in a message; only where the bytes do not lie on a multiple of 4 are they copied, to
/// `spare`.
pub(crate) fn floats<'a>(bytes: &'a [u8], spare: &'a mut Vec<f32>) -> &'a [f32] {
    bytemuck::try_cast_slice(bytes).unwrap_or_else(|_| {
        spare.clear();
        spare.extend(bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().expect("4 bytes"))));
        spare
    })
}

/// Lets `write` fill a room of a message with `bytes.len() / 4` values, in place wherever the room lies on a multiple
/// of 4.
pub(crate) fn write_floats(bytes: &mut [u8], write: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    if let Ok(values) = bytemuck::try_cast_slice_mut(bytes) {
        return write(values);
    }
    let mut values = vec![0f32; bytes.len() / 4];
    write(&mut values)?;
    bytes.copy_from_slice(bytemuck::cast_slice(&values));
    Ok(())
}

/// Samples of a batch are numbered from 0; people count from the beginning of their input.
fn counted_from(first_sample: u64, mut error: BagError) -> BagError {
    match &mut error {
        BagError::NegativeIndex { sample, .. }
        | BagError::IndexPastEnd { sample, .. }
        | BagError::NegativeOffset { sample, .. }
        | BagError::FallingOffsets { sample, .. }
        | BagError::OffsetPastEnd { sample, .. } => *sample = sample.saturating_add(first_sample as usize),
        _ => {}
    }
    error
}

fn wrong_batch(batch: &Batch, what: String, expected: usize, found: usize) -> DlrmError {
    DlrmError::BatchShape { first_sample: batch.first_sample, samples: batch.samples, what, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_pass_through_rooms_on_any_address() {
        let mut memory = [0u8; 32];
        let start = memory.as_ptr().align_offset(4);
        for shift in 0..4 {
            let room = &mut memory[start + shift..start + shift + 12];
            write_floats(room, |values| {
                values.copy_from_slice(&[1.5, -2.0, f32::MIN_POSITIVE]);
                Ok(())
            })
            .unwrap();
            assert_eq!(floats(room, &mut Vec::new()), [1.5, -2.0, f32::MIN_POSITIVE], "shift {shift}");
        }
    }
}
