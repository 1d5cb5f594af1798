//! Bytes at a slot's alignment.

use std::ops::{Deref, DerefMut};

use crate::SLOT_ALIGN;

/// A box of bytes that begins on a multiple of [`SLOT_ALIGN`].
pub(super) struct Block {
    /// Longer than asked for, so that some place in it is aligned; never reallocated, so that it stays so.
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Block {
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = vec![0; len + SLOT_ALIGN - 1].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(SLOT_ALIGN);
        assert!(start < SLOT_ALIGN, "the allocator's address can be aligned");
        Self { bytes, start, len }
    }

    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let mut block = Self::zeroed(bytes.len());
        block.copy_from_slice(bytes);
        block
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
