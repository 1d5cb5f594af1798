//! How a rank or a whole simulation failed.

use std::fmt;
use std::time::Duration;

use crate::{Rank, TransportError};

/// A simulation that cannot be run, or did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A configuration that makes no sense.
    #[error("the simulation cannot be run: {why}")]
    Config {
        /// What is wrong with it.
        why: String,
    },
    /// A shape that cannot be laid out, or a rank's thread that the system did not start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// All ranks that have not ended are waiting, and no event is left that could wake one.
    #[error("deadlock at {at:?}: ranks {waiting:?} wait for ever{}", aside(.unnotified, .died))]
    Deadlock {
        /// Virtual time of the last event.
        at: Duration,
        /// The ranks that wait.
        waiting: Vec<Rank>,
        /// Those of them whose counters have moved without a notification.
        unnotified: Vec<Rank>,
        /// The ranks that were killed or panicked.
        died: Vec<(Rank, RankEnd)>,
    },
    /// Some ranks were still running when virtual time reached its limit.
    #[error("ranks {running:?} have not ended within the virtual time of {limit:?}{}", aside(&[], .died))]
    TimeLimit {
        /// The limit.
        limit: Duration,
        /// The ranks that have not ended.
        running: Vec<Rank>,
        /// The ranks that were killed or panicked.
        died: Vec<(Rank, RankEnd)>,
    },
}

/// How a rank ended whose main function did not return.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RankEnd {
    /// By a configured [`Death`](super::Death).
    Killed {
        /// When its thread was gone.
        at: Duration,
    },
    /// By a panic of its own.
    Panicked {
        /// When.
        at: Duration,
        /// The panic's message.
        message: String,
    },
}

impl fmt::Display for RankEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed { at } => write!(f, "was killed at {at:?}"),
            Self::Panicked { at, message } => write!(f, "panicked at {at:?}: {message}"),
        }
    }
}

fn aside(unnotified: &[Rank], died: &[(Rank, RankEnd)]) -> String {
    let mut text = String::new();
    if !unnotified.is_empty() {
        text += &format!("; counters of ranks {unnotified:?} moved without a notify");
    }
    for (rank, end) in died {
        text += &format!("; rank {rank} {end}");
    }
    text
}
