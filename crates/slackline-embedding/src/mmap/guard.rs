//! A file that shrinks while it is mapped, or a disk that fails, must not end the process.
//!
//! The kernel then answers a read of the mapping with SIGBUS, whose default is to end the process. Here it calls a handler
//! instead, which finds the mapping in a [`Registry`], marks it as lost, puts zeros in its place, and lets the read go on.
//! Whoever read then sees the mark: one load a call, and nothing within the loops.
//!
//! The handler is the process's, so it takes only what is its own: a fault of the kernel's within one of our mappings.
//! Everything else goes to whatever handled the signal before (Rust's own handler, which tells stack overflows, for one), or
//! ends the process as it would have.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::registry::{Entry, Registry};

#[cfg(not(loom))]
static REGISTRY: Registry = Registry::new();
#[cfg(loom)]
static REGISTRY: std::sync::LazyLock<Registry> = std::sync::LazyLock::new(Registry::new);

/// What handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapping's place in the registry; gives it back when dropped, which has to be before the memory is unmapped.
#[derive(Debug)]
pub(super) struct Guarded(&'static Entry);

impl Guarded {
    /// Guards some addresses, which this process has mapped for reading.
    pub(super) fn new(memory: &[u8]) -> Self {
        install();
        let start = memory.as_ptr().addr();
        Guarded(REGISTRY.add(start, start + memory.len()))
    }

    /// Whether bytes of it could not be read; all of it is zeros then.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.0.is_lost()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        REGISTRY.remove(self.0);
    }
}

fn install() {
    BEFORE.get_or_init(|| {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
        // SAFETY: a struct of integers and a set of bits, for which zeros are valid.
        let mut ours: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        ours.sa_sigaction = handler as usize;
        // On the stack for signals, where a thread has one: the ordinary one may be what overflowed.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut before = ours;
        // SAFETY: both point to whole structs; the handler keeps to what a handler may do.
        let refused = unsafe { libc::sigaction(libc::SIGBUS, &ours, &mut before) };
        // It has no other reason to be refused than a signal that does not exist.
        assert_eq!(refused, 0, "SIGBUS has a handler");
        before
    });
}

/// Keeps to loads and stores of atomics and to system calls, as a signal handler must, and leaves `errno` as it was.
extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a handler with SA_SIGINFO a valid one.
    let about = unsafe { &*info };
    let code = about.si_code;
    // SAFETY: a fault has an address; for other signals it is some number, of which nothing is made.
    let address = unsafe { about.si_addr() }.addr();
    // Codes of 0 and below are of kill(2) and the like.
    if code > 0
        && let Some((entry, start, end)) = REGISTRY.find(address)
        && replace(entry, start, end)
    {
        return;
    }
    pass_on(signal, code, info, context);
}

/// Puts zeros where the mapping was. All of it: what is lost is most often a tail, in which every page would come here, and
/// each page that is replaced by itself takes one of the few mappings that a process may have.
fn replace(entry: &Entry, start: usize, end: usize) -> bool {
    // Before the zeros are there: whoever reads one sees the mark afterwards.
    entry.lose();
    // SAFETY: every thread has its own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it points to an integer.
    let kept = unsafe { errno.read() };
    let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: the addresses are a mapping of ours, which is not unmapped meanwhile: the thread that was interrupted reads
    // it, and so holds it. It was for reading only and is so again, of the same length. That bytes change under a shared
    // slice is what the file did already: they are plain numbers, of which every value is valid, and no address is made of
    // them (`Mapping::bytes`).
    let placed = unsafe { libc::mmap(ptr::with_exposed_provenance_mut(start), end - start, protection, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { errno.write(kept) };
    placed != libc::MAP_FAILED
}

fn pass_on(signal: libc::c_int, code: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Not there yet only if another thread's fault came between the kernel's answer and its being kept.
    let before = BEFORE.get().map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    let flags = BEFORE.get().map_or(0, |before| before.sa_flags);
    // Asked for by kill(2), and ignored: so it is.
    if before == libc::SIG_IGN && code <= 0 {
        return;
    }
    if before == libc::SIG_DFL || before == libc::SIG_IGN {
        // SAFETY: a signal that exists, and the default for it.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // A fault would come again by itself; a signal that was sent would not. It waits until the handler returns.
        // SAFETY: a signal that exists.
        unsafe { libc::raise(signal) };
    } else if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the kernel was given this as a handler of this kind.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(before) };
        handler(signal, info, context);
    } else {
        // SAFETY: the kernel was given this as a handler of this kind.
        let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(before) };
        handler(signal);
    }
}
