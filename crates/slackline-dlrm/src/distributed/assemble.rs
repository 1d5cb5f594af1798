//! From messages to one block of pooled vectors a table.

use slackline_embedding::{Part, Plan};

use super::pending::Pending;
use super::placement::{Placement, Source};
use crate::wire::read_pooled;

/// Room for messages that are not read in place, and for tables that come in parts.
#[derive(Debug)]
pub(super) struct Assembly {
    /// One a rank.
    copies: Vec<Vec<f32>>,
    /// One a table; empty for those that come whole.
    tables: Vec<Vec<f32>>,
}

impl Assembly {
    pub(super) fn new(plan: &Plan) -> Self {
        Assembly { copies: vec![Vec::new(); plan.ranks()], tables: vec![Vec::new(); plan.tables().len()] }
    }

    /// The pooled vectors `[samples, dim]` of every table, in order, for this rank's samples. `messages` are those of all
    /// ranks, of the sizes in the batch's layout.
    pub(super) fn blocks<'a>(
        &'a mut self,
        placement: &Placement,
        pending: &'a Pending,
        messages: &[&'a [u8]],
    ) -> Vec<&'a [f32]> {
        let Placement { plan, rank, sources, .. } = placement;
        let Pending { samples, layout, replicated, hot: of_hot, .. } = pending;
        let messages = messages.iter().zip(&mut self.copies);
        let values: Vec<&[f32]> = messages.map(|(message, copy)| read_pooled(message, layout.wire, copy)).collect();
        let received = |part: usize| &values[plan.parts()[part].rank][layout.received(part).values.clone()];
        let block = |((table, source), room): ((usize, &Source), &'a mut Vec<f32>)| -> &'a [f32] {
            let dim = plan.tables()[table].dim;
            match source {
                Source::Replicated(place) => &replicated[*place],
                Source::Whole { part } => received(*part),
                Source::Hot { part, hot } => {
                    room.resize(samples * dim, 0.0);
                    let cold = &layout.samples.cold(*hot)[layout.samples.of(*rank)];
                    let (mut here, mut sent) = (of_hot[*hot].chunks_exact(dim), received(*part).chunks_exact(dim));
                    for (cold, out) in cold.iter().zip(room.chunks_exact_mut(dim)) {
                        let next = if *cold { sent.next() } else { here.next() };
                        out.copy_from_slice(next.expect("each sample is here or was sent"));
                    }
                    room
                }
                Source::Parts(parts) => {
                    room.resize(samples * dim, 0.0);
                    for number in parts.clone() {
                        add(&plan.parts()[number], received(number), dim, room);
                    }
                    room
                }
            }
        };
        sources.iter().enumerate().zip(&mut self.tables).map(block).collect()
    }
}

/// Adds a part's vectors to those of its table, which are `dim` long.
fn add(part: &Part, vectors: &[f32], dim: usize, out: &mut [f32]) {
    for (out, values) in out.chunks_exact_mut(dim).zip(vectors.chunks_exact(part.columns.len())) {
        let out = &mut out[part.columns.clone()];
        // The sums of the first run of rows, then those of the next, in this order on every rank.
        if part.rows.start == 0 {
            out.copy_from_slice(values);
        } else {
            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
        }
    }
}
