//! The names of a model directory's files, and the version of its format.

/// The version of the model directory's format that is written and read.
pub const FORMAT_VERSION: u64 = 1;

pub(super) const CONFIG_FILE: &str = "config.json";
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
pub(super) const DENSE_FILE: &str = "dense.safetensors";
