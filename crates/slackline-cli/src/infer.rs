//! `slackline infer`: predicts every row of a file, on ranks that are threads or processes.
//!
//! One loop serves any model: the whole one in this process, or the part of one of many ranks. Each rank reads the whole input,
//! and sends the predictions of its own samples to rank 0 as they come, on a lane on which nobody waits for anybody: gathering
//! them in rounds would undo the lag.

mod answers;
mod collect;
mod latencies;
mod local;
#[cfg(feature = "mpi")]
mod mpi;
mod rank;
mod report;
mod share;
mod start;
mod stream;
mod terms;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use slackline_collective::{GroupOptions, GroupShape, Lane, LaneOptions};
use slackline_data::{Input, InputFormat, InputOptions, InputShape, Transforms};
use slackline_dlrm::{DenseModel, ModelDirectory, RankTables, largest_message};
use slackline_embedding::{Plan, Verify};
use slackline_transport::delay::{DelayProfile, DelaySchedule};

use crate::args::{InferArgs, Transport};
use crate::fail::{self, Misuse};
use crate::output::{self, PredictionFile};
use crate::placement::{plan_for, ranks_of};
use crate::progress::Progress;
use crate::{inspect, paths, print, signals};
use answers::Answers;

/// Pooled vectors, with the lag of --lag.
const DATA: Lane = Lane(0);
/// Barrier and agreement, without lag.
const CONTROL: Lane = Lane(1);
/// Predictions, from every rank to rank 0.
const ANSWERS: Lane = Lane(2);

/// What ranks tell each other is shorter, as a rule. In a large group more of it comes in fragments, to keep the rings small.
fn control_bytes(ranks: usize) -> usize {
    ((256 << 10) / ranks.max(1)).clamp(512, 1 << 10)
}

/// Larger messages are sent in fragments, which keeps the rings small for huge batches.
const LARGEST_SLOT: usize = 64 << 20;

/// The work and the group, equal on every rank.
struct Job<'a> {
    args: &'a InferArgs,
    directory: ModelDirectory,
    dense: DenseModel,
    plan: Plan,
    format: InputFormat,
    reading: InputOptions,
    transforms: Transforms,
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
    if args.transport == Transport::Shm && is_rank_process() {
        let job = Job::new(args, ranks)?;
        if let Some(answers) = start::rank_process(&job)? {
            conclude(&job, answers)?;
        }
        return Ok(fail::OK);
    }
    if args.output.is_some() {
        signals::advise("; the rows that were predicted are kept: add --resume to go on");
    }
    let job = prepare(args, ranks, true)?;
    match args.transport {
        Transport::Shm => start::processes(&job),
        _ => {
            let answers = if local::fits(&job) { local::run(&job)? } else { start::threads(&job)? };
            conclude(&job, answers)?;
            Ok(fail::OK)
        }
    }
}

pub(crate) use start::is_rank_process;

#[cfg(feature = "mpi")]
use mpi::run as run_mpi;

#[cfg(not(feature = "mpi"))]
fn run_mpi(_: &InferArgs) -> Result<u8> {
    let how = "cargo build --release -p slackline-cli --features mpi";
    Err(Misuse(format!("this program was built without the feature mpi; build it with: {how} (see docs/mpi.md)"))
        .into())
}

/// Checks everything that can be checked before the ranks start. `writes`: whether this process writes the output.
fn prepare(args: &InferArgs, ranks: usize, writes: bool) -> Result<Job<'_>> {
    check_paths(args, writes)?;
    let job = Job::new(args, ranks)?;
    // Once, before the ranks start: an error is reported once, and no rank waits for another rank's disk.
    if !args.skip_verify {
        inspect::verify(&job.directory)?;
    }
    // This checks the header of the input.
    let files = job.open_input()?.files();
    if let Some(output) = args.output.as_ref().filter(|_| writes) {
        paths::refuse_inputs(output, files.iter().map(PathBuf::as_path))?;
    }
    Ok(job)
}

impl<'a> Job<'a> {
    fn new(args: &'a InferArgs, ranks: usize) -> Result<Self> {
        let directory = ModelDirectory::open(&args.model)?;
        let plan = plan_for(args.plan.as_deref(), &directory.tables(), ranks)?;
        let format = match args.reading.format {
            Some(format) => format,
            None => InputFormat::detect(&args.input)?,
        };
        let reading = InputOptions { format: Some(format), ..args.reading.options(directory.config().preprocessing()) };
        let transforms = Transforms::of(format, &reading)?;
        let data = LaneOptions { lag: args.lag, delivery: args.delivery };
        let control = LaneOptions::lag(0);
        let answers = LaneOptions::lag(args.lag);
        let largest = largest_message(&plan, args.batch).min(LARGEST_SLOT);
        let of_answers = share::lane_shape(answers, args.batch, ranks);
        let lanes = vec![data.shape(largest), control.shape(control_bytes(ranks)), of_answers];
        let shape = GroupShape { ranks, lanes };
        let delays = DelaySchedule::new(&args.delay, 0, ranks, args.delay_unit)
            .map_err(|error| Misuse(format!("--delay: {error}")))?;
        Ok(Job {
            args,
            input_shape: directory.config().input_shape(),
            dense: directory.load_dense()?,
            directory,
            plan,
            format,
            reading,
            transforms,
            shape,
            options: GroupOptions::new([data, control, answers]).deadline(args.deadline),
            delays,
        })
    }
}

impl Job<'_> {
    /// Loads what the plan gives a rank. The checksums were verified before the ranks started, unless --skip-verify was given.
    fn load(&self, rank: usize) -> Result<RankTables> {
        let mut progress = (rank == 0).then(|| Progress::new("load"));
        let (mut loaded, total) = (0, self.plan.bytes_of(rank));
        Ok(self.directory.load_rank(&self.plan, rank, self.args.load, Verify::HeaderOnly, &mut |newly| {
            loaded += newly;
            if let Some(progress) = &mut progress {
                progress.share(loaded, total, "bytes");
            }
        })?)
    }

    fn open_input(&self) -> Result<Input> {
        Ok(Input::open_with(&self.args.input, &self.reading, &self.input_shape)?)
    }
}

/// Checks the paths.
fn check_paths(args: &InferArgs, writes: bool) -> Result<()> {
    let input = &args.input;
    let metadata = fs::metadata(input).with_context(|| format!("{}: cannot open", input.display()))?;
    if !metadata.is_file() {
        bail!("{}: not a regular file, which is required since every rank reads the input", input.display());
    }
    if let Some(output) = args.output.as_ref().filter(|_| writes) {
        let trace = if let DelayProfile::Trace { file } = &args.delay { Some(file.as_path()) } else { None };
        let inputs = [Some(input.as_path()), Some(&args.model), args.plan.as_deref(), trace];
        paths::refuse_inputs(output, inputs.into_iter().flatten())?;
        output::check(output)?;
    }
    Ok(())
}

/// On rank 0, after the run: prints the report and gives the predictions their name. If either fails, the output is as it was
/// before.
fn conclude(job: &Job<'_>, mut answers: Answers) -> Result<()> {
    let mut file = answers.predicted.file.take();
    file.as_mut().map_or(Ok(()), PredictionFile::settle)?;
    let report = report::Report::new(job, &answers);
    print(&if job.args.json { report.to_json() } else { report.to_text() })?;
    file.map_or(Ok(()), PredictionFile::finish)
}
