//! The trait at the bottom: one rank's end of a group of rings.

use std::cell::{Ref, RefMut};
use std::task::Waker;
use std::time::Duration;

use crate::{Lane, Rank, TransportError};

/// How large the rings of one lane are: the same for every ordered pair of ranks, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneShape {
    /// Slots of a ring, at least 1.
    pub slots: usize,
    /// Bytes of a slot; rounded up to [`SLOT_ALIGN`] by every transport.
    pub slot_bytes: usize,
}

/// The size of a group and of all its rings, equal on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Members of the group, at least 1.
    pub ranks: usize,
    /// One entry a lane, at least one.
    pub lanes: Vec<LaneShape>,
}

impl GroupShape {
    /// The shape that a transport works with: checked, and every slot rounded up to a multiple of [`SLOT_ALIGN`], at least
    /// one.
    ///
    /// # Errors
    ///
    /// [`TransportError::Shape`] without ranks or lanes, with more lanes than [`Lane`] can number, or with a lane that has
    /// no slots, or slots of 4 GiB or more.
    pub fn rounded(&self) -> Result<GroupShape, TransportError> {
        let refuse = |why: String| Err(TransportError::Shape { ranks: self.ranks, why });
        if self.ranks == 0 {
            return refuse("it has no ranks".into());
        }
        if self.lanes.is_empty() || self.lanes.len() > usize::from(u16::MAX) + 1 {
            return refuse(format!("it has {} lanes, not 1 to 65536", self.lanes.len()));
        }
        let mut rounded = self.clone();
        for (lane, shape) in rounded.lanes.iter_mut().enumerate() {
            if shape.slots == 0 {
                return refuse(format!("lane {lane} has no slots"));
            }
            if shape.slot_bytes > u32::MAX as usize - SLOT_ALIGN {
                return refuse(format!("lane {lane} has slots of {} bytes, 4 GiB or more", shape.slot_bytes));
            }
            shape.slot_bytes = shape.slot_bytes.max(1).next_multiple_of(SLOT_ALIGN);
        }
        Ok(rounded)
    }
}

impl GroupShape {
    /// Whether slots fill a good part of a huge page. Under small ones, it would be taken as a whole for the slot that is used.
    #[cfg(not(loom))]
    pub(crate) fn has_large_slots(&self) -> bool {
        self.lanes.iter().any(|lane| lane.slot_bytes >= 256 << 10)
    }
}

/// Rooms and messages start on a multiple of this many bytes: a cache line, and enough for any vector load.
pub const SLOT_ALIGN: usize = 64;

/// The longest poison that an endpoint carries, in bytes. See [`Endpoint::poison`].
pub const POISON_BYTES: usize = 240;

/// A message that has landed, read in place. Its slot cannot be [released](Endpoint::release) while this is held.
pub type Message<'e> = Ref<'e, [u8]>;

/// A free slot, to be written. It cannot be [published](Endpoint::publish) while this is held.
pub type Room<'e> = RefMut<'e, [u8]>;

/// What a peer's process or thread is doing, as far as the transport can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Attached, as far as this rank knows.
    Alive,
    /// Detached in order; what it published before can still be read.
    Left,
    /// Ended without detaching: killed, crashed, or its thread panicked.
    Dead,
}

/// One rank's end of a group: for every peer (itself included) a ring of slots to write and a ring to read, per lane.
///
/// The trait counts messages and does not match them: message `n` of a ring is the `n`-th that was published there.
/// Rounds, lag and sizes belong to the layer above. An endpoint belongs to one thread.
///
/// # Bytes and bookkeeping
///
/// All methods take `&self`. Counters are the endpoint's own, in cells; bytes are lent as a [`Message`] or a [`Room`], and any
/// number of them can be held while the endpoint goes on: a request is read where it landed while its answer is written where
/// it will be read. Incoming and outgoing slots never overlap.
///
/// # Which calls wait
///
/// [`wait`](Endpoint::wait) and [`sleep`](Endpoint::sleep) wait for as long as they are told to. Where ranks have to agree
/// whose poison was first (over MPI), [`poison`](Endpoint::poison) and the first [`poisoned`](Endpoint::poisoned) after it
/// take up to half a second, and telling a peer that takes no messages ([`detach`](Endpoint::detach), dropping) may take as
/// long for each such peer. No other call waits for a peer.
///
/// # The rules of use
///
/// A transport may rely on these rules, and [`Checked`](crate::Checked) enforces them. A transport that is used against them
/// may panic or fail *within its own group*, but never with undefined behaviour:
///
/// * [`publish`](Endpoint::publish) only after [`free_slots`](Endpoint::free_slots) returned at least 1 for that peer, with
///   `len` no larger than the slot, and not while the slot's [`Room`] is held;
/// * [`message`](Endpoint::message) only for numbers in `released .. landed`;
/// * [`release`](Endpoint::release) never beyond `landed`, never backwards, and not while a [`Message`] below `upto` is held.
///
/// # What a transport promises
///
/// [`conformance`](crate::conformance) tests these promises:
///
/// * On one lane from one rank to another, messages land whole and in the order in which they were published. Nothing is
///   promised about the order across pairs or lanes.
/// * A full ring delays nothing on other lanes or to other peers.
/// * Every room, and every message of at least one byte, starts on a multiple of [`SLOT_ALIGN`] (64) bytes.
/// * A published message lands without any action of its receiver but [`progress`](Endpoint::progress) or
///   [`wait`](Endpoint::wait).
/// * What [`message`](Endpoint::message) returns does not change until it is released.
/// * Messages and rooms that are held keep nothing else from moving.
/// * When a peer is seen to have [left](PeerState::Left), all that it published has landed.
/// * Lengths that come from a peer have been checked against the slot size.
pub trait Endpoint {
    /// This member's number, `0 .. ranks`.
    fn rank(&self) -> Rank;

    /// The group and its rings, equal on every rank; `slot_bytes` is already rounded up.
    fn shape(&self) -> &GroupShape;

    /// Moves messages, for transports that move them only inside calls (MPI). Call it before reading counters, and now and
    /// then during long computations. Never waits. Does nothing where memory is shared.
    fn progress(&self) {}

    /// Whether messages move only inside calls, so that long computations should call [`progress`](Endpoint::progress).
    fn moves_in_calls(&self) -> bool {
        false
    }

    /// How many slots towards `to` are free, at least. It is 0 only if this rank knows of none, and [`wait`](Endpoint::wait)
    /// brings it up to date. Only [`publish`](Endpoint::publish) makes it smaller.
    fn free_slots(&self, lane: Lane, to: Rank) -> usize;

    /// The next free slot towards `to`, with unspecified contents. Nothing is sent until [`publish`](Endpoint::publish);
    /// calling `room` again lends the same slot with what was written. `None` without a free slot, while this slot is lent
    /// already, and perhaps if the ring was full when [`free_slots`](Endpoint::free_slots) was last called.
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>>;

    /// Makes the first `len` bytes of the next slot towards `to` the next message to it. Costs one counter update, and no
    /// copy where the slot is the receiver's memory.
    fn publish(&self, lane: Lane, to: Rank, len: usize);

    /// How many messages from `from` have landed since the group began. Never decreases.
    fn landed(&self, lane: Lane, from: Rank) -> u64;

    /// Calls `found` for every peer from which something has landed on `lane` since the last call, with how many messages in all,
    /// and perhaps for others. So looking costs as much as has moved, where the transport knows who moved; the default asks
    /// for each peer. `found` may read and release
    /// messages; it must not publish, wait or look for landings.
    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        (0..self.shape().ranks).for_each(|from| found(from, self.landed(lane, from)));
    }

    /// Message `number` from `from`, in place. If a peer has left a length there that no message can have, the group is
    /// poisoned and the message reads as empty. So whoever takes messages on asks [`poisoned`](Endpoint::poisoned) between
    /// looking at them and handing them out.
    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_>;

    /// The length of a message, without lending it. As [`message`](Endpoint::message) otherwise.
    fn message_len(&self, lane: Lane, from: Rank, number: u64) -> usize {
        self.message(lane, from, number).len()
    }

    /// Gives back the slots of all messages from `from` numbered below `upto`.
    fn release(&self, lane: Lane, from: Rank, upto: u64);

    /// Wakes peers that sleep in [`wait`](Endpoint::wait) because counters have moved. Call it once after a batch of
    /// [`publish`](Endpoint::publish) and [`release`](Endpoint::release) calls, so that a round costs one fence.
    fn notify(&self);

    /// Waits until a counter may have moved since this endpoint last looked, a peer may have ended, the group was poisoned,
    /// the [`waker`](Endpoint::waker) was called, or [`now`](Endpoint::now) reaches `until`. It may also return for no reason:
    /// look again, and call it again.
    ///
    /// # Errors
    ///
    /// Only when the transport itself is broken (a system call failed), never for a dead peer: that is
    /// [`peer_state`](Endpoint::peer_state).
    fn wait(&self, until: Duration) -> Result<(), TransportError>;

    /// Ends a [`wait`](Endpoint::wait) of this rank from any thread: the one that is under way, or else the next one. Calls
    /// before that count as one. It may outlive the endpoint, and then does nothing.
    fn waker(&self) -> Waker;

    /// What a peer is doing. Cheap enough to ask after each [`wait`](Endpoint::wait) that brought nothing. A death on this
    /// machine is seen within a tenth of a second, by ranks that wait; in groups of more than 17, whose ranks watch their
    /// neighbours, by these, which tell all.
    fn peer_state(&self, peer: Rank) -> PeerState;

    /// Marks the whole group as failed, with a reason that is cut to [`POISON_BYTES`] bytes. The first poison of a group wins
    /// and reaches every rank. Wakes all sleepers.
    fn poison(&self, reason: &[u8]);

    /// The group's poison, if it has one.
    fn poisoned(&self) -> Option<&[u8]>;

    /// Leaves the group in order: peers see [`PeerState::Left`] and can still read what was published. An endpoint that is
    /// dropped without it counts as [`PeerState::Dead`].
    fn detach(&self);

    /// Time since the group began, by this rank's clock: real time, or virtual time in a simulation.
    fn now(&self) -> Duration;

    /// Does nothing for `duration`, by this endpoint's clock.
    fn sleep(&self, duration: Duration);
}

/// Calls go to the endpoint behind.
macro_rules! behind {
    ($($pointer:ty),+) => {$(
        impl<E: Endpoint + ?Sized> Endpoint for $pointer {
            #[inline]
            fn rank(&self) -> Rank {
                (**self).rank()
            }

            #[inline]
            fn shape(&self) -> &GroupShape {
                (**self).shape()
            }

            #[inline]
            fn progress(&self) {
                (**self).progress();
            }

            #[inline]
            fn moves_in_calls(&self) -> bool {
                (**self).moves_in_calls()
            }

            #[inline]
            fn free_slots(&self, lane: Lane, to: Rank) -> usize {
                (**self).free_slots(lane, to)
            }

            #[inline]
            fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
                (**self).room(lane, to)
            }

            #[inline]
            fn publish(&self, lane: Lane, to: Rank, len: usize) {
                (**self).publish(lane, to, len);
            }

            #[inline]
            fn landed(&self, lane: Lane, from: Rank) -> u64 {
                (**self).landed(lane, from)
            }

            #[inline]
            fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
                (**self).landings(lane, found);
            }

            #[inline]
            fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
                (**self).message(lane, from, number)
            }

            #[inline]
            fn message_len(&self, lane: Lane, from: Rank, number: u64) -> usize {
                (**self).message_len(lane, from, number)
            }

            #[inline]
            fn release(&self, lane: Lane, from: Rank, upto: u64) {
                (**self).release(lane, from, upto);
            }

            #[inline]
            fn notify(&self) {
                (**self).notify();
            }

            #[inline]
            fn wait(&self, until: Duration) -> Result<(), TransportError> {
                (**self).wait(until)
            }

            fn waker(&self) -> Waker {
                (**self).waker()
            }

            #[inline]
            fn peer_state(&self, peer: Rank) -> PeerState {
                (**self).peer_state(peer)
            }

            fn poison(&self, reason: &[u8]) {
                (**self).poison(reason);
            }

            #[inline]
            fn poisoned(&self) -> Option<&[u8]> {
                (**self).poisoned()
            }

            fn detach(&self) {
                (**self).detach();
            }

            #[inline]
            fn now(&self) -> Duration {
                (**self).now()
            }

            fn sleep(&self, duration: Duration) {
                (**self).sleep(duration);
            }
        }
    )+};
}

behind!(Box<E>, &E, &mut E);
