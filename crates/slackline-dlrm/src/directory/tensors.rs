//! The tensors of a model by the reference's names, and what can supply their values.

use slackline_embedding::RowFormat;

use crate::{DenseWeights, LayerWeights, ModelConfig, Result};

/// One tensor that the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The argument that the shape follows from.
    pub(crate) argument: &'static str,
}

/// Where the values of a model's tensors come from.
pub(crate) trait Weights {
    /// Hands the tensor's values to `sink` in row-major order, in pieces.
    fn stream(&self, tensor: &TensorSpec, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;

    /// Hands a table's rows to `sink` as they are, in pieces, if they are in this format already; else `false`.
    fn stream_rows(
        &self,
        _tensor: &TensorSpec,
        _format: RowFormat,
        _sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        Ok(false)
    }
}

impl TensorSpec {
    /// Bytes of the tensor in single precision.
    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * size_of::<f32>() as u64
    }
}

/// The rows of one table.
pub(crate) fn table_tensor(config: &ModelConfig, table: usize) -> TensorSpec {
    let shape = vec![config.rows()[table], config.dim()];
    TensorSpec { name: format!("emb_l.{table}.weight"), shape, argument: "arch_embedding_size" }
}

/// Weight and bias of every layer, bottom before top. Between two layers stands an activation, so their numbers are even.
pub(crate) fn dense_tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let mlps = [("bot_l", "arch_mlp_bot", config.bottom()), ("top_l", "arch_mlp_top", config.top())];
    let layers = mlps.into_iter().flat_map(|(prefix, argument, widths)| {
        widths.windows(2).enumerate().map(move |(i, pair)| (format!("{prefix}.{}", 2 * i), argument, pair))
    });
    layers
        .flat_map(|(layer, argument, pair)| {
            let weight = TensorSpec { name: format!("{layer}.weight"), shape: vec![pair[1], pair[0]], argument };
            [weight, TensorSpec { name: format!("{layer}.bias"), shape: vec![pair[1]], argument }]
        })
        .collect()
}

/// The weights of both MLPs from the values of [`dense_tensors`], in that order.
pub(crate) fn assemble(config: &ModelConfig, tensors: impl IntoIterator<Item = Vec<f32>>) -> DenseWeights {
    let mut tensors = tensors.into_iter();
    let mut layers = |widths: &[usize]| {
        let mut next = || tensors.next().expect("two tensors a layer");
        (1..widths.len()).map(|_| LayerWeights { weight: next(), bias: next() }).collect()
    };
    DenseWeights { bottom: layers(config.bottom()), top: layers(config.top()) }
}

/// The argument that says how many tensors of such a name there are, for names of tables and layers.
pub(crate) fn argument_of(name: &str) -> Option<&'static str> {
    let (prefix, _) = name.split_once('.')?;
    match prefix {
        "emb_l" => Some("arch_embedding_size"),
        "bot_l" => Some("arch_mlp_bot"),
        "top_l" => Some("arch_mlp_top"),
        _ => None,
    }
}
