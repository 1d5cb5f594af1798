//! The memory of a ring: slots on cache lines, each with a header right in front of its payload.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use slackline_transport::SLOT_ALIGN;

/// What stands in front of every payload on the wire.
pub(crate) const HEADER: usize = 8;

/// A message begins so many bytes in front of its payload, with its header: both are on cache lines then, which single-copy
/// transports between processes need to be fast.
pub(crate) const FRAME: usize = SLOT_ALIGN;

/// `count` slots. What lies in them belongs to MPI while a request is on them, so they are reached by address only.
pub(crate) struct Slots {
    base: NonNull<u8>,
    count: usize,
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
        Slots { base, count, slot_bytes }
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
        self.count
    }

    /// The payload of a slot.
    #[inline]
    pub(crate) fn payload(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.count, "slot {index} of {}", self.count);
        // SAFETY: `count` strides of `SLOT_ALIGN + slot_bytes` bytes were allocated.
        unsafe { self.base.add(index * (SLOT_ALIGN + self.slot_bytes) + SLOT_ALIGN) }
    }

    /// The header in front of it: what goes over the wire begins here.
    #[inline]
    pub(crate) fn frame(&self, index: usize) -> NonNull<u8> {
        // SAFETY: a payload has `SLOT_ALIGN` bytes of its own stride in front of it, which is a frame.
        unsafe { self.payload(index).sub(FRAME) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Whoever holds slots that MPI may still touch forgets them instead.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.count, self.slot_bytes)) }
    }
}
