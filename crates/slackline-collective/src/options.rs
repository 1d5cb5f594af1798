//! What a user chooses about a group.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use slackline_transport::{GroupShape, LaneShape};

use crate::HEADER_BYTES;

/// Which rounds [`take`](crate::Exchange::take) hands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Every round, in order, as soon as it is complete. A balanced run then sees no extra latency from the lag.
    #[default]
    Elastic,
    /// Call `i` hands out exactly round `i - lag`. For comparison: it delays every answer by `lag` rounds.
    Fixed,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::Elastic => "elastic",
            Delivery::Fixed => "fixed",
        })
    }
}

impl FromStr for Delivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "elastic" => Ok(Delivery::Elastic),
            "fixed" => Ok(Delivery::Fixed),
            other => Err(format!("unknown delivery '{other}': use elastic or fixed")),
        }
    }
}

/// One lane's rules; equal on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneOptions {
    /// By how many rounds a rank may be ahead of the oldest incomplete round; 0 is an ordinary alltoallv. (Texts that
    /// call synchronous "staleness 1" call this `staleness - 1`.)
    pub lag: usize,
    /// Which rounds are handed out when.
    pub delivery: Delivery,
}

impl LaneOptions {
    /// A lane of this lag, with elastic delivery.
    pub fn lag(lag: usize) -> Self {
        LaneOptions { lag, delivery: Delivery::Elastic }
    }

    /// Slots of a ring from which no rank ever waits for a slot: `2 * lag + 2`.
    pub(crate) fn slots(&self) -> usize {
        2 * self.lag + 2
    }

    /// The rings of this lane, for messages of up to `largest_message` bytes.
    ///
    /// They have `2 * lag + 2` slots, so that no rank ever waits for one (`docs/collective.md` has the argument), each a
    /// little larger than the largest message. Larger messages still pass, in fragments, which are
    /// [copied](crate::Exchange#cost).
    pub fn shape(&self, largest_message: usize) -> LaneShape {
        let slot_bytes = largest_message.saturating_add(1).max(HEADER_BYTES + 1);
        LaneShape { slots: self.slots(), slot_bytes }
    }
}

/// A group's rules; equal on every rank.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// How long a rank waits for others before they count as late. 30 s by default.
    pub deadline: Duration,
    /// One entry a lane, as many as the endpoint has.
    pub lanes: Vec<LaneOptions>,
}

impl GroupOptions {
    /// These lanes, with the default deadline.
    pub fn new(lanes: impl Into<Vec<LaneOptions>>) -> Self {
        GroupOptions { deadline: Duration::from_secs(30), lanes: lanes.into() }
    }

    /// The shape of a group of `ranks` with these lanes, each with rings for messages of up to `largest_message` bytes: what
    /// the transport is made with, so that lags are given once. For lanes with messages of different sizes, take
    /// [`LaneOptions::shape`] for each.
    ///
    /// # Examples
    ///
    /// ```
    /// use slackline_collective::transport::threads;
    /// use slackline_collective::{Group, GroupOptions, LaneOptions};
    ///
    /// let options = GroupOptions::new([LaneOptions::lag(2)]);
    /// let endpoint = threads::group(&options.shape(1, 4096))?.remove(0);
    /// let mut group = Group::new(endpoint, options)?;
    /// # Ok::<(), slackline_collective::CollectiveError>(())
    /// ```
    pub fn shape(&self, ranks: usize, largest_message: usize) -> GroupShape {
        GroupShape { ranks, lanes: self.lanes.iter().map(|lane| lane.shape(largest_message)).collect() }
    }

    /// The same with another deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}
