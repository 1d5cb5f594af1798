//! The best time that a bounded lag allows for given work: a recurrence.
//!
//! With `c[p][i]` the work and delay of rank `p` in round `i`, cheap transfers, and a group that starts at 0, rank `p` has
//! sent round `i` at
//!
//! ```text
//! F[p][i] = max(F[p][i-1], max over q of F[q][i-1-k]) + c[p][i]
//! ```
//!
//! where terms of a negative round drop out. For `k = 0` the last round is sent at `sum over i of max over p of c`, and for
//! a `k` past all rounds at `max over p of sum over i of c`, the best that any schedule can do.

use std::collections::VecDeque;

/// The time at which the last rank finishes its last round, in the unit of `work`, if every rank may be `lag` rounds ahead.
///
/// `work[p][i]` is the work and delay of rank `p` in round `i`; all ranks have the same number of rounds. Cost: one
/// pass, with memory for `lag` rounds.
///
/// # Panics
///
/// If the ranks differ in their number of rounds.
///
/// # Examples
///
/// ```
/// use slackline_bench::predict::makespan;
///
/// // Two ranks that are slow in turn: waiting each time costs 2 + 2, not waiting costs 2 + 1.
/// let work = [vec![2.0, 1.0], vec![1.0, 2.0]];
/// assert_eq!(makespan(&work, 0), 4.0);
/// assert_eq!(makespan(&work, 1), 3.0);
/// ```
pub fn makespan<W: AsRef<[f64]>>(work: &[W], lag: usize) -> f64 {
    let rounds = rounds(work);
    let mut sent = vec![0.0f64; work.len()];
    // When the slowest rank had sent each of the last `lag + 1` rounds.
    let mut slowest: VecDeque<f64> = VecDeque::new();
    for round in 0..rounds {
        let bound = if slowest.len() > lag { slowest.pop_front().unwrap_or(0.0) } else { 0.0 };
        for (sent, work) in sent.iter_mut().zip(work) {
            *sent = sent.max(bound) + work.as_ref()[round];
        }
        slowest.push_back(largest(sent.iter().copied()));
    }
    largest(sent.into_iter())
}

/// The bound of any lag: the total work of the busiest rank. Same units and panics as [`makespan`].
pub fn ideal<W: AsRef<[f64]>>(work: &[W]) -> f64 {
    rounds(work);
    largest(work.iter().map(|work| work.as_ref().iter().sum()))
}

fn rounds<W: AsRef<[f64]>>(work: &[W]) -> usize {
    let rounds = work.first().map_or(0, |work| work.as_ref().len());
    assert!(work.iter().all(|work| work.as_ref().len() == rounds), "ranks with different numbers of rounds");
    rounds
}

fn largest(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_case_worked_out_by_hand() {
        // Rank 0 spikes in round 1, rank 1 in round 3; all else takes 1.
        let work = [vec![1.0, 5.0, 1.0, 1.0, 1.0], vec![1.0, 1.0, 1.0, 5.0, 1.0]];
        assert_eq!(makespan(&work, 0), 13.0);
        // Lag 1, rank 0: 1, 6, 7, 8, 12 (round 4 waits for round 2 of both, 7, then its own 8: 9)...
        // rank 0: F = 1, 6, 7, 8, 9; rank 1: F = 1, 2, 3 (bound F[.][0] = 1), max(3, 6) + 5 = 11, max(11, 7) + 1 = 12.
        assert_eq!(makespan(&work, 1), 12.0);
        // Lag 2: rank 1 starts round 3 at 3 (bound F[.][0] = 1), 8, then waits for F[0][1] = 6: 9.
        assert_eq!(makespan(&work, 2), 9.0);
        assert_eq!(ideal(&work), 9.0);
    }

    #[test]
    fn a_rank_that_is_always_slow_cannot_be_hidden() {
        let work = [vec![2.0; 50], vec![1.0; 50]];
        for lag in [0, 1, 4, 100] {
            assert_eq!(makespan(&work, lag), 100.0);
        }
    }

    #[test]
    fn nothing_to_do_takes_no_time() {
        assert_eq!(makespan::<Vec<f64>>(&[], 3), 0.0);
        assert_eq!(makespan(&[vec![], vec![]], 3), 0.0);
    }

    proptest! {
        #[test]
        fn the_ends_are_the_sum_of_maxima_and_the_maximum_of_sums_and_more_lag_never_hurts(
            flat in prop::collection::vec(0u32..1000, 1..120), ranks in 1usize..6
        ) {
            // Whole numbers add up exactly, so the comparisons need no slack.
            let rounds = flat.len() / ranks;
            let work: Vec<Vec<f64>> =
                (0..ranks).map(|p| flat[p * rounds..][..rounds].iter().map(|&w| f64::from(w)).collect()).collect();
            let sum_of_maxima: f64 = (0..rounds).map(|i| largest(work.iter().map(|work| work[i]))).sum();
            prop_assert_eq!(makespan(&work, 0), sum_of_maxima);
            prop_assert_eq!(makespan(&work, rounds), ideal(&work));
            let spans: Vec<f64> = (0..=rounds).map(|lag| makespan(&work, lag)).collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", spans);
        }
    }
}
