//! Batches between pooling and answer.

use std::collections::VecDeque;

use super::layout::Layout;
use crate::{DenseModel, DenseScratch};

/// Batches that are pooled and not yet answered.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Oldest first.
    pub(super) pending: VecDeque<Pending>,
    /// Entries that are answered, kept for their buffers.
    pub(super) spare: Vec<Pending>,
}

/// What is kept of one batch.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) round: u64,
    pub(super) first_sample: u64,
    /// This rank's samples.
    pub(super) samples: usize,
    /// The dense features of this rank's samples.
    pub(super) dense: Vec<f32>,
    /// The bottom output, once it is computed.
    pub(super) bottom: Vec<f32>,
    pub(super) has_bottom: bool,
    /// Vectors of this rank's samples from replicated tables, in order.
    pub(super) replicated: Vec<Vec<f32>>,
    /// For each table with hot rows the vectors of those of this rank's samples that need no other rows.
    pub(super) hot: Vec<Vec<f32>>,
    /// The messages.
    pub(super) layout: Layout,
}

impl Pending {
    pub(super) fn run_bottom(&mut self, model: &DenseModel, scratch: &mut DenseScratch) {
        if !self.has_bottom {
            model.bottom(&self.dense, self.samples, scratch, &mut self.bottom);
            self.has_bottom = true;
        }
    }
}
