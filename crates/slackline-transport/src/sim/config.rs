//! What to simulate.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::schedule::nanos;
use crate::{GroupShape, Rank, TransportError};

/// A group, the network between its ranks, and what goes wrong. All times are virtual.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimConfig {
    /// The group; bytes of a slot are rounded up to [`SLOT_ALIGN`](crate::SLOT_ALIGN). The rooms of a ring take a slot of real memory on each
    /// rank once they were asked for.
    pub shape: GroupShape,
    /// Of all latencies.
    pub seed: u64,
    /// From sending to landing, drawn uniformly and independently for each message, release and other signal. A rank's
    /// messages to itself land at once. Default: 1 to 20 microseconds.
    pub latency: RangeInclusive<Duration>,
    /// What a message's bytes take on the way between one ordered pair of ranks, one message after the other, on top of
    /// its latency. Default: 0.
    pub ns_per_byte: f64,
    /// Everything lands on a multiple of this (later, if need be). A coarse tick lets what lands close together wake its
    /// receiver once, which is what large groups take most of their real time for. Default: 1 nanosecond.
    pub tick: Duration,
    /// From a death to its peers' seeing it. Default: 50 milliseconds.
    pub detection: Duration,
    /// Ranks that die.
    pub dead: Vec<Death>,
    /// Ranks that do nothing for a while, but live.
    pub stalled: Vec<Stall>,
    /// When virtual time reaches this, the run ends with an error. Default: an hour.
    pub time_limit: Duration,
    /// Stack of a rank's thread. Default: 256 KiB.
    pub stack_bytes: usize,
}

/// A rank that ends without detaching. It dies in its next `wait` or `sleep`, or in the one it is in; what it published
/// before still lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Who.
    pub rank: Rank,
    /// When.
    pub at: Duration,
}

/// A rank that does not go on for a while, as if the system ran something else: a `wait` or `sleep` that would return
/// within the stall returns at its end.
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
    pub(super) fn checked_shape(&self) -> Result<GroupShape, TransportError> {
        let shape = self.shape.rounded()?;
        let wrong = |why: String| Err(TransportError::Simulation { why });
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
