//! What to simulate.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::SimError;
use super::schedule::nanos;
use crate::{GroupShape, Rank};

/// A group, the network between its ranks, and what goes wrong. All times are virtual.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimConfig {
    /// The group. A ring takes one slot of real memory on each rank once its rooms were asked for.
    pub shape: GroupShape,
    /// The seed of all latencies.
    pub seed: u64,
    /// The time from sending to landing, drawn uniformly and independently for each message, release and other signal. A
    /// rank's messages to itself land at once. Default: 1 to 20 microseconds.
    pub latency: RangeInclusive<Duration>,
    /// The transfer time of a byte, on top of the latency. Messages between one ordered pair of ranks are transferred one
    /// after the other. Default: 0.
    pub ns_per_byte: f64,
    /// Landing times are rounded up to a multiple of this. With a coarse tick, messages that land close together wake their
    /// receiver once, which is most of the real time of large groups. Default: 1 nanosecond.
    pub tick: Duration,
    /// The time from a death until its peers see it. Default: 50 milliseconds.
    pub detection: Duration,
    /// Ranks that die.
    pub dead: Vec<Death>,
    /// Ranks that stall for a while.
    pub stalled: Vec<Stall>,
    /// The run ends with an error when virtual time reaches this. Default: an hour.
    pub time_limit: Duration,
    /// The stack of a rank's thread. Default: 256 KiB.
    pub stack_bytes: usize,
}

/// A rank that ends without detaching: in the `wait` or `sleep` that it is in, or in its next one. What it published before
/// still lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Who.
    pub rank: Rank,
    /// When.
    pub at: Duration,
}

/// A rank that does not run for a while, as if the system ran something else: a `wait` or `sleep` that would return during
/// the stall returns at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Who.
    pub rank: Rank,
    /// When it begins.
    pub from: Duration,
    /// How long it takes.
    pub length: Duration,
}

impl SimConfig {
    /// A network without faults.
    pub fn new(shape: GroupShape, seed: u64) -> Self {
        Self {
            shape,
            seed,
            latency: Duration::from_micros(1)..=Duration::from_micros(20),
            ns_per_byte: 0.0,
            tick: Duration::from_nanos(1),
            detection: Duration::from_millis(50),
            dead: Vec::new(),
            stalled: Vec::new(),
            time_limit: Duration::from_secs(3600),
            stack_bytes: 256 << 10,
        }
    }

    /// The shape with rounded slots, once everything is seen to make sense.
    pub(super) fn checked_shape(&self) -> Result<GroupShape, SimError> {
        let shape = self.shape.rounded()?;
        let wrong = |why: String| Err(SimError::Config { why });
        if self.latency.is_empty() || nanos(*self.latency.end()) == u64::MAX {
            return wrong(format!("the latency {:?} is not a range of times", self.latency));
        }
        if !self.ns_per_byte.is_finite() || self.ns_per_byte < 0.0 {
            return wrong(format!("a byte takes {} ns", self.ns_per_byte));
        }
        if self.tick.is_zero() {
            return wrong("the tick is zero".into());
        }
        let faults = self.dead.iter().map(|death| death.rank).chain(self.stalled.iter().map(|stall| stall.rank));
        if let Some(rank) = faults.into_iter().find(|&rank| rank >= shape.ranks) {
            return wrong(format!("a fault is set for rank {rank} of a group of {}", shape.ranks));
        }
        Ok(shape)
    }
}
