//! One lane of a group: what has come in from each peer, what still has to go out to each.
//!
//! Everything here is arithmetic on counters and never waits; [`Group`](crate::Group) waits.

use std::collections::VecDeque;
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, Rank};
use smallvec::SmallVec;

use crate::aligned::AlignedBytes;
use crate::header::{HEADER_BYTES, Header};
use crate::{Delivery, LaneOptions, LaneStats};

const AFTER_FAREWELL: &str = "a message after it had left";
const OUT_OF_ORDER: &str = "fragments out of order";

/// One size for each rank.
pub(crate) type Sizes = SmallVec<[usize; 8]>;

pub(crate) struct LaneState {
    pub(crate) id: Lane,
    pub(crate) options: LaneOptions,
    pub(crate) incoming: Vec<Incoming>,
    pub(crate) outgoing: Vec<Outgoing>,
    /// Rounds published by this rank; the number of the next one.
    pub(crate) begun: u64,
    /// Rounds handed out; the number of the next one.
    pub(crate) taken: u64,
    /// This rank will begin no more rounds.
    pub(crate) left: bool,
    /// What the peers have published, summed up whenever something has landed.
    arrivals: Arrivals,
    /// Some outbox is not empty.
    pub(crate) unsent: bool,
    /// The sizes of the round that has begun, and those that are declared for it (none: empty).
    pub(crate) sending: Vec<usize>,
    pub(crate) expecting: Sizes,
    /// When this rank last lingered for a round, and how many it had published then.
    pub(crate) lingered: Option<(Duration, u64)>,
    /// A round was published since the lead was noted.
    pub(crate) lead_is_due: bool,
    /// Sizes that this rank declared it would receive, by round, from the oldest that is not taken yet.
    pub(crate) expected: VecDeque<(u64, Sizes)>,
    /// A peer may be asleep for lack of a slot, so that giving slots back has to wake it. Not so while the rings have the
    /// `2 lag + 2` slots from which no rank waits for one and no message was in fragments.
    pub(crate) peers_may_lack_slots: bool,
    pub(crate) stats: LaneStats,
}

/// The peers' rounds, summed up. A peer that has left counts as having published all rounds, as empty ones.
#[derive(Clone, Copy, Default)]
struct Arrivals {
    /// Rounds that every rank has published, this one included.
    all: u64,
    /// Rounds that every other rank has published.
    others: u64,
    /// Rounds that some rank has published, in fact.
    any: u64,
}

/// What has come from one peer.
pub(crate) struct Incoming {
    /// Slots looked at.
    scanned: u64,
    /// Slots given back.
    released: u64,
    /// Whole messages, which is the number of rounds that the peer has published as far as this rank has seen.
    pub(crate) arrived: u64,
    /// The peer has left: it publishes no round from `arrived` on.
    pub(crate) left: bool,
    /// The messages of rounds `taken .. arrived` are the slots `released .. scanned`, one each, and `queue` is empty. So it
    /// is while no message is larger than a slot.
    plain: bool,
    /// The messages of rounds `taken .. arrived`, unless they are plain.
    queue: VecDeque<Message>,
    partial: Option<Partial>,
}

/// A whole message that has not been given back.
enum Message {
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

/// What has to go to one peer.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// Published messages that did not fit the free slots, oldest first. A round begins only when this is empty, so that
    /// it never holds more than one message and the farewell.
    outbox: VecDeque<Unsent>,
    /// Memory of [`stage`](Self::stage).
    stage: AlignedBytes,
}

struct Unsent {
    header: Header,
    bytes: AlignedBytes,
}

impl LaneState {
    pub(crate) fn new(id: Lane, options: LaneOptions, ranks: usize, slots: usize) -> Self {
        LaneState {
            id,
            options,
            incoming: (0..ranks).map(|_| Incoming::new()).collect(),
            outgoing: (0..ranks).map(|_| Outgoing::default()).collect(),
            begun: 0,
            taken: 0,
            left: false,
            arrivals: Arrivals { others: if ranks == 1 { u64::MAX } else { 0 }, ..Arrivals::default() },
            unsent: false,
            sending: vec![0; ranks],
            expecting: Sizes::new(),
            lingered: None,
            lead_is_due: false,
            expected: VecDeque::new(),
            peers_may_lack_slots: slots < options.slots(),
            stats: LaneStats::default(),
        }
    }

    /// Takes in what has landed and sends what waits for slots. `Ok(true)`: peers are to be notified; `Err` names the peer
    /// that broke the protocol and how.
    #[inline(always)]
    pub(crate) fn progress<E: Endpoint>(&mut self, endpoint: &mut E) -> Result<bool, (Rank, &'static str)> {
        endpoint.progress();
        let (mut news, mut moved) = (false, false);
        for (from, incoming) in self.incoming.iter_mut().enumerate() {
            let landed = endpoint.landed(self.id, from);
            if landed != incoming.scanned {
                let fragments = incoming
                    .scan(endpoint, self.id, from, landed, &mut self.stats.bytes_received)
                    .map_err(|why| (from, why))?;
                self.peers_may_lack_slots |= fragments;
                moved |= fragments;
                news = true;
            }
        }
        if news {
            self.sum_up(endpoint.rank());
        }
        if self.unsent {
            moved |= self.pump(endpoint);
        }
        Ok(moved)
    }

    /// Brings [`Arrivals`] up to date.
    #[inline(always)]
    fn sum_up(&mut self, own: Rank) {
        let mut sum = Arrivals { all: u64::MAX, others: u64::MAX, any: 0 };
        for (from, peer) in self.incoming.iter().enumerate() {
            let upto = if peer.left { u64::MAX } else { peer.arrived };
            sum.all = sum.all.min(upto);
            sum.others = sum.others.min(if from == own { u64::MAX } else { upto });
            sum.any = sum.any.max(peer.arrived);
        }
        self.arrivals = sum;
    }

    /// Sends what waits for slots; `true` where something went.
    #[cold]
    fn pump<E: Endpoint>(&mut self, endpoint: &mut E) -> bool {
        let mut moved = false;
        for (to, outgoing) in self.outgoing.iter_mut().enumerate() {
            moved |= outgoing.pump(endpoint, self.id, to);
        }
        self.unsent = self.outgoing.iter().any(|outgoing| !outgoing.is_empty());
        moved
    }

    /// All messages of the next round are here; a peer that has left counts as having sent nothing.
    #[inline]
    pub(crate) fn complete(&self) -> bool {
        self.arrivals.all > self.taken
    }

    /// Every rank has left, and every round has been handed out.
    #[inline]
    pub(crate) fn finished(&self) -> bool {
        self.left && self.arrivals.all == u64::MAX && self.arrivals.any <= self.taken
    }

    /// This rank has published a round or left, and the lane is not over for it.
    pub(crate) fn in_use(&self) -> bool {
        (self.begun > 0 || self.left) && (self.unsent || !self.finished())
    }

    /// Rounds published and handed out so far.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.begun, self.taken)
    }

    /// The next round has to be handed out before this rank may go on.
    #[inline]
    pub(crate) fn due(&self) -> bool {
        if self.left { !self.finished() } else { self.taken + (self.options.lag as u64) < self.begun }
    }

    /// The next round may be handed out now.
    #[inline]
    pub(crate) fn ready(&self) -> bool {
        let wanted = match self.options.delivery {
            Delivery::Elastic => self.left || self.outstanding(),
            Delivery::Fixed => self.due(),
        };
        wanted && self.complete() && !self.finished()
    }

    /// Only the newest round is not handed out yet, and elastic delivery may hand it out as soon as it is complete.
    #[inline]
    pub(crate) fn may_linger(&self) -> bool {
        self.options.delivery == Delivery::Elastic && !self.left && self.begun == self.taken + 1
    }

    /// Rounds that this rank has published are not handed out yet.
    #[inline]
    pub(crate) fn outstanding(&self) -> bool {
        self.taken < self.begun
    }

    /// The peers without which the next round is not complete.
    pub(crate) fn missing(&self) -> Vec<Rank> {
        let out = |peer: &Incoming| peer.arrived <= self.taken && !peer.left;
        self.incoming.iter().enumerate().filter(|(_, peer)| out(peer)).map(|(rank, _)| rank).collect()
    }

    /// A round can begin without waiting: each peer has a free slot and nothing older waits for one.
    #[inline(always)]
    pub(crate) fn has_credit<E: Endpoint>(&self, endpoint: &mut E) -> bool {
        !self.unsent && (0..self.outgoing.len()).all(|to| endpoint.free_slots(self.id, to) > 0)
    }

    /// The peers that keep a round from beginning.
    pub(crate) fn without_credit<E: Endpoint>(&self, endpoint: &mut E) -> Vec<Rank> {
        let full = |(to, out): &(Rank, &Outgoing)| !out.outbox.is_empty() || endpoint.free_slots(self.id, *to) == 0;
        self.outgoing.iter().enumerate().filter(full).map(|(rank, _)| rank).collect()
    }

    /// Rounds by which this rank is ahead of its slowest peer that has not left.
    #[inline]
    pub(crate) fn lead(&self) -> u64 {
        self.begun.saturating_sub(self.arrivals.others)
    }

    /// Notes how far ahead this rank is, once a round: on the first look at what has landed after it was published.
    #[inline(always)]
    pub(crate) fn record_lead(&mut self) {
        if std::mem::take(&mut self.lead_is_due) {
            let lead = self.lead();
            self.stats.record_lead(lead as usize);
        }
    }

    /// The message of the next round from `from`; empty where that rank has left.
    #[inline]
    pub(crate) fn message<'a, E: Endpoint>(&'a self, endpoint: &'a E, from: Rank) -> &'a [u8] {
        let incoming = &self.incoming[from];
        if incoming.plain {
            let here = incoming.released < incoming.scanned;
            return if here { endpoint.message(self.id, from, incoming.released) } else { &[] };
        }
        match incoming.queue.front() {
            Some(Message::InPlace(slot)) => endpoint.message(self.id, from, *slot),
            Some(Message::Copied(bytes)) => bytes,
            None => &[],
        }
    }

    /// Forgets the round that has been handed out and gives its slots back.
    #[inline(always)]
    pub(crate) fn pop_round<E: Endpoint>(&mut self, endpoint: &mut E) {
        for (from, incoming) in self.incoming.iter_mut().enumerate() {
            incoming.pop(endpoint, self.id, from);
        }
        self.taken += 1;
        self.stats.taken += 1;
        while self.expected.front().is_some_and(|(round, _)| *round < self.taken) {
            self.expected.pop_front();
        }
    }
}

impl Incoming {
    fn new() -> Self {
        Incoming {
            scanned: 0,
            released: 0,
            arrived: 0,
            left: false,
            plain: true,
            queue: VecDeque::new(),
            partial: None,
        }
    }

    /// Looks at every slot that has landed since the last time, and counts the bytes of whole messages; `Ok(true)` where
    /// some slots need not be kept for a whole message.
    #[inline(always)]
    fn scan<E: Endpoint>(
        &mut self,
        endpoint: &mut E,
        lane: Lane,
        from: Rank,
        landed: u64,
        bytes: &mut u64,
    ) -> Result<bool, &'static str> {
        let slot_bytes = endpoint.shape().lanes[lane.index()].slot_bytes;
        while self.plain && self.scanned < landed {
            let length = endpoint.message(lane, from, self.scanned).len();
            if length == slot_bytes || self.left {
                return self.scan_fragments(endpoint, lane, from, landed, bytes);
            }
            *bytes += length as u64;
            self.arrived += 1;
            self.scanned += 1;
        }
        if self.plain { Ok(false) } else { self.scan_fragments(endpoint, lane, from, landed, bytes) }
    }

    /// The same, where some slots hold something else than a whole message.
    #[cold]
    fn scan_fragments<E: Endpoint>(
        &mut self,
        endpoint: &mut E,
        lane: Lane,
        from: Rank,
        landed: u64,
        bytes: &mut u64,
    ) -> Result<bool, &'static str> {
        if std::mem::take(&mut self.plain) {
            self.queue.extend((self.released..self.scanned).map(Message::InPlace));
        }
        let slots = endpoint.shape().lanes[lane.index()];
        let mut spent = false;
        while self.scanned < landed {
            let slot = endpoint.message(lane, from, self.scanned);
            if slot.len() < slots.slot_bytes {
                if self.partial.is_some() || self.left {
                    return Err(if self.left { AFTER_FAREWELL } else { OUT_OF_ORDER });
                }
                *bytes += slot.len() as u64;
                self.queue.push_back(Message::InPlace(self.scanned));
                self.arrived += 1;
            } else {
                *bytes += self.accept(slot)?;
                spent = true;
            }
            self.scanned += 1;
        }
        if self.scanned - self.released == slots.slots as u64 {
            spent |= self.unblock(endpoint, lane, from);
        }
        if spent {
            self.give_back(endpoint, lane, from);
        }
        Ok(spent)
    }

    /// Takes in a full slot: a fragment or the farewell. Returns the bytes of the message that it makes whole.
    fn accept(&mut self, slot: &[u8]) -> Result<u64, &'static str> {
        let (header, fragment) = Header::read(slot)?;
        let total = usize::try_from(header.total).map_err(|_| "a message larger than memory")?;
        if self.left {
            return Err(AFTER_FAREWELL);
        }
        if header.round != self.arrived {
            return Err("a message of the wrong round");
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
            self.queue.push_back(Message::Copied(whole.data));
            self.arrived += 1;
            return Ok(header.total);
        }
        Ok(0)
    }

    /// In a full ring, moves whole messages out of the way of fragments; `true` where it did.
    ///
    /// Slots are given back in order, so a whole message keeps the spent slots behind it from being used again. It may be
    /// waiting for a round that cannot complete before its sender, which has no slot left, gets on. A ring that is full of
    /// whole messages only is left alone: that is the state that `k + 1` slots exclude.
    fn unblock<E: Endpoint>(&mut self, endpoint: &E, lane: Lane, from: Rank) -> bool {
        let whole = self.queue.iter().filter(|message| matches!(message, Message::InPlace(_))).count() as u64;
        if whole == 0 || whole == self.scanned - self.released {
            return false;
        }
        for message in &mut self.queue {
            if let Message::InPlace(slot) = *message {
                *message = Message::Copied(endpoint.message(lane, from, slot).into());
            }
        }
        true
    }

    /// Forgets the oldest message and gives its slot back.
    #[inline(always)]
    fn pop<E: Endpoint>(&mut self, endpoint: &mut E, lane: Lane, from: Rank) {
        if !self.plain {
            self.queue.pop_front();
            self.give_back(endpoint, lane, from);
            self.plain = self.queue.is_empty() && self.partial.is_none();
        } else if self.released < self.scanned {
            self.released += 1;
            endpoint.release(lane, from, self.released);
        }
    }

    /// Gives back every slot in front of the oldest message that is still in the ring: all of them, if none is.
    #[cold]
    fn give_back<E: Endpoint>(&mut self, endpoint: &mut E, lane: Lane, from: Rank) {
        let held = self.queue.iter().find_map(|message| match message {
            Message::InPlace(slot) => Some(*slot),
            Message::Copied(_) => None,
        });
        let upto = held.unwrap_or(self.scanned);
        if upto != self.released {
            endpoint.release(lane, from, upto);
            self.released = upto;
        }
    }

    /// Bytes of an incomplete message that are here, and how many it has in all.
    pub(crate) fn partial_bytes(&self) -> Option<(u64, u64)> {
        self.partial.as_ref().map(|partial| (partial.data.len() as u64, partial.total as u64))
    }
}

impl Outgoing {
    /// Room for a message of `size` bytes that is larger than a slot.
    #[cold]
    pub(crate) fn stage(&mut self, size: usize) -> &mut [u8] {
        self.stage.resize(size);
        &mut self.stage
    }

    /// Queues the staged message of `round` and sends what fits now.
    #[cold]
    pub(crate) fn send_staged<E: Endpoint>(&mut self, endpoint: &mut E, lane: Lane, to: Rank, round: u64) {
        let bytes = std::mem::take(&mut self.stage);
        let header = Header { leave: false, round, total: bytes.len() as u64, offset: 0 };
        self.outbox.push_back(Unsent { header, bytes });
        self.pump(endpoint, lane, to);
    }

    /// Queues the farewell and sends it if it fits now.
    pub(crate) fn send_farewell<E: Endpoint>(&mut self, endpoint: &mut E, lane: Lane, to: Rank, round: u64) {
        let header = Header { leave: true, round, total: 0, offset: 0 };
        self.outbox.push_back(Unsent { header, bytes: AlignedBytes::default() });
        self.pump(endpoint, lane, to);
    }

    /// Sends as many fragments as there are free slots; `true` where something was published.
    fn pump<E: Endpoint>(&mut self, endpoint: &mut E, lane: Lane, to: Rank) -> bool {
        let mut moved = false;
        while let Some(unsent) = self.outbox.front_mut() {
            if endpoint.free_slots(lane, to) == 0 {
                break;
            }
            let mut rooms = endpoint.rooms(lane);
            let room = &mut *rooms[to];
            let full = room.len();
            let sent = unsent.header.offset as usize;
            let length = (unsent.bytes.len() - sent).min(full - HEADER_BYTES);
            unsent.header.write(room);
            room[HEADER_BYTES..HEADER_BYTES + length].copy_from_slice(&unsent.bytes[sent..sent + length]);
            drop(rooms);
            endpoint.publish(lane, to, full);
            moved = true;
            unsent.header.offset += length as u64;
            if unsent.header.offset == unsent.header.total {
                let sent = self.outbox.pop_front().expect("what was just sent");
                // Keep the allocation for the next message that is larger than a slot.
                if self.stage.is_unallocated() {
                    self.stage = sent.bytes;
                }
            }
        }
        moved
    }

    /// Nothing that was published to this peer still waits for slots.
    pub(crate) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }
}
