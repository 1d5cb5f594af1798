//! The forward pass: the dense part, and the whole model in one process.

use std::sync::Arc;

use slackline_data::Batch;
use slackline_embedding::{EmbeddingTable, Pooling, Successor, TableSet, UnfitTables};

use crate::pooled::{bags, check_batch, check_table};
use crate::{
    Activation, DlrmError, Interaction, InteractionScratch, Linear, Mlp, MlpScratch, ModelConfig, Result, warm,
};

/// Samples that go through the layers together: enough to use the weights well, few enough that what lies between two
/// layers stays in the cache.
const CHUNK: usize = 256;

/// The weights of one layer, as PyTorch stores them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerWeights {
    /// `[outputs, inputs]`, row after row.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// The weights of both MLPs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DenseWeights {
    /// The bottom MLP, first layer first.
    pub bottom: Vec<LayerWeights>,
    /// The top MLP, first layer first.
    pub top: Vec<LayerWeights>,
}

/// Everything of a model but its tables: bottom MLP, interaction, top MLP, clamp.
///
/// It computes the predictions of some samples from their dense features and pooled vectors; which samples, and where the
/// vectors come from, it does not know. A sample's prediction has the same bits whatever samples are computed with it.
#[derive(Clone, Debug)]
pub struct DenseModel {
    config: ModelConfig,
    bottom: Mlp,
    interaction: Interaction,
    top: Mlp,
}

/// Room for what lies between the layers, reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct DenseScratch {
    mlp: MlpScratch,
    interaction: InteractionScratch,
    interacted: Vec<f32>,
}

impl DenseModel {
    /// Puts the weights into the layers that the configuration describes.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Layers`] or [`DlrmError::LayerShape`] if they don't fit.
    pub fn new(config: ModelConfig, weights: DenseWeights) -> Result<Self> {
        let bottom = mlp("arch_mlp_bot", config.bottom(), config.sigmoid_bottom(), weights.bottom)?;
        let top = mlp("arch_mlp_top", config.top(), config.sigmoid_top(), weights.top)?;
        Ok(Self { bottom, interaction: Interaction::new(&config), top, config })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The bottom MLP.
    pub fn bottom_mlp(&self) -> &Mlp {
        &self.bottom
    }

    /// The interaction.
    pub fn interaction(&self) -> &Interaction {
        &self.interaction
    }

    /// The bottom MLP's output for `samples` samples: `dense` is `[samples, dense_features]`, and `out` is replaced by
    /// `[samples, dim]`.
    ///
    /// # Panics
    ///
    /// If `dense` does not have the stated length.
    pub fn bottom(&self, dense: &[f32], samples: usize, scratch: &mut DenseScratch, out: &mut Vec<f32>) {
        let (inputs, outputs) = (self.bottom.inputs(), self.bottom.outputs());
        assert_eq!(dense.len(), samples * inputs, "dense features");
        out.resize(samples * outputs, 0.0);
        for (dense, out) in dense.chunks(CHUNK * inputs).zip(out.chunks_mut(CHUNK * outputs)) {
            self.bottom.forward(dense, dense.len() / inputs, &mut scratch.mlp, out);
        }
    }

    /// The predictions of `samples` samples: `bottom` is what [`bottom`](Self::bottom) gave for them, `tables[t]` their
    /// pooled vectors `[samples, dim]` of table `t`, and `out` is replaced by one value a sample.
    ///
    /// # Panics
    ///
    /// If a slice does not have the stated length, or there is not one block for each table.
    pub fn predict(
        &self,
        bottom: &[f32],
        tables: &[&[f32]],
        samples: usize,
        scratch: &mut DenseScratch,
        out: &mut Vec<f32>,
    ) {
        let dim = self.config.dim();
        assert_eq!(bottom.len(), samples * dim, "values of the bottom output");
        out.resize(samples, 0.0);
        let mut blocks = Vec::with_capacity(tables.len());
        for (chunk, out) in out.chunks_mut(CHUNK).enumerate() {
            let place = chunk * CHUNK * dim..(chunk * CHUNK + out.len()) * dim;
            blocks.clear();
            blocks.extend(tables.iter().map(|block| &block[place.clone()]));
            scratch.interacted.resize(out.len() * self.interaction.width(), 0.0);
            let interacted = &mut scratch.interacted;
            self.interaction.interact(&bottom[place], &blocks, out.len(), &mut scratch.interaction, interacted);
            self.top.forward(interacted, out.len(), &mut scratch.mlp, out);
        }
        if let Some((low, high)) = self.config.clamp() {
            for p in out {
                // As torch.clamp: NaN stays NaN, and the upper bound wins where the bounds cross.
                let raised = if *p < low { low } else { *p };
                *p = if raised > high { high } else { raised };
            }
        }
    }
}

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
        let expected = dense.config.tables();
        if tables.len() != expected {
            return Err(DlrmError::Tables { what: "the model", expected, found: tables.len() });
        }
        for (number, table) in tables.iter().enumerate() {
            check_table(&dense.config, number, table.as_ref())?;
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
        let config = &self.dense.config;
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

/// Why a model cannot replace the one that is being served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitModel {
    /// Another number of dense features.
    #[error("a model of {found} dense features cannot replace one of {expected}")]
    DenseFeatures {
        /// Those of the model being served.
        expected: usize,
        /// Those of the new one.
        found: usize,
    },
    /// Its tables.
    #[error(transparent)]
    Tables(#[from] UnfitTables),
}

fn mlp(argument: &'static str, widths: &[usize], sigmoid: Option<usize>, layers: Vec<LayerWeights>) -> Result<Mlp> {
    if layers.len() != widths.len() - 1 {
        return Err(DlrmError::Layers { argument, expected: widths.len() - 1, found: layers.len() });
    }
    let layers = layers.into_iter().zip(widths.windows(2)).enumerate().map(|(i, (layer, pair))| {
        let activation = if sigmoid == Some(i) { Activation::Sigmoid } else { Activation::Relu };
        Linear::new(pair[0], pair[1], layer.weight, layer.bias, activation)
    });
    Ok(Mlp::new(layers.collect::<Result<_>>()?))
}
