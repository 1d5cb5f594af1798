//! What lies where in the messages of a batch. Both ends work it out from the plan and the batch.

use std::ops::Range;
use std::sync::Arc;

use slackline_embedding::{Bags, HotRows, Part, Plan};

use super::placement::Placement;
use super::samples::Samples;
use crate::Wire;

/// The bytes of the largest message between two ranks of this plan, in single precision, for batches of up to `samples`
/// samples. A lane's slots should have room for it.
pub fn largest_message(plan: &Plan, samples: usize) -> usize {
    let values = |rank| plan.parts_of(rank).iter().map(|part| part.columns.len()).sum::<usize>();
    let values = (0..plan.ranks()).map(values).max().unwrap_or(0);
    values * samples.div_ceil(plan.ranks()) * Wire::F32.bytes()
}

/// The messages of one batch that a rank sends and receives.
///
/// A message holds, for each part of its sender in the plan's order, a [`Segment`] with the pooled vectors of its receiver's
/// samples, and nothing else. Pooling fills segments, and assembly reads them; nothing else computes a place in a message.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) samples: Samples,
    /// The precision of the values.
    pub(super) wire: Wire,
    send_sizes: Vec<usize>,
    receive_sizes: Vec<usize>,
    /// For each part of this rank, in the plan's order, its segments of the messages to all ranks.
    sent: Vec<Segment>,
    /// For each part of the plan its segment of a message to this rank.
    received: Vec<Segment>,
}

/// The vectors of one part in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The samples that they belong to, among those that are pooled for the part: of a table with hot rows these are the
    /// samples that need other rows.
    pub(super) samples: Range<usize>,
    /// Where they lie in the message, in values.
    pub(super) values: Range<usize>,
}

impl Segment {
    /// Where they lie in the message, in the precision of its layout.
    pub(super) fn bytes(&self, wire: Wire) -> Range<usize> {
        self.values.start * wire.bytes()..self.values.end * wire.bytes()
    }
}

impl Layout {
    /// Lays out the messages of a batch of `samples` samples. `hot` are the copies of hot rows, with the number of their
    /// table, and `bags` the lookups of these tables.
    ///
    /// Cost: one pass over the lookups of tables with hot rows; for each part of this rank a segment a rank, and for each
    /// part of the plan one more. Nothing is allocated once the buffers are large enough.
    pub(super) fn arrange(
        &mut self,
        placement: &Placement,
        samples: usize,
        hot: &[(usize, Arc<HotRows>)],
        bags: &[Bags<'_>],
    ) {
        let Layout { samples: split, wire, send_sizes, receive_sizes, sent, received } = self;
        let Placement { plan, rank, .. } = placement;
        let ranks = plan.ranks();
        *wire = placement.wire;
        split.count(samples, ranks, hot, bags);
        let firsts = |part: &Part| split.firsts(placement.hot(part.table));
        // Appends the vectors of a part to a message that holds `size` values so far.
        let append = |size: &mut usize, part: &Part, samples: Range<usize>| {
            let values = *size..*size + samples.len() * part.columns.len();
            *size = values.end;
            Segment { samples, values }
        };
        for sizes in [&mut *send_sizes, &mut *receive_sizes] {
            sizes.clear();
            sizes.resize(ranks, 0);
        }
        sent.clear();
        for part in plan.parts_of(*rank) {
            let runs = send_sizes.iter_mut().zip(firsts(part).windows(2));
            sent.extend(runs.map(|(size, run)| append(size, part, run[0]..run[1])));
        }
        received.clear();
        received.extend(plan.parts().iter().map(|part| {
            let firsts = firsts(part);
            append(&mut receive_sizes[part.rank], part, firsts[*rank]..firsts[*rank + 1])
        }));
        send_sizes.iter_mut().chain(receive_sizes).for_each(|size| *size *= wire.bytes());
    }

    /// The bytes of this rank's message to each rank, itself included.
    pub(super) fn send_sizes(&self) -> &[usize] {
        &self.send_sizes
    }

    /// The bytes of each rank's message to this one.
    pub(super) fn receive_sizes(&self) -> &[usize] {
        &self.receive_sizes
    }

    /// The segments of this rank's `place`-th part, one for each rank.
    pub(super) fn sent(&self, place: usize) -> &[Segment] {
        let ranks = self.send_sizes.len();
        &self.sent[place * ranks..(place + 1) * ranks]
    }

    /// The segment of the plan's `part`-th part in the message from its rank to this one.
    pub(super) fn received(&self, part: usize) -> &Segment {
        &self.received[part]
    }

    /// The bytes that this rank sends to others.
    pub(super) fn sent_bytes(&self, rank: usize) -> u64 {
        let others = self.send_sizes.iter().enumerate().filter(|(peer, _)| *peer != rank);
        others.map(|(_, size)| *size as u64).sum()
    }

    /// The bytes that this rank does not send because its peers have the hot rows.
    pub(super) fn saved_bytes(&self, placement: &Placement) -> u64 {
        let Placement { plan, rank, .. } = placement;
        let parts = plan.parts_of(*rank).iter().enumerate().filter(|(_, part)| placement.hot(part.table).is_some());
        let saved = parts.map(|(place, part)| {
            let peers = self.sent(place).iter().enumerate().filter(|(peer, _)| peer != rank);
            let left_out = peers.map(|(peer, segment)| self.samples.of(peer).len() - segment.samples.len());
            left_out.sum::<usize>() * part.columns.len() * self.wire.bytes()
        });
        saved.sum::<usize>() as u64
    }
}
