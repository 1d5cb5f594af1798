//! Why a call of the collective failed.

use slackline_transport::{Lane, TransportError};

use crate::{Disagreement, Fault};

/// Why a call of the collective failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// The group has failed. Every rank gets the same fault, and every later call on the group returns it again.
    #[error("{0}")]
    Fault(Box<Fault>),
    /// A round was begun before the rounds that were due had been taken. Nothing is lost: take until `None`, then begin.
    #[error("lane {lane}: round {begun} cannot begin before round {due} has been taken (lag {lag})")]
    TakeFirst {
        /// The lane.
        lane: Lane,
        /// The round that was to begin.
        begun: u64,
        /// The oldest round that has to be taken first.
        due: u64,
        /// The lane's lag.
        lag: usize,
    },
    /// A list of sizes does not have one entry for each rank.
    #[error("lane {lane}: {given} sizes for a group of {ranks} ranks")]
    Count {
        /// The lane.
        lane: Lane,
        /// Entries given.
        given: usize,
        /// Ranks of the group.
        ranks: usize,
    },
    /// A round was begun while another was open. Nothing is lost: publish or drop that one first.
    #[error("lane {lane}: a round was begun while round {round} is open: publish or drop that one first")]
    RoundOpen {
        /// The lane.
        lane: Lane,
        /// The round that is open.
        round: u64,
    },
    /// A round was begun, or a message, after this rank had left the lane.
    #[error("lane {lane}: a round or a message was begun after this rank had left")]
    AfterLeave {
        /// The lane.
        lane: Lane,
    },
    /// A barrier or an all-gather was called on a lane with a lag, or with rounds that have not been taken.
    #[error("lane {lane} has lag {lag}: barrier and all_gather need a lane of lag 0 with nothing outstanding")]
    NotSynchronous {
        /// The lane.
        lane: Lane,
        /// Its lag.
        lag: usize,
    },
    /// The endpoint's rings don't fit the options.
    #[error("the endpoint does not fit the options: {why}")]
    Shape {
        /// What does not fit.
        why: String,
    },
    /// The ranks don't agree on what they compute. The same on every rank.
    #[error(transparent)]
    Disagree(#[from] Disagreement),
    /// The transport itself is broken.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An error of another [`Collective`](crate::Collective) than this crate's exchange.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl From<Fault> for CollectiveError {
    fn from(fault: Fault) -> Self {
        CollectiveError::Fault(Box::new(fault))
    }
}
