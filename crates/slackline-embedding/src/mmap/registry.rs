//! The addresses of mapped files: written when files are mapped and unmapped, read by a signal handler, which may
//! neither lock nor allocate.
//!
//! Entries are in chunks that are never freed. Each is a small seqlock: its version is odd while it changes. A handler
//! skips an entry that is changing, since nobody reads a mapping while it is made or unmapped: the entry the handler
//! needs is stable.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::sync::{AtomicBool, AtomicUsize, Ordering, fence};

#[cfg(not(loom))]
const CHUNK: usize = 64;
#[cfg(loom)]
const CHUNK: usize = 2;

/// Room for entries, and for more of it. Looking at a `OnceLock` that is set, or not, is one load.
pub(super) struct Registry {
    first: Chunk,
    /// Held by writers.
    writing: Mutex<()>,
}

struct Chunk {
    entries: [Entry; CHUNK],
    next: OnceLock<Box<Chunk>>,
}

/// One mapping, or none.
#[derive(Debug)]
pub(super) struct Entry {
    version: AtomicUsize,
    start: AtomicUsize,
    /// Behind the last byte; 0 if the entry is free.
    end: AtomicUsize,
    lost: AtomicBool,
}

impl Registry {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Registry { first: Chunk::new(), writing: Mutex::new(()) }
    }

    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Registry { first: Chunk::new(), writing: Mutex::new(()) }
    }

    /// Adds a mapping. It has to be [removed](Self::remove) before it is unmapped.
    pub(super) fn add(&self, start: usize, end: usize) -> &Entry {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chunk = &self.first;
        loop {
            // Only writers change `end`, and this is the only one now.
            if let Some(free) = chunk.entries.iter().find(|entry| entry.end.load(Ordering::Relaxed) == 0) {
                free.lost.store(false, Ordering::Relaxed);
                free.set(start, end);
                return free;
            }
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        }
    }

    /// Removes a mapping.
    pub(super) fn remove(&self, entry: &Entry) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        entry.set(0, 0);
    }

    /// The mapping that an address is in, with its bounds. Neither locks nor allocates.
    pub(super) fn find(&self, address: usize) -> Option<(&Entry, usize, usize)> {
        let mut chunk = Some(&self.first);
        while let Some(here) = chunk {
            for entry in &here.entries {
                if let Some((start, end)) = entry.bounds()
                    && (start..end).contains(&address)
                {
                    return Some((entry, start, end));
                }
            }
            chunk = here.next.get().map(|next| &**next);
        }
        None
    }
}

impl Chunk {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Chunk { entries: [const { Entry::free() }; CHUNK], next: OnceLock::new() }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Chunk { entries: std::array::from_fn(|_| Entry::free()), next: OnceLock::new() }
    }
}

impl Entry {
    #[cfg(not(loom))]
    const fn free() -> Self {
        let (version, start, end) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Entry { version, start, end, lost: AtomicBool::new(false) }
    }

    #[cfg(loom)]
    fn free() -> Self {
        let (version, start, end) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Entry { version, start, end, lost: AtomicBool::new(false) }
    }

    /// Called by one writer at a time.
    fn set(&self, start: usize, end: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees a new bound sees an odd version, or a later one.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// None while it changes.
    fn bounds(&self) -> Option<(usize, usize)> {
        let before = self.version.load(Ordering::Acquire);
        let bounds = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        // The bounds were read before what follows.
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        (before.is_multiple_of(2) && before == after).then_some(bounds)
    }

    /// Marks bytes of the mapping as lost.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// Whether the mapping is marked as lost, as of all that this thread has read so far.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        // Reads before this stay before the load of the mark: no instruction on x86-64, only a compiler barrier.
        fence(Ordering::Acquire);
        self.lost.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_mapping_and_in_no_other() {
        let registry = Registry::new();
        let entries: Vec<&Entry> = (1..200).map(|at| registry.add(at * 100, at * 100 + 50)).collect();
        for (at, entry) in (1..200).zip(&entries) {
            let (found, start, end) = registry.find(at * 100 + 49).unwrap();
            assert!(std::ptr::eq(found, *entry) && (start, end) == (at * 100, at * 100 + 50));
            assert!(registry.find(at * 100 + 50).is_none());
        }
        entries[7].lose();
        assert!(entries[7].is_lost() && !entries[8].is_lost());
        registry.remove(entries[7]);
        assert!(registry.find(820).is_none());
        // A reused entry starts without the mark.
        let again = registry.add(820, 830);
        assert!(std::ptr::eq(again, entries[7]) && !again.is_lost());
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release -p slackline-embedding --lib checked`
#[cfg(all(test, loom))]
mod checked {
    use std::sync::Arc;

    use ::loom::thread;

    use super::*;

    #[test]
    fn bounds_are_those_of_one_mapping() {
        ::loom::model(|| {
            let entry = Arc::new(Entry::free());
            entry.set(100, 200);
            let writer = Arc::clone(&entry);
            let writes = thread::spawn(move || {
                writer.set(0, 0);
                writer.set(300, 400);
            });
            if let Some(bounds) = entry.bounds() {
                assert!([(100, 200), (0, 0), (300, 400)].contains(&bounds), "{bounds:?}");
            }
            writes.join().unwrap();
            assert_eq!(entry.bounds(), Some((300, 400)));
        });
    }

    #[test]
    fn a_mapping_that_stands_still_is_found_while_others_come_and_go() {
        ::loom::model(|| {
            let registry = Arc::new(Registry::new());
            registry.add(100, 200);
            let writer = Arc::clone(&registry);
            let writes = thread::spawn(move || {
                let entry = writer.add(300, 400);
                writer.remove(entry);
            });
            let (entry, start, end) = registry.find(150).expect("it stands still");
            assert_eq!((start, end), (100, 200));
            entry.lose();
            writes.join().unwrap();
            assert!(registry.find(350).is_none() && registry.find(150).unwrap().0.is_lost());
        });
    }
}
