//! What is compared with inside of an MPI job: MPI's own alltoallv, bare and under the work and delays of a scenario.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_mpi::baseline::Alltoallv;
use slackline_mpi::{Peers, World};
use slackline_transport::delay::DelaySchedule;
use xxhash_rust::xxh3::xxh3_64;

use crate::BenchError;
use crate::exchange::{self, ExchangeLine, ExchangeOptions, ExchangeTask, content, read, slowest, split};
use crate::job::Job;
use crate::measure::Plan;
use crate::predict;
use crate::results::{BaselineResult, Spread};
use crate::slept;

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
                times.push(slowest(&job.with(peers).on_all(&shape, |endpoint| exchange::rank(endpoint, &task))?));
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
/// in [`exchange::rank`].
fn bare(world: &World, task: &ExchangeTask, started: bool) -> Result<Vec<f64>, BenchError> {
    let (rank, depth) = (world.rank(), task.lag + 1);
    let send: Vec<usize> = (0..task.ranks).map(|to| split(rank, to, task.bytes)).collect();
    let receive: Vec<usize> = (0..task.ranks).map(|from| split(from, rank, task.bytes)).collect();
    let mut alltoallv = Alltoallv::new(world, &send, &receive, if started { depth } else { 1 })?;
    for round in 0..4 {
        for to in 0..task.ranks {
            let room = alltoallv.room(to).iter_mut().enumerate();
            room.for_each(|(at, byte)| *byte = content(round, rank, to, at));
        }
        one(&mut alltoallv, started)?;
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
        world.barrier()?;
        let begin = Instant::now();
        for _ in 0..task.rounds {
            for (to, source) in sources.iter().enumerate() {
                alltoallv.room(to).copy_from_slice(source);
            }
            if !started {
                alltoallv.block()?;
            } else {
                alltoallv.begin()?;
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

fn one(alltoallv: &mut Alltoallv, started: bool) -> Result<(), BenchError> {
    if started {
        alltoallv.begin()?;
        return Ok(alltoallv.finish()?);
    }
    Ok(alltoallv.block()?)
}

/// A way to use MPI's own alltoallv.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `MPI_Alltoallv` between sending and the rest.
    Blocking,
    /// `MPI_Ialltoallv`, what needs no other rank, wait: the schedule of the DLRM reference.
    Overlapped,
    /// So many rounds of `MPI_Ialltoallv` under way beside the newest.
    Deep(usize),
}

/// One run on one rank, in nanoseconds.
#[derive(Serialize, Deserialize)]
struct Record {
    span: u64,
    work: Vec<f64>,
    digests: Vec<u64>,
}

/// Slept work and delays of a plan over MPI's own alltoallv, `unit` as Slackline's runs have agreed on.
pub(crate) fn run(job: &Job, plan: &Plan, work: &slept::Slept, unit: u64) -> Result<Vec<BaselineResult>, BenchError> {
    let schedule = DelaySchedule::new(&plan.delay, plan.seed, plan.ranks, Duration::from_nanos(unit))?;
    let ways = [Way::Blocking, Way::Overlapped].into_iter();
    let ways: Vec<Way> = ways.chain(plan.lags.iter().map(|lag| Way::Deep(*lag))).collect();
    let mut runs: Vec<Vec<Vec<Record>>> = ways.iter().map(|_| Vec::new()).collect();
    for repetition in 0..plan.repetitions {
        for turn in 0..ways.len() {
            let place = (turn + repetition) % ways.len();
            let record = one_run(job.world(), plan, work, &schedule, ways[place], plan.first_round(repetition))?;
            runs[place].push(job.gather(&record)?);
        }
    }
    job.on_first(|| {
        for (way, runs) in ways.iter().zip(&runs) {
            for (repetition, ranks) in runs.iter().enumerate() {
                verify(plan, work, *way, repetition, ranks)?;
            }
        }
        Ok(())
    })?;
    let result = |(way, runs): (&Way, &Vec<Vec<Record>>)| {
        let span = |ranks: &[Record]| ranks.iter().map(|record| record.span).max().unwrap_or(1) as f64;
        let ideal =
            |ranks: &[Record]| predict::ideal(&ranks.iter().map(|record| record.work.clone()).collect::<Vec<_>>());
        let (name, lag) = match way {
            Way::Blocking => ("MPI_Alltoallv", 0),
            Way::Overlapped => ("MPI_Ialltoallv, overlapped", 0),
            Way::Deep(lag) => ("MPI_Ialltoallv, lag + 1 at once", *lag),
        };
        BaselineResult {
            name: name.to_owned(),
            lag,
            throughput: Spread::of(runs.iter().map(|ranks| plan.rounds as f64 / span(ranks) * 1e9).collect()),
            share_of_ideal: Spread::of(runs.iter().map(|ranks| ideal(ranks) / span(ranks)).collect()),
        }
    };
    Ok(ways.iter().zip(&runs).map(result).collect())
}

fn verify(plan: &Plan, work: &slept::Slept, way: Way, repetition: usize, ranks: &[Record]) -> Result<(), BenchError> {
    for (rank, record) in ranks.iter().enumerate() {
        for (round, digest) in record.digests.iter().enumerate() {
            let number = plan.first_round(repetition) + round as u64;
            if *digest != slept::reference(plan.ranks, plan.seed, work.bytes(), rank, number) {
                let lag = if let Way::Deep(lag) = way { lag } else { 0 };
                let scenario = format!("{}, {way:?}", plan.scenario);
                return Err(BenchError::WrongOutput { scenario, lag, repetition, rank, round });
            }
        }
    }
    Ok(())
}

fn one_run(
    world: &World,
    plan: &Plan,
    work: &slept::Slept,
    schedule: &DelaySchedule,
    way: Way,
    first: u64,
) -> Result<Record, BenchError> {
    let rank = world.rank();
    let sizes = vec![work.bytes(); plan.ranks];
    let lag = if let Way::Deep(lag) = way { lag } else { 0 };
    let mut alltoallv = Alltoallv::new(world, &sizes, &sizes, lag + 1)?;
    let mut record = Record { span: 0, work: vec![0.0; plan.rounds], digests: Vec::with_capacity(plan.rounds) };
    let mut output = Vec::new();
    let mut finish = |alltoallv: &Alltoallv, record: &mut Record| {
        let begin = Instant::now();
        slept::output((0..plan.ranks).map(|from| alltoallv.message(from)), &mut output);
        record.work[record.digests.len()] += begin.elapsed().as_nanos() as f64;
        record.digests.push(xxh3_64(&output));
    };
    world.barrier()?;
    let begin = Instant::now();
    for index in 0..plan.rounds {
        let round = first + index as u64;
        let began = Instant::now();
        let delay = schedule.delay(rank, round);
        if delay > Duration::ZERO {
            std::thread::sleep(delay);
        }
        std::thread::sleep(work.unit());
        for to in 0..plan.ranks {
            work.fill(alltoallv.room(to), round, to);
        }
        record.work[index] += began.elapsed().as_nanos() as f64;
        if way == Way::Blocking {
            alltoallv.block()?;
        } else {
            alltoallv.begin()?;
        }
        let sent = Instant::now();
        std::thread::sleep(work.own_unit());
        record.work[index] += sent.elapsed().as_nanos() as f64;
        match way {
            Way::Blocking => finish(&alltoallv, &mut record),
            Way::Overlapped | Way::Deep(_) => {
                while alltoallv.under_way() > lag {
                    alltoallv.finish()?;
                    finish(&alltoallv, &mut record);
                }
            }
        }
    }
    while alltoallv.under_way() > 0 {
        alltoallv.finish()?;
        finish(&alltoallv, &mut record);
    }
    record.span = begin.elapsed().as_nanos() as u64;
    Ok(record)
}
