//! One round: room for its messages, and its messages when all have come.

use slackline_transport::{Endpoint, Rank};
use smallvec::SmallVec;

use crate::CollectiveError;
use crate::group::Group;
use crate::lane::{self, Rooms};
use crate::stream::Received;

/// Room for the messages of one round, one slice for each rank, in rank order.
pub type Messages<'a> = SmallVec<[&'a mut [u8]; 8]>;

/// A round that has begun: room for a message to every rank, this one included. If it is dropped and not published, it never
/// happened.
#[must_use = "a round that is not published never happened"]
pub struct Round<'g, E: Endpoint> {
    group: &'g Group<E>,
    lane: usize,
    number: u64,
    /// Taken out when it is published.
    rooms: Rooms<'g>,
}

/// A complete round. Its messages lie where they landed; dropping it gives their slots back.
#[must_use = "dropping a complete round gives its messages back unread"]
pub struct Complete<'g, E: Endpoint> {
    group: &'g Group<E>,
    lane: usize,
    number: u64,
    messages: lane::Messages<'g>,
}

impl<'g, E: Endpoint> Round<'g, E> {
    #[inline(always)]
    pub(super) fn new(group: &'g Group<E>, lane: usize, number: u64, rooms: Rooms<'g>) -> Self {
        Round { group, lane, number, rooms }
    }

    /// This round's number, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Declares how many bytes this rank expects from each rank in this round. If a message has another size, all ranks get an
    /// error that names both sizes, and nobody reads the message.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Count`] if there is not one size for each rank.
    pub fn expect(&mut self, sizes: &[usize]) -> Result<(), CollectiveError> {
        let ranks = self.rooms.len();
        let mut state = self.group.lanes[self.lane].borrow_mut();
        if sizes.len() != ranks {
            let lane = state.id;
            drop(state);
            return Err(self.group.refuse(self.lane, CollectiveError::Count { lane, given: sizes.len(), ranks }));
        }
        state.expecting.clear();
        state.expecting.extend_from_slice(sizes);
        Ok(())
    }

    /// Room for the message to each rank, in rank order, all borrowed together. Each has the size given to
    /// [`begin`](super::Exchange::begin), starts on a multiple of 64 bytes, and holds unspecified bytes until it is written.
    /// Room for a message that fits its slot *is* the receiver's memory where the transport shares memory.
    #[inline(always)]
    pub fn messages_mut(&mut self) -> Messages<'_> {
        let mut messages = Messages::new();
        for room in &mut self.rooms {
            messages.push(room.bytes_mut());
        }
        messages
    }

    /// Whether messages move only inside calls, so that calling [`progress`](Round::progress) while messages take long to fill
    /// helps.
    pub fn needs_progress(&self) -> bool {
        self.group.endpoint.moves_in_calls()
    }

    /// As [`Group::progress`]: receives what has landed and sends what waits for slots, without waiting.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&self) -> Result<(), CollectiveError> {
        self.group.progress()
    }

    /// Sends the messages. Does not wait: of a message larger than its slot, what fits goes now, and the rest in later calls
    /// on the group, when slots are free.
    ///
    /// # Errors
    ///
    /// None at present. It returns a `Result` for transports whose sends can fail.
    #[inline(always)]
    pub fn publish(mut self) -> Result<(), CollectiveError> {
        let mut state = self.group.lanes[self.lane].borrow_mut();
        if !state.expecting.is_empty() {
            let sizes = state.expecting.clone();
            state.expected.push_back((self.number, sizes));
        }
        state.open = false;
        state.publish(&self.group.endpoint, &mut self.rooms);
        Ok(())
    }
}

impl<E: Endpoint> Drop for Round<'_, E> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.rooms.is_empty() {
            let mut state = self.group.lanes[self.lane].borrow_mut();
            state.open = false;
            state.take_back(&mut self.rooms);
        }
    }
}

impl<'g, E: Endpoint> Complete<'g, E> {
    #[inline(always)]
    pub(super) fn new(group: &'g Group<E>, lane: usize, number: u64, messages: lane::Messages<'g>) -> Self {
        Complete { group, lane, number, messages }
    }

    /// The round's number, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What `from` sent to this rank in this round, in place; empty if `from` had left. A message of at least one byte starts on
    /// a multiple of 64 bytes.
    ///
    /// # Panics
    ///
    /// If the group has no such rank.
    #[inline]
    pub fn message(&self, from: Rank) -> &[u8] {
        self.messages[from].bytes()
    }

    /// All messages, in rank order.
    pub fn messages(&self) -> SmallVec<[&[u8]; 8]> {
        self.messages.iter().map(Received::bytes).collect()
    }
}

impl<E: Endpoint> Drop for Complete<'_, E> {
    #[inline(always)]
    fn drop(&mut self) {
        let mut state = self.group.lanes[self.lane].borrow_mut();
        state.give_back_round(&self.group.endpoint, &mut self.messages);
        if state.peers_may_lack_slots {
            self.group.endpoint.notify();
        }
    }
}
