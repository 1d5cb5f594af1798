//! The work of one rank, from loading its tables to sending its predictions to rank 0.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use slackline_collective::{CollectiveError, Endpoint, Group};
use slackline_dlrm::{Distributed, DistributedModel, Model};
use slackline_transport::Delayed;

use super::answers::{Answers, RankStats};
use super::collect::{Collector, pass_over};
use super::share::{Receiver, Sender};
use super::{ANSWERS, CONTROL, DATA, Job, stream, terms};
use crate::fail;

/// Works as one rank; rank 0 returns the results of all. An error here reaches the other ranks.
pub(super) fn run<E: Endpoint>(endpoint: E, job: &Job<'_>) -> Result<Option<Answers>> {
    let endpoint = Delayed::new(endpoint, job.delays.clone(), DATA);
    let mut group = Group::new(endpoint, job.options.clone())?;
    let outcome = work(&mut group, job);
    match &outcome {
        // All ranks have come to the same verdict, and leave together.
        Err(error) if matches!(error.downcast_ref(), Some(CollectiveError::Disagree(_))) => leave(&group)?,
        Err(error) => {
            // An earlier fault of another rank remains the fault of the group.
            let _ = group.give_up(&fail::one_line(error));
        }
        Ok(_) => {}
    }
    outcome
}

/// Leaves the lanes that all ranks leave together.
fn leave<E: Endpoint>(group: &Group<E>) -> Result<()> {
    let answers = group.streams(ANSWERS);
    answers.leave()?;
    ensure!(answers.drain()?.is_none(), "there are more predictions than samples");
    ensure!(group.lane(CONTROL).drain()?.is_none(), "a rank made another call on the lane without lag");
    Ok(())
}

fn work<E: Endpoint>(group: &mut Group<E>, job: &Job<'_>) -> Result<Option<Answers>> {
    let rank = group.rank();
    // First of all: ranks that compute different things compute nothing.
    group.lane(CONTROL).agree(&terms::before(job)?)?;
    let (mut collector, kept) = collector(group, job)?;

    let begin = Instant::now();
    let tables = job.load(rank)?;
    let mut model = DistributedModel::new(job.dense.clone(), tables, job.plan.clone(), rank)?.with_wire(job.args.wire);
    if job.args.threads > 1 {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(job.args.threads).use_current_thread();
        let threads = threads.thread_name(move |number| format!("rank {rank} pools {number}")).build();
        model = model.with_threads(threads.context("starting this rank's threads")?.into());
    }
    let mut model = Distributed::new(model, group.lane(DATA))?;
    let mut input = job.open_input()?;
    let barrier = || Ok(group.lane(CONTROL).barrier()?);
    let load = begin.elapsed();
    match &mut collector {
        Some(collector) => collector.pass_over(&mut input, barrier)?,
        None => pass_over(&mut input, kept, barrier, |_| Ok(()))?,
    }
    let answers = group.streams(ANSWERS);
    let (times, collector) = match collector {
        Some(collector) => {
            let mut receiver = Receiver::new(answers, collector);
            let times = stream::run(&mut model, job, &mut input, &mut receiver, true, barrier)?;
            (times, Some(receiver.collector))
        }
        None => (stream::run(&mut model, job, &mut input, &mut Sender::new(answers), false, barrier)?, None),
    };
    // A file may have been replaced, or read differently, on some rank.
    group.lane(CONTROL).agree(&times.input.terms())?;

    let of_lane = group.stats(DATA);
    let stats = RankStats {
        observed_lag: of_lane.observed_lag(),
        blocked_seconds: of_lane.blocked_on_bound.as_secs_f64(),
        ..RankStats::new(load, &times, model.work())
    };
    let stats = group.lane(CONTROL).all_gather(&serde_json::to_vec(&stats)?)?;
    leave(group)?;
    let Some(collector) = collector else { return Ok(None) };
    let ranks = stats.iter().map(|stats| serde_json::from_slice(stats)).collect::<Result<_, _>>()?;
    Ok(Some(Answers { predicted: collector.finish(), elapsed: times.elapsed, ranks }))
}

/// On rank 0 what collects the predictions; and on every rank how many rows an earlier run has kept. Rank 0 may look at them for
/// longer than the deadline: it says so now and then by an empty message.
fn collector<E: Endpoint>(group: &Group<E>, job: &Job<'_>) -> Result<(Option<Collector>, u64)> {
    let control = group.lane(CONTROL);
    if group.rank() == 0 {
        let collector = Collector::new(job, &mut || Ok(control.all_gather(&[]).map(drop)?))?;
        control.all_gather(&collector.kept_rows().to_le_bytes())?;
        let kept = collector.kept_rows();
        return Ok((Some(collector), kept));
    }
    loop {
        let said = control.all_gather(&[])?.swap_remove(0);
        if !said.is_empty() {
            let kept = <[u8; 8]>::try_from(said).ok().context("rank 0 did not say how many rows are kept")?;
            return Ok((None, u64::from_le_bytes(kept)));
        }
    }
}
