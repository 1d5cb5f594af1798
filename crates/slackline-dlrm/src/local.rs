//! The forward pass in one process.

use std::sync::Arc;

use slackline_data::Batch;
use slackline_embedding::{EmbeddingTable, Pooling, Successor, TableSet};

use crate::check::{bags, check_batch, check_table};
use crate::{DenseModel, DenseScratch, DlrmError, ModelConfig, Result, UnfitModel, warm};

/// A whole model in one process: all tables and the dense part.
#[derive(Debug)]
pub struct LocalModel {
    dense: DenseModel,
    tables: TableSet,
    scratch: LocalScratch,
}

/// Room for what lies between the parts of a [`LocalModel`], reused from call to call; one for each thread.
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

    /// Looks up some rows of every table, spread evenly over all of it, runs the dense part once, and throws both away, so
    /// that the first batch is as fast as those after it. Whoever says that a model is ready does so after this. Returns
    /// the number of lookups.
    ///
    /// Cost: 2048 lookups a table, each of which reads from the disk where a mapped table is not in memory yet; that brings
    /// the places in between closer, but not all of them into memory: [`Load::Prefaulted`](slackline_embedding::Load)
    /// does. And one dense pass over 128 samples.
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
    /// Bags are pooled by their sum, weighted where the batch has weights; an empty bag is a vector of zeros. Cost: each
    /// looked-up row is read once, and every weight of the MLPs used once a sample; nothing is allocated once batches have
    /// reached their largest size but a few words a table.
    ///
    /// # Errors
    ///
    /// [`DlrmError::BatchShape`] for a batch of another shape than the model's; [`DlrmError::Bags`] for an index outside of
    /// its table, or malformed offsets or weights: it names table, sample (counted from the beginning of the input) and
    /// value.
    pub fn predict(&mut self, batch: &Batch, out: &mut Vec<f32>) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let done = self.predict_with(batch, &mut scratch, out);
        self.scratch = scratch;
        done
    }

    /// [`predict`](Self::predict) for threads that share the model, each with room of its own.
    ///
    /// # Errors
    ///
    /// Those of [`predict`](Self::predict).
    pub fn predict_with(&self, batch: &Batch, scratch: &mut LocalScratch, out: &mut Vec<f32>) -> Result<()> {
        let config = self.dense.config();
        check_batch(config, batch)?;
        let bags = bags(config, batch, self.tables.iter().map(|table| table.name()).enumerate())?;
        let samples = batch.samples;
        let block = samples * config.dim();
        scratch.pooled.resize(self.tables.len() * block, 0.0);
        let mut rest = &mut scratch.pooled[..];
        let mut blocks = Vec::with_capacity(self.tables.len());
        for (table, bags) in self.tables.iter().zip(&bags) {
            let (out, after) = rest.split_at_mut(block);
            table.pool(bags, Pooling::Sum, out)?;
            blocks.push(&*out);
            rest = after;
        }
        self.dense.bottom(&batch.dense, samples, &mut scratch.dense, &mut scratch.bottom);
        self.dense.predict(&scratch.bottom, &blocks, samples, &mut scratch.dense, out);
        Ok(())
    }
}

/// A batch that fitted the one model fits the other: as many dense features, and tables that can replace the others. The
/// widths of hidden layers and the interaction may change.
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
