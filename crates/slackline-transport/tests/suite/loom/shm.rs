//! The memory of a ring as loom sees it: slots that report every access which another could overlap with.

use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use slackline_transport::model::cursor::{ReceiveCursor, SendCursor};
use slackline_transport::model::parking;
use slackline_transport::model::sync::{AtomicU64, Bell, Reach};

/// A ring between two ranks, each of which may sleep.
pub(crate) struct Ring {
    marks: Vec<AtomicU64>,
    /// What the sender has released of the ring in the other direction, as told in the first slot's mark.
    pub(crate) told: AtomicU64,
    pub(crate) released: AtomicU64,
    /// Loom reports every access to a slot that another could overlap with.
    slots: Vec<UnsafeCell<u64>>,
    sleepers: AtomicU64,
    bells: [Bell; 2],
}

pub(crate) const SENDER: u32 = 0;
pub(crate) const RECEIVER: u32 = 1;

impl Ring {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Ring {
            marks: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            told: AtomicU64::new(0),
            released: AtomicU64::new(0),
            slots: (0..slots).map(|_| UnsafeCell::new(u64::MAX)).collect(),
            sleepers: AtomicU64::new(0),
            bells: [Bell::default(), Bell::default()],
        })
    }

    pub(crate) fn notify(&self) {
        parking::wake(std::slice::from_ref(&self.sleepers), Reach::Process, |rank| self.bells.get(rank));
    }

    pub(crate) fn sleep(&self, rank: u32, moved: impl FnMut() -> bool) {
        let bell = &self.bells[rank as usize];
        parking::sleep(&self.sleepers, rank, bell, Duration::MAX, Reach::Process, moved).unwrap();
    }

    pub(crate) fn write(&self, outgoing: &mut SendCursor, value: u64) {
        self.slots[outgoing.index()].with_mut(|slot| {
            // SAFETY: loom checks that nobody else has access.
            unsafe { *slot = value }
        });
        outgoing.publish(&self.marks[outgoing.index()]);
    }

    /// Whether the next message has landed.
    pub(crate) fn refresh(&self, incoming: &mut ReceiveCursor) -> bool {
        incoming.refresh(&self.marks[incoming.next()]).unwrap()
    }

    pub(crate) fn read(&self, incoming: &ReceiveCursor, number: u64) -> u64 {
        self.slots[incoming.index_of(number).unwrap()].with(|slot| {
            // SAFETY: loom checks that nobody writes.
            unsafe { *slot }
        })
    }
}
