//! One ring in a region: addresses worked out once, so that using it costs no arithmetic.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::ptr::NonNull;

use super::layout::{Layout, Mark, RingLayout};
use super::region::Region;
use crate::cursor::{ReceiveCursor, SendCursor};
use crate::sync::{AtomicU64, Ordering};
use crate::{GroupShape, Message, Room, SLOT_ALIGN};

/// The addresses of one ring. Whoever holds one also holds the region.
struct Ring {
    /// As many as slots.
    marks: NonNull<Mark>,
    released: NonNull<AtomicU64>,
    /// Where each slot begins. Whoever holds a slot's bytes has borrowed its cell.
    slots: Box<[RefCell<NonNull<u8>>]>,
    slot_bytes: usize,
}

/// The rings between one rank and one peer on one lane, with where this rank stands in each.
pub(crate) struct PeerRings {
    out: Ring,
    inc: Ring,
    pub(crate) outgoing: SendCursor,
    pub(crate) incoming: ReceiveCursor,
    /// Messages that a look for news has told of.
    pub(crate) told: Cell<u64>,
}

// SAFETY: the addresses point into a `Region`, which is `Send` and `Sync`; no part of it is tied to a thread.
unsafe impl Send for PeerRings {}

impl PeerRings {
    /// The rings between `rank` and `peer`.
    ///
    /// # Safety
    ///
    /// The caller keeps `region` alive as long as the pair, creates only one pair for each such place in a group over all
    /// threads and processes that follow these rules, and only for a region that no pair of another layout has been made of.
    pub(crate) unsafe fn new(
        region: &Region,
        layout: &Layout,
        shape: &GroupShape,
        lane: usize,
        rank: usize,
        peer: usize,
    ) -> Self {
        let size = shape.lanes[lane];
        let ring = |from, to| Ring::new(region, layout.ring(shape.ranks, lane, from, to), size.slots, size.slot_bytes);
        PeerRings {
            out: ring(rank, peer),
            inc: ring(peer, rank),
            outgoing: SendCursor::new(size.slots),
            incoming: ReceiveCursor::new(size.slots),
            told: Cell::new(0),
        }
    }

    /// Whether the peer has moved a counter since this rank last looked; this looks, too.
    #[inline(always)]
    pub(crate) fn refresh(&self) -> Result<bool, Corrupt> {
        Ok(self.refresh_landed()? | self.refresh_released()?)
    }

    #[inline(always)]
    pub(crate) fn refresh_landed(&self) -> Result<bool, Corrupt> {
        let mut moved = false;
        loop {
            let mark = self.inc.mark(self.incoming.next());
            if !self.incoming.refresh(&mark.published).map_err(|value| Corrupt::Published(value.0))? {
                return Ok(moved);
            }
            moved = true;
            let released = mark.released.load(Ordering::Relaxed);
            self.outgoing.learn(released).map_err(|value| Corrupt::Released(value.0))?;
            // With two slots (lag 0) ranks go in step, and the next message is never here already. A look for it would take
            // the mark's line away from the sender's core, which is about to write it.
            if self.inc.slots.len() <= 2 {
                return Ok(moved);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn refresh_released(&self) -> Result<bool, Corrupt> {
        self.outgoing.refresh(self.out.released()).map_err(|value| Corrupt::Released(value.0))
    }

    #[inline(always)]
    pub(crate) fn free(&self) -> Result<u64, Corrupt> {
        self.outgoing.free(self.out.released()).map_err(|value| Corrupt::Released(value.0))
    }

    /// The next free slot; `None` if none is known to be free, or while this one is lent.
    #[inline(always)]
    pub(crate) fn room(&self) -> Option<Room<'_>> {
        if self.outgoing.known_free() == 0 {
            return None;
        }
        let slot = self.out.slots[self.outgoing.index()].try_borrow_mut().ok()?;
        // SAFETY: inside the region. The slot is free: the receiver has released it (an acquire load saw that) and reads it
        // again only after the next `publish`, which refuses while the cell is borrowed, as it is by this. This rank is its
        // one writer, and nobody else writes to it through this cell meanwhile.
        Some(RefMut::map(slot, |slot| unsafe { std::slice::from_raw_parts_mut(slot.as_ptr(), self.out.slot_bytes) }))
    }

    /// # Panics
    ///
    /// Without a free slot, while it is lent, or if `len` is more than a slot.
    #[inline(always)]
    pub(crate) fn publish(&self, len: usize) {
        assert!(len <= self.out.slot_bytes, "published {len} bytes in a slot of {}", self.out.slot_bytes);
        assert!(self.outgoing.known_free() > 0, "published without a free slot");
        let index = self.outgoing.index();
        assert!(self.out.slots[index].try_borrow().is_ok(), "published a slot whose room is held");
        let mark = self.out.mark(index);
        mark.length.store(len as u32, Ordering::Relaxed);
        mark.released.store(self.incoming.released(), Ordering::Relaxed);
        self.outgoing.publish(&mark.published);
        // Early, so that the core has the line when it is needed; the value is written again then. Not while the ring is
        // full: the next mark would still be that of a message which the receiver has not read, and it would take the count
        // from it without having seen what the count stands for.
        if self.outgoing.known_free() > 0 {
            let next = self.out.mark(self.outgoing.index());
            next.released.store(self.incoming.released(), Ordering::Relaxed);
        }
    }

    /// Message `number`; `Err` holds an impossible length instead.
    ///
    /// # Panics
    ///
    /// If that message is not here.
    #[inline(always)]
    pub(crate) fn message(&self, number: u64) -> Result<Message<'_>, Corrupt> {
        let (index, len) = self.place(number)?;
        // SAFETY: inside the region, as `len` is at most a slot. The message has landed (an acquire load saw that), and its
        // sender writes the slot again only after `release`, which refuses while the cell is borrowed, as it is by this.
        Ok(Ref::map(self.inc.slots[index].borrow(), |slot| unsafe { std::slice::from_raw_parts(slot.as_ptr(), len) }))
    }

    /// The length of message `number`, as [`message`](Self::message) has it.
    #[inline(always)]
    pub(crate) fn message_len(&self, number: u64) -> Result<usize, Corrupt> {
        Ok(self.place(number)?.1)
    }

    /// Slot and length of a message.
    #[inline(always)]
    fn place(&self, number: u64) -> Result<(usize, usize), Corrupt> {
        let Some(index) = self.incoming.index_of(number) else {
            panic!("message {number} was asked for, which has been released or not landed");
        };
        let len = self.inc.mark(index).length.load(Ordering::Relaxed) as usize;
        if len > self.inc.slot_bytes { Err(Corrupt::Length(len)) } else { Ok((index, len)) }
    }

    /// # Panics
    ///
    /// Outside of `released ..= landed`, and while a message below `upto` is held.
    #[inline(always)]
    pub(crate) fn release(&self, upto: u64) {
        for number in self.incoming.released()..upto {
            let held =
                self.incoming.index_of(number).is_some_and(|index| self.inc.slots[index].try_borrow_mut().is_err());
            assert!(!held, "message {number} was released while it is held");
        }
        self.incoming.release(self.inc.released(), upto);
    }
}

/// What a peer cannot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corrupt {
    Published(u64),
    Released(u64),
    Length(usize),
}

impl Ring {
    fn new(region: &Region, at: RingLayout, count: usize, slot_bytes: usize) -> Self {
        // The slices check bounds and alignment once, for all later uses of the addresses.
        let marks: &[Mark] = region.slice(at.marks, count);
        let released: &[AtomicU64] = region.slice(at.released, 1);
        assert_eq!(at.slots % SLOT_ALIGN, 0);
        let slots = region.pointer(at.slots, count * slot_bytes);
        // SAFETY: `count` slots were checked above.
        let slot = |index| RefCell::new(unsafe { slots.add(index * slot_bytes) });
        let slots = (0..count).map(slot).collect();
        Ring { marks: NonNull::from(marks).cast(), released: NonNull::from(&released[0]), slots, slot_bytes }
    }

    #[inline]
    fn released(&self) -> &AtomicU64 {
        // SAFETY: checked in `new`; the holder of the ring keeps the region.
        unsafe { self.released.as_ref() }
    }

    #[inline]
    fn mark(&self, index: usize) -> &Mark {
        debug_assert!(index < self.slots.len());
        // SAFETY: cursors give indices below `count` only, and `count` marks were checked in `new`.
        let mark = unsafe { self.marks.add(index) };
        // SAFETY: as above.
        unsafe { mark.as_ref() }
    }
}
