//! Where each side of a ring stands: the arithmetic on counters, without the memory.
//!
//! A ring has two counters in shared memory, each with one writer: how many messages were *published* (written by the
//! sender) and how many slots were *released* (written by the receiver). They only grow; their difference is the number
//! of slots in use. The two types here are each side's own copy of both, so that neither side touches the other's cache
//! line without need, and no counter is ever updated by a read-modify-write.
//!
//! The publisher writes a message and then stores `published` with release; the receiver loads it with acquire and then
//! reads the message. The same pair on `released` hands the slot back: the sender writes it again only after an acquire
//! load that saw the receiver's release store.

use crate::sync::{AtomicU64, Ordering};

/// A counter in shared memory holds a value that its writer cannot have put there: it went backwards, or past the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Implausible(pub u64);

/// The sender's side of a ring.
#[derive(Clone, Debug)]
pub struct Outgoing {
    published: u64,
    /// `released` as last read.
    released: u64,
    slots: u64,
    /// `published % slots`, kept by counting, since a division costs more than the rest of a publish.
    index: usize,
}

impl Outgoing {
    /// The sender's side of a new ring of `slots` slots.
    pub fn new(slots: usize) -> Self {
        Outgoing { published: 0, released: 0, slots: slots as u64, index: 0 }
    }

    /// How many slots are known to be free, from this side's copy alone.
    #[inline]
    pub fn known_free(&self) -> u64 {
        self.slots - (self.published - self.released)
    }

    /// How many slots are free; looks at the receiver's counter only if none is known to be.
    #[inline]
    pub fn free(&mut self, released: &AtomicU64) -> Result<u64, Implausible> {
        if self.known_free() == 0 {
            self.refresh(released)?;
        }
        Ok(self.known_free())
    }

    /// Reads the receiver's counter; whether it had moved.
    #[inline]
    pub fn refresh(&mut self, released: &AtomicU64) -> Result<bool, Implausible> {
        let now = released.load(Ordering::Acquire);
        if now == self.released {
            return Ok(false);
        }
        if now < self.released || now > self.published {
            return Err(Implausible(now));
        }
        self.released = now;
        Ok(true)
    }

    /// The slot that the next message goes to.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Makes what was written to the slot at [`index`](Self::index) the next message.
    ///
    /// # Panics
    ///
    /// If no slot is known to be free.
    #[inline]
    pub fn publish(&mut self, published: &AtomicU64) {
        assert!(self.known_free() > 0, "published without a free slot");
        self.published += 1;
        self.index += 1;
        if self.index as u64 == self.slots {
            self.index = 0;
        }
        published.store(self.published, Ordering::Release);
    }
}

/// The receiver's side of a ring.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// `published` as last read.
    landed: u64,
    released: u64,
    slots: u64,
    /// `released % slots`.
    index: usize,
}

impl Incoming {
    /// The receiver's side of a new ring of `slots` slots.
    pub fn new(slots: usize) -> Self {
        Incoming { landed: 0, released: 0, slots: slots as u64, index: 0 }
    }

    /// How many messages have landed, from this side's copy alone.
    #[inline]
    pub fn landed(&self) -> u64 {
        self.landed
    }

    /// Reads the sender's counter; whether it had moved.
    #[inline]
    pub fn refresh(&mut self, published: &AtomicU64) -> Result<bool, Implausible> {
        let now = published.load(Ordering::Acquire);
        if now == self.landed {
            return Ok(false);
        }
        if now < self.landed || now - self.released > self.slots {
            return Err(Implausible(now));
        }
        self.landed = now;
        Ok(true)
    }

    /// The slot that holds message `number`, or `None` if that message is not here (any more, or yet).
    #[inline]
    pub fn index_of(&self, number: u64) -> Option<usize> {
        if number < self.released || number >= self.landed {
            return None;
        }
        let ahead = self.index as u64 + (number - self.released);
        Some(if ahead >= self.slots { ahead - self.slots } else { ahead } as usize)
    }

    /// Gives back the slots of all messages below `upto`.
    ///
    /// # Panics
    ///
    /// If `upto` is below an earlier one or beyond what has landed.
    #[inline]
    pub fn release(&mut self, released: &AtomicU64, upto: u64) {
        assert!(
            upto >= self.released && upto <= self.landed,
            "released up to message {upto}, outside of {} ..= {}",
            self.released,
            self.landed
        );
        let ahead = self.index as u64 + (upto - self.released);
        self.index = if ahead >= self.slots { ahead - self.slots } else { ahead } as usize;
        self.released = upto;
        released.store(upto, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_of_three_counts_around_its_end() {
        let (published, released) = (AtomicU64::new(0), AtomicU64::new(0));
        let (mut out, mut inc) = (Outgoing::new(3), Incoming::new(3));
        for number in 0..20u64 {
            assert!(out.free(&released).unwrap() > 0);
            assert_eq!(out.index(), (number % 3) as usize);
            out.publish(&published);
            assert!(inc.refresh(&published).unwrap());
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
        let (published, released) = (AtomicU64::new(0), AtomicU64::new(0));
        let (mut out, mut inc) = (Outgoing::new(2), Incoming::new(2));
        out.publish(&published);
        out.publish(&published);
        assert_eq!(out.free(&released), Ok(0));
        inc.refresh(&published).unwrap();
        inc.release(&released, 1);
        assert_eq!(out.free(&released), Ok(1));
    }

    #[test]
    fn counters_that_no_peer_can_have_written_are_refused_and_not_taken_over() {
        let mut out = Outgoing::new(2);
        out.publish(&AtomicU64::new(0));
        assert_eq!(out.refresh(&AtomicU64::new(2)), Err(Implausible(2)));
        assert_eq!(out.refresh(&AtomicU64::new(1)), Ok(true));
        assert_eq!(out.refresh(&AtomicU64::new(0)), Err(Implausible(0)));
        assert_eq!(out.known_free(), 2);

        let mut inc = Incoming::new(2);
        assert_eq!(inc.refresh(&AtomicU64::new(3)), Err(Implausible(3)));
        assert_eq!(inc.refresh(&AtomicU64::new(u64::MAX)), Err(Implausible(u64::MAX)));
        assert_eq!(inc.refresh(&AtomicU64::new(2)), Ok(true));
        assert_eq!(inc.refresh(&AtomicU64::new(1)), Err(Implausible(1)));
        assert_eq!(inc.landed(), 2);
    }

    #[test]
    #[should_panic(expected = "published without a free slot")]
    fn publishing_into_a_full_ring_panics() {
        let published = AtomicU64::new(0);
        let mut out = Outgoing::new(1);
        out.publish(&published);
        out.publish(&published);
    }

    #[test]
    #[should_panic(expected = "outside of 0 ..= 0")]
    fn releasing_what_has_not_landed_panics() {
        Incoming::new(1).release(&AtomicU64::new(0), 1);
    }
}
