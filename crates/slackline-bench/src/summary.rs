//! From the records of the ranks to results; but first, whether the outputs are right.

use crate::BenchError;
use crate::measure::{Experiment, RankRecord, RunRecord};
use crate::predict;
use crate::results::{Activity, BaselineResult, LagResult, Percentiles, Segment, Spread, Timeline};
use crate::variant::Variant;

/// Rounds that a timeline shows.
const TIMELINE_ROUNDS: usize = 24;

/// The lag that a timeline shows beside lag 0, if it was run.
const TIMELINE_LAG: usize = 4;

/// Compares every output of every rank with the reference.
///
/// # Errors
///
/// [`BenchError::WrongOutput`] for the first that differs, in the order of ranks, runs and rounds.
pub(crate) fn verify(
    experiment: &Experiment,
    records: &[RankRecord],
    expected: impl Fn(usize, u64) -> u64,
) -> Result<(), BenchError> {
    for record in records {
        for repetition in 0..experiment.repetitions {
            let first = experiment.first_round(repetition);
            let expected: Vec<u64> =
                (0..experiment.rounds as u64).map(|round| expected(record.rank, first + round)).collect();
            for run in record.runs.iter().filter(|run| run.repetition == repetition) {
                if run.digests != expected {
                    let differs = |(round, digest): (usize, &u64)| run.digests.get(round) != Some(digest);
                    return Err(BenchError::WrongOutput {
                        scenario: experiment.scenario.clone(),
                        collective: experiment.variants[run.variant].to_string(),
                        repetition,
                        rank: record.rank,
                        round: expected.iter().enumerate().position(differs).unwrap_or(experiment.rounds),
                    });
                }
            }
        }
    }
    Ok(())
}

/// All repetitions of a collective.
fn runs<'a>(experiment: &Experiment, records: &'a [RankRecord], open: bool, variant: usize) -> Vec<Run<'a>> {
    (0..experiment.repetitions).map(|repetition| Run::find(records, open, variant, repetition)).collect()
}

/// One entry per lag; `counted` is what a round counts in throughput. Call it on verified records only.
pub(crate) fn summarise(experiment: &Experiment, records: &[RankRecord], counted: usize) -> Vec<LagResult> {
    let lags: Vec<usize> = experiment.lags().collect();
    let all = |open| -> Vec<Vec<Run>> { (0..lags.len()).map(|place| runs(experiment, records, open, place)).collect() };
    let (runs, open) = (all(false), all(true));
    let total = (experiment.rounds * counted) as f64;
    let a_second = |nanoseconds: f64| total / nanoseconds * 1e9;
    let summary = |(place, &lag): (usize, &usize)| {
        let spread = |value: &dyn Fn(&Run, &Run) -> f64| {
            // Each run is compared with that of lag 0 in the same repetition.
            Spread::of(runs[place].iter().zip(&runs[0]).map(|(run, base)| value(run, base)).collect())
        };
        let percentiles = |runs: &[Run], times: &dyn Fn(&RunRecord) -> &[u64]| {
            let spread = |percent| Spread::of(runs.iter().map(|run| run.percentile(percent, times)).collect());
            Percentiles { p50: spread(50), p95: spread(95), p99: spread(99) }
        };
        LagResult {
            lag,
            throughput: spread(&|run, _| a_second(run.span())),
            speedup: spread(&|run, base| base.span() / run.span()),
            open_latency_us: percentiles(&open[place], &|run| &run.latency),
            latency_us: percentiles(&runs[place], &|run| &run.latency),
            call_us: percentiles(&runs[place], &|run| &run.call),
            observed_lag: runs[place].iter().flat_map(|run| &run.0).map(|run| run.observed).max().unwrap_or(0),
            ideal_throughput: spread(&|run, _| a_second(predict::ideal(&run.work()))),
            share_of_ideal: spread(&|run, _| predict::ideal(&run.work()) / run.span()),
            predicted_throughput: spread(&|_, base| a_second(base.predicted(lag, experiment.cores))),
            predicted_speedup: spread(&|_, base| {
                base.predicted(0, experiment.cores) / base.predicted(lag, experiment.cores)
            }),
            waiting: (0..experiment.ranks)
                .map(|rank| {
                    let share = |run: &Run| run.0[rank].call.iter().sum::<u64>() as f64 / run.span();
                    Spread::of(runs[place].iter().map(share).collect()).median
                })
                .collect(),
        }
    };
    lags.iter().enumerate().map(summary).collect()
}

/// One entry for everything that is no lag of the group. As [`summarise`] otherwise.
pub(crate) fn baselines(experiment: &Experiment, records: &[RankRecord], counted: usize) -> Vec<BaselineResult> {
    let total = (experiment.rounds * counted) as f64;
    let summary = |(place, variant): (usize, &Variant)| {
        let runs = runs(experiment, records, false, place);
        let spread = |value: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(value).collect());
        BaselineResult {
            name: variant.name().to_owned(),
            lag: variant.lag(),
            throughput: spread(&|run| total / run.span() * 1e9),
            share_of_ideal: spread(&|run| predict::ideal(&run.work()) / run.span()),
        }
    };
    experiment.variants.iter().enumerate().skip(experiment.lags().count()).map(summary).collect()
}

/// The first rounds of the first repetition of lag 0 and of lag 4, or of the largest lag where 4 was not run.
pub(crate) fn timelines(experiment: &Experiment, records: &[RankRecord]) -> Vec<Timeline> {
    let largest = experiment.lags().max().unwrap_or(0);
    let other = if experiment.lags().any(|lag| lag == TIMELINE_LAG) { TIMELINE_LAG } else { largest };
    let shown = |(_, lag): &(usize, usize)| *lag == 0 || *lag == other;
    let lags = experiment.lags().enumerate().filter(shown);
    lags.map(|(place, lag)| {
        let run = Run::find(records, false, place, 0);
        let begin = run.begin();
        Timeline { lag, ranks: run.0.iter().map(|run| segments(run, begin)).collect() }
    })
    .collect()
}

/// Waiting and work on outputs alternate within an iteration; they are drawn as one stretch each.
fn segments(run: &RunRecord, begin: u64) -> Vec<Segment> {
    let mut segments = Vec::new();
    for round in 0..run.begun.len().min(TIMELINE_ROUNDS) {
        let mut at = run.begin - begin + run.begun[round];
        let parts = [
            (Activity::Delay, run.delay[round]),
            (Activity::Work, run.send[round] + run.own[round]),
            (Activity::Wait, run.call[round]),
            (Activity::Work, run.finishing[round]),
        ];
        for (kind, length) in parts.into_iter().filter(|(_, length)| *length > 0) {
            let (begin_us, end_us) = (at as f64 / 1e3, (at + length) as f64 / 1e3);
            segments.push(Segment { kind, round, begin_us, end_us });
            at += length;
        }
    }
    segments
}

/// One run on all ranks, in rank order.
struct Run<'a>(Vec<&'a RunRecord>);

impl<'a> Run<'a> {
    fn find(records: &'a [RankRecord], open: bool, variant: usize, repetition: usize) -> Self {
        let of = |record: &'a RankRecord| {
            let wanted = |run: &&RunRecord| run.open == open && run.variant == variant && run.repetition == repetition;
            let run = record.runs.iter().find(wanted);
            run.expect("verified records have every run")
        };
        Run(records.iter().map(of).collect())
    }

    fn begin(&self) -> u64 {
        self.0.iter().map(|run| run.begin).min().unwrap_or(0)
    }

    /// From the start of the first rank to the end of the last, in nanoseconds.
    fn span(&self) -> f64 {
        (self.0.iter().map(|run| run.end).max().unwrap_or(0) - self.begin()) as f64
    }

    fn work(&self) -> Vec<Vec<f64>> {
        self.0.iter().map(|run| run.work()).collect()
    }

    /// The predicted time of a run with another lag: by the recurrence, but no less than the processor time takes on all
    /// cores. The latter matters where ranks share cores: a rank that waits frees its core for the others.
    fn predicted(&self, lag: usize, cores: usize) -> f64 {
        let shared = self.0.iter().map(|run| run.cpu as f64).sum::<f64>() / self.0.len().min(cores) as f64;
        predict::makespan(&self.work(), lag).max(shared)
    }

    /// A percentile over all rounds of all ranks, in microseconds, by nearest rank.
    fn percentile(&self, percent: usize, times: &dyn Fn(&RunRecord) -> &[u64]) -> f64 {
        let mut all: Vec<u64> = self.0.iter().flat_map(|run| times(run)).copied().collect();
        all.sort_unstable();
        let rank = (all.len() * percent).div_ceil(100).max(1);
        all.get(rank - 1).copied().unwrap_or(0) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ranks, two rounds of 1 and 2 µs of work in turn, lags 0 and 1 and the oracle, one repetition.
    fn canned() -> (Experiment, Vec<RankRecord>) {
        let experiment = Experiment {
            scenario: "canned".to_owned(),
            ranks: 2,
            cores: 2,
            rounds: 2,
            warmup: 1,
            repetitions: 1,
            variants: vec![Variant::Lag(0), Variant::Lag(1), Variant::Oracle],
            fixed: false,
            delay: Default::default(),
            seed: 0,
            load: 0.9,
            flip: None,
            progress: false,
        };
        let run = |rank: usize, variant: usize, open: bool| {
            let lag = variant % 2;
            RunRecord {
                variant,
                open,
                begin: 100,
                end: 100 + if lag == 0 { 4000 } else { 3000 },
                cpu: 2000,
                begun: vec![0, if lag == 0 { 2000 } else { 1000 + 1000 * rank as u64 }],
                delay: vec![0, 0],
                send: if rank == 0 { vec![1000, 2000] } else { vec![2000, 1000] },
                own: vec![0, 0],
                finish: vec![0, 0],
                call: if (rank == 0) == (lag == 0) { vec![1000, 0] } else { vec![0, 0] },
                finishing: vec![0, 0],
                latency: if open { vec![5000, 7000] } else { vec![2000, 2000] },
                digests: vec![rank as u64 * 10, rank as u64 * 10 + 1],
                observed: lag,
                repetition: 0,
            }
        };
        let runs = |rank| {
            let order = [(1, false), (2, false), (0, false), (0, true), (1, true)];
            order.into_iter().map(|(variant, open)| run(rank, variant, open)).collect()
        };
        let records = (0..2).map(|rank| RankRecord { rank, unit: 1000, interval: 2000, runs: runs(rank) }).collect();
        (experiment, records)
    }

    #[test]
    fn right_outputs_pass_and_a_wrong_one_is_named() {
        let (experiment, mut records) = canned();
        let expected = |rank: usize, round: u64| rank as u64 * 10 + round;
        verify(&experiment, &records, expected).unwrap();
        records[1].runs[0].digests[1] ^= 1;
        match verify(&experiment, &records, expected) {
            Err(BenchError::WrongOutput { collective, repetition: 0, rank: 1, round: 1, .. }) => {
                assert_eq!(collective, "lag 1");
            }
            other => panic!("{other:?}"),
        }
        records[1].runs[0].digests.pop();
        assert!(matches!(verify(&experiment, &records, expected), Err(BenchError::WrongOutput { round: 1, .. })));
    }

    #[test]
    fn a_wrong_output_of_a_baseline_is_one_too() {
        let (experiment, mut records) = canned();
        records[0].runs[1].digests[0] ^= 1;
        match verify(&experiment, &records, |rank, round| rank as u64 * 10 + round) {
            Err(BenchError::WrongOutput { collective, rank: 0, round: 0, .. }) => {
                assert_eq!(collective, "synchronous oracle");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_numbers_of_a_run_worked_out_by_hand() {
        let (experiment, records) = canned();
        let lags = summarise(&experiment, &records, 8);
        assert_eq!(lags[0].throughput.median, 16.0 / 4e-6);
        assert_eq!(lags[0].speedup.median, 1.0);
        assert_eq!(lags[0].share_of_ideal.median, 0.75);
        assert_eq!(lags[1].speedup.median, 4.0 / 3.0);
        assert_eq!(lags[1].share_of_ideal.median, 1.0);
        assert_eq!(lags[1].predicted_throughput.median, 16.0 / 3e-6);
        assert_eq!(lags[1].predicted_speedup.median, 4.0 / 3.0);
        assert_eq!((lags[0].observed_lag, lags[1].observed_lag), (0, 1));
        assert_eq!(lags[0].latency_us.p99.median, 2.0);
        assert_eq!((lags[0].open_latency_us.p50.median, lags[0].open_latency_us.p99.median), (5.0, 7.0));
        assert_eq!(lags[0].call_us.p50.median, 0.0);
        assert_eq!(lags[0].call_us.p95.median, 1.0);
        assert_eq!(lags[0].waiting, [0.25, 0.0]);
        // The oracle's record has the times of lag 0.
        let baselines = baselines(&experiment, &records, 8);
        assert_eq!(baselines.len(), 1);
        assert_eq!((&*baselines[0].name, baselines[0].lag), ("synchronous oracle", 0));
        assert_eq!(baselines[0].throughput, lags[0].throughput);
        assert_eq!(baselines[0].share_of_ideal, lags[0].share_of_ideal);
    }

    #[test]
    fn ranks_that_share_a_core_are_not_predicted_to_be_faster_than_it() {
        let (mut experiment, records) = canned();
        experiment.cores = 1;
        // 2 µs of processor time each: 4 µs on one core, whatever the lag.
        assert_eq!(summarise(&experiment, &records, 8)[1].predicted_throughput.median, 16.0 / 4e-6);
    }

    #[test]
    fn timelines_show_waiting_after_work() {
        let (experiment, records) = canned();
        let timelines = timelines(&experiment, &records);
        assert_eq!(timelines.iter().map(|timeline| timeline.lag).collect::<Vec<_>>(), [0, 1]);
        let kinds: Vec<Activity> = timelines[0].ranks[0].iter().map(|segment| segment.kind).collect();
        assert_eq!(kinds, [Activity::Work, Activity::Wait, Activity::Work]);
        assert_eq!((timelines[0].ranks[0][1].begin_us, timelines[0].ranks[0][1].end_us), (1.0, 2.0));
    }
}
