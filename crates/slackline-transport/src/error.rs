//! What can go wrong below the collective.

use std::path::PathBuf;
use std::time::Duration;

use crate::Rank;
use crate::sim::RankEnd;

/// A failure of a transport itself. A dead or late peer is not one: see [`PeerState`](crate::PeerState).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A group without ranks or lanes, a ring without slots, or sizes past what the machine can address.
    #[error("a group of {ranks} ranks cannot be laid out: {why}")]
    Shape {
        /// Ranks asked for.
        ranks: usize,
        /// What is wrong with the shape.
        why: String,
    },
    /// A rank could not take its place in a group: a wrong number, a place that is taken, or shared memory that is not
    /// (any more, or in this version) the group's.
    #[error("rank {rank} cannot attach: {why}")]
    Attach {
        /// The rank that was to be taken.
        rank: Rank,
        /// What stood in the way.
        why: String,
    },
    /// Not every rank of a group came.
    #[error("ranks {ranks:?} {} ({waited:.1?})", if *.ended { "ended before all were attached" } else { "have not attached in time" })]
    NotAttached {
        /// The ranks that are missing.
        ranks: Vec<Rank>,
        /// Whether they are known to have ended, rather than late.
        ended: bool,
        /// How long they were waited for.
        waited: Duration,
    },
    /// The machine has not the memory that a group's rings can come to take.
    #[error("the rings take up to {needed} bytes of shared memory, and the machine has {available} available")]
    Memory {
        /// Bytes of the whole group.
        needed: u64,
        /// Bytes that the system says it could give without swapping.
        available: u64,
    },
    /// A system call failed.
    #[error("rank {rank}: {action} failed: {source}")]
    System {
        /// The rank it happened on.
        rank: Rank,
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A delay profile that is not understood, or whose numbers make no sense.
    #[error("delay profile `{profile}`: {why}")]
    DelayProfile {
        /// The profile as it is written.
        profile: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file with a trace of delays could not be read.
    #[error("delay trace {}: {source}", .file.display())]
    DelayTraceFile {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A line in a trace of delays is not understood.
    #[error("delay trace {}, line {line}: {why}", .file.display())]
    DelayTrace {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A simulation whose configuration makes no sense.
    #[error("the simulation cannot be run: {why}")]
    Simulation {
        /// What is wrong with it.
        why: String,
    },
    /// All ranks of a simulation that have not ended wait, and nothing will ever happen.
    #[error("deadlock at {at:?}: ranks {waiting:?} wait for ever{}", aside(.unnotified, .died))]
    Deadlock {
        /// Virtual time at which the last event happened.
        at: Duration,
        /// The ranks that wait.
        waiting: Vec<Rank>,
        /// Those of them for whom counters have moved without a notification.
        unnotified: Vec<Rank>,
        /// The ranks that were killed or panicked.
        died: Vec<(Rank, RankEnd)>,
    },
    /// A simulation did not end within its limit of virtual time.
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
