//! Readers of the checkpoints that others wrote: PyTorch `.pt` files (the zip format, and the stream that came before
//! it), safetensors (one file, or a sharded set by its index) and torchsnapshot directories (tensors whole or in parts,
//! written by one process or many).
//!
//! A [`Checkpoint`] lists tensors by name and streams each of them in row-major order, so that one of any size is
//! imported in bounded memory. No Python is needed and nothing in a file is executed: a pickle is read by a machine that
//! knows the few calls that a tensor is made of, and treats all others as opaque. Files are untrusted: a short, altered
//! or malicious one gives an error that names the file and the cause; never a panic, nor memory without bound.
//!
//! What this crate does not know: models, what a tensor means by its name, shards and row formats.
#![forbid(unsafe_code)]

mod archive;
mod checkpoint;
mod dtype;
mod error;
mod layout;
mod names;
mod parts;
mod pickle;
mod safetensors;
mod snapshot;
mod source;
mod torch;

pub use checkpoint::{Checkpoint, Format, SourceFile};
pub use dtype::{DType, TensorInfo};
pub use error::{CheckpointError, Corrupt};
