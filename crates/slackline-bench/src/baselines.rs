//! MPI's own alltoallv under the work and delays of a scenario, in the same MPI job.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_mpi::World;
use slackline_mpi::baseline::Alltoallv;
use slackline_transport::delay::DelaySchedule;
use xxhash_rust::xxh3::xxh3_64;

use crate::BenchError;
use crate::job::Job;
use crate::measure::Experiment;
use crate::predict;
use crate::results::{BaselineResult, Spread};
use crate::slept;

/// A way to use MPI's own alltoallv.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `MPI_Alltoallv` between filling the messages and the other work.
    Blocking,
    /// `MPI_Ialltoallv`, the work that needs no other rank, wait: the schedule of the reference DLRM.
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

/// The slept work and delays of an experiment over MPI's own alltoallv; `unit` is the one that Slackline's ranks measured.
pub(crate) fn run(
    job: &Job,
    experiment: &Experiment,
    work: &slept::Slept,
    unit: u64,
) -> Result<Vec<BaselineResult>, BenchError> {
    let schedule =
        DelaySchedule::new(&experiment.delay, experiment.seed, experiment.ranks, Duration::from_nanos(unit))?;
    let ways = [Way::Blocking, Way::Overlapped].into_iter();
    let ways: Vec<Way> = ways.chain(experiment.lags.iter().map(|lag| Way::Deep(*lag))).collect();
    let mut runs: Vec<Vec<Vec<Record>>> = ways.iter().map(|_| Vec::new()).collect();
    for repetition in 0..experiment.repetitions {
        for turn in 0..ways.len() {
            let place = (turn + repetition) % ways.len();
            let record =
                one_run(job.world(), experiment, work, &schedule, ways[place], experiment.first_round(repetition))?;
            runs[place].push(job.gather(&record)?);
        }
    }
    job.on_first(|| {
        for (way, runs) in ways.iter().zip(&runs) {
            for (repetition, ranks) in runs.iter().enumerate() {
                verify(experiment, work, *way, repetition, ranks)?;
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
            throughput: Spread::of(runs.iter().map(|ranks| experiment.rounds as f64 / span(ranks) * 1e9).collect()),
            share_of_ideal: Spread::of(runs.iter().map(|ranks| ideal(ranks) / span(ranks)).collect()),
        }
    };
    Ok(ways.iter().zip(&runs).map(result).collect())
}

fn verify(
    experiment: &Experiment,
    work: &slept::Slept,
    way: Way,
    repetition: usize,
    ranks: &[Record],
) -> Result<(), BenchError> {
    for (rank, record) in ranks.iter().enumerate() {
        for (round, digest) in record.digests.iter().enumerate() {
            let number = experiment.first_round(repetition) + round as u64;
            if *digest != slept::reference(experiment.ranks, experiment.seed, work.bytes(), rank, number) {
                let lag = if let Way::Deep(lag) = way { lag } else { 0 };
                let scenario = format!("{}, {way:?}", experiment.scenario);
                return Err(BenchError::WrongOutput { scenario, lag, repetition, rank, round });
            }
        }
    }
    Ok(())
}

fn one_run(
    world: &World,
    experiment: &Experiment,
    work: &slept::Slept,
    schedule: &DelaySchedule,
    way: Way,
    first: u64,
) -> Result<Record, BenchError> {
    let rank = world.rank();
    let sizes = vec![work.bytes(); experiment.ranks];
    let lag = if let Way::Deep(lag) = way { lag } else { 0 };
    let mut alltoallv = Alltoallv::new(world, &sizes, &sizes, lag + 1)?;
    let mut record =
        Record { span: 0, work: vec![0.0; experiment.rounds], digests: Vec::with_capacity(experiment.rounds) };
    let mut output = Vec::new();
    let mut finish = |alltoallv: &Alltoallv, record: &mut Record| {
        let begin = Instant::now();
        slept::output((0..experiment.ranks).map(|from| alltoallv.message(from)), &mut output);
        record.work[record.digests.len()] += begin.elapsed().as_nanos() as f64;
        record.digests.push(xxh3_64(&output));
    };
    world.barrier()?;
    let begin = Instant::now();
    for index in 0..experiment.rounds {
        let round = first + index as u64;
        let began = Instant::now();
        let delay = schedule.delay(rank, round);
        if delay > Duration::ZERO {
            std::thread::sleep(delay);
        }
        std::thread::sleep(work.unit());
        for to in 0..experiment.ranks {
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
