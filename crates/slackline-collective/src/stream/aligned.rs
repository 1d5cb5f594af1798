//! Bytes that start on a multiple of [`SLOT_ALIGN`], as those in a slot do.

use std::ops::{Deref, DerefMut};

use slackline_transport::SLOT_ALIGN;

/// A growing list of bytes that starts on a multiple of [`SLOT_ALIGN`].
///
/// The allocator does not promise such an address, so there are up to 63 bytes in front. The vector never grows past its
/// capacity, which would move it: a larger one takes its place.
#[derive(Default)]
pub(crate) struct AlignedBytes {
    /// Not looked at below `start`.
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBytes {
    /// No bytes, and room for `capacity` of them.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(capacity.saturating_add(SLOT_ALIGN - 1));
        let start = memory.as_ptr().addr().wrapping_neg() % SLOT_ALIGN;
        memory.resize(start, 0);
        AlignedBytes { memory, start }
    }

    pub(crate) fn is_unallocated(&self) -> bool {
        self.memory.capacity() == 0
    }

    /// Makes it `size` bytes: the same as before if it had that many, unspecified ones otherwise.
    pub(crate) fn resize(&mut self, size: usize) {
        if self.start.saturating_add(size) > self.memory.capacity() {
            *self = AlignedBytes::with_capacity(size);
        }
        self.memory.resize(self.start + size, 0);
    }

    /// Appends `bytes` to a message of `total`. Takes memory for at most twice of what has come, whatever is claimed to come.
    pub(crate) fn append(&mut self, bytes: &[u8], total: usize) {
        if self.memory.len() + bytes.len() > self.memory.capacity() {
            let length = self.len() + bytes.len();
            let mut grown = AlignedBytes::with_capacity(total.clamp(length, 2 * length));
            grown.memory.extend_from_slice(self);
            *self = grown;
        }
        self.memory.extend_from_slice(bytes);
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut copy = AlignedBytes::with_capacity(bytes.len());
        copy.memory.extend_from_slice(bytes);
        copy
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_aligned(bytes: &AlignedBytes) -> bool {
        bytes.as_ptr().addr().is_multiple_of(SLOT_ALIGN)
    }

    #[test]
    fn bytes_of_any_length_are_aligned_however_they_came() {
        for length in (0..400).chain([5_000, 70_000]) {
            let source: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut appended = AlignedBytes::default();
            for piece in source.chunks(37) {
                appended.append(piece, length);
                assert!(is_aligned(&appended));
            }
            assert!(*appended == *source && *AlignedBytes::from(&source[..]) == *source);
            assert!(is_aligned(&AlignedBytes::from(&source[..])));
            let mut sized = AlignedBytes::default();
            for size in [length / 2, length, length / 3, length] {
                sized.resize(size);
                assert!(sized.len() == size && (size == 0 || is_aligned(&sized)));
            }
            sized.copy_from_slice(&source);
            sized.resize(length);
            assert!(*sized == *source, "the same size again keeps the bytes");
        }
    }

    #[test]
    fn memory_follows_what_has_come_and_not_what_is_claimed() {
        let mut bytes = AlignedBytes::default();
        bytes.append(&[1; 100], usize::MAX);
        assert!(bytes.memory.capacity() < 1000);
    }
}
