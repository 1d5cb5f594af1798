//! What can be wrong with a model, its files or a batch.

use std::path::PathBuf;

/// Why a configuration, a model directory or a batch was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DlrmError {
    /// The configuration is not the JSON object that was expected.
    #[error("model configuration: {0}")]
    Json(#[from] serde_json::Error),

    /// An argument of the configuration is missing, malformed, or disagrees with another one.
    #[error("{argument}: {problem}")]
    Argument {
        /// The argument by the reference's name, such as `arch_mlp_top`.
        argument: &'static str,
        /// What is wrong, with the numbers.
        problem: String,
    },

    /// The weights given for a layer do not have the layer's shape.
    #[error("a layer of {inputs} inputs and {outputs} outputs needs {expected} {what}, not {found}")]
    LayerShape {
        /// Width of the layer's input.
        inputs: usize,
        /// Width of the layer's output.
        outputs: usize,
        /// `weights` or `biases`.
        what: &'static str,
        /// How many the shape asks for.
        expected: usize,
        /// How many were given.
        found: usize,
    },
}

/// Shorthand for results of this crate.
pub type Result<T, E = DlrmError> = std::result::Result<T, E>;

#[allow(dead_code)]
type Later = PathBuf;
