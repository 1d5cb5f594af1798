//! The exchange within one MPI job: Slackline's and MPI's own, in turns.

use std::time::Instant;

use slackline_mpi::baseline::Alltoallv;
use slackline_mpi::{Peers, World};

use super::blocks::{self, ExchangeTask, content, read, slowest, split};
use super::options::{ExchangeLine, ExchangeOptions};
use crate::BenchError;
use crate::job::Job;

/// Measures all sizes: Slackline over MPI, Slackline over shared memory (where the nodes allow it), and MPI's own calls,
/// in turns within one job.
pub(crate) fn exchange(
    job: &Job,
    options: &ExchangeOptions,
    mut done: impl FnMut(Vec<ExchangeLine>),
) -> Result<(), BenchError> {
    job.pin(options.pin);
    let version = job.world().library_version()?;
    let version = version.split(',').next().unwrap_or_default().trim().replace('\t', " ");
    for &bytes in &options.sizes {
        let (shape, task) = ExchangeTask::new(options, bytes);
        let [mut over_mpi, mut over_shm, mut blocking, mut started] = [const { Vec::new() }; 4];
        for _ in 0..options.turns {
            for (peers, times) in [(Peers::MpiOnly, &mut over_mpi), (Peers::Auto, &mut over_shm)] {
                times.push(slowest(&job.with(peers).on_all(&shape, |endpoint| blocks::rank(endpoint, &task))?));
            }
            // A blocking alltoallv cannot lag.
            if options.lag == 0 {
                blocking.push(slowest(&job.gather(&bare(job.world(), &task, false)?)?));
            }
            started.push(slowest(&job.gather(&bare(job.world(), &task, true)?)?));
        }
        let line = |implementation: &str, call: &str, turns: &[Vec<f64>], compared: bool| {
            ExchangeLine::new(options, bytes, implementation, call, turns, compared.then_some(over_mpi.as_slice()))
        };
        let mut lines = vec![
            line("slackline", "over MPI", &over_mpi, false),
            line("slackline", "shared memory within nodes", &over_shm, true),
        ];
        if options.lag == 0 {
            lines.push(line(&version, "Alltoallv", &blocking, true));
        }
        lines.push(line(&version, "Ialltoallv", &started, true));
        done(lines);
    }
    Ok(())
}

/// Microseconds of a round of MPI's own alltoallv in each block, on this rank; the same sizes, splits, checks and blocks as
/// in [`blocks::rank`].
fn bare(world: &World, task: &ExchangeTask, started: bool) -> Result<Vec<f64>, BenchError> {
    let (rank, depth) = (world.rank(), task.lag + 1);
    let send: Vec<usize> = (0..task.ranks).map(|to| split(rank, to, task.bytes)).collect();
    let receive: Vec<usize> = (0..task.ranks).map(|from| split(from, rank, task.bytes)).collect();
    let mut alltoallv = Alltoallv::new(world, if started { depth } else { 1 })?;
    for round in 0..4 {
        let mut open = alltoallv.open(&send, &receive)?;
        for (to, room) in open.rooms().enumerate() {
            room.iter_mut().enumerate().for_each(|(at, byte)| *byte = content(round, rank, to, at));
        }
        if started {
            open.begin()?;
            alltoallv.finish()?;
        } else {
            open.block()?;
        }
        for from in 0..task.ranks {
            let mut message = alltoallv.message(from).iter().enumerate();
            if !message.all(|(at, byte)| *byte == content(round, from, rank, at)) {
                return Err(BenchError::WrongContent { rank, from, round });
            }
        }
    }
    // As with Slackline, each round's messages are written first: into the send buffer, from a source of the same size.
    let sources: Vec<Vec<u8>> = send.iter().map(|&size| vec![1; size]).collect();
    let mut times = Vec::with_capacity(task.blocks);
    for block in 0..=task.blocks {
        world.barrier("the next block")?;
        let begin = Instant::now();
        for _ in 0..task.rounds {
            let mut open = alltoallv.open(&send, &receive)?;
            for (room, source) in open.rooms().zip(&sources) {
                room.copy_from_slice(source);
            }
            if !started {
                open.block()?;
            } else {
                open.begin()?;
                if alltoallv.under_way() < depth {
                    continue;
                }
                alltoallv.finish()?;
            }
            if task.read {
                (0..task.ranks).for_each(|from| read(alltoallv.message(from)));
            }
        }
        while alltoallv.under_way() > 0 {
            alltoallv.finish()?;
        }
        let time = begin.elapsed().as_secs_f64() / task.rounds as f64 * 1e6;
        // The first block warms up.
        if block > 0 {
            times.push(time);
        }
    }
    Ok(times)
}
