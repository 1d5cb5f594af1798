//! Transports: how the bytes of one rank come to lie in the memory of another.
//!
//! An [`Endpoint`] is one rank's end of a group: per peer and lane, a ring of slots to write and a ring to read, with
//! counters of what was published and released. It counts messages and knows nothing of rounds, lag or tensors.

mod endpoint;
mod error;

pub use endpoint::{Endpoint, GroupShape, Lane, LaneShape, POISON_BYTES, PeerState, Rank, Rooms, SLOT_ALIGN};
pub use error::TransportError;
