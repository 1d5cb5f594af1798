//! Writing a model directory so that an interrupted attempt can be resumed.

use std::path::Path;

use serde_json::{Map, Value};
use slackline_checkpoint::CheckpointError;
use slackline_embedding::ShardError;

use super::journal::Workspace;
use super::tensors::Weights;
use super::write::{Layout, Progress, Written, fill};
use crate::{DlrmError, ModelConfig, Result};

/// What is kept for a later attempt, and how often.
pub(super) struct Keeping {
    /// What makes two attempts the same: a later one may resume this one only if all of it is equal.
    pub(super) binding: Map<String, Value>,
    /// Bytes of rows after which the journal is written again.
    pub(super) every: u64,
    /// Whether an earlier attempt is thrown away instead of resumed.
    pub(super) restart: bool,
}

/// Writes the whole directory, and keeps what is written if the process is killed or the disk fails; see
/// [`journal`](super::journal).
pub(super) fn write_kept(
    config: &ModelConfig,
    weights: &dyn Weights,
    out: &Path,
    layout: &Layout,
    keeping: &Keeping,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    if layout.shards == 0 {
        return Err(DlrmError::NoShards);
    }
    Workspace::refuse_existing(out)?;
    let mut workspace = Workspace::open(out, &keeping.binding, keeping.every, keeping.restart)?;
    let model = workspace.model();
    let ended = fill(config, weights, &model, layout, &mut workspace, progress).and_then(|written| {
        workspace.publish(out)?;
        Ok(written)
    });
    if ended.as_ref().is_err_and(is_worth_keeping) {
        return ended;
    }
    workspace.discard();
    ended
}

/// Whether an import that failed so can be resumed: the disk may have room again.
fn is_worth_keeping(error: &DlrmError) -> bool {
    match error {
        DlrmError::Io { .. } | DlrmError::Leftover { .. } | DlrmError::Exists { .. } => true,
        DlrmError::Shard(error) => matches!(error, ShardError::Io { .. } | ShardError::Abandoned { .. }),
        DlrmError::Checkpoint(error) => matches!(error, CheckpointError::Io { .. }),
        _ => false,
    }
}
