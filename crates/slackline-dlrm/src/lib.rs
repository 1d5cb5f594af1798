//! head
#![forbid(unsafe_code)]
mod config;
mod dense;
mod error;
mod interaction;
pub use config::{Arguments, InteractionOp, ModelConfig, ParsedConfig};
pub use dense::{Activation, Linear, Mlp, MlpScratch, product};
pub use error::{DlrmError, Result};
pub use interaction::{Interaction, InteractionScratch};
