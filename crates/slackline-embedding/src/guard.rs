//! A SIGBUS handler that turns a mapped shard that is cut short, or a failing disk, into an error. A program asks for it.
//!
//! The kernel answers a read of a mapped page that is gone with SIGBUS, which ends the process by default. After
//! [`install`], such a read of a shard's mapping is an error of the lookup instead ([`PoolError::Lost`]).
//!
//! Opening a shard installs nothing: a library does not take a signal unasked. A program has this choice:
//!
//! | | the file is cut short under its tables |
//! |---|---|
//! | [`guard::install`](install), tables loaded in any way | an error of the lookup, and of every later lookup of that file |
//! | no guard, [`Load::Copied`] | nothing: rows are in memory of the process, and reading them there was checked |
//! | no guard, any other [`Load`] or [`Shard::table`] | SIGBUS, as in any program that maps files |
//!
//! Install the guard after all other handlers of SIGBUS. It passes on what is not its own to the handler that it found, so
//! that one keeps working. A handler that comes later takes the guard's place (Python's `faulthandler` does, for one): from
//! then on, mapped tables are refused with [`ShardError::Unguarded`], and [`state`] says [`State::Displaced`].
//!
//! ```
//! use slackline_embedding::guard;
//!
//! guard::install()?;
//! assert_eq!(guard::state(), guard::State::InPlace);
//! # Ok::<(), guard::GuardError>(())
//! ```
//!
//! [`Load`]: crate::Load
//! [`Load::Copied`]: crate::Load::Copied
//! [`PoolError::Lost`]: crate::PoolError::Lost
//! [`Shard::table`]: crate::Shard::table
//! [`ShardError::Unguarded`]: crate::ShardError::Unguarded

use std::io;

use crate::mmap;

/// Whether this process survives a mapped shard that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// [`install`] was not called: SIGBUS does what it does in this process.
    Absent,
    /// The guard handles SIGBUS.
    InPlace,
    /// Another handler was installed after the guard and has its place, whether or not it passes signals on.
    Displaced,
}

/// The guard could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The guard was installed before, and another handler has its place. It is not installed a second time: two handlers
    /// that pass on to each other would never end.
    #[error(
        "another SIGBUS handler was installed after the guard of mapped shards; install the guard after all other handlers"
    )]
    Displaced,
    /// The operating system refused.
    #[error("installing the SIGBUS handler that guards mapped shards failed: {0}")]
    Refused(#[source] io::Error),
}

/// Makes this process survive mapped shards that fail, for good, including those that are open already. A second call
/// changes nothing.
///
/// Cost: a system call. After that one atomic load for each lookup call, guard or not.
///
/// # Errors
///
/// [`GuardError`].
pub fn install() -> Result<(), GuardError> {
    mmap::install_guard().map_err(GuardError::Refused)?;
    match state() {
        State::Displaced => Err(GuardError::Displaced),
        _ => Ok(()),
    }
}

/// Who handles SIGBUS at the moment.
///
/// Cost: a system call.
pub fn state() -> State {
    match mmap::guard_in_place() {
        None => State::Absent,
        Some(true) => State::InPlace,
        Some(false) => State::Displaced,
    }
}
