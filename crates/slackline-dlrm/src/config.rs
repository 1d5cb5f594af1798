//! The shape of a model. Its arguments have the names of the reference DLRM.

mod parse;
mod tables;

use slackline_data::{InputShape, Preprocessing};
use slackline_embedding::compressed::Combine;

use crate::{DlrmError, Result};
pub use parse::ParsedConfig;
#[cfg(feature = "import")]
pub(crate) use parse::arguments;
pub use tables::{Compression, MixedDimensions, QuotientRemainder, TableKind};

/// How the bottom output and the pooled vectors of a sample become the input of the top MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InteractionOp {
    /// The bottom output, then the dot products of all pairs of vectors.
    #[default]
    Dot,
    /// All vectors side by side.
    Cat,
}

impl InteractionOp {
    /// The reference's name: `dot` or `cat`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dot => "dot",
            Self::Cat => "cat",
        }
    }
}

/// The command-line arguments of the reference that shape a model, unchecked. [`ModelConfig::new`] checks them.
///
/// Fields are named as in the reference, without the leading `arch_`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments {
    /// Width of every embedding row.
    pub sparse_feature_size: usize,
    /// Rows of each table.
    pub embedding_size: Vec<usize>,
    /// Widths of the bottom MLP, from the dense features to its output.
    pub mlp_bot: Vec<usize>,
    /// Widths of the top MLP, with or without the first one, which can be computed.
    pub mlp_top: Vec<usize>,
    /// How the vectors of a sample are combined.
    pub interaction_op: InteractionOp,
    /// With [`InteractionOp::Dot`]: whether each vector is also multiplied with itself.
    pub interaction_itself: bool,
    /// The layer of the bottom MLP that ends in a sigmoid instead of a ReLU; -1 for no layer. `None` is the default: no layer.
    pub sigmoid_bot: Option<i64>,
    /// The same for the top MLP. `None` is the default: its last layer.
    pub sigmoid_top: Option<i64>,
    /// Predictions are clamped to `[t, 1 - t]` if `0 < t < 1`, and not clamped otherwise.
    pub loss_threshold: f64,
    /// Which tables are compressed, and how.
    pub compression: Compression,
    /// What was done to raw inputs when the model was trained, if that is known.
    pub preprocessing: Option<Preprocessing>,
}

/// The shape of a DLRM, checked: all its numbers are consistent.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    dim: usize,
    /// `arch_sparse_feature_size`: half of `dim` where two vectors are concatenated.
    given_dim: usize,
    rows: Vec<usize>,
    compression: Compression,
    kinds: Vec<TableKind>,
    bottom: Vec<usize>,
    top: Vec<usize>,
    /// The given widths of the top MLP.
    given_top: Vec<usize>,
    op: InteractionOp,
    itself: bool,
    sigmoid_bottom: Option<usize>,
    sigmoid_top: Option<usize>,
    /// The given `sigmoid_top`: its default depends on the number of layers.
    asked_sigmoid_top: Option<i64>,
    loss_threshold: f64,
    preprocessing: Option<Preprocessing>,
}

impl ModelConfig {
    /// Checks the arguments against each other.
    ///
    /// # The first width of the top MLP
    ///
    /// The first width of the top MLP follows from the interaction. The reference's command line omits it from
    /// `arch_mlp_top`; its own variables, and most files, include it. A list that starts with the computed width is
    /// therefore used unchanged, and otherwise the computed width is prepended. This rule fails in two cases: a first hidden
    /// layer exactly as wide as the interaction, in a list without the computed width, and a wrong first width, which becomes
    /// one layer too many. A checkpoint settles both: see [`settle_top`](Self::settle_top).
    ///
    /// # Errors
    ///
    /// [`DlrmError::Argument`] for the first argument that is empty, zero, too large, or contradicts another.
    pub fn new(arguments: Arguments) -> Result<Self> {
        let Arguments { sparse_feature_size, embedding_size: rows, mlp_bot: bottom, mlp_top: given_top, .. } =
            arguments;
        if sparse_feature_size == 0 {
            return Err(wrong("arch_sparse_feature_size", "must be at least 1".into()));
        }
        let compression = arguments.compression;
        let doubles =
            matches!(compression.quotient_remainder, Some(QuotientRemainder { operation: Combine::Concatenate, .. }));
        let dim = if doubles { sparse_feature_size.saturating_mul(2) } else { sparse_feature_size };
        if rows.is_empty() {
            return Err(wrong("arch_embedding_size", "names no table".into()));
        }
        no_zero("arch_embedding_size", &rows)?;
        no_zero("arch_mlp_bot", &bottom)?;
        no_zero("arch_mlp_top", &given_top)?;
        for (table, &count) in rows.iter().enumerate() {
            if count.checked_mul(dim).and_then(|n| n.checked_mul(4)).is_none_or(|n| n > isize::MAX as usize) {
                let problem = format!("table {table} of {count} rows by {dim} values does not fit in memory");
                return Err(wrong("arch_embedding_size", problem));
            }
        }
        if bottom.len() < 2 {
            return Err(wrong("arch_mlp_bot", format!("needs at least 2 widths, has {}", bottom.len())));
        }
        let last = bottom[bottom.len() - 1];
        if last != dim {
            let twice = if doubles { "twice " } else { "" };
            let problem =
                format!("its last width is {last}, but {twice}arch_sparse_feature_size is {dim}; they must be equal");
            return Err(wrong("arch_mlp_bot", problem));
        }
        let kinds = compression.kinds(&rows, sparse_feature_size, dim)?;
        let op = arguments.interaction_op;
        let itself = arguments.interaction_itself;
        let width = interaction_width(op, itself, dim, rows.len()).ok_or_else(|| {
            wrong("arch_embedding_size", format!("{} tables are too many for the interaction", rows.len()))
        })?;
        let top = if given_top.first() == Some(&width) { given_top.clone() } else { prepended(width, &given_top) };
        check_top(&top, &given_top, width)?;
        check_layers("arch_mlp_bot", &bottom)?;
        check_layers("arch_mlp_top", &top)?;
        let sigmoid_bottom = sigmoid_layer("sigmoid_bot", arguments.sigmoid_bot.unwrap_or(-1), bottom.len() - 1)?;
        let sigmoid_top = top_sigmoid(arguments.sigmoid_top, &top)?;
        if !arguments.loss_threshold.is_finite() {
            return Err(wrong("loss_threshold", format!("must be a finite number, not {}", arguments.loss_threshold)));
        }
        Ok(Self {
            dim,
            given_dim: sparse_feature_size,
            rows,
            compression,
            kinds,
            bottom,
            top,
            given_top,
            op,
            itself,
            sigmoid_bottom,
            sigmoid_top,
            asked_sigmoid_top: arguments.sigmoid_top,
            loss_threshold: arguments.loss_threshold,
            preprocessing: arguments.preprocessing,
        })
    }

    /// Width of every pooled vector and of the bottom MLP's output.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many tables the model has, at least 1.
    pub fn tables(&self) -> usize {
        self.rows.len()
    }

    /// Rows of each table that can be looked up. A compressed table stores fewer.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// How a table is stored.
    ///
    /// # Panics
    ///
    /// If there is no such table.
    pub fn kind(&self, table: usize) -> TableKind {
        self.kinds[table]
    }

    /// The columns of a table's stored rows; of a quotient-remainder table, the columns of each of its two tables.
    pub(crate) fn stored_columns(&self, table: usize) -> usize {
        match self.kinds[table] {
            TableKind::MixedDimension { columns } => columns,
            _ => self.given_dim,
        }
    }

    /// Dense features of a sample.
    pub fn dense_features(&self) -> usize {
        self.bottom[0]
    }

    /// What a reader of inputs must know of the model.
    pub fn input_shape(&self) -> InputShape {
        InputShape { dense_features: self.dense_features(), table_rows: self.rows.clone() }
    }

    /// What was done to raw inputs when the model was trained, if that is known.
    pub fn preprocessing(&self) -> Option<Preprocessing> {
        self.preprocessing
    }

    /// Records what was done to raw inputs when the model was trained.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Argument`] if the configuration says otherwise.
    pub fn record_preprocessing(&mut self, trained: Preprocessing) -> Result<()> {
        match self.preprocessing.replace(trained) {
            Some(known) if known != trained => {
                Err(wrong("preprocessing", format!("is {known} here, but {trained} was asked for")))
            }
            _ => Ok(()),
        }
    }

    /// Widths of the bottom MLP: the dense features, the hidden layers, [`dim`](Self::dim).
    pub fn bottom(&self) -> &[usize] {
        &self.bottom
    }

    /// Widths of the top MLP, complete: the interaction, the hidden layers, 1.
    pub fn top(&self) -> &[usize] {
        &self.top
    }

    /// How the vectors of a sample are combined.
    pub fn interaction_op(&self) -> InteractionOp {
        self.op
    }

    /// The width of the interaction's output if it were another one.
    #[cfg(feature = "import")]
    pub(crate) fn width_with(&self, op: InteractionOp, itself: bool) -> Option<usize> {
        interaction_width(op, itself, self.dim, self.tables())
    }

    /// Whether the dot interaction also multiplies each vector with itself.
    pub fn interaction_itself(&self) -> bool {
        self.itself
    }

    /// Width of the interaction's output, which is the top MLP's input.
    pub fn interaction_width(&self) -> usize {
        self.top[0]
    }

    /// The bottom layer that ends in a sigmoid, if any; all others end in a ReLU.
    pub fn sigmoid_bottom(&self) -> Option<usize> {
        self.sigmoid_bottom
    }

    /// The top layer that ends in a sigmoid, if any; all others end in a ReLU.
    pub fn sigmoid_top(&self) -> Option<usize> {
        self.sigmoid_top
    }

    /// The lowest and the highest prediction, if predictions are clamped.
    pub fn clamp(&self) -> Option<(f32, f32)> {
        let t = self.loss_threshold;
        (0.0 < t && t < 1.0).then_some((t as f32, (1.0 - t) as f32))
    }

    /// The number of weights and biases in both MLPs.
    pub fn dense_values(&self) -> usize {
        [&self.bottom, &self.top].into_iter().flat_map(|widths| widths.windows(2)).map(|w| (w[0] + 1) * w[1]).sum()
    }

    /// Interprets `arch_mlp_top` by the shapes `[outputs, inputs]` that the layers of the top MLP have in a checkpoint.
    ///
    /// If the shapes match the given list only with the computed width before it, that list becomes the top MLP. Otherwise
    /// nothing changes; if they match neither list, comparing the tensors one by one shows which is wrong.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Argument`] if `sigmoid_top` names a layer that the top MLP does not have.
    pub fn settle_top(&mut self, layers: &[[usize; 2]]) -> Result<()> {
        let agrees = |widths: &[usize]| {
            widths.len() == layers.len() + 1
                && widths.windows(2).zip(layers).all(|(pair, layer)| *layer == [pair[1], pair[0]])
        };
        let other = prepended(self.top[0], &self.given_top);
        if !agrees(&self.top) && agrees(&other) {
            self.sigmoid_top = top_sigmoid(self.asked_sigmoid_top, &other)?;
            self.top = other;
        }
        Ok(())
    }
}

impl ModelConfig {
    /// Takes the columns of mixed-dimension tables from a checkpoint: `columns` gives those of a table, by its number.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Argument`] for more columns than [`dim`](Self::dim).
    pub fn settle_columns(&mut self, columns: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let Some(md) = &mut self.compression.mixed_dimensions else { return Ok(()) };
        let known = |(table, kind): (usize, &TableKind)| match kind {
            TableKind::MixedDimension { columns: reckoned } => columns(table).unwrap_or(*reckoned),
            _ => self.dim,
        };
        md.dims = Some(self.kinds.iter().enumerate().map(known).collect());
        self.kinds = self.compression.kinds(&self.rows, self.given_dim, self.dim)?;
        Ok(())
    }
}

/// Width of the interaction's output for `tables` tables of `dim` columns; `None` on overflow.
fn interaction_width(op: InteractionOp, itself: bool, dim: usize, tables: usize) -> Option<usize> {
    let vectors = tables.checked_add(1)?;
    match op {
        InteractionOp::Cat => vectors.checked_mul(dim),
        InteractionOp::Dot => {
            let pairs = vectors.checked_mul(if itself { vectors.checked_add(1)? } else { tables })? / 2;
            pairs.checked_add(dim)
        }
    }
}

fn prepended(width: usize, given: &[usize]) -> Vec<usize> {
    std::iter::once(width).chain(given.iter().copied()).collect()
}

fn check_top(top: &[usize], given: &[usize], width: usize) -> Result<()> {
    if top.len() < 2 {
        return Err(wrong("arch_mlp_top", format!("{given:?} has no layer after the computed width {width}")));
    }
    let last = top[top.len() - 1];
    if last != 1 {
        let problem = format!("its last width must be 1 (a probability), not {last}; the interaction is {width} wide");
        return Err(wrong("arch_mlp_top", problem));
    }
    Ok(())
}

/// Refuses widths whose layers would not fit in memory, so that later products of widths can't overflow.
fn check_layers(argument: &'static str, widths: &[usize]) -> Result<()> {
    const MOST: usize = 1 << 40;
    let mut total = 0usize;
    for pair in widths.windows(2) {
        let values = pair[0].checked_add(1).and_then(|inputs| inputs.checked_mul(pair[1]));
        total = match values.and_then(|values| total.checked_add(values)).filter(|&total| total <= MOST) {
            Some(total) => total,
            None => return Err(wrong(argument, format!("a layer from {} to {} is too large", pair[0], pair[1]))),
        };
    }
    Ok(())
}

fn top_sigmoid(asked: Option<i64>, top: &[usize]) -> Result<Option<usize>> {
    let layers = top.len() - 1;
    sigmoid_layer("sigmoid_top", asked.unwrap_or(layers as i64 - 1), layers)
}

fn sigmoid_layer(argument: &'static str, asked: i64, layers: usize) -> Result<Option<usize>> {
    match usize::try_from(asked) {
        Ok(layer) if layer < layers => Ok(Some(layer)),
        Err(_) if asked == -1 => Ok(None),
        _ => Err(wrong(argument, format!("{asked} is neither -1 (none) nor one of the layers 0 to {}", layers - 1))),
    }
}

fn no_zero(argument: &'static str, list: &[usize]) -> Result<()> {
    match list.iter().position(|&n| n == 0) {
        Some(at) => Err(wrong(argument, format!("number {at} of the list is 0"))),
        None => Ok(()),
    }
}

pub(crate) fn wrong(argument: &'static str, problem: String) -> DlrmError {
    DlrmError::Argument { argument, problem }
}

#[cfg(test)]
mod tests;
