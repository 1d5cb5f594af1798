//! The work of one rank, from loading its tables to sending its predictions to rank 0.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use slackline_collective::{CollectiveError, Endpoint, Group};
use slackline_dlrm::{Distributed, DistributedModel, Model, samples_of};
use slackline_transport::Delayed;

use super::answers::{Answers, RankStats};
use super::{CONTROL, DATA, Job, gather, stream, terms};
use crate::fail;

/// Works as one rank; rank 0 returns the results of all. An error here reaches the other ranks.
pub(super) fn run<E: Endpoint>(endpoint: E, job: &Job<'_>) -> Result<Option<Answers>> {
    let endpoint = Delayed::new(endpoint, job.delays.clone(), DATA);
    let mut group = Group::new(endpoint, job.options.clone())?;
    let outcome = work(&mut group, job);
    match &outcome {
        // All ranks have come to the same verdict, and leave together.
        Err(error) if matches!(error.downcast_ref(), Some(CollectiveError::Disagree(_))) => {
            while group.lane(CONTROL).drain()?.is_some() {}
        }
        Err(error) => {
            // An earlier fault of another rank remains the fault of the group.
            let _ = group.give_up(&fail::one_line(error));
        }
        Ok(_) => {}
    }
    outcome
}

fn work<E: Endpoint>(group: &mut Group<E>, job: &Job<'_>) -> Result<Option<Answers>> {
    let rank = group.rank();
    // First of all: ranks that compute different things compute nothing.
    group.lane(CONTROL).agree(&terms::before(job)?)?;
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
    let load = begin.elapsed();
    let own = stream::run(&mut model, job, &mut input, rank == 0, || Ok(group.lane(CONTROL).barrier()?))?;
    // A file may have been replaced, or read differently, on some rank.
    group.lane(CONTROL).agree(&own.input.terms())?;

    let of_lane = group.stats(DATA);
    let stats = RankStats {
        observed_lag: of_lane.observed_lag(),
        blocked_seconds: of_lane.blocked_on_bound.as_secs_f64(),
        ..RankStats::new(load, &own, model.work())
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
    Ok(Some(Answers { predictions, labels: own.labels, latencies, elapsed: own.elapsed, ranks }))
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
