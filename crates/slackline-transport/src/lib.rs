//! Transports: how the bytes of one rank come to lie in the memory of another.
//!
//! An [`Endpoint`] is one rank's end of a group: per peer and lane, a ring of slots to write and a ring to read, with
//! counters of what was published and released. It counts messages and knows nothing of rounds, lag or tensors.
#![cfg_attr(
    not(loom),
    doc = "
Two transports are built in, and both are one implementation of the rings over raw memory: [`threads`] for ranks that
are threads of one process, and [`shm`] for ranks that are processes of one machine. [`launch`] starts such processes."
)]
//!
//! [`sim`] is a third, in virtual time: a deterministic network with latencies, deaths and stalls of our choosing. Around
//! any of them go [`Checked`], which finds out who breaks the rules, and [`Delayed`], which is late by a [`delay`] profile.
#![deny(unsafe_code)]

pub mod delay;
mod endpoint;
mod error;
pub mod sim;
mod wrappers;

// The parts that loom checks are public under `--cfg loom` only, for `tests/loom.rs`; nothing else is built then, since
// loom's atomics cannot lie in mapped memory.
#[cfg(not(loom))]
#[allow(unreachable_pub)]
mod cursor;
#[cfg(loom)]
#[allow(missing_docs)]
pub mod cursor;
#[cfg(not(loom))]
#[allow(unreachable_pub)]
mod parking;
#[cfg(loom)]
#[allow(missing_docs)]
pub mod parking;
#[cfg(not(loom))]
#[allow(unreachable_pub)]
mod poison;
#[cfg(loom)]
#[allow(missing_docs)]
pub mod poison;
#[cfg(not(loom))]
#[allow(unreachable_pub)]
mod sync;
#[cfg(loom)]
#[allow(missing_docs)]
pub mod sync;

#[cfg(not(loom))]
pub mod cores;
#[cfg(not(loom))]
pub mod launch;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod shm;
#[cfg(not(loom))]
pub mod threads;

pub use endpoint::{Endpoint, GroupShape, Lane, LaneShape, POISON_BYTES, PeerState, Rank, Rooms, SLOT_ALIGN};
pub use error::TransportError;
pub use wrappers::{Checked, Delayed};
