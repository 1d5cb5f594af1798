//! What can go wrong below the collective.

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
}
