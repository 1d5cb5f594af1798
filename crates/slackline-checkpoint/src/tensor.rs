//! A tensor of a checkpoint: its type and shape, and where its elements are.

use crate::layout::{LayoutWalk, Piece};
#[cfg(feature = "torchsnapshot")]
use crate::parts::{Parts, PartsWalk};
use crate::source::Sources;
use crate::{CheckpointError, DType};

/// The element type, shape and size of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements.
    pub dtype: DType,
    /// Elements along each dimension, the slowest first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Size in row-major order, in bytes. More than the file holds if the tensor repeats elements (stride 0).
    pub bytes: u64,
}

/// What the reader of a format found in a file.
#[derive(Debug)]
pub(crate) struct Found {
    /// By the names in the file; the same name may come twice.
    pub(crate) tensors: Vec<(String, Stored)>,
    pub(crate) skipped: Vec<String>,
}

/// A tensor whose place has been checked against the bytes of its file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) info: TensorInfo,
    pub(crate) place: Place,
}

/// Where a tensor is.
#[derive(Debug)]
pub(crate) enum Place {
    One(Piece),
    /// Only snapshots have tensors in parts.
    #[cfg(feature = "torchsnapshot")]
    Parts(Parts),
}

impl Place {
    /// Bytes that the tensor takes in its files.
    pub(crate) fn extent(&self) -> u64 {
        match self {
            Place::One(piece) => piece.extent,
            #[cfg(feature = "torchsnapshot")]
            Place::Parts(parts) => parts.extent(),
        }
    }

    /// Walks over the elements in row-major order, from index `first` of the first dimension on. A tensor in one run of the
    /// file is read in blocks of at most `run_bytes`, others in blocks of the size that suits their layout.
    pub(crate) fn walk<'a>(&'a self, sources: &'a Sources, first: usize, run_bytes: usize) -> Walk<'a> {
        match self {
            Place::One(piece) => {
                let layout = match piece.layout.shape.first() {
                    Some(&rows) if first > 0 => piece.layout.rows(first.min(rows), rows),
                    _ => piece.layout.clone(),
                };
                Walk::One(layout.walk(sources.get(piece.source), run_bytes))
            }
            #[cfg(feature = "torchsnapshot")]
            Place::Parts(parts) => Walk::Parts(parts.walk(sources, first)),
        }
    }
}

/// A walk over the elements of a tensor in row-major order.
pub(crate) enum Walk<'a> {
    One(LayoutWalk<'a>),
    #[cfg(feature = "torchsnapshot")]
    Parts(PartsWalk<'a>),
}

impl Walk<'_> {
    /// Replaces `block` by the next elements, always whole ones; `false` at the end.
    pub(crate) fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, CheckpointError> {
        match self {
            Walk::One(walk) => walk.next_block(block),
            #[cfg(feature = "torchsnapshot")]
            Walk::Parts(walk) => walk.next_block(block),
        }
    }
}
