//! What a scenario is run over: the bounded lag, and on request what it is compared with.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slackline_collective::LaneOptions;
use slackline_collective::synchronous::{Rounds, Synchronous};
use slackline_transport::{Endpoint, GroupShape, Lane};

#[cfg(feature = "mpi")]
use crate::mpi_rounds::{MpiRounds, Way};

/// One collective under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Variant {
    /// The bounded lag, on a lane of its own.
    Lag(usize),
    /// The synchronous oracle of the collective's tests.
    Oracle,
    /// MPI's own alltoallv.
    #[cfg(feature = "mpi")]
    Mpi(Way),
}

/// The collective of a variant that is no lane of the group.
pub(crate) enum Other<E: Endpoint> {
    Oracle(Rounds<E>),
    #[cfg(feature = "mpi")]
    Mpi(MpiRounds),
}

/// How long the oracle waits for another rank, which may be late on purpose.
const PATIENCE: Duration = Duration::from_secs(60);

impl<E: Endpoint> Other<E> {
    /// The oracle over an endpoint of [`oracle_shape`].
    pub(crate) fn oracle(endpoint: E) -> Self {
        Other::Oracle(Rounds::new(Synchronous::new(endpoint, Lane(0), PATIENCE)))
    }
}

/// The rings of a group for the oracle alone, for messages of up to `largest` bytes and their length.
pub(crate) fn oracle_shape(ranks: usize, largest: usize) -> GroupShape {
    GroupShape { ranks, lanes: vec![LaneOptions::lag(0).shape(largest + 8)] }
}

impl Variant {
    /// By how many rounds a rank may be ahead of the oldest incomplete one.
    pub(crate) fn lag(self) -> usize {
        match self {
            Variant::Lag(lag) => lag,
            Variant::Oracle => 0,
            #[cfg(feature = "mpi")]
            Variant::Mpi(way) => way.lag(),
        }
    }

    /// What it is, without its lag.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Lag(_) => "bounded lag",
            Variant::Oracle => "synchronous oracle",
            #[cfg(feature = "mpi")]
            Variant::Mpi(way) => way.name(),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.lag()) {
            (Variant::Lag(lag), _) => write!(f, "lag {lag}"),
            (_, 0) => f.write_str(self.name()),
            (_, lag) => write!(f, "{}, lag {lag}", self.name()),
        }
    }
}
