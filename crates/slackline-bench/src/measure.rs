//! The measured loop of a rank, the same for every collective, and its record.
//!
//! A group has a control lane without lag (barriers, agreement on the unit) and one data lane per lag; other collectives have
//! what they need beside it. So all of them take turns in the same processes. A run is a number of rounds of one collective,
//! with a barrier before it and a flush after it. Clock, sleep and barriers are the group's in every run.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use slackline_collective::{Collective, CompleteRound, Delivery, Group, GroupOptions, LaneOptions};
use slackline_transport::delay::{DelayProfile, DelaySchedule};
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape};
use xxhash_rust::xxh3::xxh3_64;

use crate::BenchError;
use crate::timed::Timed;
use crate::variant::{Other, Variant};

/// The work of a rank in a round. `round` numbers the data, so that equal rounds of different collectives see equal data.
pub(crate) trait Work {
    /// Begins a round, writes the messages to all ranks, and publishes.
    fn send(&mut self, round: u64, collective: &mut impl Collective) -> Result<(), BenchError>;
    /// The work that needs no other rank.
    fn own(&mut self, round: u64) -> Result<(), BenchError>;
    /// Turns the messages of a complete round into this rank's output, which replaces `out`.
    fn finish(&mut self, round: u64, complete: impl CompleteRound, out: &mut Vec<u8>) -> Result<(), BenchError>;
}

/// The parameters of an experiment, equal on all ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Experiment {
    pub(crate) scenario: String,
    pub(crate) ranks: usize,
    /// Cores that the ranks share.
    pub(crate) cores: usize,
    pub(crate) rounds: usize,
    pub(crate) warmup: usize,
    pub(crate) repetitions: usize,
    /// The lags, of which the first is 0, and then everything else.
    pub(crate) variants: Vec<Variant>,
    pub(crate) fixed: bool,
    pub(crate) delay: DelayProfile,
    pub(crate) seed: u64,
    /// Arrival rate of the open loop, as a share of the throughput without lag.
    pub(crate) load: f64,
    /// The rank that flips one bit of its last output, to test that the check finds it.
    pub(crate) flip: Option<usize>,
    /// Whether rank 0 prints progress on standard error.
    pub(crate) progress: bool,
}

/// The record of one rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RankRecord {
    pub(crate) rank: usize,
    /// Nanoseconds of an undelayed iteration, equal on all ranks.
    pub(crate) unit: u64,
    /// Nanoseconds between two batches of the open loop, equal on all ranks.
    pub(crate) interval: u64,
    pub(crate) runs: Vec<RunRecord>,
}

/// One run on one rank. Times are nanoseconds on the group's clock; lists have one entry per round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Place of the collective in [`Experiment::variants`].
    pub(crate) variant: usize,
    pub(crate) repetition: usize,
    /// Whether batches arrive at fixed times (open loop) or are always there (closed loop).
    pub(crate) open: bool,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// Processor time of this rank in the run: its work without waiting for a core.
    pub(crate) cpu: u64,
    /// The start of each round, since `begin`.
    pub(crate) begun: Vec<u64>,
    pub(crate) delay: Vec<u64>,
    pub(crate) send: Vec<u64>,
    pub(crate) own: Vec<u64>,
    pub(crate) finish: Vec<u64>,
    /// Time in `take` (after the last round, in `flush`) during this iteration, and in publishing where that waits: nearly all
    /// of it is waiting.
    pub(crate) call: Vec<u64>,
    /// Work on the outputs of the rounds that were handed out during this iteration.
    pub(crate) finishing: Vec<u64>,
    /// From the start of a round (in the open loop, from its arrival) to its output.
    pub(crate) latency: Vec<u64>,
    pub(crate) digests: Vec<u64>,
    /// Largest lead over the slowest peer, in rounds; 0 for collectives that don't record it.
    pub(crate) observed: usize,
}

impl RunRecord {
    fn new(variant: usize, repetition: usize, rounds: usize) -> Self {
        let zeros = || vec![0; rounds];
        RunRecord {
            variant,
            repetition,
            begun: zeros(),
            delay: zeros(),
            send: zeros(),
            own: zeros(),
            finish: zeros(),
            call: zeros(),
            finishing: zeros(),
            latency: zeros(),
            digests: zeros(),
            ..RunRecord::default()
        }
    }

    /// Flips one bit of the last output.
    fn falsify(&mut self, mut output: Vec<u8>) {
        if let (Some(digest), Some(byte)) = (self.digests.last_mut(), output.first_mut()) {
            *byte ^= 1;
            *digest = xxh3_64(&output);
        }
    }

    /// Work and delay of each round, in nanoseconds.
    pub(crate) fn work(&self) -> Vec<f64> {
        let parts = self.delay.iter().zip(&self.send).zip(&self.own).zip(&self.finish);
        parts.map(|(((delay, send), own), finish)| (delay + send + own + finish) as f64).collect()
    }
}

const CONTROL: Lane = Lane(0);

/// Slot size of the control lane; longer messages are sent in fragments.
const CONTROL_BYTES: usize = 256;

impl Experiment {
    /// The first round of the data of a repetition.
    pub(crate) fn first_round(&self, repetition: usize) -> u64 {
        (repetition * self.rounds) as u64
    }

    /// The lags, at their places among the variants.
    pub(crate) fn lags(&self) -> impl Iterator<Item = usize> {
        self.variants.iter().map_while(|variant| if let Variant::Lag(lag) = variant { Some(*lag) } else { None })
    }

    fn lane_options(&self) -> Vec<LaneOptions> {
        let delivery = if self.fixed { Delivery::Fixed } else { Delivery::Elastic };
        let data = self.lags().map(|lag| LaneOptions { lag, delivery });
        std::iter::once(LaneOptions::lag(0)).chain(data).collect()
    }

    /// The rings that [`measure`] needs if no message is larger than `largest`.
    pub(crate) fn shape(&self, largest: usize) -> GroupShape {
        let rings = |(lane, options): (usize, &LaneOptions)| -> LaneShape {
            options.shape(if lane == 0 { CONTROL_BYTES } else { largest })
        };
        GroupShape { ranks: self.ranks, lanes: self.lane_options().iter().enumerate().map(rings).collect() }
    }
}

/// Runs all repetitions of all collectives on one rank. `others` are those behind the lags in [`Experiment::variants`].
pub(crate) fn measure<E: Endpoint>(
    endpoint: E,
    others: Vec<Other<E>>,
    experiment: &Experiment,
    work: &mut impl Work,
) -> Result<RankRecord, BenchError> {
    let rank = endpoint.rank();
    let options = GroupOptions::new(experiment.lane_options()).deadline(Duration::from_secs(60));
    let lags = experiment.lags().count();
    let mut sides = Sides { group: Group::new(endpoint, options)?, lags, others };
    let unit = warm_up(&mut sides, experiment, work)?;
    let schedule =
        DelaySchedule::new(&experiment.delay, experiment.seed, experiment.ranks, Duration::from_nanos(unit))?;
    let mut runs = Vec::with_capacity(experiment.repetitions * (experiment.variants.len() + lags));
    let mut interval = 0;
    for open in [false, true] {
        if open {
            interval = arrival_interval(&sides.group, experiment, &runs)?;
        }
        // In the open loop, the lags alone.
        let variants = if open { lags } else { experiment.variants.len() };
        for repetition in 0..experiment.repetitions {
            if experiment.progress && rank == 0 {
                let kind = if open { "open" } else { "closed" };
                crate::error::say(&format!(
                    "{}: {kind} loop, repetition {} of {}",
                    experiment.scenario,
                    repetition + 1,
                    experiment.repetitions
                ));
            }
            let plan = Plan { first: experiment.first_round(repetition), interval, schedule: &schedule };
            for turn in 0..variants {
                // The rotated order spreads drifts of the machine evenly over the collectives.
                let variant = (turn + repetition) % variants;
                let mut record = RunRecord::new(variant, repetition, experiment.rounds);
                record.open = open;
                let output = sides.run(&plan, work, &mut record)?;
                if experiment.flip == Some(rank) {
                    record.falsify(output);
                }
                runs.push(record);
            }
        }
    }
    let group = &sides.group;
    for lane in 0..=lags {
        group.lane(Lane(lane as u16)).leave()?;
    }
    for lane in 0..=lags {
        while group.lane(Lane(lane as u16)).drain()?.is_some() {}
    }
    Ok(RankRecord { rank, unit, interval, runs })
}

/// The time between two batches of the open loop, from the runs without lag. Equal on all ranks.
fn arrival_interval<E: Endpoint>(
    group: &Group<E>,
    experiment: &Experiment,
    runs: &[RunRecord],
) -> Result<u64, BenchError> {
    let synchronous = runs.iter().filter(|run| experiment.variants[run.variant] == Variant::Lag(0));
    let mut spans: Vec<u64> = synchronous.map(|run| run.end - run.begin).collect();
    spans.sort_unstable();
    let span = gather(group, spans[spans.len() / 2])?.into_iter().max().unwrap_or(0);
    Ok((span as f64 / experiment.rounds as f64 / experiment.load) as u64)
}

/// Touches the memory of every collective and measures an undelayed iteration. Equal on all ranks.
fn warm_up<E: Endpoint>(
    sides: &mut Sides<E>,
    experiment: &Experiment,
    work: &mut impl Work,
) -> Result<u64, BenchError> {
    let none = DelaySchedule::new(&DelayProfile::None, experiment.seed, experiment.ranks, Duration::ZERO)?;
    let plan = Plan { first: 0, interval: 0, schedule: &none };
    for (place, variant) in experiment.variants.iter().enumerate() {
        let mut record = RunRecord::new(place, 0, 2 * variant.lag() + 4);
        sides.run(&plan, work, &mut record)?;
    }
    // On the lane without lag, which is the first.
    let mut record = RunRecord::new(0, 0, experiment.warmup);
    sides.run(&plan, work, &mut record)?;
    let mut iterations: Vec<u64> = record.begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    iterations.sort_unstable();
    let median = iterations.get(iterations.len() / 2).copied().unwrap_or(record.end - record.begin);
    let mut medians = gather(&sides.group, median)?;
    medians.sort_unstable();
    Ok(medians[medians.len() / 2])
}

/// Everything that a rank exchanges over.
struct Sides<E: Endpoint> {
    group: Group<E>,
    /// Data lanes of the group, behind the control lane.
    lags: usize,
    others: Vec<Other<E>>,
}

/// What a run does, beside its work.
struct Plan<'a> {
    /// The number of its first round's data.
    first: u64,
    /// The time between two batches, or 0 for a closed loop.
    interval: u64,
    schedule: &'a DelaySchedule,
}

impl<E: Endpoint> Sides<E> {
    /// One run, of the collective that `record` names. Returns the output of the last round.
    fn run(&mut self, plan: &Plan<'_>, work: &mut impl Work, record: &mut RunRecord) -> Result<Vec<u8>, BenchError> {
        let group = &self.group;
        let publishing = &Cell::new(0);
        if let Some(place) = record.variant.checked_sub(self.lags) {
            return match &mut self.others[place] {
                Other::Oracle(collective) => {
                    run(group, &mut Timed { collective, publishing }, publishing, plan, work, record)
                }
                #[cfg(feature = "mpi")]
                Other::Mpi(collective) => {
                    run(group, &mut Timed { collective, publishing }, publishing, plan, work, record)
                }
            };
        }
        let lane = Lane(record.variant as u16 + 1);
        let leads = group.stats(lane).lead;
        // Publishing never waits here, and counts as work.
        let output = run(group, &mut group.lane(lane), publishing, plan, work, record)?;
        let now = group.stats(lane).lead;
        let more = |(lead, count): &(usize, &u64)| **count > leads.get(*lead).copied().unwrap_or(0);
        let observed = now.iter().enumerate().filter(more).map(|(lead, _)| lead).max().unwrap_or(0);
        // The round just published is no lag.
        record.observed = observed.saturating_sub(1);
        Ok(output)
    }
}

/// One run over any collective, all of whose rounds have been handed out. `publishing` counts the nanoseconds that the
/// collective waits when a round is published. Returns the output of the last round.
fn run<E: Endpoint, C: Collective>(
    group: &Group<E>,
    collective: &mut C,
    publishing: &Cell<u64>,
    plan: &Plan<'_>,
    work: &mut impl Work,
    record: &mut RunRecord,
) -> Result<Vec<u8>, BenchError> {
    let rank = group.rank();
    let Plan { first, interval, schedule } = *plan;
    group.lane(CONTROL).barrier()?;
    let ready = group.endpoint().now().as_nanos() as u64;
    // The first batch arrives on all ranks at once, when the last one is ready.
    let opening = gather(group, ready)?.into_iter().max().unwrap_or(ready);
    record.begin = group.endpoint().now().as_nanos() as u64;
    let cpu = cpu_time();
    let rounds = record.begun.len();
    let due = vec![0; rounds];
    let mut run = Run { work, record, collective, first, base: None, origin: Instant::now(), due, output: Vec::new() };
    for index in 0..rounds {
        let round = first + index as u64;
        run.due[index] = if interval > 0 {
            let arrival = (opening + index as u64 * interval).saturating_sub(run.record.begin);
            run.until(arrival, group.endpoint(), index.saturating_sub(1))?;
            arrival
        } else {
            run.clock()
        };
        let begun = run.clock();
        let delay = schedule.delay(rank, round);
        if delay > Duration::ZERO {
            group.endpoint().sleep(delay);
        }
        let delayed = run.clock();
        let before = publishing.get();
        run.work.send(round, run.collective)?;
        let waited = publishing.get() - before;
        let sent = run.clock();
        run.work.own(round)?;
        run.record.begun[index] = begun;
        run.record.delay[index] = delayed - begun;
        run.record.send[index] = sent - delayed - waited;
        run.record.call[index] = waited;
        run.record.own[index] = run.clock() - sent;
        // Takes the rounds that the lag makes due; after the last round, all of them.
        run.take(index, false)?;
        if index + 1 == rounds {
            run.take(index, true)?;
        }
    }
    let Run { output, origin, record, .. } = run;
    record.end = record.begin + origin.elapsed().as_nanos() as u64;
    record.cpu = cpu_time() - cpu;
    Ok(output)
}

/// A run under way.
struct Run<'a, W, C> {
    work: &'a mut W,
    record: &'a mut RunRecord,
    collective: &'a mut C,
    first: u64,
    /// The number of its first round, which the collective counts on from earlier runs.
    base: Option<u64>,
    origin: Instant,
    /// The start of the latency of each round: its start in a closed loop, its arrival in an open one.
    due: Vec<u64>,
    output: Vec<u8>,
}

impl<W: Work, C: Collective> Run<'_, W, C> {
    fn clock(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Finishes every round that `take`, or in the end `flush`, hands out.
    fn take(&mut self, index: usize, flush: bool) -> Result<(), BenchError> {
        let origin = self.origin;
        let clock = || origin.elapsed().as_nanos() as u64;
        let mut now = clock();
        loop {
            let complete = if flush { self.collective.flush()? } else { self.collective.take()? };
            let came = clock();
            self.record.call[index] += came - now;
            let Some(complete) = complete else { return Ok(()) };
            let number = complete.number();
            let done = (number - *self.base.get_or_insert(number)) as usize;
            self.work.finish(self.first + done as u64, complete, &mut self.output)?;
            self.record.digests[done] = xxh3_64(&self.output);
            now = clock();
            self.record.finish[done] = now - came;
            self.record.finishing[index] += now - came;
            self.record.latency[done] = now.saturating_sub(self.due[done]);
        }
    }

    /// Waits until `arrival`, and finishes rounds that are handed out meanwhile.
    fn until(&mut self, arrival: u64, endpoint: &impl Endpoint, index: usize) -> Result<(), BenchError> {
        loop {
            self.take(index, false)?;
            let now = self.clock();
            if now >= arrival {
                return Ok(());
            }
            endpoint.wait(endpoint.now() + Duration::from_nanos(arrival - now))?;
        }
    }
}

/// One number of every rank, in rank order.
fn gather<E: Endpoint>(group: &Group<E>, number: u64) -> Result<Vec<u64>, BenchError> {
    let numbers = group.lane(CONTROL).all_gather(&number.to_le_bytes())?;
    let number = |bytes: &Vec<u8>| bytes.as_slice().try_into().map(u64::from_le_bytes);
    numbers
        .iter()
        .map(number)
        .collect::<Result<_, _>>()
        .map_err(|_| BenchError::Settings("a rank of the group runs another program".to_owned()))
}

/// Processor time of this thread in nanoseconds.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
