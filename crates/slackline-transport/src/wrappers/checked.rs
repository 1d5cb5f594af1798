//! An endpoint that watches the rules.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::{Endpoint, GroupShape, Lane, Message, POISON_BYTES, PeerState, Rank, Room, SLOT_ALIGN, TransportError};

/// An endpoint that enforces the rules of use of [`Endpoint`] and the promises of a transport: for tests, and to find out
/// which side of the trait is wrong.
///
/// It refuses, beyond the rules that the trait lists: a rank or lane outside the group, a poison longer than
/// [`POISON_BYTES`], and any call after [`detach`](Endpoint::detach) except those for rank, shape, poison and time, `sleep`
/// and `detach`. A room that is lent counts as one known free slot.
///
/// Cost: reads every message twice more, to see that its bytes do not change.
///
/// # Panics
///
/// Every method panics when a rule or a promise is broken, with a message that names rank, lane, peer and numbers.
#[derive(Debug)]
pub struct Checked<E> {
    inner: E,
    rings: Vec<RefCell<Ring>>,
    poison: OnceCell<Vec<u8>>,
    detached: Cell<bool>,
}

/// What is known about the two rings between this rank and one peer on one lane.
#[derive(Clone, Debug, Default)]
struct Ring {
    /// Free slots towards the peer, as last told, less what was published since.
    free: usize,
    /// Messages from the peer, as last told.
    landed: u64,
    released: u64,
    /// One hash for each of `released .. landed`.
    hashes: VecDeque<u64>,
}

impl<E: Endpoint> Checked<E> {
    /// Wraps an endpoint that has not been used yet.
    pub fn new(inner: E) -> Self {
        let rings = vec![RefCell::default(); inner.shape().lanes.len() * inner.shape().ranks];
        Self { inner, rings, poison: OnceCell::new(), detached: Cell::new(false) }
    }

    /// The ring's place, once lane and peer are known to exist and the endpoint to be attached.
    fn ring(&self, call: &str, lane: Lane, peer: Rank) -> usize {
        self.attached(call);
        let (rank, shape) = (self.inner.rank(), self.inner.shape());
        assert!(
            lane.index() < shape.lanes.len(),
            "rank {rank}: {call} on lane {lane}, but there are {} lanes",
            shape.lanes.len()
        );
        self.peer(call, peer);
        lane.index() * shape.ranks + peer
    }

    fn peer(&self, call: &str, peer: Rank) {
        let (rank, ranks) = (self.inner.rank(), self.inner.shape().ranks);
        assert!(peer < ranks, "rank {rank}: {call} with peer {peer}, but there are {ranks} ranks");
    }

    fn attached(&self, call: &str) {
        assert!(!self.detached.get(), "rank {}: {call} after detach", self.inner.rank());
    }

    /// Takes a count of landed messages, and looks at the new ones.
    fn note(&self, at: usize, lane: Lane, from: Rank, landed: u64) {
        let (rank, shape) = (self.inner.rank(), self.inner.shape().lanes[lane.index()]);
        let mut ring = self.rings[at].borrow_mut();
        assert!(
            landed >= ring.landed,
            "rank {rank}, lane {lane}: messages landed from peer {from} went back from {} to {landed}",
            ring.landed
        );
        assert!(
            landed - ring.released <= shape.slots as u64,
            "rank {rank}, lane {lane}: {landed} messages landed from peer {from} and {} are released, in a ring of {}",
            ring.released,
            shape.slots
        );
        for number in ring.landed..landed {
            let bytes = self.inner.message(lane, from, number);
            let len = bytes.len();
            let what = || format!("rank {rank}, lane {lane}: message {number} from peer {from}");
            assert!(len <= shape.slot_bytes, "{} has {len} bytes, in a slot of {}", what(), shape.slot_bytes);
            if len > 0 {
                aligned(&bytes, what);
            }
            ring.hashes.push_back(xxh3_64(&bytes));
        }
        ring.landed = landed;
    }
}

impl<E: Endpoint> Endpoint for Checked<E> {
    fn rank(&self) -> Rank {
        self.inner.rank()
    }

    fn shape(&self) -> &GroupShape {
        self.inner.shape()
    }

    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        let at = self.ring("free_slots", lane, to);
        let free = self.inner.free_slots(lane, to);
        let (rank, slots) = (self.inner.rank(), self.inner.shape().lanes[lane.index()].slots);
        let mut ring = self.rings[at].borrow_mut();
        assert!(
            free >= ring.free,
            "rank {rank}, lane {lane}: free slots towards peer {to} went from {} to {free} without a publish",
            ring.free
        );
        assert!(free <= slots, "rank {rank}, lane {lane}: {free} free slots towards peer {to} in a ring of {slots}");
        ring.free = free;
        free
    }

    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        let at = self.ring("room", lane, to);
        let (rank, slot) = (self.inner.rank(), self.inner.shape().lanes[lane.index()].slot_bytes);
        let room = self.inner.room(lane, to)?;
        let len = room.len();
        assert!(len == slot, "rank {rank}, lane {lane}: room of {len} bytes towards peer {to}, in a slot of {slot}");
        aligned(&room, || format!("rank {rank}, lane {lane}: the room towards peer {to}"));
        let mut ring = self.rings[at].borrow_mut();
        ring.free = ring.free.max(1);
        Some(room)
    }

    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        let at = self.ring("publish", lane, to);
        let (rank, slot) = (self.inner.rank(), self.inner.shape().lanes[lane.index()].slot_bytes);
        let mut ring = self.rings[at].borrow_mut();
        assert!(ring.free > 0, "rank {rank}, lane {lane}: publish to peer {to} without a free slot");
        assert!(len <= slot, "rank {rank}, lane {lane}: publish of {len} bytes to peer {to} in a slot of {slot}");
        ring.free -= 1;
        self.inner.publish(lane, to, len);
    }

    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        let at = self.ring("landed", lane, from);
        let landed = self.inner.landed(lane, from);
        self.note(at, lane, from, landed);
        landed
    }

    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        let first = self.ring("landings", lane, 0);
        self.inner.landings(lane, &mut |from, landed| {
            self.peer("landings", from);
            self.note(first + from, lane, from, landed);
            found(from, landed);
        });
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        let Ring { landed, released, .. } = *self.rings[self.ring("message", lane, from)].borrow();
        assert!(
            (released..landed).contains(&number),
            "rank {}, lane {lane}: message {number} from peer {from} is outside released {released} .. landed {landed}",
            self.inner.rank()
        );
        self.inner.message(lane, from, number)
    }

    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        let at = self.ring("release", lane, from);
        let rank = self.inner.rank();
        let mut ring = self.rings[at].borrow_mut();
        assert!(
            upto <= ring.landed,
            "rank {rank}, lane {lane}: release up to {upto} of peer {from}, but only {} landed",
            ring.landed
        );
        assert!(
            upto >= ring.released,
            "rank {rank}, lane {lane}: release up to {upto} of peer {from} goes back behind {}",
            ring.released
        );
        let released = ring.released;
        for (number, then) in (released..upto).zip(ring.hashes.drain(..(upto - released) as usize)) {
            let now = xxh3_64(&self.inner.message(lane, from, number));
            assert!(
                now == then,
                "rank {rank}, lane {lane}: message {number} from peer {from} changed between landing and release"
            );
        }
        ring.released = upto;
        self.inner.release(lane, from, upto);
    }

    fn notify(&self) {
        self.attached("notify");
        self.inner.notify();
    }

    fn progress(&self) {
        self.attached("progress");
        self.inner.progress();
    }

    fn moves_in_calls(&self) -> bool {
        self.inner.moves_in_calls()
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        self.attached("wait");
        self.inner.wait(until)
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        self.attached("peer_state");
        self.peer("peer_state", peer);
        self.inner.peer_state(peer)
    }

    fn poison(&self, reason: &[u8]) {
        self.attached("poison");
        let (rank, len) = (self.inner.rank(), reason.len());
        assert!(len <= POISON_BYTES, "rank {rank}: poison of {len} bytes, but {POISON_BYTES} are carried");
        self.inner.poison(reason);
    }

    fn poisoned(&self) -> Option<&[u8]> {
        let rank = self.inner.rank();
        let poison = self.inner.poisoned();
        if let Some(first) = self.poison.get() {
            assert!(poison == Some(first.as_slice()), "rank {rank}: the group's poison changed");
        } else if let Some(poison) = poison {
            self.poison.get_or_init(|| poison.to_vec());
        }
        poison
    }

    fn detach(&self) {
        if !self.detached.replace(true) {
            self.inner.detach();
        }
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }
}

fn aligned(bytes: &[u8], what: impl FnOnce() -> String) {
    let address = bytes.as_ptr().addr();
    assert!(address.is_multiple_of(SLOT_ALIGN), "{} is not at a multiple of {SLOT_ALIGN} bytes", what());
}
