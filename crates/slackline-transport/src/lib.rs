//! Message rings between the ranks of a group.
//!
//! An [`Endpoint`] is one rank's end of a group. For every peer and lane it has a ring of slots to write and a ring to read,
//! and counters of the messages that were published and released. It counts messages and knows nothing of rounds, lag or
//! tensors.
#![cfg_attr(
    not(loom),
    doc = "
* [`threads`]: the ranks are threads of one process.
* [`shm`]: the ranks are processes of one machine, over shared memory. `launch` (feature `launch`) starts them.
"
)]
//! * [`sim`]: a deterministic network in virtual time, with latencies, deaths and stalls that you choose.
//!
//! Two wrappers go around any endpoint: [`Checked`] finds out which side of the trait breaks the rules, and [`Delayed`] is
//! late by a [`delay`] profile. [`conformance`] is the test suite for a transport of your own.
#![deny(unsafe_code)]

#[cfg(not(loom))]
pub mod conformance;
#[cfg(not(loom))]
pub mod cores;
pub mod delay;
mod endpoint;
mod error;
#[cfg(all(not(loom), feature = "launch"))]
pub mod launch;
mod number;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod shm;
#[cfg(loom)]
#[allow(missing_docs, unsafe_code)]
mod shm;
pub mod sim;
#[cfg(not(loom))]
pub mod threads;
mod wrappers;

#[cfg_attr(not(loom), allow(unreachable_pub))]
mod cursor;
#[cfg_attr(not(loom), allow(unreachable_pub))]
mod parking;
#[cfg_attr(not(loom), allow(unreachable_pub))]
mod poison;
#[cfg_attr(not(loom), allow(unreachable_pub))]
mod sync;

/// What the model checker's tests see of the modules above. The transports are not built with loom, whose atomics cannot lie
/// in mapped memory; their rings are.
#[cfg(loom)]
#[allow(missing_docs)]
pub mod model {
    pub mod cursor {
        pub use crate::cursor::*;
    }
    pub mod parking {
        pub use crate::parking::*;
    }
    pub mod poison {
        pub use crate::poison::*;
    }
    pub mod ring {
        pub use crate::shm::ring::*;
    }
    pub mod sync {
        pub use crate::sync::*;
    }
}

pub use endpoint::{Endpoint, GroupShape, LaneShape, Message, POISON_BYTES, PeerState, Room, SLOT_ALIGN};
pub use error::TransportError;
pub use number::{Lane, Rank};
pub use wrappers::{Checked, Delayed};
