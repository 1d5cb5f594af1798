//! Which samples of a batch belong to which rank, and which of them need vectors of other ranks.

use std::ops::Range;
use std::sync::Arc;

use slackline_embedding::{Bags, HotRows};

/// The samples that rank `rank` of `ranks` predicts, of a batch of `samples`: from `rank * samples / ranks` up to the next
/// rank's first. Runs differ in length by at most 1, and may be empty.
pub fn samples_of(samples: usize, rank: usize, ranks: usize) -> Range<usize> {
    let bound = |rank: usize| (rank as u128 * samples as u128 / ranks as u128) as usize;
    bound(rank)..bound(rank + 1)
}

/// The samples of a batch, and for each table with hot rows the samples that need other rows as well.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The first sample of each rank, and the number of samples.
    firsts: Vec<usize>,
    /// One a table with hot rows.
    cold: Vec<Cold>,
}

#[derive(Debug, Default)]
struct Cold {
    /// One a sample of the batch.
    is_cold: Vec<bool>,
    /// The number of such samples before each rank's first, and in all.
    firsts: Vec<usize>,
}

impl Samples {
    /// Counts the samples of a batch. `hot` are the copies of hot rows, with the number of their table, and `bags` the
    /// lookups of these tables.
    pub(super) fn count(&mut self, samples: usize, ranks: usize, hot: &[(usize, Arc<HotRows>)], bags: &[Bags<'_>]) {
        self.firsts.clear();
        self.firsts.extend((0..ranks).map(|rank| samples_of(samples, rank, ranks).start));
        self.firsts.push(samples);
        self.cold.resize_with(hot.len(), Cold::default);
        for (((_, hot), bags), Cold { is_cold, firsts }) in hot.iter().zip(bags).zip(&mut self.cold) {
            is_cold.clear();
            is_cold.extend((0..samples).map(|sample| !hot.has_all(bags, sample)));
            firsts.clear();
            firsts.push(0);
            let mut before = 0;
            for own in self.firsts.windows(2) {
                before += is_cold[own[0]..own[1]].iter().filter(|cold| **cold).count();
                firsts.push(before);
            }
        }
    }

    /// The samples that `rank` predicts.
    pub(super) fn of(&self, rank: usize) -> Range<usize> {
        self.firsts[rank]..self.firsts[rank + 1]
    }

    /// The first of each rank's samples among those whose vectors are sent, and the number of these: of the table with hot
    /// rows of this place those that need other rows, of other tables (`None`) all samples of the batch.
    pub(super) fn firsts(&self, hot: Option<usize>) -> &[usize] {
        hot.map_or(&self.firsts, |hot| &self.cold[hot].firsts)
    }

    /// Whether each sample of the batch needs other rows than hot ones, of the table with hot rows of this place.
    pub(super) fn cold(&self, hot: usize) -> &[bool] {
        &self.cold[hot].is_cold
    }
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
