//! The test suite for a transport of your own.
//!
//! If a transport passes every [`Check`], the collective works over it. [`check_all`] runs them over endpoints that live in
//! one process, as a test of the transport does:
//!
//! ```
//! use slackline_transport::{conformance, threads};
//!
//! conformance::check_all(|shape| threads::group(shape).unwrap())?;
//! # Ok::<(), conformance::Failed>(())
//! ```
//!
//! Where each rank is a process of its own, every rank calls [`Check::run`] with its endpoint of a group of
//! [`Check::shape`].
//!
//! Every rank's endpoint is wrapped in [`Checked`], so counters that go backwards, unaligned rooms and
//! messages, and messages that change before they are released fail every check and not only the one that is about them. No
//! check waits longer than [`PATIENCE`] for one thing, so a transport that loses messages or wake-ups fails and does not
//! hang, as long as its [`wait`](Endpoint::wait) and [`now`](Endpoint::now) work.

mod checks;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::time::Duration;

use crate::{Checked, Endpoint, GroupShape, LaneShape, Rank};

/// How long a check waits for anything to happen, by the endpoint's clock, before it fails. What takes more than half of
/// it fails as well: it has come only because the wait was over.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One property of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Check {
    /// A new group: the shape is the one that was asked for, rounded; every slot is free; rooms have the size of a slot, start
    /// on a multiple of 64 bytes and keep what was written until they are published; nothing has landed; no poison.
    Fresh,
    /// Messages of all sizes, from empty to a full slot, on several lanes between all ranks (each to itself as well) land
    /// once, whole, and in the order in which they were published, and do not change while later ones land.
    Order,
    /// Messages of zero bytes count like all others, also those whose rooms were never asked for.
    Empty,
    /// A message of every peer and the next room towards it are held together while other messages move, and neither changes.
    Held,
    /// News of landed messages names who sent them, and no more than were sent.
    Landings,
    /// A full ring: no free slot, no room, and no slot back before the receiver has released one. Other lanes between
    /// the same ranks keep working. A released slot comes back although its receiver sends nothing.
    Full,
    /// A rank that sleeps in `wait` is woken by a message and by a released slot.
    Wakes,
    /// The clock: it does not go backwards, `wait` returns at its deadline when nothing happens, at once when the deadline
    /// has passed or its waker was called before, and `sleep` sleeps long enough.
    Deadlines,
    /// A rank that detaches has *left* to its peers, and all that it published is there by then. The others carry on.
    Leaves,
    /// A rank whose endpoint is dropped without detaching is *dead* to its peers. What it sent before can still be read, and
    /// the others carry on.
    Dies,
    /// A poison wakes all ranks and reaches them whole; a later one changes nothing.
    Poison,
    /// All ranks poison the group at once: each knows at once that it is poisoned, and all know the same reason. They compare
    /// over the lanes, which a poison does not close.
    PoisonRace,
}

/// A check that a transport has not passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("conformance, {check} with {ranks} ranks: rank {rank}: {why}")]
#[non_exhaustive]
pub struct Failed {
    /// The check.
    pub check: Check,
    /// Ranks of the group.
    pub ranks: usize,
    /// The rank that noticed.
    pub rank: Rank,
    /// What it noticed.
    pub why: String,
}

/// Runs every check with groups of one to five ranks, each rank on a thread of its own. `make` makes all endpoints of a new
/// group, in rank order.
///
/// # Errors
///
/// The first failure.
///
/// # Panics
///
/// If `make` does, or returns another number of endpoints than the shape has ranks.
pub fn check_all<E: Endpoint + Send>(make: impl Fn(&GroupShape) -> Vec<E>) -> Result<(), Failed> {
    for check in Check::ALL {
        for ranks in [1, 2, 3, 5] {
            let endpoints = make(&check.shape(ranks));
            assert_eq!(endpoints.len(), ranks, "as many endpoints as the shape has ranks");
            let (failures, first) = mpsc::channel();
            std::thread::scope(|scope| {
                for (place, endpoint) in endpoints.into_iter().enumerate() {
                    let failures = failures.clone();
                    scope.spawn(move || {
                        let rank = endpoint.rank();
                        let run = if rank == place {
                            check.run(endpoint)
                        } else {
                            let why = format!("this endpoint is in place {place} of the group");
                            Err(Failed { check, ranks, rank, why })
                        };
                        // The channel outlives the threads.
                        run.unwrap_or_else(|failure| failures.send(failure).expect("the receiver lives"));
                    });
                }
            });
            if let Ok(failure) = first.try_recv() {
                return Err(failure);
            }
        }
    }
    Ok(())
}

impl Check {
    /// All checks. Over some transports (MPI) a group that was poisoned or has a dead rank cannot be followed by another in
    /// the same process, so the checks that do so come last.
    pub const ALL: [Check; 12] = [
        Check::Fresh,
        Check::Order,
        Check::Empty,
        Check::Held,
        Check::Landings,
        Check::Full,
        Check::Wakes,
        Check::Deadlines,
        Check::Leaves,
        Check::Dies,
        Check::Poison,
        Check::PoisonRace,
    ];

    /// The check of this [`name`](Self::name).
    pub fn named(name: &str) -> Option<Check> {
        Check::ALL.into_iter().find(|check| check.name() == name)
    }

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Check::Fresh => "fresh",
            Check::Order => "order",
            Check::Empty => "empty",
            Check::Held => "held",
            Check::Landings => "landings",
            Check::Full => "full",
            Check::Wakes => "wakes",
            Check::Deadlines => "deadlines",
            Check::Leaves => "leaves",
            Check::Dies => "dies",
            Check::Poison => "poison",
            Check::PoisonRace => "poison-race",
        }
    }

    /// The group that this check needs, for any number of ranks.
    pub fn shape(self, ranks: usize) -> GroupShape {
        let lane = |slots, slot_bytes| LaneShape { slots, slot_bytes };
        GroupShape { ranks, lanes: vec![lane(3, 100), lane(8, 8), lane(2, 0), lane(1, 300)] }
    }

    /// Does one rank's part of this check. All ranks of the group have to call it, each with its own endpoint, which has not
    /// been used yet.
    ///
    /// # Errors
    ///
    /// What this rank noticed. The other ranks then fail as well, when their patience ends.
    pub fn run<E: Endpoint>(self, endpoint: E) -> Result<(), Failed> {
        let (rank, ranks) = (endpoint.rank(), endpoint.shape().ranks);
        let failed = |why| Failed { check: self, ranks, rank, why };
        // `Checked` panics.
        match catch_unwind(AssertUnwindSafe(|| checks::run(self, Checked::new(endpoint)))) {
            Ok(outcome) => outcome.map_err(failed),
            Err(panic) => match text(&*panic) {
                Some(text) => Err(failed(text)),
                None => resume_unwind(panic),
            },
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn text(panic: &(dyn Any + Send)) -> Option<String> {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
}
