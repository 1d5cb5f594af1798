//! Reads checkpoints written by other programs: PyTorch `.pt` files (zip and legacy), safetensors files and sharded sets, and
//! torchsnapshot directories.
//!
//! A [`Checkpoint`] lists tensors by name and streams each of them in row-major order, so that a tensor of any size is read
//! in bounded memory. It needs no Python and never runs code from a file: it knows the few calls that make a tensor in a
//! pickle, and treats all others as opaque. Files are untrusted: a truncated, altered or malicious file gives an error that
//! names the file and the cause, never a panic and never unbounded memory.
//!
//! This crate does not know what a tensor means: models, and Slackline's own shards and row formats, are for other crates.
//!
//! # Features
//!
//! * `torchsnapshot`: torchsnapshot directories, whose manifest is YAML. Off by default; without it [`Checkpoint::open`]
//!   refuses such a directory with [`CheckpointError::MissingFeature`].
#![forbid(unsafe_code)]

mod archive;
mod checkpoint;
mod convert;
mod directory;
mod dtype;
mod error;
mod foreign;
mod format;
mod layout;
mod limits;
mod names;
#[cfg(feature = "torchsnapshot")]
mod parts;
mod pickle;
mod reader;
mod safetensors;
mod shape;
#[cfg(feature = "torchsnapshot")]
mod snapshot;
mod source;
mod tensor;
mod torch;
#[cfg(feature = "torchsnapshot")]
mod yaml;

pub use checkpoint::{Checkpoint, SourceFile};
pub use dtype::DType;
pub use error::{CheckpointError, Corrupt};
pub use format::Format;
pub use reader::TensorReader;
pub use tensor::TensorInfo;
