//! What a user does with a lane: begin, publish, take, drain.

use std::mem;

use slackline_transport::{Endpoint, Lane, Rank};
use smallvec::SmallVec;

use crate::group::Group;
use crate::lane::{LaneState, Sizes};
use crate::wire::{HEADER_BYTES, Header};
use crate::{CollectiveError, Fault, FaultKind};

/// Room for the messages of one round, one slice for each rank, in rank order.
pub type Messages<'a> = SmallVec<[&'a mut [u8]; 8]>;

/// One lane of a group: an endless sequence of alltoallv rounds.
///
/// The loop of a rank is: [`begin`](Exchange::begin), fill, [`publish`](Round::publish), then [`take`](Exchange::take) until
/// it returns `None`; at the end [`drain`](Exchange::drain) until it returns `None`.
/// [`flush`](Exchange::flush) catches up without ending.
///
/// # Cost
///
/// A round of `P` ranks whose messages fit their slots costs each rank `P` messages, `2 P` counter updates (publish and
/// release), two fences, no system call unless a peer sleeps, and no copy by this layer; a ring holds `2 * lag + 2` slots
/// per ordered pair. A message larger than its slot costs one fragment for each slot-full and one copy on either side.
pub struct Exchange<'g, E: Endpoint> {
    group: &'g mut Group<E>,
    lane: usize,
}

/// A round that has begun: room for a message to every rank, this one included. Dropped unpublished, it never happened.
#[must_use = "a round that is not published never happened"]
pub struct Round<'a, E: Endpoint> {
    group: &'a mut Group<E>,
    lane: usize,
    sizes: Sizes,
    expected: Option<Sizes>,
}

/// A complete round. Its messages lie where they landed; dropping it gives their slots back.
#[must_use = "dropping a complete round gives its messages back unread"]
pub struct Complete<'a, E: Endpoint> {
    group: &'a mut Group<E>,
    lane: usize,
}

impl<'g, E: Endpoint> Exchange<'g, E> {
    pub(crate) fn new(group: &'g mut Group<E>, lane: usize) -> Self {
        Exchange { group, lane }
    }

    /// Begins the next round, with a message of `sizes[to]` bytes to each rank `to`; zero is an ordinary size.
    ///
    /// Never waits for the bound: only for a free slot, which with the default `2 * lag + 2` slots is always there unless
    /// messages are larger than a slot.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::TakeFirst`] if rounds that are due have not been taken, [`CollectiveError::Count`] if there is
    /// not one size for each rank, [`CollectiveError::AfterLeave`], [`CollectiveError::Fault`].
    #[inline]
    pub fn begin(&mut self, sizes: &[usize]) -> Result<Round<'_, E>, CollectiveError> {
        self.group.check()?;
        let state = &self.group.lanes[self.lane];
        let (lane, lag) = (state.id, state.options.lag);
        if sizes.len() != state.incoming.len() {
            return Err(CollectiveError::Count { lane, given: sizes.len(), ranks: state.incoming.len() });
        }
        if state.left {
            return Err(CollectiveError::AfterLeave { lane });
        }
        if state.due() {
            return Err(CollectiveError::TakeFirst { lane, begun: state.begun, due: state.taken, lag });
        }
        if !state.has_credit(&mut self.group.endpoint) {
            self.group.wait_for_slots(self.lane)?;
        }
        let state = &mut self.group.lanes[self.lane];
        let mut rooms = self.group.endpoint.rooms(lane);
        for (to, &size) in sizes.iter().enumerate() {
            if size <= rooms[to].len() - HEADER_BYTES {
                let header = Header { leave: false, round: state.begun, total: size as u64, offset: 0 };
                header.write(rooms[to]);
            } else {
                state.outgoing[to].stage.resize(size, 0);
            }
        }
        drop(rooms);
        Ok(Round { lane: self.lane, sizes: Sizes::from_slice(sizes), expected: None, group: &mut *self.group })
    }

    /// The next complete round, in order; `None` when this rank may go on.
    ///
    /// Waits only while a round that is due (round `i - lag` or older, after round `i` has been published) is incomplete.
    /// With elastic delivery it hands out later rounds too, if they are complete already. After [`leave`](Exchange::leave)
    /// it waits for every round until all ranks have left.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`]: a rank died, was late past the deadline, broke the protocol, sent a message of a size
    /// other than [declared](Round::expect), or gave up.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Complete<'_, E>>, CollectiveError> {
        if self.wait_until_ready()? { self.hand_out().map(Some) } else { Ok(None) }
    }

    /// The next of the rounds that this rank has published, waiting for each as if the lag were 0; `None` when all of them
    /// have been handed out. The lane stays open: this ends a stretch of work, as [`drain`](Exchange::drain) ends it all.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn flush(&mut self) -> Result<Option<Complete<'_, E>>, CollectiveError> {
        self.group.check()?;
        self.group.progress_lane(self.lane)?;
        if !self.state().outstanding() {
            return Ok(None);
        }
        if !self.state().complete() {
            self.group.wait_for_round(self.lane)?;
        }
        self.hand_out().map(Some)
    }

    /// Says that this rank begins no more rounds on this lane: to the others its later rounds are empty messages. Does not
    /// wait. The rank has to go on taking (see [`drain`](Exchange::drain)) until all have left.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`].
    pub fn leave(&mut self) -> Result<(), CollectiveError> {
        self.group.check()?;
        let state = &mut self.group.lanes[self.lane];
        if !mem::replace(&mut state.left, true) {
            for (to, outgoing) in state.outgoing.iter_mut().enumerate() {
                outgoing.send_farewell(&mut self.group.endpoint, state.id, to, state.begun);
            }
            self.group.endpoint.notify();
        }
        Ok(())
    }

    /// Leaves, if this rank has not yet, and hands out what is still to come: the rest of its own rounds, and the rounds
    /// that other ranks go on to publish. `None` when all have left and every round has been handed out.
    ///
    /// A group with several lanes has to [`leave`](Exchange::leave) all of them first, or drain them in the same order on
    /// every rank.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn drain(&mut self) -> Result<Option<Complete<'_, E>>, CollectiveError> {
        self.leave()?;
        if self.wait_until_ready()? {
            return self.hand_out().map(Some);
        }
        // This rank has all it needs, but its peers may not: what still waits for slots has to be out before it ends.
        if !self.state().all_sent() {
            self.group.wait_until_sent(self.lane)?;
        }
        Ok(None)
    }

    /// Waits while the next round is due; whether it can be handed out.
    #[inline]
    fn wait_until_ready(&mut self) -> Result<bool, CollectiveError> {
        self.group.check()?;
        self.group.progress_lane(self.lane)?;
        if !self.state().ready() {
            if !self.state().due() {
                return Ok(false);
            }
            self.group.wait_for_round(self.lane)?;
        }
        Ok(!self.state().finished())
    }

    #[inline]
    fn hand_out(&mut self) -> Result<Complete<'_, E>, CollectiveError> {
        self.check_sizes()?;
        Ok(Complete { lane: self.lane, group: &mut *self.group })
    }

    pub(crate) fn state(&self) -> &LaneState {
        &self.group.lanes[self.lane]
    }

    /// Compares what came with what this rank had declared, before anybody reads it.
    #[inline]
    fn check_sizes(&mut self) -> Result<(), CollectiveError> {
        let state = &self.group.lanes[self.lane];
        let Some((_, expected)) = state.expected.front().filter(|(round, _)| *round == state.taken) else {
            return Ok(());
        };
        for (from, &expected) in expected.iter().enumerate() {
            let came = state.message(&self.group.endpoint, from).len();
            if came != expected {
                let rank = self.group.rank();
                let mut fault = Fault::new(FaultKind::Sizes, vec![from], rank, state.id, state.taken);
                (fault.bytes, fault.expected) = (came as u64, Some(expected as u64));
                return Err(self.group.fail(fault));
            }
        }
        Ok(())
    }
}

impl<E: Endpoint> Round<'_, E> {
    /// This round's number, from 0.
    pub fn number(&self) -> u64 {
        self.group.lanes[self.lane].begun
    }

    /// Declares how many bytes this rank expects from each rank in this round. Ranks that disagree then get an error that
    /// names both sizes, instead of a message that is read wrongly.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Count`] if there is not one size for each rank.
    pub fn expect(&mut self, sizes: &[usize]) -> Result<(), CollectiveError> {
        let (lane, ranks) = (Lane(self.lane as u16), self.sizes.len());
        if sizes.len() != ranks {
            return Err(CollectiveError::Count { lane, given: sizes.len(), ranks });
        }
        self.expected = Some(Sizes::from_slice(sizes));
        Ok(())
    }

    /// Room for the message to each rank, in rank order, all borrowed together; each has the size that was begun with,
    /// starts on a multiple of 64 bytes, and holds unspecified bytes until it is written. Where the transport shares
    /// memory and the message fits its slot, this *is* the receiver's memory.
    #[inline]
    pub fn messages_mut(&mut self) -> Messages<'_> {
        let state = &mut self.group.lanes[self.lane];
        let rooms = self.group.endpoint.rooms(state.id);
        let mut messages = Messages::new();
        for ((room, outgoing), &size) in rooms.into_iter().zip(&mut state.outgoing).zip(&self.sizes) {
            if size <= room.len() - HEADER_BYTES {
                messages.push(&mut room[HEADER_BYTES..HEADER_BYTES + size]);
            } else {
                messages.push(&mut outgoing.stage);
            }
        }
        messages
    }

    /// Makes the messages visible to their receivers. Does not wait: of a message larger than its slot, what fits goes now
    /// and the rest when slots come free, in later calls on the group.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`].
    #[inline]
    pub fn publish(self) -> Result<(), CollectiveError> {
        let Round { group, lane, sizes, expected } = self;
        let rank = group.rank();
        let state = &mut group.lanes[lane];
        let capacity = group.endpoint.shape().lanes[lane].slot_bytes - HEADER_BYTES;
        for (to, &size) in sizes.iter().enumerate() {
            if size <= capacity {
                group.endpoint.publish(state.id, to, HEADER_BYTES + size);
            } else {
                state.outgoing[to].send_staged(&mut group.endpoint, state.id, to, state.begun);
                state.stats.fragmented += 1;
            }
        }
        group.endpoint.notify();
        if let Some(expected) = expected {
            state.expected.push_back((state.begun, expected));
        }
        state.begun += 1;
        state.stats.rounds += 1;
        state.stats.bytes_sent += sizes.iter().sum::<usize>() as u64;
        group.progress_lane(lane)?;
        let state = &mut group.lanes[lane];
        let lead = state.lead(rank);
        state.stats.record_lead(lead as usize);
        Ok(())
    }
}

impl<E: Endpoint> Complete<'_, E> {
    /// The round's number, from 0.
    pub fn number(&self) -> u64 {
        self.group.lanes[self.lane].taken
    }

    /// What `from` sent to this rank in this round: exactly its bytes, in place; empty if `from` had left.
    ///
    /// # Panics
    ///
    /// If the group has no such rank.
    #[inline]
    pub fn message(&self, from: Rank) -> &[u8] {
        self.group.lanes[self.lane].message(&self.group.endpoint, from)
    }

    /// All messages, in rank order.
    pub fn messages(&self) -> SmallVec<[&[u8]; 8]> {
        (0..self.group.ranks()).map(|from| self.message(from)).collect()
    }
}

impl<E: Endpoint> Drop for Complete<'_, E> {
    #[inline]
    fn drop(&mut self) {
        let state = &mut self.group.lanes[self.lane];
        let bytes: usize = (0..state.incoming.len()).map(|from| state.message(&self.group.endpoint, from).len()).sum();
        state.stats.bytes_received += bytes as u64;
        state.pop_round(&mut self.group.endpoint);
        self.group.endpoint.notify();
    }
}
