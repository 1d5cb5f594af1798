//! `slackline infer`: every row of a file through a model, on ranks that are threads or processes.
//!
//! One path serves all numbers of ranks: each reads the whole input, keeps the predictions of its own samples, and hands
//! them to rank 0 at the end. Nothing is gathered on the way, since that would undo the lag.

mod gather;
#[cfg(feature = "mpi")]
mod mpi;
mod rank;
mod report;
mod start;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slackline_collective::{GroupOptions, GroupShape, Lane, LaneOptions};
use slackline_data::{Format, Input, InputShape};
use slackline_dlrm::{DenseModel, ModelDirectory, largest_message};
use slackline_embedding::Plan;
use slackline_transport::delay::DelaySchedule;

use crate::args::{InferArgs, Transport};
use crate::fail::{self, Misuse};
use crate::model::input_shape;
use crate::output::PredictionFile;
use crate::placement::{plan_for, ranks_of};
use crate::{inspect, print};

/// Pooled vectors, with the lag that was asked for.
const DATA: Lane = Lane(0);
/// Barrier and gathering, without lag.
const CONTROL: Lane = Lane(1);

/// Larger messages go in fragments, so that the rings of huge batches stay small.
const LARGEST_SLOT: usize = 64 << 20;

/// Equal on every rank: what is to be done, and in which group.
struct Job<'a> {
    args: &'a InferArgs,
    directory: ModelDirectory,
    dense: DenseModel,
    plan: Plan,
    format: Format,
    input_shape: InputShape,
    shape: GroupShape,
    options: GroupOptions,
    delays: DelaySchedule,
}

/// Runs the command, or one rank's part of it in a process that the command has started.
pub(crate) fn run(args: &InferArgs) -> Result<u8> {
    if args.transport == Transport::Mpi {
        return run_mpi(args);
    }
    let ranks = match (args.ranks, &args.plan) {
        (Some(ranks), _) => ranks,
        (None, Some(plan)) => ranks_of(plan)?,
        (None, None) => 1,
    };
    if args.transport == Transport::Shm && start::is_rank_process() {
        let job = Job::new(args, ranks)?;
        if let Some(answers) = start::rank_process(&job)? {
            conclude(&job, &answers)?;
        }
        return Ok(fail::OK);
    }
    let job = prepare(args, ranks, true)?;
    match args.transport {
        Transport::Shm => start::processes(&job),
        _ => {
            let answers = start::threads(&job)?;
            conclude(&job, &answers)?;
            Ok(fail::OK)
        }
    }
}

#[cfg(feature = "mpi")]
use mpi::run as run_mpi;

#[cfg(not(feature = "mpi"))]
fn run_mpi(_: &InferArgs) -> Result<u8> {
    let how = "cargo build --release -p slackline-cli --features mpi";
    Err(Misuse(format!("this program was built without MPI; with it (docs/mpi.md says what that needs): {how}")).into())
}

/// Everything that can be found out before the ranks start; about the output only where it will be written.
fn prepare(args: &InferArgs, ranks: usize, writes: bool) -> Result<Job<'_>> {
    check_paths(args, writes)?;
    let job = Job::new(args, ranks)?;
    // Once, before any rank starts, and not by the ranks: what is wrong is said once, and no rank waits for another's disk.
    if !args.skip_verify {
        inspect::verify(&job.directory)?;
    }
    // A header that does not fit is better told before the ranks start, too.
    Input::open(&args.input, Some(job.format), &job.input_shape)?;
    Ok(job)
}

impl<'a> Job<'a> {
    fn new(args: &'a InferArgs, ranks: usize) -> Result<Self> {
        let directory = ModelDirectory::open(&args.model)?;
        let plan = plan_for(args.plan.as_deref(), &directory.tables(), ranks)?;
        let format = match args.format {
            Some(format) => format,
            None => Format::detect(&args.input)?,
        };
        let data = LaneOptions { lag: args.lag, delivery: args.delivery };
        let control = LaneOptions::lag(0);
        let largest = largest_message(directory.config(), &plan, args.batch).min(LARGEST_SLOT);
        let shape = GroupShape { ranks, lanes: vec![data.shape(largest), control.shape(gather::CHUNK_BYTES)] };
        let delays = DelaySchedule::new(&args.delay, 0, ranks, args.delay_unit)
            .map_err(|error| Misuse(format!("--delay: {error}")))?;
        Ok(Job {
            args,
            input_shape: input_shape(directory.config()),
            dense: directory.load_dense()?,
            directory,
            plan,
            format,
            shape,
            options: GroupOptions::new([data, control]).deadline(args.deadline),
            delays,
        })
    }
}

/// What can be found out before anything is read.
fn check_paths(args: &InferArgs, writes: bool) -> Result<()> {
    let input = &args.input;
    let metadata = fs::metadata(input).with_context(|| format!("{}: cannot open", input.display()))?;
    if !metadata.is_file() {
        bail!("{}: not a regular file; every rank reads the input by itself", input.display());
    }
    if let Some(output) = args.output.as_ref().filter(|_| writes) {
        if is_same_file(input, output) {
            return Err(Misuse(format!("{}: is the input and cannot be the output", output.display())).into());
        }
        PredictionFile::check(output)?;
    }
    Ok(())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// On rank 0, when all ranks have answered: writes the file, then says how it went.
fn conclude(job: &Job<'_>, answers: &rank::Answers) -> Result<()> {
    let args = job.args;
    if let Some(output) = &args.output {
        let mut file = PredictionFile::create(output)?;
        let mut predictions = answers.predictions.iter();
        let changed = || format!("{}: has other rows than when it was read first", args.input.display());
        for id in slackline_data::ids(&args.input, Some(job.format))? {
            file.row(&id?, *predictions.next().with_context(changed)?)?;
        }
        if predictions.next().is_some() {
            bail!(changed());
        }
        file.finish()?;
    }
    let report = report::Report::new(job, answers);
    print(&if args.json { report.to_json() } else { report.to_text() })
}
