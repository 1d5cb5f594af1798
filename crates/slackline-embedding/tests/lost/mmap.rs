//! A mapping that nobody guards.

use std::fs::File;

pub(crate) fn map(file: &File) -> memmap2::Mmap {
    // SAFETY: what becomes of a changed file is what is tested, in a process of its own.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}
