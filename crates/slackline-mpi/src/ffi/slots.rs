//! The memory of a ring: slots on cache lines, each with a header right in front of its payload.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Ref, RefCell, RefMut};
use std::ptr::NonNull;

use slackline_transport::{Message, Room, SLOT_ALIGN};

/// What stands in front of every payload on the wire.
pub(crate) const HEADER: usize = 8;

/// A message begins so many bytes in front of its payload, with its header: both are on cache lines then, which single-copy
/// transports between processes need to be fast.
pub(crate) const FRAME: usize = SLOT_ALIGN;

/// Slots. What lies in one belongs to MPI while a request is on it; otherwise it can be lent.
pub(crate) struct Slots {
    base: NonNull<u8>,
    /// Where each payload begins. Whoever holds a payload's bytes has borrowed its cell.
    payloads: Box<[RefCell<NonNull<u8>>]>,
    slot_bytes: usize,
}

impl Slots {
    /// Zeroed; pages come into being when they are first written.
    ///
    /// # Panics
    ///
    /// If the sizes do not fit the address space; or if there is no memory.
    pub(crate) fn new(count: usize, slot_bytes: usize) -> Self {
        assert!(count > 0 && slot_bytes > 0 && slot_bytes.is_multiple_of(SLOT_ALIGN), "the shape has been rounded");
        let layout = Self::layout(count, slot_bytes);
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        // SAFETY: `count` strides of `SLOT_ALIGN + slot_bytes` bytes were allocated.
        let payload = |index| RefCell::new(unsafe { base.add(index * (SLOT_ALIGN + slot_bytes) + SLOT_ALIGN) });
        Slots { base, payloads: (0..count).map(payload).collect(), slot_bytes }
    }

    fn layout(count: usize, slot_bytes: usize) -> Layout {
        let bytes = slot_bytes.checked_add(SLOT_ALIGN).and_then(|stride| stride.checked_mul(count));
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, SLOT_ALIGN).ok());
        layout.expect("the shape has been checked against the address space")
    }

    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.payloads.len()
    }

    /// Whether somebody holds the payload of a slot, to read or to write.
    #[inline]
    pub(crate) fn is_lent(&self, index: usize) -> bool {
        self.payloads[index].try_borrow_mut().is_err()
    }

    /// The payload of a slot, to read.
    ///
    /// # Safety
    ///
    /// No request is on the slot. None is put on it while the payload is lent: [`frame`](Self::frame) refuses.
    ///
    /// # Panics
    ///
    /// If it is longer than the slot, or is being written.
    #[inline]
    pub(super) unsafe fn lend(&self, index: usize, length: usize) -> Message<'_> {
        assert!(length <= self.slot_bytes, "{length} bytes of a slot of {}", self.slot_bytes);
        // SAFETY: inside of the allocation, which `self` keeps, and initialised when it was made. The
        // caller says that it is not MPI's; the cell, which stays borrowed, keeps it so, and writers off.
        Ref::map(self.payloads[index].borrow(), |payload| unsafe {
            std::slice::from_raw_parts(payload.as_ptr(), length)
        })
    }

    /// The payload of a slot, to write; `None` while it is lent.
    ///
    /// # Safety
    ///
    /// As [`lend`](Self::lend).
    #[inline]
    pub(super) unsafe fn lend_mut(&self, index: usize) -> Option<Room<'_>> {
        let payload = self.payloads[index].try_borrow_mut().ok()?;
        // SAFETY: as above; the cell keeps everybody off.
        Some(RefMut::map(payload, |payload| unsafe {
            std::slice::from_raw_parts_mut(payload.as_ptr(), self.slot_bytes)
        }))
    }

    /// The header in front of the payload: what goes over the wire begins here. Whoever puts a request on a slot asks for it.
    ///
    /// # Panics
    ///
    /// If the payload is lent, to read or to write.
    #[inline]
    pub(super) fn frame(&self, index: usize) -> NonNull<u8> {
        let payload = self.payloads[index].try_borrow_mut().expect("a slot is not lent while it goes over the wire");
        // SAFETY: a payload has `SLOT_ALIGN` bytes of its own stride in front of it, which is a frame.
        unsafe { payload.sub(FRAME) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Whoever holds slots that MPI may still touch forgets them instead.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.count(), self.slot_bytes)) }
    }
}
