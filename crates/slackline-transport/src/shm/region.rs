//! Mapped memory, and checked references into it.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::mm::{self, Advice, MapFlags, ProtFlags};

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// A type that may lie in memory that other processes write: every field is an atomic (or made of such), so that a
/// shared reference to it is sound whatever the others do.
///
/// # Safety
///
/// Every bit pattern is a valid value, and all of its bytes are inside atomics or padding.
pub(crate) unsafe trait Shared {}

// SAFETY: an atomic word, any bit pattern of which is a value.
unsafe impl Shared for crate::sync::AtomicU64 {}
// SAFETY: as above.
unsafe impl Shared for crate::sync::AtomicU32 {}

/// A mapping that is readable and writable, and unmapped on drop.
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region is memory; whoever reads or writes it does so through `Shared` atomics, or through `Ring`, which states
// the rules for slots.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Fresh memory of this process alone, all zero. Its pages come into being when first touched.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base =
            unsafe { mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Ok(Self::own(base, bytes))
    }

    /// The first `bytes` of a file, shared with whoever maps it. The caller has seen that the file is that long and sealed
    /// against shrinking; a shorter one would kill the process at its first touch.
    pub(crate) fn of_file(file: impl AsFd, bytes: usize) -> io::Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: as in `anonymous`; what other processes write to the pages meets only `Shared` types and slot bytes.
        let base =
            unsafe { mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0) }?;
        Ok(Self::own(base, bytes))
    }

    fn own(base: *mut std::ffi::c_void, bytes: usize) -> Self {
        let base = NonNull::new(base.cast::<u8>()).expect("the kernel maps nothing at address zero");
        Region { base, bytes }
    }

    /// Asks for huge pages, if there is room for one.
    pub(crate) fn use_huge_pages(&self) {
        if self.bytes >= HUGE_PAGE {
            // SAFETY: the range is the mapping that we own, and the advice does not change its contents. Refusal (a kernel
            // without huge pages) is no loss.
            let _ = unsafe { mm::madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxHugepage) };
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What lies at an offset.
    ///
    /// # Panics
    ///
    /// If that is outside of the region or not aligned: offsets come from a checked layout.
    #[inline]
    pub(crate) fn at<T: Shared>(&self, offset: usize) -> &T {
        &self.slice(offset, 1)[0]
    }

    /// `count` of them, one after the other.
    ///
    /// # Panics
    ///
    /// As for [`at`](Self::at).
    #[inline]
    pub(crate) fn slice<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        let pointer =
            self.pointer(offset, count.checked_mul(size_of::<T>()).expect("sizes come from a checked layout"));
        let pointer = pointer.cast::<T>();
        assert!(pointer.is_aligned(), "offset {offset} is not aligned");
        // SAFETY: inside the mapping (`pointer` checked), aligned, valid for any bits (`Shared`), and borrowed from `self`.
        unsafe { std::slice::from_raw_parts(pointer.as_ptr(), count) }
    }

    /// The address of `bytes` bytes at an offset; valid as long as the region.
    ///
    /// # Panics
    ///
    /// If they are not all inside.
    #[inline]
    pub(crate) fn pointer(&self, offset: usize, bytes: usize) -> NonNull<u8> {
        let end = offset.checked_add(bytes).expect("offsets come from a checked layout");
        assert!(end <= self.bytes, "bytes {offset} .. {end} of a region of {} bytes", self.bytes);
        // SAFETY: `offset <= bytes`, the size of the one mapping that `base` points to.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every reference into it was borrowed from this region or is held together with
        // an `Arc` of it. It cannot fail for a range that was mapped.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering};

    #[test]
    fn fresh_memory_is_zero_and_keeps_what_is_written() {
        let region = Region::anonymous(8192).unwrap();
        assert_eq!(region.bytes(), 8192);
        assert!(region.slice::<AtomicU64>(0, 1024).iter().all(|word| word.load(Ordering::Relaxed) == 0));
        region.at::<AtomicU64>(8184).store(7, Ordering::Relaxed);
        assert_eq!(region.slice::<AtomicU64>(8176, 2)[1].load(Ordering::Relaxed), 7);
    }

    #[test]
    #[should_panic(expected = "of a region of 4096 bytes")]
    fn a_reference_past_the_end_is_refused() {
        Region::anonymous(4096).unwrap().slice::<AtomicU64>(4088, 2);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn a_crooked_reference_is_refused() {
        Region::anonymous(4096).unwrap().at::<AtomicU64>(4);
    }
}
