//! The whole model in this process, without a group.

use std::time::Instant;

use anyhow::Result;
use slackline_collective::Delivery;
use slackline_dlrm::{Local, LocalModel, Model, Wire};
use slackline_transport::cores;
use slackline_transport::delay::DelayProfile;

use super::answers::{Answers, RankStats};
use super::collect::Collector;
use super::{Job, stream};
use crate::args::Transport;

/// Whether one rank does the work of the job as a [`LocalModel`] does it: it holds every table as it is, and nothing is asked
/// of the messages that it would send to itself.
pub(super) fn fits(job: &Job<'_>) -> bool {
    let (args, plan) = (job.args, &job.plan);
    let is_whole = |table| plan.rank_of(table).is_some() && plan.hot_rows(table).is_empty();
    let alone = args.transport == Transport::Threads && job.shape.ranks == 1 && args.threads == 1;
    let plain = args.wire == Wire::F32 && args.delivery == Delivery::Elastic && args.delay == DelayProfile::None;
    alone && plain && (0..plan.tables().len()).all(is_whole)
}

/// Runs the job, which [fits](fits).
pub(super) fn run(job: &Job<'_>) -> Result<Answers> {
    if let Some(core) = cores::one_each(1).first().filter(|_| job.args.pin) {
        cores::bind(&[*core]);
    }
    let begin = Instant::now();
    let tables = job.load(0)?;
    let mut model = Local::new(LocalModel::new(job.dense.clone(), tables.parts)?);
    let mut input = job.open_input()?;
    let load = begin.elapsed();
    let mut collector = Collector::new(job, &mut || Ok(()))?;
    collector.pass_over(&mut input, || Ok(()))?;
    let times = stream::run(&mut model, job, &mut input, &mut collector, true, || Ok(()))?;
    let ranks = vec![RankStats::new(load, &times, model.work())];
    Ok(Answers { predicted: collector.finish(), elapsed: times.elapsed, ranks })
}
