//! The backend of PyTorch Distributed: collectives over bytes, between the ranks of a group of `slackline-collective`.
//!
//! [`Collectives`] is one rank's end: operations are submitted in the order that all ranks share and waited for one by one, by
//! whichever thread needs them; a thread of its own moves what is large while nobody waits. [`BoundedLag`] is the alltoallv
//! whose rounds may be late. Both are plain Rust and know no tensors: memory comes in as [`Memory`].
//!
//! With the feature `python` the crate is the extension module `slackline._native`, which maturin builds from the folder
//! `python/`; `docs/pytorch.md` is its manual.
#![deny(unsafe_code)]

mod collectives;
mod failure;
#[allow(unsafe_code)]
mod ffi;
mod lag;
mod operation;
mod plan;
#[cfg(feature = "python")]
mod python;
mod queue;
mod reduce;
mod tagged;
mod ticket;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use collectives::{Collectives, Settings};
pub use failure::{Failure, FailureKind};
pub use ffi::{Keeper, Memory};
pub use lag::{BoundedLag, LagStats, Taken};
pub use plan::Plan;
pub use reduce::{Dtype, Reducer, Reduction};
pub use ticket::Ticket;

/// How long leaving a group may take where a peer's ring is full.
const PATIENCE: Duration = Duration::from_millis(200);

/// The lock, also after a panic of another thread: what it guards is whole between calls.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
