//! The dense part of a model: bottom MLP, interaction, top MLP, clamp.

use crate::{Activation, DlrmError, Interaction, InteractionScratch, Linear, Mlp, MlpScratch, ModelConfig, Result};

/// Samples that go through the layers together: enough to amortise reading the weights, few enough for the activations to
/// stay in the cache.
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

/// Everything of a model except its tables: bottom MLP, interaction, top MLP, clamp.
///
/// Computes the predictions of any samples from their dense features and pooled vectors. A sample's prediction has the same
/// bits whatever samples are computed with it.
#[derive(Clone, Debug)]
pub struct DenseModel {
    config: ModelConfig,
    bottom: Mlp,
    interaction: Interaction,
    top: Mlp,
}

/// Buffers for the values between the layers, reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct DenseScratch {
    mlp: MlpScratch,
    interaction: InteractionScratch,
    interacted: Vec<f32>,
}

impl DenseModel {
    /// A dense part with the layers that the configuration describes.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Layers`] or [`DlrmError::LayerShape`] if the weights don't fit them.
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

    /// Computes the bottom MLP's output for `samples` samples: `dense` is `[samples, dense_features]`, and `out` is replaced
    /// by `[samples, dim]`.
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

    /// Computes the predictions of `samples` samples: `bottom` is the output of [`bottom`](Self::bottom) for them,
    /// `tables[t]` their pooled vectors `[samples, dim]` of table `t`, and `out` is replaced by one value a sample.
    ///
    /// Allocates two words a table.
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
                // Like torch.clamp: NaN stays NaN, and the upper bound wins if the bounds cross.
                let raised = if *p < low { low } else { *p };
                *p = if raised > high { high } else { raised };
            }
        }
    }
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
