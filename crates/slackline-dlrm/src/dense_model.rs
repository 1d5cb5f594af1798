//! The dense part of a model: bottom MLP, interaction, top MLP, clamp.

use std::ops::Range;
use std::sync::Arc;

use crate::{Activation, DlrmError, Interaction, InteractionScratch, Linear, Mlp, MlpScratch, ModelConfig, Result};

/// Samples that go through the layers together: enough to amortise reading the weights, few enough for the activations to
/// stay in the cache.
const CHUNK: usize = 256;

/// The fewest samples that are worth waking another thread for.
const SHARE: usize = 16;

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
    threads: Option<Arc<rayon::ThreadPool>>,
}

/// Buffers for the values between the layers, reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct DenseScratch {
    /// One a thread.
    shares: Vec<ShareScratch>,
}

#[derive(Clone, Debug, Default)]
struct ShareScratch {
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
        Ok(Self { bottom, interaction: Interaction::new(&config), top, config, threads: None })
    }

    /// Shares the samples of a batch among these threads, of which the calling thread should be one. The bits stay the same.
    #[must_use]
    pub fn with_threads(mut self, threads: Arc<rayon::ThreadPool>) -> Self {
        self.threads = Some(threads);
        self
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
        self.shared(scratch, out, outputs, &|scratch, samples, out| {
            let dense = &dense[samples.start * inputs..samples.end * inputs];
            self.bottom.forward(dense, samples.len(), &mut scratch.mlp, out);
        });
    }

    /// Computes the predictions of `samples` samples: `bottom` is the output of [`bottom`](Self::bottom) for them,
    /// `tables[t]` their pooled vectors `[samples, dim]` of table `t`, and `out` is replaced by one value a sample.
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
        self.shared(scratch, out, 1, &|ShareScratch { mlp, interaction, interacted }, samples, out| {
            interacted.resize(samples.len() * self.interaction.width(), 0.0);
            self.interaction.interact(bottom, tables, samples.clone(), interaction, interacted);
            self.top.forward(interacted, samples.len(), mlp, out);
        });
        if let Some((low, high)) = self.config.clamp() {
            for p in out {
                // Like torch.clamp: NaN stays NaN, and the upper bound wins if the bounds cross.
                let raised = if *p < low { low } else { *p };
                *p = if raised > high { high } else { raised };
            }
        }
    }

    /// Calls `work` with the samples of a batch, some at a time, and their place in `out`, which has `width` values a sample.
    fn shared(
        &self,
        scratch: &mut DenseScratch,
        out: &mut [f32],
        width: usize,
        work: &(impl Fn(&mut ShareScratch, Range<usize>, &mut [f32]) + Sync),
    ) {
        let samples = 0..out.len() / width;
        let threads = self.threads.as_ref().map_or(1, |threads| threads.current_num_threads());
        let shares = threads.min(samples.len() / SHARE).max(1);
        if scratch.shares.len() < shares {
            scratch.shares.resize_with(shares, ShareScratch::default);
        }
        let scratches = &mut scratch.shares[..shares];
        match &self.threads {
            Some(threads) if shares > 1 => threads.install(|| halves(scratches, samples, out, width, work)),
            _ => halves(scratches, samples, out, width, work),
        }
    }
}

/// One share of the samples for each scratch: in halves, which allocates nothing.
fn halves(
    scratches: &mut [ShareScratch],
    samples: Range<usize>,
    out: &mut [f32],
    width: usize,
    work: &(impl Fn(&mut ShareScratch, Range<usize>, &mut [f32]) + Sync),
) {
    if let [scratch] = scratches {
        for (chunk, out) in out.chunks_mut(CHUNK * width).enumerate() {
            let first = samples.start + chunk * CHUNK;
            work(scratch, first..first + out.len() / width, out);
        }
        return;
    }
    let middle = scratches.len() / 2;
    let at = samples.len() * middle / scratches.len();
    let (left, right) = scratches.split_at_mut(middle);
    let (before, after) = out.split_at_mut(at * width);
    let (before_at, at_after) = (samples.start..samples.start + at, samples.start + at..samples.end);
    rayon::join(|| halves(left, before_at, before, width, work), || halves(right, at_after, after, width, work));
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
