//! The work of one rank, from loading its tables to sending its predictions to rank 0.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use slackline_collective::{Complete, Endpoint, Group};
use slackline_data::{Batch, Input};
use slackline_dlrm::{DistributedModel, samples_of};
use slackline_embedding::Verify;
use slackline_transport::Delayed;

use super::gather;
use super::{CONTROL, DATA, Job};
use crate::fail;
use crate::progress::Progress;

/// The results on rank 0.
pub(super) struct Answers {
    /// One per row, in input order.
    pub(super) predictions: Vec<f32>,
    /// One per row; empty if the input has no labels.
    pub(super) labels: Vec<f32>,
    /// In milliseconds, one for every batch on every rank that had samples of it, in no order.
    pub(super) latencies: Vec<f32>,
    /// From the barrier before the first batch until this rank had its last prediction.
    pub(super) elapsed: Duration,
    /// One entry per rank.
    pub(super) ranks: Vec<RankStats>,
}

/// Measurements of one rank.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct RankStats {
    /// Loading its tables.
    pub(super) load_seconds: f64,
    /// Warming up after that.
    pub(super) warmup_seconds: f64,
    /// The most rounds that it was ahead of its slowest peer; see `LaneStats::observed_lag`.
    pub(super) observed_lag: usize,
    /// Waiting for rounds that were due.
    pub(super) blocked_seconds: f64,
    /// Looking up its tables.
    pub(super) lookup_seconds: f64,
    /// Bytes of pooled vectors that it sent to other ranks.
    pub(super) sent_bytes: u64,
    /// Bytes that it did not have to send because the other ranks hold copies of hot rows.
    pub(super) saved_bytes: u64,
}

/// Works as one rank; rank 0 returns the results of all. An error here reaches the other ranks.
pub(super) fn run<E: Endpoint>(endpoint: E, job: &Job<'_>) -> Result<Option<Answers>> {
    let endpoint = Delayed::new(endpoint, job.delays.clone(), DATA);
    let mut group = Group::new(endpoint, job.options.clone())?;
    let outcome = work(&mut group, job);
    if let Err(error) = &outcome {
        // An earlier fault of another rank remains the fault of the group.
        let _ = group.give_up(&fail::one_line(error));
    }
    outcome
}

fn work<E: Endpoint>(group: &mut Group<E>, job: &Job<'_>) -> Result<Option<Answers>> {
    let rank = group.rank();
    let begin = Instant::now();
    // The checksums were verified before the ranks started, unless --skip-verify was given.
    let mut progress = (rank == 0).then(|| Progress::new("load"));
    let (mut loaded, total) = (0, job.plan.bytes_of(rank));
    let tables = job.directory.load_rank(&job.plan, rank, job.args.load, Verify::HeaderOnly, &mut |newly| {
        loaded += newly;
        if let Some(progress) = &mut progress {
            progress.share(loaded, total, "bytes");
        }
    })?;
    drop(progress);
    let mut model = DistributedModel::new(job.dense.clone(), tables, job.plan.clone(), rank)?.with_wire(job.args.wire);
    if job.args.threads > 1 {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(job.args.threads).use_current_thread();
        let threads = threads.thread_name(move |number| format!("rank {rank} pools {number}")).build();
        model = model.with_threads(threads.context("starting this rank's threads")?.into());
    }
    let mut input = Input::open(&job.args.input, Some(job.format), &job.input_shape)?;
    let load = begin.elapsed();
    // A rank is ready when its first batch will be as fast as the others. The barrier waits until all ranks are.
    let begin = Instant::now();
    model.warm_up()?;
    let warmup = begin.elapsed();
    group.lane(CONTROL).barrier()?;

    let begin = Instant::now();
    let own = predict(group, job, &mut model, &mut input)?;
    let elapsed = begin.elapsed();
    model.intact()?;

    let stats = group.stats(DATA);
    let work = model.work();
    let stats = RankStats {
        load_seconds: load.as_secs_f64(),
        warmup_seconds: warmup.as_secs_f64(),
        observed_lag: stats.observed_lag(),
        blocked_seconds: stats.blocked_on_bound.as_secs_f64(),
        lookup_seconds: work.lookups.as_secs_f64(),
        sent_bytes: work.sent,
        saved_bytes: work.saved,
    };
    let stats = group.lane(CONTROL).all_gather(&serde_json::to_vec(&stats)?)?;
    let mut places: Vec<_> =
        (0..group.ranks()).map(|from| places(own.rows, job.args.batch, from, group.ranks())).collect();
    let mut predictions = vec![f32::NAN; if rank == 0 { own.rows } else { 0 }];
    let mut left = own.rows;
    let changed = || format!("{}: changed while it was read", job.args.input.display());
    gather::to_first(&mut group.lane(CONTROL), &own.predictions, |from, values| {
        for value in values {
            predictions[places[from].next().with_context(changed)?] = value;
            left -= 1;
        }
        Ok(())
    })?;
    let mut latencies = Vec::new();
    gather::to_first(&mut group.lane(CONTROL), &own.latencies, |_, values| {
        latencies.extend(values);
        Ok(())
    })?;
    if rank == 0 && left > 0 {
        bail!(changed());
    }
    let none = group.lane(CONTROL).drain()?.is_none();
    assert!(none, "all ranks make the same calls on the lane without lag");
    if rank != 0 {
        return Ok(None);
    }
    let ranks = stats.iter().map(|stats| serde_json::from_slice(stats)).collect::<Result<_, _>>()?;
    Ok(Some(Answers { predictions, labels: own.labels, latencies, elapsed, ranks }))
}

/// The results of this rank.
#[derive(Default)]
struct Own {
    rows: usize,
    predictions: Vec<f32>,
    labels: Vec<f32>,
    latencies: Vec<f32>,
}

fn predict<E: Endpoint>(
    group: &mut Group<E>,
    job: &Job<'_>,
    model: &mut DistributedModel,
    input: &mut Input,
) -> Result<Own> {
    let is_first = group.rank() == 0;
    let mut progress = is_first.then(|| Progress::new("infer"));
    let mut exchange = group.lane(DATA);
    let mut own = Own::default();
    let mut batch = Batch::default();
    let mut fresh = Vec::new();
    // The start of every batch that is not answered yet, oldest first.
    let mut begun = VecDeque::new();
    let mut answer =
        |model: &mut DistributedModel, own: &mut Own, begun: &mut VecDeque<Instant>, complete: Complete<'_, _>| {
            let answered = model.complete(complete, &mut fresh)?;
            own.predictions.extend_from_slice(&fresh);
            let begin = begun.pop_front().expect("one entry for each round that was submitted");
            if answered.samples > 0 {
                own.latencies.push(begin.elapsed().as_secs_f32() * 1e3);
            }
            anyhow::Ok(())
        };
    while input.next_batch(job.args.batch, &mut batch)? {
        begun.push_back(Instant::now());
        model.submit(&mut exchange, &batch)?;
        own.rows += batch.samples;
        if is_first {
            own.labels.extend_from_slice(&batch.labels);
        }
        while let Some(complete) = exchange.take()? {
            answer(model, &mut own, &mut begun, complete)?;
        }
        if let Some(progress) = &mut progress {
            progress.at(|| {
                let share = input.total_bytes().map_or(0.0, |total| input.bytes_read() as f64 / total.max(1) as f64);
                format!("{:3.0} %, {} rows", 100.0 * share, own.rows)
            });
        }
    }
    while let Some(complete) = exchange.drain()? {
        answer(model, &mut own, &mut begun, complete)?;
    }
    Ok(own)
}

/// The rows that a rank predicts, in the order in which it predicts them.
fn places(rows: usize, batch: usize, rank: usize, ranks: usize) -> impl Iterator<Item = usize> {
    (0..rows).step_by(batch).flat_map(move |first| -> Range<usize> {
        let own = samples_of(batch.min(rows - first), rank, ranks);
        first + own.start..first + own.end
    })
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn every_row_has_one_place_and_each_rank_goes_forward() {
        for (rows, batch, ranks) in [(0, 4, 2), (10, 4, 1), (10, 4, 3), (23, 5, 8), (7, 100, 4), (9, 3, 4), (8, 1, 2)] {
            let mut all: Vec<usize> = Vec::new();
            for rank in 0..ranks {
                let own: Vec<usize> = places(rows, batch, rank, ranks).collect();
                assert!(own.is_sorted(), "{rows} rows, rank {rank} of {ranks}");
                all.extend(own);
            }
            all.sort_unstable();
            assert_eq!(all, (0..rows).collect::<Vec<_>>(), "{rows} rows in batches of {batch} on {ranks} ranks");
        }
    }
}
