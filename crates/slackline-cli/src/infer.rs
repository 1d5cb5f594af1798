//! `slackline infer`: predicts every row of a file, on ranks that are threads or processes.
//!
//! One loop serves any model: the whole one in this process, or the part of one of many ranks. Each rank reads the whole input,
//! keeps the predictions of its own samples, and sends them to rank 0 at the end. Gathering earlier would make ranks wait for
//! each other and undo the lag.

mod answers;
mod gather;
mod local;
#[cfg(feature = "mpi")]
mod mpi;
mod rank;
mod report;
mod start;
mod stream;
mod terms;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slackline_collective::{GroupOptions, GroupShape, Lane, LaneOptions};
use slackline_data::{Input, InputFormat, InputShape};
use slackline_dlrm::{DenseModel, ModelDirectory, RankTables, largest_message};
use slackline_embedding::{Plan, Verify};
use slackline_transport::delay::DelaySchedule;

use crate::args::{InferArgs, Transport};
use crate::fail::{self, Misuse};
use crate::output::PredictionFile;
use crate::placement::{plan_for, ranks_of};
use crate::progress::Progress;
use crate::{inspect, print};

/// Pooled vectors, with the lag of --lag.
const DATA: Lane = Lane(0);
/// Barrier and gathering, without lag.
const CONTROL: Lane = Lane(1);

/// Larger messages are sent in fragments, which keeps the rings small for huge batches.
const LARGEST_SLOT: usize = 64 << 20;

/// The work and the group, equal on every rank.
struct Job<'a> {
    args: &'a InferArgs,
    directory: ModelDirectory,
    dense: DenseModel,
    plan: Plan,
    format: InputFormat,
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
            let answers = if local::fits(&job) { local::run(&job)? } else { start::threads(&job)? };
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
    job.open_input()?;
    Ok(job)
}

impl<'a> Job<'a> {
    fn new(args: &'a InferArgs, ranks: usize) -> Result<Self> {
        let directory = ModelDirectory::open(&args.model)?;
        let plan = plan_for(args.plan.as_deref(), &directory.tables(), ranks)?;
        let format = match args.format {
            Some(format) => format,
            None => InputFormat::detect(&args.input)?,
        };
        let data = LaneOptions { lag: args.lag, delivery: args.delivery };
        let control = LaneOptions::lag(0);
        let largest = largest_message(&plan, args.batch).min(LARGEST_SLOT);
        let shape =
            GroupShape { ranks, lanes: vec![data.shape(largest), control.shape(gather::slot_bytes(ranks.max(1)))] };
        let delays = DelaySchedule::new(&args.delay, 0, ranks, args.delay_unit)
            .map_err(|error| Misuse(format!("--delay: {error}")))?;
        Ok(Job {
            args,
            input_shape: directory.config().input_shape(),
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
        Ok(Input::open(&self.args.input, Some(self.format), &self.input_shape)?)
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
        if is_same_file(input, output) {
            return Err(Misuse(format!("{}: input and output are the same file", output.display())).into());
        }
        PredictionFile::check(output)?;
    }
    Ok(())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// On rank 0, after the run: writes the predictions and prints the report. If either fails, the output is as it was before.
fn conclude(job: &Job<'_>, answers: &answers::Answers) -> Result<()> {
    let args = job.args;
    let file = args.output.as_ref().map(|output| write_predictions(job, answers, output)).transpose()?;
    let report = report::Report::new(job, answers);
    print(&if args.json { report.to_json() } else { report.to_text() })?;
    file.map_or(Ok(()), PredictionFile::finish)
}

/// All predictions, on the disk and without a name.
fn write_predictions(job: &Job<'_>, answers: &answers::Answers, output: &Path) -> Result<PredictionFile> {
    let mut file = PredictionFile::create(output)?;
    let mut predictions = answers.predictions.iter();
    let changed = || format!("{}: changed while it was read", job.args.input.display());
    for id in slackline_data::ids(&job.args.input, Some(job.format))? {
        file.row(&id?, *predictions.next().with_context(changed)?)?;
    }
    if predictions.next().is_some() {
        bail!(changed());
    }
    file.settle()?;
    Ok(file)
}
