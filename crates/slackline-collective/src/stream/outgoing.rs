//! The sending end of a stream.

use std::cell::RefMut;
use std::collections::VecDeque;

use slackline_transport::{self as transport, Endpoint, Lane, Rank};

use super::aligned::AlignedBytes;
use super::header::{HEADER_BYTES, Header};

/// What has to go to one peer on one lane.
pub(crate) struct Outgoing {
    lane: Lane,
    to: Rank,
    /// Messages published so far.
    published: u64,
    /// Published messages that did not fit the free slots, oldest first. There is [room](Self::room) only when this is empty,
    /// so it never holds more than one message and the farewell.
    outbox: VecDeque<Unsent>,
    /// Memory for the next message that is larger than a slot.
    spare: AlignedBytes,
}

struct Unsent {
    header: Header,
    bytes: AlignedBytes,
}

/// Room for one message.
pub(crate) enum Room<'e> {
    /// In a slot.
    InPlace(transport::Room<'e>),
    /// Memory of this rank, for a message that does not fit a slot. Boxed, so that a room in a slot is small.
    Staged(Box<AlignedBytes>),
}

impl Room<'_> {
    #[inline(always)]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Room::InPlace(bytes) => bytes,
            Room::Staged(bytes) => bytes,
        }
    }

    #[inline(always)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Room::InPlace(bytes) => bytes,
            Room::Staged(bytes) => bytes,
        }
    }
}

impl Outgoing {
    pub(crate) fn new(lane: Lane, to: Rank) -> Self {
        Outgoing { lane, to, published: 0, outbox: VecDeque::new(), spare: AlignedBytes::default() }
    }

    /// Messages published so far.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Nothing that was published still waits for slots.
    #[inline]
    pub(crate) fn is_sent(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether a message can begin: a slot is free, and nothing older waits for one.
    #[inline(always)]
    pub(crate) fn has_credit(&self, endpoint: &impl Endpoint) -> bool {
        self.outbox.is_empty() && endpoint.free_slots(self.lane, self.to) > 0
    }

    /// Room for the next message, of `size` bytes, if nothing older waits for slots. `None` without a slot that is known
    /// to be free, and while a room towards this peer is lent.
    #[inline(always)]
    pub(crate) fn room<'e, E: Endpoint>(&mut self, endpoint: &'e E, size: usize) -> Option<Room<'e>> {
        let slot = endpoint.room(self.lane, self.to)?;
        if size < slot.len() {
            Some(Room::InPlace(RefMut::map(slot, |slot| &mut slot[..size])))
        } else {
            Some(self.stage(size))
        }
    }

    /// The same, once the endpoint has looked whether slots have come back.
    #[cold]
    pub(crate) fn look_for_room<'e, E: Endpoint>(&mut self, endpoint: &'e E, size: usize) -> Option<Room<'e>> {
        if endpoint.free_slots(self.lane, self.to) > 0 { self.room(endpoint, size) } else { None }
    }

    #[cold]
    fn stage<'e>(&mut self, size: usize) -> Room<'e> {
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.resize(size);
        Room::Staged(Box::new(bytes))
    }

    /// Takes back a room that is not published.
    pub(crate) fn take_back(&mut self, room: Room<'_>) {
        if let Room::Staged(bytes) = room {
            self.spare = *bytes;
        }
    }

    /// Sends what is in the room; `true` where some of it waits for slots.
    #[inline(always)]
    pub(crate) fn publish(&mut self, endpoint: &impl Endpoint, room: Room<'_>) -> bool {
        match room {
            Room::InPlace(bytes) => {
                let size = bytes.len();
                drop(bytes);
                endpoint.publish(self.lane, self.to, size);
                self.published += 1;
                false
            }
            Room::Staged(bytes) => self.publish_staged(endpoint, *bytes),
        }
    }

    #[cold]
    fn publish_staged(&mut self, endpoint: &impl Endpoint, bytes: AlignedBytes) -> bool {
        let header = Header { leave: false, number: self.published, total: bytes.len() as u64, offset: 0 };
        self.published += 1;
        self.outbox.push_back(Unsent { header, bytes });
        self.pump(endpoint);
        !self.is_sent()
    }

    /// Sends the farewell, as soon as it fits.
    pub(crate) fn leave(&mut self, endpoint: &impl Endpoint) {
        let header = Header { leave: true, number: self.published, total: 0, offset: 0 };
        self.outbox.push_back(Unsent { header, bytes: AlignedBytes::default() });
        self.pump(endpoint);
    }

    /// Sends as many fragments as there are free slots; `true` where something was published.
    pub(crate) fn pump(&mut self, endpoint: &impl Endpoint) -> bool {
        let mut moved = false;
        while let Some(unsent) = self.outbox.front_mut() {
            if endpoint.free_slots(self.lane, self.to) == 0 {
                break;
            }
            let Some(mut slot) = endpoint.room(self.lane, self.to) else { break };
            let full = slot.len();
            let sent = unsent.header.offset as usize;
            let length = (unsent.bytes.len() - sent).min(full - HEADER_BYTES);
            unsent.header.write(&mut slot);
            slot[HEADER_BYTES..HEADER_BYTES + length].copy_from_slice(&unsent.bytes[sent..sent + length]);
            drop(slot);
            endpoint.publish(self.lane, self.to, full);
            moved = true;
            unsent.header.offset += length as u64;
            if unsent.header.offset == unsent.header.total {
                let sent = self.outbox.pop_front().expect("what was just sent");
                // Keep the allocation for the next message that is larger than a slot.
                if self.spare.is_unallocated() {
                    self.spare = sent.bytes;
                }
            }
        }
        moved
    }
}
