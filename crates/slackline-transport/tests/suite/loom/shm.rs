//! Rings as loom sees them: the real ones, over memory on the heap whose slots report every access that another could
//! overlap with.

use std::time::Duration;

use loom::cell::{ConstPtr, MutPtr, UnsafeCell};
use loom::sync::Arc;
use slackline_transport::model::parking::{self, Calls};
use slackline_transport::model::ring::{Mark, Memory, PeerRings};
use slackline_transport::model::sync::{AtomicU64, Bell, Reach};

/// The memory of one ring.
pub(crate) struct Ring {
    marks: Vec<Mark>,
    released: AtomicU64,
    slots: Vec<UnsafeCell<u64>>,
}

/// One rank's access to a ring.
pub(crate) struct Heap(Arc<Ring>);

impl Memory for Heap {
    type Room<'e> = MutPtr<u64>;
    type Message<'e> = ConstPtr<u64>;

    fn slots(&self) -> usize {
        self.0.slots.len()
    }

    fn slot_bytes(&self) -> usize {
        8
    }

    fn mark(&self, index: usize) -> &Mark {
        &self.0.marks[index]
    }

    fn released(&self) -> &AtomicU64 {
        &self.0.released
    }

    unsafe fn room(&self, index: usize) -> Option<MutPtr<u64>> {
        Some(self.0.slots[index].get_mut())
    }

    unsafe fn message(&self, index: usize, _len: usize) -> ConstPtr<u64> {
        self.0.slots[index].get()
    }

    fn is_lent(&self, _index: usize) -> bool {
        // Loom reports a slot that is used while it is held.
        false
    }
}

/// What two ranks share: a ring there, a ring back, and the places to sleep on.
pub(crate) struct Pair {
    rings: [Arc<Ring>; 2],
    sleepers: AtomicU64,
    bells: [Bell; 2],
    calls: [Calls; 2],
}

/// One of the two ranks.
pub(crate) struct Rank {
    own: usize,
    pair: Arc<Pair>,
    pub(crate) rings: PeerRings<Heap>,
}

/// Two ranks, with as many slots in the ring from the first to the second and in that back.
pub(crate) fn ranks(there: usize, back: usize) -> (Rank, Rank) {
    let rings = [there, back].map(|slots| {
        Arc::new(Ring {
            marks: (0..slots).map(|_| Mark::default()).collect(),
            released: AtomicU64::new(0),
            slots: (0..slots).map(|_| UnsafeCell::new(u64::MAX)).collect(),
        })
    });
    let pair = Arc::new(Pair {
        rings,
        sleepers: AtomicU64::new(0),
        bells: [Bell::default(), Bell::default()],
        calls: [Calls::default(), Calls::default()],
    });
    let rank = |own: usize| {
        let ring = |index: usize| Heap(pair.rings[index].clone());
        // SAFETY: new rings, of each of which one rank is the sender and the other the receiver.
        let rings = unsafe { PeerRings::new(ring(own), ring(1 - own)) };
        Rank { own, pair: pair.clone(), rings }
    };
    (rank(0), rank(1))
}

impl Rank {
    /// Publishes a message into a slot that is known to be free.
    pub(crate) fn write(&self, value: u64) {
        let room = self.rings.room().expect("a free slot");
        // SAFETY: loom checks that nobody else has access.
        room.with(|slot| unsafe { *slot = value });
        drop(room);
        self.rings.publish(8);
    }

    /// Whether the next message has landed.
    pub(crate) fn look(&self) -> bool {
        self.rings.refresh_landed().unwrap()
    }

    pub(crate) fn read(&self, number: u64) -> u64 {
        let message = self.rings.message(number).unwrap();
        // SAFETY: loom checks that nobody writes.
        message.with(|slot| unsafe { *slot })
    }

    pub(crate) fn notify(&self) {
        let bells = &self.pair.bells;
        parking::wake(std::slice::from_ref(&self.pair.sleepers), Reach::Process, |rank| bells.get(rank));
    }

    pub(crate) fn sleep(&self, moved: impl FnMut() -> bool) {
        let Pair { sleepers, bells, .. } = &*self.pair;
        parking::sleep(sleepers, self.own as u32, &bells[self.own], Duration::MAX, Reach::Process, moved).unwrap();
    }

    /// Calls of this rank's waker.
    pub(crate) fn calls(&self) -> u64 {
        self.pair.calls[self.own].count()
    }

    /// Calls the other rank's waker.
    pub(crate) fn call_other(&self) {
        let other = 1 - self.own;
        self.pair.calls[other].call(&self.pair.bells[other], Reach::Process);
    }
}
