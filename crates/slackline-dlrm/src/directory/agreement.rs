//! Comparing a checkpoint with the configuration as a whole, before its tensors one by one: a wrong list of tables or widths
//! shows in tensors far away from it.

use std::collections::BTreeSet;
use std::path::Path;

use slackline_checkpoint::{Checkpoint, DType, TensorInfo};

use super::naming::Names;
use super::tensors::table_tensors;
use crate::{DlrmError, InteractionOp, ModelConfig, Result};

/// A tensor's description, by our name.
type Info<'i, 'a> = &'i dyn Fn(&str) -> Option<&'a TensorInfo>;

/// Refuses a checkpoint with another number of tables, or with other widths, than the configuration. Tensors that are missing
/// or odd one by one are for the caller to find.
pub(super) fn check(file: &Path, names: &Names, info: Info<'_, '_>, config: &ModelConfig) -> Result<()> {
    if let Some(found) = tables(names, info)
        && !found.is_empty()
        && found.len() != config.tables()
    {
        return Err(DlrmError::TableCount { file: file.to_owned(), found, expected: config.rows().to_vec() });
    }
    // Rows of bytes are as wide as their format makes them.
    let first = &table_tensors(config, 0)[0];
    if let Some(TensorInfo { shape, dtype, .. }) = info(&first.name)
        && let ([_, found], false) = (&shape[..], *dtype == DType::U8)
        && *found != first.shape[1]
    {
        let (file, tensor) = (file.to_owned(), names.expected(&first.name));
        let (expected, found, argument) = (vec![shape[0], first.shape[1]], shape.clone(), "arch_sparse_feature_size");
        return Err(DlrmError::TensorShape { file, tensor, expected, found, argument });
    }
    let mlps = [("arch_mlp_bot", "bot_l", config.bottom()), ("arch_mlp_top", "top_l", config.top())];
    for (argument, prefix, expected) in mlps {
        let Some(found) = widths(info, prefix) else { continue };
        if found != expected {
            let (file, expected) = (file.to_owned(), expected.to_vec());
            let hint = if argument == "arch_mlp_top" { interaction(config, found[0]) } else { String::new() };
            return Err(DlrmError::Widths { file, argument, expected, found, hint });
        }
    }
    Ok(())
}

/// The arguments that follow from the tensors of a checkpoint, for the message about a configuration that was refused; `None`
/// if they are not those of a model.
pub(super) fn described(checkpoint: &Path) -> Option<String> {
    let opened = Checkpoint::open(checkpoint).ok()?;
    let names = Names::of(opened.tensors(), opened.skipped(), checkpoint).ok()?;
    let info = |ours: &str| opened.tensors().get(names.theirs(ours)?);
    let rows = tables(&names, &info).filter(|rows| !rows.is_empty())?;
    let dim = info("emb_l.0.weight")?.shape.get(1)?;
    let (bottom, top) = (widths(&info, "bot_l")?, widths(&info, "top_l")?);
    Some(format!(
        "arch_sparse_feature_size {dim}, arch_embedding_size {rows:?}, arch_mlp_bot {bottom:?} and arch_mlp_top {top:?}"
    ))
}

/// The rows of each table; `None` if their numbers have gaps.
fn tables(names: &Names, info: Info<'_, '_>) -> Option<Vec<usize>> {
    let number = |name: &str| name.strip_prefix("emb_l.")?.split('.').next()?.parse::<usize>().ok();
    let numbers: BTreeSet<usize> = names.iter().filter_map(|(ours, _)| number(ours)).collect();
    let rows = |table: usize| {
        let name = |what: &str| format!("emb_l.{table}.{what}");
        let tensor = ["weight", "weight_q", "embs.weight"].into_iter().find_map(|what| info(&name(what)));
        tensor.and_then(|tensor| tensor.shape.first().copied()).unwrap_or(0)
    };
    numbers.iter().copied().eq(0..numbers.len()).then(|| numbers.iter().map(|table| rows(*table)).collect())
}

/// The widths of an MLP, from its first input to its last output; `None` if its layers do not follow each other.
fn widths(info: Info<'_, '_>, prefix: &str) -> Option<Vec<usize>> {
    let layers = layers(info, prefix);
    let chained = layers.windows(2).all(|pair| pair[0][0] == pair[1][1]);
    let first = layers.first().map(|layer| layer[1])?;
    chained.then(|| std::iter::once(first).chain(layers.iter().map(|layer| layer[0])).collect())
}

/// The shapes of the weights of an MLP's layers, up to the first that is missing.
pub(super) fn layers(info: Info<'_, '_>, prefix: &str) -> Vec<[usize; 2]> {
    let shape = |layer: usize| info(&format!("{prefix}.{}.weight", 2 * layer))?.shape[..].try_into().ok();
    (0..).map_while(shape).collect()
}

/// Which interaction would give the top MLP that many inputs.
fn interaction(config: &ModelConfig, inputs: usize) -> String {
    if inputs == config.interaction_width() {
        return String::new();
    }
    let ways = [
        (InteractionOp::Dot, false, "arch_interaction_op \"dot\" without arch_interaction_itself"),
        (InteractionOp::Dot, true, "arch_interaction_op \"dot\" with arch_interaction_itself"),
        (InteractionOp::Cat, false, "arch_interaction_op \"cat\""),
    ];
    let (tables, dim, width) = (config.tables(), config.dim(), config.interaction_width());
    let ours = format!("; {tables} tables of {dim} columns make {width} inputs by the configuration's interaction");
    match ways.iter().find(|(op, itself, _)| config.width_with(*op, *itself) == Some(inputs)) {
        Some((_, _, way)) => format!("{ours}, and {inputs} by {way}"),
        None => ours,
    }
}
