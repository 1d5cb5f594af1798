//! The tensors of a model, by the names of the reference, and where their values come from.

use slackline_embedding::RowFormat;

use crate::{DenseWeights, LayerWeights, ModelConfig, Result, TableKind};

/// A tensor that the configuration requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The argument that the shape follows from.
    pub(crate) argument: &'static str,
}

/// Where the values of a model's tensors come from.
pub(crate) trait Weights {
    /// Passes the values of a tensor to `sink` in row-major order, in pieces, starting with row `first`.
    fn stream(&self, tensor: &TensorSpec, first: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;

    /// If the rows of a table are already in this format, passes them to `sink` unchanged, in pieces of whole rows, starting
    /// with row `first`, and returns `true`.
    fn stream_rows(
        &self,
        _tensor: &TensorSpec,
        _format: RowFormat,
        _first: u64,
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

/// The tensors of one table. A compressed table may have two.
pub(crate) fn table_tensors(config: &ModelConfig, table: usize) -> Vec<TensorSpec> {
    let (rows, columns) = (config.rows()[table], config.stored_columns(table));
    let tensor = |name: &str, shape: [usize; 2], argument| TensorSpec {
        name: format!("emb_l.{table}.{name}"),
        shape: shape.to_vec(),
        argument,
    };
    match config.kind(table) {
        TableKind::Plain => vec![tensor("weight", [rows, columns], "arch_embedding_size")],
        TableKind::Hashed { held } => vec![tensor("weight", [held, columns], "max_ind_range")],
        TableKind::QuotientRemainder { collisions, .. } => vec![
            tensor("weight_q", [rows.div_ceil(collisions), columns], "qr_collisions"),
            tensor("weight_r", [collisions, columns], "qr_collisions"),
        ],
        TableKind::MixedDimension { columns } => {
            let mut tensors = vec![tensor("embs.weight", [rows, columns], "md_flag")];
            if columns < config.dim() {
                tensors.push(tensor("proj.weight", [config.dim(), columns], "md_flag"));
            }
            tensors
        }
    }
}

/// The tensors of all tables, in order.
pub(crate) fn all_table_tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    (0..config.tables()).flat_map(|table| table_tensors(config, table)).collect()
}

/// Weight and bias of every layer, bottom before top. Layers have even numbers; activations have the odd ones.
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

/// The weights of both MLPs from the values of [`dense_tensors`], in the same order.
pub(crate) fn assemble(config: &ModelConfig, tensors: impl IntoIterator<Item = Vec<f32>>) -> DenseWeights {
    let mut tensors = tensors.into_iter();
    let mut layers = |widths: &[usize]| {
        let mut next = || tensors.next().expect("two tensors a layer");
        (1..widths.len()).map(|_| LayerWeights { weight: next(), bias: next() }).collect()
    };
    DenseWeights { bottom: layers(config.bottom()), top: layers(config.top()) }
}
