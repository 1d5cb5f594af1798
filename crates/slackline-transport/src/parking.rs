//! Sleeping without losing a wake-up.
//!
//! A set of bits says who sleeps, one bit a rank, so that a rank that has moved counters learns with one fence and a few
//! loads whether anybody must be woken. Both sides write first, fence, and then read what the other wrote (Dekker): a
//! sleeper sets its bit and then looks at the counters once more; a waker has moved the counters and then looks at the
//! bits. With a sequentially consistent fence in between on both sides at least one of them sees the other.
//!
//! A waker *takes* the bits it saw, so that each sleeper is woken once and not by every peer. That loses nothing: a rank
//! that wakes up sets its bit and looks again before it sleeps again, and the count of rings that it sleeps on was read
//! before its bit was set, so a ring that comes in between keeps it from falling asleep.

use std::io;
use std::time::Duration;

use crate::sync::{AtomicU64, Bell, Ordering, Reach, fence};

/// Ranks a word of the sleepers' set holds.
pub const RANKS_A_WORD: usize = 64;

/// Counts the calls that are to end a wait of one rank, whoever makes them.
#[derive(Default)]
pub struct Calls(AtomicU64);

impl Calls {
    /// So many calls have been made.
    #[inline]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Ends the rank's sleep on `bell`, or keeps it from falling asleep.
    pub fn call(&self, bell: &Bell, reach: Reach) {
        // First, so that whoever is kept from sleeping by the ring sees it.
        self.0.fetch_add(1, Ordering::Release);
        bell.ring(reach);
    }
}

/// Sleeps on `bell` for at most `limit`, unless `moved` says, after everybody can know of the sleep, that something has
/// moved already. `word` and `bit` are this rank's place in the set.
pub fn sleep(
    word: &AtomicU64,
    bit: u32,
    bell: &Bell,
    limit: Duration,
    reach: Reach,
    mut moved: impl FnMut() -> bool,
) -> io::Result<()> {
    let mask = 1u64 << bit;
    let rings = bell.rings();
    word.fetch_or(mask, Ordering::AcqRel);
    fence(Ordering::SeqCst);
    let slept = if moved() { Ok(()) } else { bell.sleep(rings, limit, reach) };
    word.fetch_and(!mask, Ordering::AcqRel);
    slept
}

/// Wakes whoever sleeps, to be called after counters have moved. Cost where nobody sleeps: a fence and a load for every 64
/// ranks.
#[inline]
pub fn wake<'a>(words: &[AtomicU64], reach: Reach, bell: impl Fn(usize) -> Option<&'a Bell>) {
    fence(Ordering::SeqCst);
    for (index, word) in words.iter().enumerate() {
        let seen = word.load(Ordering::Relaxed);
        if seen != 0 {
            ring(word, seen, index * RANKS_A_WORD, reach, &bell);
        }
    }
}

#[cold]
fn ring<'a>(word: &AtomicU64, seen: u64, first: usize, reach: Reach, bell: &impl Fn(usize) -> Option<&'a Bell>) {
    let mut taken = word.fetch_and(!seen, Ordering::AcqRel) & seen;
    while taken != 0 {
        // Bits come from shared memory: one beyond the group has no bell.
        if let Some(bell) = bell(first + taken.trailing_zeros() as usize) {
            bell.ring(reach);
        }
        taken &= taken - 1;
    }
}
