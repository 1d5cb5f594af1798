//! Why a transport failed.

use std::time::Duration;

use crate::Rank;

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
    /// A rank could not join a group: there is no such rank, it is taken, or the shared memory is not the group's.
    #[error("rank {rank} cannot attach: {why}")]
    Attach {
        /// The rank that tried to join.
        rank: Rank,
        /// What is wrong.
        why: String,
    },
    /// Some ranks of a group did not join it.
    #[error("ranks {ranks:?} have not attached in time ({waited:.1?})")]
    NotAttached {
        /// The ranks that are missing.
        ranks: Vec<Rank>,
        /// How long this rank waited.
        waited: Duration,
    },
    /// The rings of a group, and in one process what its ranks keep of each other, need more memory than there is.
    #[error(
        "the group needs up to {needed} bytes of memory, and {available} are available to this process (of the machine, or within the limit of its container): use fewer ranks, a smaller batch or a smaller lag"
    )]
    Memory {
        /// Bytes of all that.
        needed: u64,
        /// Bytes that this process can get: `MemAvailable` of the machine, or what the limits of its control groups leave.
        available: u64,
    },
    /// The launcher of a group needs more open files than its process may have.
    #[error(
        "starting {ranks} ranks takes {needed} open files, and this process may have {allowed}: raise its hard limit (ulimit -Hn) or use fewer ranks"
    )]
    Descriptors {
        /// Ranks asked for.
        ranks: usize,
        /// Open files in all.
        needed: u64,
        /// The process's hard limit.
        allowed: u64,
    },
    /// The group had failed before all ranks had attached. The same on every rank.
    #[error("{why}")]
    Failed {
        /// The group's poison.
        why: String,
    },
    /// A system call failed.
    #[error("rank {rank}: {action} failed: {source}")]
    System {
        /// The rank it happened on.
        rank: Rank,
        /// What was being done.
        action: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}
