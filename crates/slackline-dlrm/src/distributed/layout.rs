//! What lies where in a message. Both ends work it out from the plan and the batch.

use std::ops::Range;
use std::sync::Arc;

use slackline_embedding::{Bags, HotRows, Plan};

use crate::Wire;

/// The samples that rank `rank` of `ranks` predicts, of a batch of `samples`: from `rank * samples / ranks` up to the next
/// rank's first. Runs differ in length by at most 1, and may be empty.
pub fn samples_of(samples: usize, rank: usize, ranks: usize) -> Range<usize> {
    let bound = |rank: usize| (rank as u128 * samples as u128 / ranks as u128) as usize;
    bound(rank)..bound(rank + 1)
}

/// The bytes of the largest message between two ranks of this plan, in single precision, for batches of up to `samples`
/// samples. A lane's slots should have room for it.
pub fn largest_message(plan: &Plan, samples: usize) -> usize {
    let values = |rank| plan.parts_of(rank).iter().map(|part| part.columns.len()).sum::<usize>();
    let values = (0..plan.ranks()).map(values).max().unwrap_or(0);
    values * samples.div_ceil(plan.ranks()) * Wire::F32.bytes()
}

/// The samples of a batch, and for each table with hot rows the samples that need other rows as well.
#[derive(Debug, Default)]
pub(super) struct Counts {
    samples: usize,
    cold: Vec<Cold>,
}

#[derive(Debug, Default)]
struct Cold {
    table: usize,
    /// One a sample of the batch.
    is_cold: Vec<bool>,
    /// The number of such samples before each rank's first, and in all.
    before: Vec<usize>,
}

impl Counts {
    /// Counts the samples that need other rows than hot ones.
    pub(super) fn count(&mut self, samples: usize, ranks: usize, hot: &[(usize, Arc<HotRows>)], bags: &[Bags<'_>]) {
        self.samples = samples;
        self.cold.resize_with(hot.len(), Cold::default);
        for (((table, hot), bags), cold) in hot.iter().zip(bags).zip(&mut self.cold) {
            cold.table = *table;
            cold.is_cold.clear();
            cold.is_cold.extend((0..samples).map(|sample| !hot.has_all(bags, sample)));
            cold.before.clear();
            let mut before = 0;
            for rank in 0..ranks {
                cold.before.push(before);
                let own = samples_of(samples, rank, ranks);
                before += cold.is_cold[own].iter().filter(|cold| **cold).count();
            }
            cold.before.push(before);
        }
    }

    /// For a table with hot rows: whether each sample of the batch needs other rows.
    pub(super) fn cold(&self, table: usize) -> Option<&[bool]> {
        self.cold.iter().find(|cold| cold.table == table).map(|cold| cold.is_cold.as_slice())
    }

    /// The samples whose vectors go to `peer`, among those that are pooled for this table.
    pub(super) fn samples(&self, table: usize, peer: usize, ranks: usize) -> Range<usize> {
        match self.cold.iter().find(|cold| cold.table == table) {
            Some(cold) => cold.before[peer]..cold.before[peer + 1],
            None => samples_of(self.samples, peer, ranks),
        }
    }

    /// The bytes that `rank` does not send because its peers have the hot rows.
    pub(super) fn saved(&self, plan: &Plan, rank: usize, wire: Wire) -> u64 {
        let parts = plan.parts_of(rank).iter().filter(|part| self.cold(part.table).is_some());
        let saved = parts.map(|part| {
            let peers = (0..plan.ranks()).filter(|peer| *peer != rank);
            let left_out = peers.map(|peer| {
                let all = samples_of(self.samples, peer, plan.ranks()).len();
                all - self.samples(part.table, peer, plan.ranks()).len()
            });
            left_out.sum::<usize>() * part.columns.len() * wire.bytes()
        });
        saved.sum::<usize>() as u64
    }
}

/// The bytes of this batch's message from one rank to another.
pub(super) fn message_bytes(plan: &Plan, from: usize, to: usize, counts: &Counts, wire: Wire) -> usize {
    let values = plan.parts_of(from).iter();
    let values = values.map(|part| counts.samples(part.table, to, plan.ranks()).len() * part.columns.len());
    values.sum::<usize>() * wire.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_split_without_gaps_and_evenly() {
        for ranks in 1..9 {
            for samples in 0..40 {
                let mut next = 0;
                for rank in 0..ranks {
                    let own = samples_of(samples, rank, ranks);
                    assert_eq!(own.start, next);
                    assert!(own.len() == samples / ranks || own.len() == samples.div_ceil(ranks));
                    next = own.end;
                }
                assert_eq!(next, samples);
            }
        }
    }
}
