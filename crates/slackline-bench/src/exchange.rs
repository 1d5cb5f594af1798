//! The bare alltoallv between processes, in the manner of the classic MPI benchmarks, and beside MPI itself.
//!
//! Rank `r` sends rank `q` a message of `n * 5/4` bytes if `r < q`, `n * 3/4` if `r > q`, and `n` to itself, from one
//! source buffer that is the same in every round: one copy, into the room that the collective lends. What is received is
//! used where it lies; as in the MPI benchmarks nobody reads it, unless asked to read one byte of every cache line. Before
//! any block is timed, some rounds with changing contents are compared byte by byte.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_collective::{Exchange, Group, GroupOptions, LaneOptions};
use slackline_transport::{Endpoint, GroupShape, Lane, cores};

use crate::mpi::{self, Program};
use crate::results::Spread;
use crate::run::{RankTask, Transport, launch};
use crate::{BenchError, table};

/// The sizes that are measured, in bytes to each peer.
pub const SIZES: [usize; 9] = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// What to measure.
#[derive(Clone, Debug)]
pub struct ExchangeOptions {
    /// Processes, at least 1.
    pub ranks: usize,
    /// Bytes to each peer, before they are made uneven.
    pub sizes: Vec<usize>,
    /// The lag; 0 is an ordinary alltoallv. MPI is given as many non-blocking calls at once as the lag allows.
    pub lag: usize,
    /// Whether receivers read one byte of every cache line.
    pub read: bool,
    /// Whether each rank is bound to a core; done only if there is one for each.
    pub pin: bool,
    /// Timed blocks a turn; a block before them warms up.
    pub blocks: usize,
    /// Turns of each size, MPI after ours where it takes part.
    pub turns: usize,
    /// Whether MPI takes part, as a program of its own.
    pub mpi: bool,
    /// How the ranks are run; not as threads.
    pub transport: Transport,
}

/// One implementation's call at one size, over all blocks of all turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExchangeLine {
    /// `slackline`, or MPI's name and version.
    pub implementation: String,
    /// The call.
    pub call: String,
    /// Processes.
    pub ranks: usize,
    /// The lag.
    pub lag: usize,
    /// Whether what was received was read.
    pub read: bool,
    /// Bytes to each peer.
    pub bytes: usize,
    /// Microseconds of a round.
    pub us: Spread,
    /// MPI's time over ours, one turn after the other; for MPI's lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
}

impl ExchangeLine {
    /// From the blocks of each turn, and those of what they are compared with.
    pub(crate) fn new(
        options: &ExchangeOptions,
        bytes: usize,
        implementation: &str,
        call: &str,
        turns: &[Vec<f64>],
        ours: Option<&[Vec<f64>]>,
    ) -> Self {
        let median = |us: &[f64]| Spread::of(us.to_vec()).median;
        let ratios = |ours: &[Vec<f64>]| turns.iter().zip(ours).map(|(us, ours)| median(us) / median(ours)).collect();
        ExchangeLine {
            implementation: implementation.to_owned(),
            call: call.to_owned(),
            ranks: options.ranks,
            lag: options.lag,
            read: options.read,
            bytes,
            us: Spread::of(turns.concat()),
            ratio: ours.map(|ours| Spread::of(ratios(ours))),
        }
    }

    /// The line as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("lines have text keys only")
    }
}

/// What a rank is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExchangeTask {
    pub(crate) ranks: usize,
    pub(crate) bytes: usize,
    pub(crate) lag: usize,
    pub(crate) read: bool,
    pub(crate) blocks: usize,
    /// Rounds of a block.
    pub(crate) rounds: usize,
}

/// Measures all sizes, and calls `done` with the lines of each size as soon as they are there.
///
/// # Errors
///
/// [`BenchError::WrongContent`] reaches the caller as [`BenchError::Rank`], since the rank has said so itself; and
/// [`BenchError::NoMpi`], [`BenchError::Mpi`], and those of the transport.
pub fn exchange(options: &ExchangeOptions, mut done: impl FnMut(Vec<ExchangeLine>)) -> Result<(), BenchError> {
    if options.ranks == 0 || options.blocks == 0 || options.turns == 0 {
        return Err(BenchError::Settings("ranks, blocks and turns are at least 1".to_owned()));
    }
    match &options.transport {
        Transport::Shm => {}
        Transport::Threads => return Err(BenchError::Settings("the exchange is one between processes".to_owned())),
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => return crate::baselines::exchange(job, options, done),
    }
    let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
    let program = if options.mpi { Some(Program::compile(folder.path())?) } else { None };
    for &bytes in &options.sizes {
        let mut ours: Vec<Vec<f64>> = Vec::new();
        let mut theirs: Vec<Vec<mpi::Line>> = Vec::new();
        for _ in 0..options.turns {
            ours.push(turn(options, bytes, folder.path())?);
            if let Some(program) = &program {
                let bind = options.pin && options.ranks <= cores::count();
                theirs.push(program.run(options.ranks, bind, options.read, options.lag, options.blocks, bytes)?);
            }
        }
        let mut lines = vec![ExchangeLine::new(options, bytes, "slackline", "alltoallv", &ours, None)];
        let calls = theirs.first().map_or(0, Vec::len);
        for call in 0..calls {
            let turns: Vec<&mpi::Line> = theirs.iter().filter_map(|lines| lines.get(call)).collect();
            let us: Vec<Vec<f64>> = turns.iter().map(|line| line.us.clone()).collect();
            let version = program.as_ref().map_or("", |program| &program.version);
            lines.push(ExchangeLine::new(options, bytes, version, &turns[0].call, &us, Some(&ours)));
        }
        done(lines);
    }
    Ok(())
}

/// Microseconds of a round in each block, the slowest rank's.
fn turn(options: &ExchangeOptions, bytes: usize, folder: &Path) -> Result<Vec<f64>, BenchError> {
    let (shape, task) = ExchangeTask::new(options, bytes);
    Ok(slowest(&launch::<Vec<f64>>(shape, &RankTask::Exchange(task), options.pin, folder)?))
}

impl ExchangeTask {
    pub(crate) fn new(options: &ExchangeOptions, bytes: usize) -> (GroupShape, Self) {
        let &ExchangeOptions { ranks, lag, read, blocks, .. } = options;
        let largest = (0..ranks).map(|rank| split(rank, rank + 1, bytes)).max().unwrap_or(bytes);
        let shape = GroupShape { ranks, lanes: vec![LaneOptions::lag(lag).shape(largest)] };
        let rounds = ((1 << 29) / (bytes + 65_536)).clamp(20, 20_000);
        (shape, ExchangeTask { ranks, bytes, lag, read, blocks, rounds })
    }
}

/// Of each block, the slowest rank's time.
pub(crate) fn slowest(times: &[Vec<f64>]) -> Vec<f64> {
    let blocks = times.first().map_or(0, Vec::len);
    (0..blocks).map(|block| times.iter().map(|times| times[block]).fold(0.0, f64::max)).collect()
}

/// What rank `from` sends to rank `to`.
pub(crate) fn split(from: usize, to: usize, bytes: usize) -> usize {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => bytes * 5 / 4,
        std::cmp::Ordering::Equal => bytes,
        std::cmp::Ordering::Greater => bytes * 3 / 4,
    }
}

pub(crate) fn content(round: u64, from: usize, to: usize, at: usize) -> u8 {
    (round as usize * 31 + from * 7 + to * 13 + at * 3 + at / 251) as u8
}

/// One rank's part: checks contents, then times blocks.
pub(crate) fn rank<E: Endpoint>(endpoint: E, task: &ExchangeTask) -> Result<Vec<f64>, BenchError> {
    let rank = endpoint.rank();
    let options = GroupOptions::new([LaneOptions::lag(task.lag)]).deadline(Duration::from_secs(60));
    let mut group = Group::new(endpoint, options)?;
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

pub(crate) fn read(message: &[u8]) {
    black_box(message.iter().step_by(64).fold(0u64, |sum, byte| sum + u64::from(*byte)));
}

/// The lines of one size for people.
pub fn describe(lines: &[ExchangeLine]) -> String {
    let mut out = String::new();
    for line in lines {
        let us = format!("{:.3} us ({:.3}-{:.3})", line.us.median, line.us.min, line.us.max);
        let ratio = line
            .ratio
            .as_ref()
            .map_or(String::new(), |ratio| format!("  {:.2}x ours ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max));
        let name = format!("{} {}", line.implementation, line.call);
        out.push_str(&format!("{:>10}  {name:<32} {us:<34}{ratio}\n", table::bytes(line.bytes)));
    }
    out
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
