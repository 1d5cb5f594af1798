//! The receiving end of a stream.

use std::collections::VecDeque;

use slackline_transport::{Endpoint, Lane, LaneShape, Message, Rank};

use super::aligned::AlignedBytes;
use super::header::Header;

const AFTER_FAREWELL: &str = "a message after it had left";
const OUT_OF_ORDER: &str = "fragments out of order";

/// What has come from one peer on one lane.
pub(crate) struct Incoming {
    lane: Lane,
    from: Rank,
    slots: LaneShape,
    /// Slots looked at.
    scanned: u64,
    /// Slots that are done with and whose older ones are, too.
    released: u64,
    /// Slots given back to the sender.
    told: u64,
    /// Of the slots from `released` on, those that are done with; they wait for older ones.
    done: VecDeque<bool>,
    /// Whole messages that have come.
    arrived: u64,
    /// Whole messages that were handed out.
    taken: u64,
    /// The peer has left: no message follows.
    left: bool,
    /// The messages that were not handed out are the last slots looked at, one each, and `queue` is empty. So it is while no
    /// message is larger than a slot.
    plain: bool,
    /// The messages that were not handed out, unless they are plain.
    queue: VecDeque<Whole>,
    partial: Option<Partial>,
}

/// A whole message that was not handed out.
enum Whole {
    /// In the ring, in this slot.
    InPlace(u64),
    /// Put together from fragments, or moved out of their way.
    Copied(AlignedBytes),
}

/// A message of which some fragments have come.
struct Partial {
    total: usize,
    data: AlignedBytes,
}

/// A message that was handed out. One in place is to be [given back](Incoming::give_back).
pub(crate) enum Received<'e> {
    /// Where it landed, and in which slot.
    InPlace(Message<'e>, u64),
    /// In memory of this rank, boxed, so that a message in place is small. `None`: its sender had left.
    Copied(Option<Box<AlignedBytes>>),
}

impl Received<'_> {
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Received::InPlace(message, _) => message,
            Received::Copied(bytes) => bytes.as_deref().map_or(&[], |bytes| bytes),
        }
    }
}

impl Incoming {
    pub(crate) fn new(lane: Lane, from: Rank, slots: LaneShape) -> Self {
        Incoming {
            lane,
            from,
            slots,
            scanned: 0,
            released: 0,
            told: 0,
            done: VecDeque::new(),
            arrived: 0,
            taken: 0,
            left: false,
            plain: true,
            queue: VecDeque::new(),
            partial: None,
        }
    }

    /// Slots looked at so far.
    #[inline(always)]
    pub(crate) fn scanned(&self) -> u64 {
        self.scanned
    }

    /// Whole messages that have come so far.
    #[inline(always)]
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whole messages that have come and were not handed out.
    #[inline(always)]
    pub(crate) fn waiting(&self) -> u64 {
        self.arrived - self.taken
    }

    /// The peer has left: it sends nothing from message `arrived` on.
    #[inline(always)]
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// All that is here is in slots, one for each message, as far as is known.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Bytes of an incomplete message that are here, and how many it has in all.
    pub(crate) fn partial_bytes(&self) -> Option<(u64, u64)> {
        self.partial.as_ref().map(|partial| (partial.data.len() as u64, partial.total as u64))
    }

    /// Looks at every slot up to `landed` that it has not looked at, and counts the bytes of whole messages; `Ok(true)` where
    /// slots were given back, `Err` says how the peer broke the protocol.
    #[inline(always)]
    pub(crate) fn scan(
        &mut self,
        endpoint: &impl Endpoint,
        landed: u64,
        bytes: &mut u64,
    ) -> Result<bool, &'static str> {
        while self.plain && self.scanned < landed {
            let length = endpoint.message_len(self.lane, self.from, self.scanned);
            if length == self.slots.slot_bytes || self.left {
                return self.scan_fragments(endpoint, landed, bytes);
            }
            *bytes += length as u64;
            self.arrived += 1;
            self.scanned += 1;
        }
        if self.plain { Ok(false) } else { self.scan_fragments(endpoint, landed, bytes) }
    }

    /// The same, where some slots hold something else than a whole message.
    #[cold]
    fn scan_fragments(&mut self, endpoint: &impl Endpoint, landed: u64, bytes: &mut u64) -> Result<bool, &'static str> {
        if std::mem::take(&mut self.plain) {
            self.queue.extend((self.scanned - self.waiting()..self.scanned).map(Whole::InPlace));
        }
        let released = self.released;
        while self.scanned < landed {
            let number = self.scanned;
            let slot = endpoint.message(self.lane, self.from, number);
            self.scanned += 1;
            if slot.len() < self.slots.slot_bytes {
                if self.left {
                    return Err(AFTER_FAREWELL);
                }
                if self.partial.is_some() {
                    return Err(OUT_OF_ORDER);
                }
                *bytes += slot.len() as u64;
                self.queue.push_back(Whole::InPlace(number));
                self.arrived += 1;
            } else {
                *bytes += self.accept(&slot)?;
                drop(slot);
                self.give_back_slot(endpoint, number);
            }
        }
        if self.scanned - self.released == self.slots.slots as u64 && self.done.contains(&true) {
            self.unblock(endpoint);
        }
        Ok(self.released != released)
    }

    /// Takes in a full slot: a fragment or the farewell. Returns the bytes of the message that it makes whole.
    fn accept(&mut self, slot: &[u8]) -> Result<u64, &'static str> {
        let (header, fragment) = Header::read(slot)?;
        let total = usize::try_from(header.total).map_err(|_| "a message larger than memory")?;
        if self.left {
            return Err(AFTER_FAREWELL);
        }
        if header.number != self.arrived {
            return Err("a message of the wrong number");
        }
        if header.leave {
            if self.partial.is_some() || total != 0 {
                return Err("a farewell within a message");
            }
            self.left = true;
            return Ok(0);
        }
        match &mut self.partial {
            // Grown as bytes come, never by what a header claims.
            None if header.offset == 0 => {
                let mut data = AlignedBytes::default();
                data.append(fragment, total);
                self.partial = Some(Partial { total, data });
            }
            Some(partial) if partial.total == total && header.offset == partial.data.len() as u64 => {
                partial.data.append(fragment, total);
            }
            _ => return Err(OUT_OF_ORDER),
        }
        if let Some(whole) = self.partial.take_if(|partial| partial.data.len() == partial.total) {
            self.queue.push_back(Whole::Copied(whole.data));
            self.arrived += 1;
            return Ok(header.total);
        }
        Ok(0)
    }

    /// In a full ring, moves whole messages out of the way of fragments.
    ///
    /// Slots are given back in order, so a whole message keeps the spent slots behind it from being used again. It may be
    /// waiting for a round that cannot complete before its sender, which has no slot left, gets on. A ring that is full of
    /// whole messages only is left alone: that is the state that `k + 1` slots exclude.
    fn unblock(&mut self, endpoint: &impl Endpoint) {
        let (lane, from) = (self.lane, self.from);
        let mut moved = Vec::new();
        for whole in &mut self.queue {
            if let Whole::InPlace(slot) = *whole {
                *whole = Whole::Copied((&*endpoint.message(lane, from, slot)).into());
                moved.push(slot);
            }
        }
        for slot in moved {
            self.give_back_slot(endpoint, slot);
        }
    }

    /// The oldest message that was not handed out; no bytes if there is none.
    #[inline(always)]
    pub(crate) fn take<'e, E: Endpoint>(&mut self, endpoint: &'e E) -> Received<'e> {
        if self.waiting() == 0 {
            return Received::Copied(None);
        }
        let slot = if self.plain { self.scanned - self.waiting() } else { return self.take_queued(endpoint) };
        self.taken += 1;
        Received::InPlace(endpoint.message(self.lane, self.from, slot), slot)
    }

    #[cold]
    fn take_queued<'e, E: Endpoint>(&mut self, endpoint: &'e E) -> Received<'e> {
        let whole = self.queue.pop_front().expect("a message that waits is in the queue");
        self.taken += 1;
        self.plain = self.queue.is_empty() && self.partial.is_none();
        match whole {
            Whole::InPlace(slot) => Received::InPlace(endpoint.message(self.lane, self.from, slot), slot),
            Whole::Copied(bytes) => Received::Copied(Some(Box::new(bytes))),
        }
    }

    /// Whether the oldest message that was not handed out has no bytes, or there is none.
    pub(crate) fn next_is_empty(&self, endpoint: &impl Endpoint) -> bool {
        let slot = match self.queue.front() {
            Some(Whole::Copied(bytes)) => return bytes.is_empty(),
            Some(Whole::InPlace(slot)) => *slot,
            None if self.waiting() == 0 => return true,
            None => self.scanned - self.waiting(),
        };
        endpoint.message_len(self.lane, self.from, slot) == 0
    }

    /// Gives back a message that was handed out, in any order: a slot that is not the oldest waits for the older ones.
    #[inline(always)]
    pub(crate) fn give_back(&mut self, endpoint: &impl Endpoint, message: Received<'_>) {
        self.done_with(&message);
        drop(message);
        self.release(endpoint);
    }

    /// The first half of giving a message back, while it is held; once it is not, [`release`](Self::release).
    #[inline(always)]
    pub(crate) fn done_with(&mut self, message: &Received<'_>) {
        if let Received::InPlace(_, slot) = *message {
            self.mark_done(slot);
        }
    }

    /// Gives back to the sender what is done with.
    #[inline(always)]
    pub(crate) fn release(&mut self, endpoint: &impl Endpoint) {
        if self.told != self.released {
            self.told = self.released;
            endpoint.release(self.lane, self.from, self.released);
        }
    }

    fn give_back_slot(&mut self, endpoint: &impl Endpoint, slot: u64) {
        self.mark_done(slot);
        self.release(endpoint);
    }

    #[inline(always)]
    fn mark_done(&mut self, slot: u64) {
        if slot == self.released && self.done.is_empty() {
            self.released += 1;
        } else {
            self.mark_done_in_order(slot);
        }
    }

    #[cold]
    fn mark_done_in_order(&mut self, slot: u64) {
        let at = (slot - self.released) as usize;
        if self.done.len() <= at {
            self.done.resize(at + 1, false);
        }
        self.done[at] = true;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.released += 1;
        }
    }
}
