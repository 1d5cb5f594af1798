//! Copying a model directory, with rows in other formats or in other files.

use std::path::Path;

use slackline_embedding::{EmbeddingTable, RowFormat};

use super::ModelDirectory;
use super::choice::{RowChoice, formats};
use super::tensors::{TensorSpec, Weights, all_table_tensors};
use super::write::{Layout, Progress, Written, write};
use crate::Result;

/// Bytes passed on at a time.
const PIECE: usize = 1 << 20;

/// Writes a copy of the model at `from` to `out`, with its tables in `shards` files and their rows in the formats of `rows`.
/// Tables that match no choice keep their format, and their rows are copied unchanged.
///
/// Atomic, and bounded in memory, like [`import`](crate::import). The checksum of every tensor is verified.
///
/// # Errors
///
/// Those of [`ModelDirectory::open`] and [`ModelDirectory::verify`]; those of [`import`](crate::import) that concern the
/// new directory; [`DlrmError::IdleChoice`](crate::DlrmError::IdleChoice) and
/// [`DlrmError::UnfitRow`](crate::DlrmError::UnfitRow).
pub fn convert(
    from: &Path,
    out: &Path,
    rows: &[RowChoice],
    shards: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    let model = ModelDirectory::open(from)?;
    RowChoice::check(rows, &all_table_tensors(model.config()))?;
    let formats = formats(model.config(), rows, |tensor| model.shard_table(&tensor.name).row_format);
    let layout = Layout { shards, formats };
    write(model.config(), &model, out, &layout, progress)
}

impl Weights for ModelDirectory {
    fn stream(&self, tensor: &TensorSpec, from: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        if let Some((_, file)) = self.dense.iter().find(|(dense, _)| dense.name == tensor.name) {
            return sink(&self.dense_files[*file].read(tensor)?);
        }
        let shard = self.shard_of(&tensor.name);
        shard.verify(&tensor.name)?;
        let table = shard.table(&tensor.name)?;
        let (rows, dim) = (table.stored(), table.dim());
        let at_once = (PIECE / (4 * dim)).max(1) as u64;
        let mut values = Vec::new();
        for first in (from..rows.len()).step_by(at_once as usize) {
            let last = (first + at_once).min(rows.len());
            values.resize((last - first) as usize * dim, 0.0);
            for (row, values) in (first..last).zip(values.chunks_exact_mut(dim)) {
                rows.decode(row, values);
            }
            table.check()?;
            sink(&values)?;
        }
        Ok(())
    }

    fn stream_rows(
        &self,
        tensor: &TensorSpec,
        format: RowFormat,
        first: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        let shard = self.shard_of(&tensor.name);
        let table = shard.table(&tensor.name)?;
        if table.row_format() != Some(format) {
            return Ok(false);
        }
        shard.verify(&tensor.name)?;
        let row_bytes = format.row_bytes(table.dim());
        let at_once = (PIECE / row_bytes).max(1) * row_bytes;
        // If the file fails meanwhile, the whole new directory is thrown away.
        table.row_bytes()[first as usize * row_bytes..].chunks(at_once).try_for_each(sink)?;
        table.check()?;
        Ok(true)
    }
}
