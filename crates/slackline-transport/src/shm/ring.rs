//! What the two ranks of a ring do with its memory, wherever that lies: in a region, or under the model checker on the heap.

use std::cell::Cell;

use crate::cursor::{ReceiveCursor, SendCursor};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What a sender says about the message in one slot, in one cache line, so that a receiver that sees the message come has
/// it all. Each slot has a line of its own: while the receiver still looks at one, the sender's core fetches the next for
/// writing.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Mark {
    /// Counts the messages published to this ring, this one included.
    pub published: AtomicU64,
    /// The sender's `released` towards this receiver, some time before: spares its reading where both sides send.
    pub released: AtomicU64,
    /// Bytes of the message.
    pub length: AtomicU32,
}

/// Where one ring lies. All of its counters are 0 before the first use.
pub trait Memory {
    /// The bytes of a free slot.
    type Room<'e>
    where
        Self: 'e;
    /// The bytes of a message.
    type Message<'e>
    where
        Self: 'e;

    fn slots(&self) -> usize;

    fn slot_bytes(&self) -> usize;

    /// A slot's mark, written by the sender.
    fn mark(&self, index: usize) -> &Mark;

    /// The receiver's counter.
    fn released(&self) -> &AtomicU64;

    /// Lends a slot to its sender; `None` while it is lent.
    ///
    /// # Safety
    ///
    /// The slot is free: the receiver has released what was in it, and this thread has seen so. The caller does not publish
    /// the slot while it is [lent](Self::is_lent).
    unsafe fn room(&self, index: usize) -> Option<Self::Room<'_>>;

    /// Lends the first `len` bytes of a slot to its receiver.
    ///
    /// # Safety
    ///
    /// A message has landed there, and this thread has seen so; `len` is at most [`slot_bytes`](Self::slot_bytes). The caller
    /// does not release the slot while it is [lent](Self::is_lent).
    unsafe fn message(&self, index: usize, len: usize) -> Self::Message<'_>;

    /// Whether somebody holds what was lent of a slot.
    fn is_lent(&self, index: usize) -> bool;
}

/// The rings between one rank and one peer on one lane, with where this rank stands in each.
pub struct PeerRings<M> {
    out: M,
    inc: M,
    pub outgoing: SendCursor,
    pub incoming: ReceiveCursor,
    /// Messages that a look for news has told of.
    pub told: Cell<u64>,
}

impl<M: Memory> PeerRings<M> {
    /// The rings to a peer and from it.
    ///
    /// # Safety
    ///
    /// The memory is new, nothing but such pairs uses it, and of these one only sends to `out` and one only receives from it;
    /// so with `inc`.
    pub unsafe fn new(out: M, inc: M) -> Self {
        let (outgoing, incoming) = (SendCursor::new(out.slots()), ReceiveCursor::new(inc.slots()));
        PeerRings { out, inc, outgoing, incoming, told: Cell::new(0) }
    }

    /// Whether the peer has moved a counter since this rank last looked; this looks, too.
    #[inline(always)]
    pub fn refresh(&self) -> Result<bool, Corrupt> {
        Ok(self.refresh_landed()? | self.refresh_released()?)
    }

    #[inline(always)]
    pub fn refresh_landed(&self) -> Result<bool, Corrupt> {
        let mut moved = false;
        loop {
            let mark = self.inc.mark(self.incoming.next());
            if !self.incoming.refresh(&mark.published).map_err(|value| Corrupt::Published(value.0))? {
                return Ok(moved);
            }
            moved = true;
            let released = mark.released.load(Ordering::Relaxed);
            self.outgoing.learn(released).map_err(|value| Corrupt::Released(value.0))?;
            // With two slots (lag 0) ranks go in step, and the next message is never here already. A look for it would take
            // the mark's line away from the sender's core, which is about to write it.
            if self.inc.slots() <= 2 {
                return Ok(moved);
            }
        }
    }

    #[inline(always)]
    pub fn refresh_released(&self) -> Result<bool, Corrupt> {
        // Nothing is out that could be given back.
        if self.outgoing.known_free() == self.out.slots() as u64 {
            return Ok(false);
        }
        self.outgoing.refresh(self.out.released()).map_err(|value| Corrupt::Released(value.0))
    }

    #[inline(always)]
    pub fn free(&self) -> Result<u64, Corrupt> {
        self.outgoing.free(self.out.released()).map_err(|value| Corrupt::Released(value.0))
    }

    /// The next free slot; `None` if none is known to be free, or while this one is lent.
    #[inline(always)]
    pub fn room(&self) -> Option<M::Room<'_>> {
        if self.outgoing.known_free() == 0 {
            return None;
        }
        // SAFETY: the receiver has released the slot, if it ever held anything, and an acquire load saw that. This is the one
        // sender, and `publish` refuses while the slot is lent.
        unsafe { self.out.room(self.outgoing.index()) }
    }

    /// # Panics
    ///
    /// Without a free slot, while it is lent, or if `len` is more than a slot.
    #[inline(always)]
    pub fn publish(&self, len: usize) {
        assert!(len <= self.out.slot_bytes(), "published {len} bytes in a slot of {}", self.out.slot_bytes());
        assert!(self.outgoing.known_free() > 0, "published without a free slot");
        let index = self.outgoing.index();
        assert!(!self.out.is_lent(index), "published a slot whose room is held");
        let mark = self.out.mark(index);
        mark.length.store(len as u32, Ordering::Relaxed);
        mark.released.store(self.incoming.released(), Ordering::Relaxed);
        self.outgoing.publish(&mark.published);
        // Early, so that the core has the line when it is needed; the value is written again then. Not while the ring is
        // full: the next mark would still be that of a message which the receiver has not read, and it would take the count
        // from it without having seen what the count stands for.
        if self.outgoing.known_free() > 0 {
            let next = self.out.mark(self.outgoing.index());
            next.released.store(self.incoming.released(), Ordering::Relaxed);
        }
    }

    /// Message `number`; `Err` holds an impossible length instead.
    ///
    /// # Panics
    ///
    /// If that message is not here.
    #[inline(always)]
    pub fn message(&self, number: u64) -> Result<M::Message<'_>, Corrupt> {
        let (index, len) = self.place(number)?;
        // SAFETY: the message has landed (an acquire load saw that) and is not released, which `release` refuses to do while
        // the slot is lent; `len` was checked.
        Ok(unsafe { self.inc.message(index, len) })
    }

    /// The length of message `number`, as [`message`](Self::message) has it.
    #[inline(always)]
    pub fn message_len(&self, number: u64) -> Result<usize, Corrupt> {
        Ok(self.place(number)?.1)
    }

    /// Slot and length of a message.
    #[inline(always)]
    fn place(&self, number: u64) -> Result<(usize, usize), Corrupt> {
        let Some(index) = self.incoming.index_of(number) else {
            panic!("message {number} was asked for, which has been released or not landed");
        };
        let len = self.inc.mark(index).length.load(Ordering::Relaxed) as usize;
        if len > self.inc.slot_bytes() { Err(Corrupt::Length(len)) } else { Ok((index, len)) }
    }

    /// # Panics
    ///
    /// Outside of `released ..= landed`, and while a message below `upto` is held.
    #[inline(always)]
    pub fn release(&self, upto: u64) {
        for number in self.incoming.released()..upto.min(self.incoming.landed()) {
            let held = self.incoming.index_of(number).is_some_and(|index| self.inc.is_lent(index));
            assert!(!held, "message {number} was released while it is held");
        }
        self.incoming.release(self.inc.released(), upto);
    }
}

/// What a peer cannot have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    Published(u64),
    Released(u64),
    Length(usize),
}
