//! The forward pass in one process.

mod answers;

use std::sync::Arc;

use slackline_data::Batch;
use slackline_embedding::{EmbeddingTable, Pooling, Successor, TableSet};

use crate::check::{bags, check_batch, check_table};
use crate::{DenseModel, DenseScratch, DlrmError, ModelConfig, Result, UnfitModel, warm};

pub use answers::Local;

/// A whole model in one process: all tables and the dense part.
#[derive(Debug)]
pub struct LocalModel {
    dense: DenseModel,
    tables: TableSet,
    scratch: LocalScratch,
}

/// Buffers for the values between the parts of a [`LocalModel`], reused from call to call. Each thread needs its own.
#[derive(Clone, Debug, Default)]
pub struct LocalScratch {
    pooled: Vec<f32>,
    bottom: Vec<f32>,
    dense: DenseScratch,
}

impl LocalModel {
    /// A model from its dense part and all its tables, in order.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Tables`] or [`DlrmError::TableShape`] if the tables are not those of the configuration.
    pub fn new(dense: DenseModel, tables: Vec<Arc<dyn EmbeddingTable>>) -> Result<Self> {
        let expected = dense.config().tables();
        if tables.len() != expected {
            return Err(DlrmError::Tables { what: "the model", expected, found: tables.len() });
        }
        for (number, table) in tables.iter().enumerate() {
            check_table(dense.config(), number, table.as_ref())?;
        }
        Ok(Self { dense, tables: TableSet::new(tables), scratch: LocalScratch::default() })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.dense.config()
    }

    /// Looks up rows of every table, spread evenly, and runs the dense part once, so that the first batch is as fast as those
    /// after it. The results are thrown away. Call this before reporting that a model is ready. Returns the number of
    /// lookups.
    ///
    /// Cost: 2048 lookups a table, and one dense pass over 128 samples. For a mapped table that is not in memory the lookups
    /// read from the disk, and most of the table stays there: use [`Load::Prefaulted`](crate::Load) to read all of it.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] if a table cannot be looked up.
    pub fn warm_up(&mut self) -> Result<usize> {
        let tables: Vec<&dyn EmbeddingTable> = self.tables.iter().collect();
        warm::dense(&self.dense, &mut self.scratch.dense);
        warm::tables(&tables, None)
    }

    /// Predicts all samples of a batch; `out` is replaced by one value a sample, in order.
    ///
    /// Bags are pooled by their sum, weighted if the batch has weights; an empty bag gives zeros.
    ///
    /// Cost: each row that is looked up is read once, and every weight of the MLPs is used once a sample. Buffers are kept
    /// between calls; beside them a call allocates about 100 bytes a table. Compressed tables allocate
    /// buffers of their own in every call.
    ///
    /// # Errors
    ///
    /// [`DlrmError::BatchShape`] if the batch does not have the model's shape; [`DlrmError::Bags`] for an index outside its
    /// table, or malformed offsets or weights, with table, sample (numbered from the start of the input) and value;
    /// [`DlrmError::Pool`] if a table cannot be looked up.
    pub fn predict(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let done = self.predict_with(batch, &mut scratch, out);
        self.scratch = scratch;
        done
    }

    /// [`predict`](Self::predict) for threads that share the model, each with its own buffers.
    ///
    /// # Errors
    ///
    /// Those of [`predict`](Self::predict).
    pub fn predict_with(&self, batch: &Batch, scratch: &mut LocalScratch, out: &mut Vec<f32>) -> Result<()> {
        self.pool(batch, scratch)?;
        self.answer(batch, scratch, out);
        Ok(())
    }

    /// Checks a batch and pools its lookups.
    fn pool(&self, batch: &Batch, scratch: &mut LocalScratch) -> Result<()> {
        let config = self.dense.config();
        check_batch(config, batch)?;
        let bags = bags(config, batch, self.tables.iter().map(|table| table.name()).enumerate())?;
        let block = batch.samples * config.dim();
        scratch.pooled.resize(self.tables.len() * block, 0.0);
        let mut rest = &mut scratch.pooled[..];
        for (table, bags) in self.tables.iter().zip(&bags) {
            let (out, after) = rest.split_at_mut(block);
            table.pool(bags, Pooling::Sum, out)?;
            rest = after;
        }
        Ok(())
    }

    /// The dense part, for a batch that was pooled.
    fn answer(&self, batch: &Batch, scratch: &mut LocalScratch, out: &mut Vec<f32>) {
        let (samples, LocalScratch { pooled, bottom, dense }) = (batch.samples, scratch);
        let block = samples * self.dense.config().dim();
        let blocks: Vec<&[f32]> = (0..self.tables.len()).map(|table| &pooled[table * block..][..block]).collect();
        self.dense.bottom(&batch.dense, samples, dense, bottom);
        self.dense.predict(bottom, &blocks, samples, dense, out);
    }

    /// Fails if a mapped file was cut short while rows were looked up, so that predictions cannot be trusted; see
    /// [`EmbeddingTable::intact`].
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] with the file that was cut short.
    pub fn intact(&self) -> Result<()> {
        Ok(self.tables.iter().try_for_each(|table| table.intact())?)
    }
}

/// Every batch that fits the current model fits its successor: it has as many dense features, and its tables can replace the
/// current ones. Hidden layers and the interaction may change.
impl Successor for LocalModel {
    type Unfit = UnfitModel;

    fn check(&self, current: &Self) -> Result<(), UnfitModel> {
        let (expected, found) = (current.config().dense_features(), self.config().dense_features());
        if found != expected {
            return Err(UnfitModel::DenseFeatures { expected, found });
        }
        Ok(self.tables.check(&current.tables)?)
    }
}
