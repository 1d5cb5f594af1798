//! Starts ranks as threads of this process, or as processes that run this command again.

use std::env;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use slackline_collective::{CollectiveError, Fault, FaultKind};
use slackline_dlrm::DlrmError;
use slackline_transport::launch::{Launch, LaunchOutcome, OutputMode};
use slackline_transport::{Endpoint, cores, shm, threads as thread_group};

use super::answers::Answers;
use super::{Job, fail, rank};
use crate::signals;

/// The least time that a process has to join the group: the deadline of a run does not apply to starting up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs all ranks as threads.
pub(super) fn threads(job: &Job<'_>) -> Result<Answers> {
    let endpoints = thread_group::group(&job.shape)?;
    let cores = if job.args.pin { cores::one_each(job.shape.ranks) } else { Vec::new() };
    let outcomes: Vec<Result<Option<Answers>>> = thread::scope(|scope| {
        let mut ranks = Vec::with_capacity(endpoints.len());
        for (rank, endpoint) in endpoints.into_iter().enumerate() {
            let core = cores.get(rank).copied();
            let thread = thread::Builder::new().name(format!("rank {rank}"));
            let work = move || {
                if let Some(core) = core {
                    cores::bind(&[core]);
                }
                rank::run(endpoint, job)
            };
            // If this fails, the remaining endpoints are dropped, which ends the ranks that have started.
            ranks
                .push(thread.spawn_scoped(scope, work).with_context(|| format!("starting the thread of rank {rank}"))?);
        }
        let panicked = |rank| anyhow!("rank {rank} panicked");
        Ok::<_, anyhow::Error>(
            ranks
                .into_iter()
                .enumerate()
                .map(|(rank, thread)| thread.join().unwrap_or_else(|_| Err(panicked(rank))))
                .collect(),
        )
    })?;
    let mut answers = None;
    let mut errors = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(Some(first)) => answers = Some(first),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    // All ranks report the same fault; the rank where it happened has the most detail.
    let first_hand = errors.iter().position(|error| !is_fault(error)).unwrap_or(0);
    match errors.into_iter().nth(first_hand) {
        Some(error) => Err(error),
        None => answers.context("rank 0 returned no results"),
    }
}

/// Runs all ranks as processes and returns the exit code. Rank 0 writes the output and prints the report.
pub(super) fn processes(job: &Job<'_>) -> Result<u8> {
    let program = env::current_exe().context("cannot find this program in order to start the ranks")?;
    let words: Vec<_> = env::args_os().skip(1).collect();
    let launch = Launch::new(job.shape.clone(), |_| {
        let mut command = Command::new(&program);
        command.args(&words);
        command
    });
    let launch = launch.output(OutputMode::FirstRank).pin(job.args.pin);
    let (outcome, signal) = signals::launching(|| launch.run());
    let outcome = outcome?;
    if let Some(signal) = signal {
        fail::tell(&signals::told(signal));
        return Ok(128 + signal as u8);
    }
    if let Some(why) = what_failed(&outcome) {
        fail::tell(&why);
    }
    Ok(u8::try_from(outcome.exit_code()).unwrap_or(fail::FAILURE))
}

/// The launcher's last line: who is to blame, which the group knows, and not who was the first to find out.
fn what_failed(outcome: &LaunchOutcome) -> Option<String> {
    if let Some(signal) = outcome.signal {
        return Some(signals::told(signal));
    }
    let rank = outcome.failed?;
    if let Some((first, others)) = outcome.killed.split_first() {
        let others: String = others.iter().map(|rank| format!(", rank {rank}")).collect();
        return Some(format!("rank {first}{others} was killed ({})", outcome.statuses[*first]));
    }
    match outcome.poison.as_deref().and_then(Fault::from_poison) {
        // Its own words are above.
        Some(fault) if fault.kind == FaultKind::GaveUp => Some(format!("rank {rank} failed; its message is above")),
        Some(fault) => Some(fault.to_string()),
        None => Some(format!("rank {rank} failed; its message is above")),
    }
}

/// Whether this process was started as a rank.
pub(crate) fn is_rank_process() -> bool {
    env::var_os(shm::GROUP_VARIABLE).is_some()
}

/// Works as the rank that the launcher assigned to this process.
pub(super) fn rank_process(job: &Job<'_>) -> Result<Option<Answers>> {
    let endpoint =
        shm::attach_from_env(job.args.deadline.max(PATIENCE))?.context("this process was not started as a rank")?;
    if *endpoint.shape() != job.shape.rounded()? {
        return Err(anyhow!("the model in {} has changed since the ranks were started", job.args.model.display()));
    }
    rank::run(endpoint, job)
}

/// Whether a rank learnt of the error from another rank.
fn is_fault(error: &anyhow::Error) -> bool {
    let collective = |error: &CollectiveError| matches!(error, CollectiveError::Fault(_));
    error.chain().any(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(error), _) => collective(error),
        (_, Some(DlrmError::Collective(error))) => collective(error),
        _ => false,
    })
}
