//! The alltoallv alone, between processes, like the usual MPI benchmarks, and beside MPI.
//!
//! Rank `r` sends rank `q` a message of `n * 5/4` bytes if `r < q`, `n * 3/4` if `r > q`, and `n` to itself. The source is
//! the same in every round: one copy, into the room that the collective lends. Received messages stay where they are; as in
//! the MPI benchmarks they are not read, or on request one byte of every cache line is. Before any block is timed, some
//! rounds with changing contents are compared byte by byte.

mod blocks;
#[cfg(feature = "mpi")]
mod in_job;
mod options;
mod program;

use std::path::Path;

use slackline_transport::cores;

use self::blocks::{ExchangeTask, slowest};
use self::program::Program;
use crate::ranks::{self, Transport};
use crate::{BenchError, table};

pub use self::options::{ExchangeLine, ExchangeOptions, SIZES};

/// The command of a rank process.
const RANK_COMMAND: &str = "exchange-rank";

/// Measures all sizes, and calls `done` with the lines of each size as soon as they are complete.
///
/// # Errors
///
/// [`BenchError::Rank`] if a rank failed, also for wrong content, which the rank has reported;
/// [`BenchError::NoMpi`], [`BenchError::Mpi`], and those of the transport.
pub fn exchange(options: &ExchangeOptions, mut done: impl FnMut(Vec<ExchangeLine>)) -> Result<(), BenchError> {
    if options.ranks == 0 || options.blocks == 0 || options.turns == 0 {
        return Err(BenchError::Settings("ranks, blocks and turns must be at least 1".to_owned()));
    }
    match &options.transport {
        Transport::Shm => {}
        Transport::Threads => {
            return Err(BenchError::Settings("exchange needs processes: --transport shm or mpi".to_owned()));
        }
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => return in_job::exchange(job, options, done),
    }
    let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
    let program = if options.mpi { Some(Program::compile(folder.path())?) } else { None };
    for &bytes in &options.sizes {
        let mut ours: Vec<Vec<f64>> = Vec::new();
        let mut theirs: Vec<Vec<program::Line>> = Vec::new();
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
            let turns: Vec<&program::Line> = theirs.iter().filter_map(|lines| lines.get(call)).collect();
            let us: Vec<Vec<f64>> = turns.iter().map(|line| line.us.clone()).collect();
            let version = program.as_ref().map_or("", |program| &program.version);
            lines.push(ExchangeLine::new(options, bytes, version, &turns[0].call, &us, Some(&ours)));
        }
        done(lines);
    }
    Ok(())
}

/// The whole life of a rank process of [`exchange`]: it finds its group in the environment and its task in `folder`.
///
/// # Errors
///
/// Whatever went wrong; the launcher then knows which rank failed.
pub fn rank(folder: &Path) -> Result<(), BenchError> {
    ranks::work(folder, |endpoint, task: &ExchangeTask| blocks::rank(endpoint, task))
}

/// Microseconds per round in each block, of the slowest rank.
fn turn(options: &ExchangeOptions, bytes: usize, folder: &Path) -> Result<Vec<f64>, BenchError> {
    let (shape, task) = ExchangeTask::new(options, bytes);
    Ok(slowest(&ranks::launch::<Vec<f64>>(RANK_COMMAND, shape, &task, options.pin, folder)?))
}

/// The lines of one size, readable.
pub fn describe(lines: &[ExchangeLine]) -> String {
    let mut out = String::new();
    for line in lines {
        let us = format!("{:.3} us ({:.3}-{:.3})", line.us.median, line.us.min, line.us.max);
        let ratio = line.ratio.as_ref().map_or(String::new(), |ratio| {
            format!("  {:.2}x slackline ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
        });
        let name = format!("{} {}", line.implementation, line.call);
        out.push_str(&format!("{:>10}  {name:<32} {us:<34}{ratio}\n", table::bytes(line.bytes)));
    }
    out
}
