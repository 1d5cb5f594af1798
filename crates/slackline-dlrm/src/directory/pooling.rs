//! Learned weighted pooling of the reference (`--weighted-pooling=learned`): each table has one weight a row, `v_W_l.N`, and a
//! row is multiplied by its weight wherever it is looked up. The import multiplies the rows once.

use std::collections::BTreeMap;
use std::path::Path;

use slackline_checkpoint::{Checkpoint, CheckpointError};

use super::naming::{Names, POOLING};
use super::tensors::table_tensors;
use crate::{DlrmError, ModelConfig, Result, TableKind};

/// Weights that are held at a time.
const WINDOW: usize = 1 << 18;

/// For each table's rows, by our name of their tensor, the checkpoint's name of their weights.
#[derive(Debug, Default)]
pub(super) struct PoolingWeights {
    of_rows: BTreeMap<String, String>,
}

impl PoolingWeights {
    /// The pooling weights of a checkpoint: none, or those of all tables, in their shape. `learned` says that the configuration
    /// asks for them.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        names: &Names,
        config: &ModelConfig,
        file: &Path,
        learned: bool,
    ) -> Result<Self> {
        let mut of_rows = BTreeMap::new();
        if !learned && !names.iter().any(|(ours, _)| is_weight(ours)) {
            return Ok(PoolingWeights { of_rows });
        }
        for table in 0..config.tables() {
            let ours = format!("{POOLING}.{table}");
            let Some(theirs) = names.theirs(&ours) else {
                let (tensor, argument) = (names.expected(&ours), "weighted_pooling");
                let hint = names.instead_of(&ours, checkpoint.skipped());
                return Err(DlrmError::TensorMissing { file: file.to_owned(), tensor, argument, hint });
            };
            let (file, tensor, info) = (file.to_owned(), theirs.to_owned(), &checkpoint.tensors()[theirs]);
            if matches!(config.kind(table), TableKind::QuotientRemainder { .. }) {
                let what = "learned weighted pooling of a quotient-remainder table".to_owned();
                return Err(DlrmError::UnsupportedModel { file, tensor, what });
            }
            let rows = &table_tensors(config, table)[0];
            let (expected, argument) = (vec![rows.shape[0]], rows.argument);
            if info.shape != expected {
                let found = info.shape.clone();
                return Err(DlrmError::TensorShape { file, tensor, expected, found, argument });
            }
            if !info.dtype.is_float() {
                let what = format!("a tensor of {}", info.dtype);
                return Err(DlrmError::UnsupportedModel { file, tensor, what });
            }
            of_rows.insert(rows.name.clone(), tensor);
        }
        Ok(PoolingWeights { of_rows })
    }

    /// The checkpoint's names of the weights, by table.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &String> {
        self.of_rows.values()
    }

    /// Whether the rows of a table's tensor are multiplied.
    pub(super) fn weighs(&self, tensor: &str) -> bool {
        self.of_rows.contains_key(tensor)
    }

    /// What multiplies the rows of a table's tensor; `None` if nothing does.
    pub(super) fn multiplier<'c>(
        &'c self,
        checkpoint: &'c Checkpoint,
        tensor: &'c str,
        dim: usize,
        first: u64,
    ) -> Option<Multiplier<'c>> {
        let weights = self.of_rows.get(tensor)?;
        Some(Multiplier {
            checkpoint,
            tensor,
            weights,
            dim,
            next: first as usize * dim,
            from: 0,
            window: Vec::new(),
            out: Vec::new(),
        })
    }
}

/// Whether a tensor holds pooling weights.
pub(super) fn is_weight(ours: &str) -> bool {
    ours.split('.').next() == Some(POOLING)
}

/// Multiplies the rows of one table, which come in pieces of any length, by their weights.
pub(super) struct Multiplier<'c> {
    checkpoint: &'c Checkpoint,
    tensor: &'c str,
    weights: &'c str,
    dim: usize,
    /// The number of the next value.
    next: usize,
    /// The row of the first weight in `window`.
    from: usize,
    window: Vec<f32>,
    out: Vec<f32>,
}

/// Why reading weights ended.
enum Ended {
    Enough,
    Failed(CheckpointError),
}

impl From<CheckpointError> for Ended {
    fn from(error: CheckpointError) -> Self {
        Ended::Failed(error)
    }
}

impl Multiplier<'_> {
    /// The products of the next values with the weights of their rows.
    pub(super) fn multiply(&mut self, values: &[f32]) -> Result<&[f32]> {
        self.out.clear();
        for &value in values {
            let (row, column) = (self.next / self.dim, self.next % self.dim);
            if !(self.from..self.from + self.window.len()).contains(&row) {
                self.read(row)?;
            }
            let weight = self.window[row - self.from];
            let product = value * weight;
            if product.is_infinite() && value.is_finite() && weight.is_finite() {
                let (table, row) = (self.tensor.to_owned(), row as u64);
                return Err(DlrmError::WeightedRow { table, row, column, value, weight });
            }
            self.out.push(product);
            self.next += 1;
        }
        Ok(&self.out)
    }

    fn read(&mut self, row: usize) -> Result<()> {
        self.window.clear();
        self.from = row;
        let window = &mut self.window;
        let ended = self.checkpoint.stream_f32_from(self.weights, row, |part| {
            window.extend_from_slice(part);
            if window.len() < WINDOW { Ok(()) } else { Err(Ended::Enough) }
        });
        match ended {
            Ok(()) | Err(Ended::Enough) => Ok(()),
            Err(Ended::Failed(error)) => Err(error.into()),
        }
    }
}
