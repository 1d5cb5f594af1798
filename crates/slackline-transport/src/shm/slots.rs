//! One ring's memory in a region: addresses worked out once, so that using it costs no arithmetic.

use std::cell::{Ref, RefCell, RefMut};
use std::ptr::NonNull;

use super::layout::{Layout, RingLayout};
use super::region::Region;
use super::ring::{Mark, Memory, PeerRings};
use crate::sync::AtomicU64;
use crate::{GroupShape, Message, Room, SLOT_ALIGN};

/// The addresses of one ring. Whoever holds one also holds the region.
pub(crate) struct Mapped {
    /// As many as slots.
    marks: NonNull<Mark>,
    released: NonNull<AtomicU64>,
    /// Where each slot begins. Whoever holds a slot's bytes has borrowed its cell.
    slots: Box<[RefCell<NonNull<u8>>]>,
    slot_bytes: usize,
}

// SAFETY: the addresses point into a `Region`, which is `Send` and `Sync`; no part of it is tied to a thread.
unsafe impl Send for Mapped {}

/// The rings between `rank` and `peer`.
///
/// # Safety
///
/// The caller keeps `region` alive as long as the pair, creates only one pair for each such place in a group over all
/// threads and processes that follow these rules, and only for a region that no pair of another layout has been made of.
pub(crate) unsafe fn pair(
    region: &Region,
    layout: &Layout,
    shape: &GroupShape,
    lane: usize,
    rank: usize,
    peer: usize,
) -> PeerRings<Mapped> {
    let size = shape.lanes[lane];
    let ring = |from, to| Mapped::new(region, layout.ring(shape.ranks, lane, from, to), size.slots, size.slot_bytes);
    // SAFETY: one pair for each place, so each ring has one sender and one receiver; the layout keeps rings apart.
    unsafe { PeerRings::new(ring(rank, peer), ring(peer, rank)) }
}

impl Mapped {
    fn new(region: &Region, at: RingLayout, count: usize, slot_bytes: usize) -> Self {
        // The slices check bounds and alignment once, for all later uses of the addresses.
        let marks: &[Mark] = region.slice(at.marks, count);
        let released: &[AtomicU64] = region.slice(at.released, 1);
        assert_eq!(at.slots % SLOT_ALIGN, 0);
        let slots = region.pointer(at.slots, count * slot_bytes);
        // SAFETY: `count` slots were checked above.
        let slot = |index| RefCell::new(unsafe { slots.add(index * slot_bytes) });
        let slots = (0..count).map(slot).collect();
        Mapped { marks: NonNull::from(marks).cast(), released: NonNull::from(&released[0]), slots, slot_bytes }
    }
}

impl Memory for Mapped {
    type Room<'e> = Room<'e>;
    type Message<'e> = Message<'e>;

    #[inline(always)]
    fn slots(&self) -> usize {
        self.slots.len()
    }

    #[inline(always)]
    fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    #[inline(always)]
    fn mark(&self, index: usize) -> &Mark {
        debug_assert!(index < self.slots.len());
        // SAFETY: cursors give indices below `count` only, and `count` marks were checked in `new`.
        let mark = unsafe { self.marks.add(index) };
        // SAFETY: as above; the holder of the ring keeps the region.
        unsafe { mark.as_ref() }
    }

    #[inline(always)]
    fn released(&self) -> &AtomicU64 {
        // SAFETY: checked in `new`; the holder of the ring keeps the region.
        unsafe { self.released.as_ref() }
    }

    #[inline(always)]
    unsafe fn room(&self, index: usize) -> Option<Room<'_>> {
        let slot = self.slots[index].try_borrow_mut().ok()?;
        // SAFETY: inside the region. Nobody else has access until the slot is published, which the caller does not do while
        // the cell is borrowed, as it is by this.
        Some(RefMut::map(slot, |slot| unsafe { std::slice::from_raw_parts_mut(slot.as_ptr(), self.slot_bytes) }))
    }

    #[inline(always)]
    unsafe fn message(&self, index: usize, len: usize) -> Message<'_> {
        // SAFETY: inside the region, as `len` is at most a slot. Nobody writes until the slot is released, which the caller
        // does not do while the cell is borrowed, as it is by this.
        Ref::map(self.slots[index].borrow(), |slot| unsafe { std::slice::from_raw_parts(slot.as_ptr(), len) })
    }

    #[inline(always)]
    fn is_lent(&self, index: usize) -> bool {
        self.slots[index].try_borrow_mut().is_err()
    }
}
