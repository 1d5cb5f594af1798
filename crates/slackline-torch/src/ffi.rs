//! Memory that somebody else owns: of tensors, which Python keeps alive.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What keeps memory alive.
pub type Keeper = Arc<dyn Send + Sync>;

/// A stretch of memory, and what keeps it alive. Bytes are copied in and out; nothing is lent.
///
/// Whoever made it may change the bytes meanwhile, as other threads of a Python program may: the copies are then as torn as the
/// program's own reads would be. Nothing here depends on what the bytes are.
#[derive(Clone)]
pub struct Memory {
    start: *mut u8,
    len: usize,
    keeper: Option<Keeper>,
}

// SAFETY: the keeper may go to other threads, and the bytes belong to no thread: see `new`.
unsafe impl Send for Memory {}

// SAFETY: as above; `read` and `write` copy bytes and hold no reference to them.
unsafe impl Sync for Memory {}

/// Frees memory of this crate's own.
struct Own(*mut [u8]);

// SAFETY: it is the only owner of a boxed slice of bytes, which any thread may free.
unsafe impl Send for Own {}

// SAFETY: nothing can be done with a shared reference to it.
unsafe impl Sync for Own {}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: `Memory::zeroed` got the pointer from `Box::into_raw`, and this is dropped once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl Memory {
    /// Nothing.
    pub const EMPTY: Memory = Memory { start: std::ptr::null_mut(), len: 0, keeper: None };

    /// The memory from `start` on.
    ///
    /// # Safety
    ///
    /// As long as `keeper` lives, `len` bytes from `start` on can be read, and written if [`write`](Self::write) is called, by
    /// any thread, and no Rust reference to them is alive while this is read or written.
    pub unsafe fn new(start: *mut u8, len: usize, keeper: Keeper) -> Self {
        Memory { start, len, keeper: Some(keeper) }
    }

    /// New memory of zeros.
    pub fn zeroed(len: usize) -> Self {
        let bytes = Box::into_raw(vec![0u8; len].into_boxed_slice());
        Memory { start: bytes.cast(), len, keeper: Some(Arc::new(Own(bytes))) }
    }

    /// A copy of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let memory = Memory::zeroed(bytes.len());
        memory.write(0, bytes);
        memory
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it.
    ///
    /// # Panics
    ///
    /// If it has no such part.
    pub fn part(&self, range: Range<usize>) -> Memory {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} bytes", self.len);
        // SAFETY: within the same memory, or one past its end.
        let start = unsafe { self.start.add(range.start) };
        Memory { start, len: range.len(), keeper: self.keeper.clone() }
    }

    /// Copies the bytes from `at` on into `out`.
    ///
    /// # Panics
    ///
    /// If it has fewer.
    pub fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at <= self.len && out.len() <= self.len - at, "{} bytes at {at} of {}", out.len(), self.len);
        if !out.is_empty() {
            // SAFETY: within the memory, as was just asserted.
            let from = unsafe { self.start.add(at) };
            // SAFETY: readable by the promise of `new`; `out` is borrowed alone, so it is other memory.
            unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        }
    }

    /// Copies `bytes` to `at`.
    ///
    /// # Panics
    ///
    /// If they don't fit.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.len && bytes.len() <= self.len - at, "{} bytes at {at} of {}", bytes.len(), self.len);
        if !bytes.is_empty() {
            // SAFETY: within the memory, as was just asserted.
            let to = unsafe { self.start.add(at) };
            // SAFETY: writable by the promise of `new`, and no reference to it is alive, so `bytes` is other memory.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    /// Copies the bytes of `other`, which may be the same memory.
    ///
    /// # Panics
    ///
    /// If it has another length.
    pub fn copy_from(&self, other: &Memory) {
        assert_eq!(self.len, other.len, "memory of different lengths");
        if self.len > 0 {
            // SAFETY: readable and writable by the promise of `new`; `copy` allows that they overlap.
            unsafe { std::ptr::copy(other.start, self.start, self.len) };
        }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_and_out_and_parts_are_checked() {
        let memory = Memory::of(&[1, 2, 3, 4, 5]);
        let part = memory.part(1..4);
        drop(memory.clone());
        part.write(1, &[9, 8]);
        assert_eq!(memory.to_vec(), [1, 2, 9, 8, 5]);
        memory.part(0..3).copy_from(&memory.part(1..4));
        assert_eq!(memory.to_vec(), [2, 9, 8, 8, 5]);
        assert!(Memory::EMPTY.part(0..0).to_vec().is_empty());
        for wrong in
            [|m: &Memory| m.write(4, &[0, 0]), |m: &Memory| drop(m.part(3..6)), |m: &Memory| m.read(6, &mut [])]
        {
            let memory = memory.clone();
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wrong(&memory))).is_err());
        }
    }
}
