//! A mapping that nobody guards, and a handler that displaces the guard.

use std::fs::File;

pub(crate) fn map(file: &File) -> memmap2::Mmap {
    // SAFETY: what becomes of a changed file is what is tested, in a process of its own.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}

/// Another library's handler for SIGBUS.
pub(crate) fn take_sigbus() {
    extern "C" fn handler(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = handler;
    // SAFETY: a signal that exists, and a handler that does nothing.
    let before = unsafe { libc::signal(libc::SIGBUS, handler as usize) };
    assert_ne!(before, libc::SIG_ERR);
}
