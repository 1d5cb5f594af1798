//! The SIGBUS handler of [`crate::guard`].
//!
//! It finds the mapping in a [`Registry`], marks it as lost, puts zeros in its place, and lets the read go on. The lookup
//! then sees the mark: one load a call, and nothing within the loops.
//!
//! The handler takes only faults within mappings of this crate. Everything else goes to the handler that was there before
//! (Rust's own, which reports stack overflows, for one), or ends the process as it would have.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::registry::{Entry, Registry};

#[cfg(not(loom))]
static REGISTRY: Registry = Registry::new();
#[cfg(loom)]
static REGISTRY: std::sync::LazyLock<Registry> = std::sync::LazyLock::new(Registry::new);

/// Set once the handler is installed.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    /// The address of our handler, as the kernel was given it.
    ours: usize,
    /// What handled the signal before.
    before: libc::sigaction,
}

/// A mapping's place in the registry; gives it back when dropped, which has to be before the memory is unmapped.
#[derive(Debug)]
pub(super) struct Guarded(&'static Entry);

impl Guarded {
    /// Registers addresses that this process has mapped for reading. They are guarded if and when the handler is installed.
    pub(super) fn new(memory: &[u8]) -> Self {
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

/// Installs the handler, unless that was done before.
pub(crate) fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    let mut ours = no_action();
    ours.sa_sigaction = handler as usize;
    // On the thread's signal stack, if it has one: the ordinary stack may be what overflowed.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut before = no_action();
    // SAFETY: both point to whole structs; the handler keeps to what a handler may do.
    if unsafe { libc::sigaction(libc::SIGBUS, &ours, &mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    INSTALLED.get_or_init(|| Installed { ours: ours.sa_sigaction, before });
    Ok(())
}

/// Whether the handler still is the process's; none if it never was.
pub(crate) fn is_in_place() -> Option<bool> {
    let installed = INSTALLED.get()?;
    let mut now = no_action();
    // SAFETY: it only fills the struct; no action is given.
    let refused = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut now) };
    Some(refused == 0 && now.sa_sigaction == installed.ours)
}

fn no_action() -> libc::sigaction {
    // SAFETY: a struct of integers and a set of bits, for which zeros are valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Uses only atomic loads and stores and system calls, as a signal handler must, and preserves `errno`.
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
    let before = INSTALLED.get().map_or(libc::SIG_DFL, |installed| installed.before.sa_sigaction);
    let flags = INSTALLED.get().map_or(0, |installed| installed.before.sa_flags);
    // Sent by kill(2), and ignored before: ignore it.
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
