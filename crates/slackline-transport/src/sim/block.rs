//! Bytes at a slot's alignment.

use std::ops::{Deref, DerefMut};

use crate::SLOT_ALIGN;

/// A box of bytes that begins on a multiple of [`SLOT_ALIGN`].
pub(super) struct Block {
    /// Longer than asked for, so that some place in it is aligned; never reallocated, so that it stays so.
    bytes: Box<[u8]>,
    start: u32,
    len: u32,
}

impl Block {
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = vec![0; len + SLOT_ALIGN - 1].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(SLOT_ALIGN);
        assert!(start < SLOT_ALIGN, "the allocator's address can be aligned");
        Self { bytes, start: start as u32, len: u32::try_from(len).expect("a slot has less than 4 GiB") }
    }

    /// How long the bytes can be.
    fn capacity(&self) -> usize {
        self.bytes.len() - (SLOT_ALIGN - 1)
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start as usize..][..self.len as usize]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..][..self.len as usize]
    }
}

/// Blocks for messages of one line at most. Of these a large group has so many on their way that the allocator's work
/// shows; a larger message costs more to copy than to allocate.
#[derive(Default)]
pub(super) struct Spare(Vec<Block>);

impl Spare {
    /// What is kept of what a rank has received: enough for a round of the largest groups, and little if it sends nothing.
    const MOST: usize = 1024;

    /// A block of `len` bytes, whatever they are.
    pub(super) fn take(&mut self, len: usize) -> Block {
        if len > SLOT_ALIGN {
            return Block::zeroed(len);
        }
        let mut block = self.0.pop().unwrap_or_else(|| Block::zeroed(SLOT_ALIGN));
        block.len = len as u32;
        block
    }

    pub(super) fn keep(&mut self, block: Option<Block>) {
        let small = block.filter(|block| block.capacity() == SLOT_ALIGN && self.0.len() < Self::MOST);
        self.0.extend(small);
    }
}
