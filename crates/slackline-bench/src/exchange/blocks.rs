//! One rank's part of an exchange benchmark: contents that are checked, and blocks of rounds that are timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_collective::{Exchange, Group, GroupOptions, LaneOptions};
use slackline_transport::{Endpoint, GroupShape, Lane};

use super::options::ExchangeOptions;
use crate::BenchError;

/// What a rank is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ExchangeTask {
    pub(super) ranks: usize,
    pub(super) bytes: usize,
    pub(super) lag: usize,
    pub(super) read: bool,
    pub(super) blocks: usize,
    /// Rounds of a block.
    pub(super) rounds: usize,
}

impl ExchangeTask {
    /// The task of one size, and the rings that it needs.
    pub(super) fn new(options: &ExchangeOptions, bytes: usize) -> (GroupShape, Self) {
        let &ExchangeOptions { ranks, lag, read, blocks, .. } = options;
        let largest = (0..ranks).map(|rank| split(rank, rank + 1, bytes)).max().unwrap_or(bytes);
        let shape = GroupShape { ranks, lanes: vec![LaneOptions::lag(lag).shape(largest)] };
        let rounds = ((1 << 29) / (bytes + 65_536)).clamp(20, 20_000);
        (shape, ExchangeTask { ranks, bytes, lag, read, blocks, rounds })
    }
}

/// Of each block, the slowest rank's time.
pub(super) fn slowest(times: &[Vec<f64>]) -> Vec<f64> {
    let blocks = times.first().map_or(0, Vec::len);
    (0..blocks).map(|block| times.iter().map(|times| times[block]).fold(0.0, f64::max)).collect()
}

/// What rank `from` sends to rank `to`.
pub(super) fn split(from: usize, to: usize, bytes: usize) -> usize {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => bytes * 5 / 4,
        std::cmp::Ordering::Equal => bytes,
        std::cmp::Ordering::Greater => bytes * 3 / 4,
    }
}

/// The byte that rank `from` sends to rank `to` at a place of its message.
pub(super) fn content(round: u64, from: usize, to: usize, at: usize) -> u8 {
    (round as usize * 31 + from * 7 + to * 13 + at * 3 + at / 251) as u8
}

/// One rank's part: checks contents, then times blocks.
pub(super) fn rank<E: Endpoint>(endpoint: E, task: &ExchangeTask) -> Result<Vec<f64>, BenchError> {
    let rank = endpoint.rank();
    let options = GroupOptions::new([LaneOptions::lag(task.lag)]).deadline(Duration::from_secs(60));
    let group = Group::new(endpoint, options)?;
    let sizes: Vec<usize> = (0..task.ranks).map(|to| split(rank, to, task.bytes)).collect();
    let mut sources: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![0; size]).collect();
    let mut exchange = group.lane(Lane(0));

    // Every slot of every ring at least twice.
    for round in 0..4 * task.lag as u64 + 4 {
        for (to, source) in sources.iter_mut().enumerate() {
            source.iter_mut().enumerate().for_each(|(at, byte)| *byte = content(round, rank, to, at));
        }
        send(&mut exchange, &sizes, &sources)?;
        let last = round == 4 * task.lag as u64 + 3;
        while let Some(complete) = if last { exchange.flush()? } else { exchange.take()? } {
            let round = complete.number();
            for from in 0..task.ranks {
                let message = complete.message(from);
                let right = message.len() == split(from, rank, task.bytes)
                    && message.iter().enumerate().all(|(at, byte)| *byte == content(round, from, rank, at));
                if !right {
                    return Err(BenchError::WrongContent { rank, from, round });
                }
            }
        }
    }

    let empty = vec![0; task.ranks];
    let mut times = Vec::with_capacity(task.blocks);
    for block in 0..=task.blocks {
        exchange.begin(&empty)?.publish()?;
        while exchange.flush()?.is_some() {}
        let begin = Instant::now();
        for _ in 0..task.rounds {
            send(&mut exchange, &sizes, &sources)?;
            while let Some(complete) = exchange.take()? {
                if task.read {
                    (0..task.ranks).for_each(|from| read(complete.message(from)));
                }
            }
        }
        while let Some(complete) = exchange.flush()? {
            if task.read {
                (0..task.ranks).for_each(|from| read(complete.message(from)));
            }
        }
        let time = begin.elapsed().as_secs_f64() / task.rounds as f64 * 1e6;
        // The first block warms up.
        if block > 0 {
            times.push(time);
        }
    }
    while exchange.drain()?.is_some() {}
    Ok(times)
}

#[inline]
fn send<E: Endpoint>(exchange: &mut Exchange<'_, E>, sizes: &[usize], sources: &[Vec<u8>]) -> Result<(), BenchError> {
    let mut round = exchange.begin(sizes)?;
    for (room, source) in round.messages_mut().iter_mut().zip(sources) {
        room.copy_from_slice(source);
    }
    Ok(round.publish()?)
}

/// Reads one byte of every cache line.
pub(super) fn read(message: &[u8]) {
    black_box(message.iter().step_by(64).fold(0u64, |sum, byte| sum + u64::from(*byte)));
}

#[cfg(test)]
mod tests {
    use slackline_transport::threads;

    use super::*;

    #[test]
    fn contents_are_checked_and_every_block_has_a_time() {
        for (lag, read) in [(0, false), (2, true)] {
            let task = ExchangeTask { ranks: 3, bytes: 1 << 20, lag, read, blocks: 2, rounds: 10 };
            let shape = GroupShape { ranks: 3, lanes: vec![LaneOptions::lag(lag).shape(5 << 18)] };
            let endpoints = threads::group(&shape).unwrap();
            let times: Vec<Vec<f64>> = std::thread::scope(|threads| {
                let ranks: Vec<_> =
                    endpoints.into_iter().map(|endpoint| threads.spawn(|| rank(endpoint, &task).unwrap())).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            assert!(times.iter().all(|times| times.len() == 2 && times.iter().all(|time| *time > 0.0)));
        }
    }

    #[test]
    fn splits_are_uneven_and_add_up_over_a_pair() {
        assert_eq!((split(0, 1, 1024), split(1, 0, 1024), split(1, 1, 1024)), (1280, 768, 1024));
    }
}
