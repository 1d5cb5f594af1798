//! Where each side of a ring stands: the arithmetic on counters, without the memory.
//!
//! Two things are counted, each by one writer in shared memory: the messages *published* (by the sender) and the slots
//! *released* (by the receiver). Both counts only grow; their difference is the number of slots in use. `released` is one
//! word. `published` is a word for each slot, its mark, which holds the count as it was when that slot was last published:
//! message `n` is here when the mark of slot `n % slots` holds `n + 1`. The two types here are each side's own copy of
//! both, so that neither side touches the other's cache line without need, and no counter is ever updated by a
//! read-modify-write.
//!
//! The publisher writes a message and then stores its mark with release; the receiver loads the mark with acquire and then
//! reads the message. The same pair on `released` hands the slot back: the sender writes it again only after an acquire
//! load that saw the receiver's release store, or the receiver's word for it in a mark of its own, which is loaded with
//! acquire as well.

use std::cell::Cell;

use crate::sync::{AtomicU64, Ordering};

/// A counter in shared memory holds a value that its writer cannot have put there: it went backwards, or too far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implausible(pub u64);

/// The sender's side of a ring.
#[derive(Clone, Debug)]
pub struct SendCursor {
    published: Cell<u64>,
    /// `released` as last read.
    released: Cell<u64>,
    slots: u64,
    /// `published % slots`, kept by counting, since a division costs more than the rest of a publish.
    index: Cell<usize>,
}

impl SendCursor {
    /// The sender's side of a new ring of `slots` slots.
    pub fn new(slots: usize) -> Self {
        SendCursor { published: Cell::new(0), released: Cell::new(0), slots: slots as u64, index: Cell::new(0) }
    }

    /// How many slots are known to be free, from this side's copy alone.
    #[inline]
    pub fn known_free(&self) -> u64 {
        self.slots - (self.published.get() - self.released.get())
    }

    /// Whether nothing was published yet.
    #[inline(always)]
    pub fn is_new(&self) -> bool {
        self.published.get() == 0
    }

    /// How many slots are free; looks at the receiver's counter only if none is known to be.
    #[inline(always)]
    pub fn free(&self, released: &AtomicU64) -> Result<u64, Implausible> {
        if self.known_free() == 0 {
            self.refresh(released)?;
        }
        Ok(self.known_free())
    }

    /// Reads the receiver's counter; whether it had moved.
    #[inline]
    pub fn refresh(&self, released: &AtomicU64) -> Result<bool, Implausible> {
        let now = released.load(Ordering::Acquire);
        if now == self.released.get() {
            return Ok(false);
        }
        if now < self.released.get() || now > self.published.get() {
            return Err(Implausible(now));
        }
        self.released.set(now);
        Ok(true)
    }

    /// Takes over a count of the receiver's that came another way; it may be older than what this side knows.
    #[inline]
    pub fn learn(&self, released: u64) -> Result<(), Implausible> {
        if released > self.published.get() {
            return Err(Implausible(released));
        }
        self.released.set(self.released.get().max(released));
        Ok(())
    }

    /// The slot that the next message goes to.
    #[inline]
    pub fn index(&self) -> usize {
        self.index.get()
    }

    /// Makes what was written to the slot at [`index`](Self::index) the next message; `mark` is that slot's.
    ///
    /// # Panics
    ///
    /// If no slot is known to be free.
    #[inline(always)]
    pub fn publish(&self, mark: &AtomicU64) {
        assert!(self.known_free() > 0, "published without a free slot");
        let published = self.published.get() + 1;
        self.published.set(published);
        let next = self.index.get() + 1;
        self.index.set(if next as u64 == self.slots { 0 } else { next });
        mark.store(published, Ordering::Release);
    }
}

/// The receiver's side of a ring.
#[derive(Clone, Debug)]
pub struct ReceiveCursor {
    landed: Cell<u64>,
    released: Cell<u64>,
    slots: u64,
    /// `landed % slots`.
    next: Cell<usize>,
    /// `released % slots`.
    index: Cell<usize>,
}

impl ReceiveCursor {
    /// The receiver's side of a new ring of `slots` slots.
    pub fn new(slots: usize) -> Self {
        let (landed, released) = (Cell::new(0), Cell::new(0));
        ReceiveCursor { landed, released, slots: slots as u64, next: Cell::new(0), index: Cell::new(0) }
    }

    /// How many messages have landed, from this side's copy alone.
    #[inline]
    pub fn landed(&self) -> u64 {
        self.landed.get()
    }

    /// How many messages have been released.
    #[inline]
    pub fn released(&self) -> u64 {
        self.released.get()
    }

    /// The slot that the next message will land in.
    #[inline]
    pub fn next(&self) -> usize {
        self.next.get()
    }

    /// Reads the mark of the slot at [`next`](Self::next); whether the next message has landed.
    #[inline]
    pub fn refresh(&self, mark: &AtomicU64) -> Result<bool, Implausible> {
        let now = mark.load(Ordering::Acquire);
        let awaited = self.landed.get() + 1;
        if now != awaited {
            // What the slot held before, if anything.
            return if now == awaited.saturating_sub(self.slots) { Ok(false) } else { Err(Implausible(now)) };
        }
        self.landed.set(now);
        let next = self.next.get() + 1;
        self.next.set(if next as u64 == self.slots { 0 } else { next });
        Ok(true)
    }

    /// The slot that holds message `number`, or `None` if that message is not here (any more, or yet).
    #[inline]
    pub fn index_of(&self, number: u64) -> Option<usize> {
        if number < self.released.get() || number >= self.landed.get() {
            return None;
        }
        Some(self.ahead(number))
    }

    /// The slot of a message that is at most a ring ahead of the oldest one.
    #[inline]
    fn ahead(&self, number: u64) -> usize {
        let ahead = self.index.get() as u64 + (number - self.released.get());
        (if ahead >= self.slots { ahead - self.slots } else { ahead }) as usize
    }

    /// Gives back the slots of all messages below `upto`.
    ///
    /// # Panics
    ///
    /// If `upto` is below an earlier one or beyond what has landed.
    #[inline]
    pub fn release(&self, released: &AtomicU64, upto: u64) {
        let landed = self.landed.get();
        let before = self.released.get();
        assert!(upto >= before && upto <= landed, "released up to message {upto}, outside of {before} ..= {landed}");
        self.index.set(self.ahead(upto));
        self.released.set(upto);
        released.store(upto, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_three_counts_around_its_end() {
        let (marks, released) = ([0; 3].map(AtomicU64::new), AtomicU64::new(0));
        let (out, inc) = (SendCursor::new(3), ReceiveCursor::new(3));
        for number in 0..20u64 {
            assert!(out.free(&released).unwrap() > 0);
            assert_eq!(out.index(), (number % 3) as usize);
            assert!(!inc.refresh(&marks[inc.next()]).unwrap());
            out.publish(&marks[out.index()]);
            assert!(inc.refresh(&marks[inc.next()]).unwrap());
            assert_eq!(inc.landed(), number + 1);
            assert_eq!(inc.index_of(number), Some((number % 3) as usize));
            assert_eq!(inc.index_of(number + 1), None);
            // Leave up to two messages unreleased, so that numbers and indices wrap apart.
            if number % 2 == 1 {
                inc.release(&released, number);
                assert_eq!(inc.index_of(number - 1), None);
            }
        }
    }

    #[test]
    fn a_full_ring_has_no_free_slot_until_one_is_released() {
        let (marks, released) = ([0; 2].map(AtomicU64::new), AtomicU64::new(0));
        let (out, inc) = (SendCursor::new(2), ReceiveCursor::new(2));
        for _ in 0..2 {
            out.publish(&marks[out.index()]);
            assert!(inc.refresh(&marks[inc.next()]).unwrap());
        }
        assert_eq!(out.free(&released), Ok(0));
        assert!(!inc.refresh(&marks[inc.next()]).unwrap());
        inc.release(&released, 1);
        assert_eq!(out.free(&released), Ok(1));
    }

    #[test]
    fn counts_that_no_peer_can_have_written_are_refused_and_not_taken_over() {
        let out = SendCursor::new(2);
        out.publish(&AtomicU64::new(0));
        assert_eq!(out.refresh(&AtomicU64::new(2)), Err(Implausible(2)));
        assert_eq!(out.learn(2), Err(Implausible(2)));
        assert_eq!(out.refresh(&AtomicU64::new(1)), Ok(true));
        assert_eq!(out.refresh(&AtomicU64::new(0)), Err(Implausible(0)));
        // Old news, not a lie.
        assert_eq!(out.learn(0), Ok(()));
        assert_eq!(out.known_free(), 2);

        let inc = ReceiveCursor::new(2);
        for wrong in [2, 3, u64::MAX] {
            assert_eq!(inc.refresh(&AtomicU64::new(wrong)), Err(Implausible(wrong)));
        }
        assert_eq!(inc.refresh(&AtomicU64::new(1)), Ok(true));
        assert_eq!(inc.refresh(&AtomicU64::new(2)), Ok(true));
        // The first slot again, which held message 0.
        assert_eq!(inc.refresh(&AtomicU64::new(0)), Err(Implausible(0)));
        assert_eq!(inc.refresh(&AtomicU64::new(1)), Ok(false));
        assert_eq!(inc.landed(), 2);
    }

    #[test]
    #[should_panic(expected = "published without a free slot")]
    fn publishing_into_a_full_ring_panics() {
        let published = AtomicU64::new(0);
        let out = SendCursor::new(1);
        out.publish(&published);
        out.publish(&published);
    }

    #[test]
    #[should_panic(expected = "outside of 0 ..= 0")]
    fn releasing_what_has_not_landed_panics() {
        ReceiveCursor::new(1).release(&AtomicU64::new(0), 1);
    }
}
