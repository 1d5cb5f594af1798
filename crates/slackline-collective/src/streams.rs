//! Using a lane message by message: requests and answers as they come, to one peer and from any.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, Rank};

use crate::group::Group;
use crate::lane::News;
use crate::stream::{Received, Room};
use crate::{CollectiveError, Fault, FaultKind, LaneStats};

/// One lane of a group, used as a stream of messages to and from each peer, without rounds: a message is published to one peer
/// alone and can be read as soon as it has come, whatever other peers do. Messages from one peer come in the order in which it
/// published them; they are of any size.
///
/// Nothing waits but [`send`](Self::send), [`receive`](Self::receive) and [`Group::wait`], which waits for all lanes together:
/// serve what there is, then wait.
///
/// ```
/// use slackline_collective::transport::threads;
/// use slackline_collective::{CollectiveError, Endpoint, Group, GroupOptions, Lane, LaneOptions};
///
/// /// Answers three requests with their bytes doubled, in the requester's memory.
/// fn serve<E: Endpoint>(group: &Group<E>) -> Result<(), CollectiveError> {
///     let (requests, answers) = (group.streams(Lane(0)), group.streams(Lane(1)));
///     let mut served = 0;
///     while served < 3 {
///         while let Some(request) = requests.next()? {
///             let mut room = answers.send(request.from(), request.len())?;
///             for (out, byte) in room.iter_mut().zip(request.iter()) {
///                 *out = 2 * byte;
///             }
///             room.publish();
///             served += 1;
///         }
///         group.wait(group.endpoint().now() + std::time::Duration::from_secs(1))?;
///     }
///     Ok(())
/// }
///
/// let options = GroupOptions::new([LaneOptions::lag(1), LaneOptions::lag(1)]);
/// let mut endpoints = threads::group(&options.shape(2, 64))?.into_iter();
/// let (server, client) = (endpoints.next().unwrap(), endpoints.next().unwrap());
/// std::thread::scope(|threads| {
///     threads.spawn(|| {
///         let group = Group::new(server, options.clone())?;
///         serve(&group)?;
///         group.finish()
///     });
///     let group = Group::new(client, options.clone())?;
///     let (requests, answers) = (group.streams(Lane(0)), group.streams(Lane(1)));
///     for number in 1..=3 {
///         let mut room = requests.send(0, 1)?;
///         room[0] = number;
///         room.publish();
///         assert_eq!(*answers.receive(0)?.expect("an answer"), [2 * number]);
///     }
///     group.finish()
/// })?;
/// # Ok::<(), CollectiveError>(())
/// ```
///
/// # Cost
///
/// A message that is shorter than its slot: one counter update on either side and no copy by this layer. Looking costs what has
/// come, where the transport knows who moved. Larger messages go in fragments, as [those of rounds](crate::Exchange#cost).
pub struct Streams<'g, E: Endpoint> {
    group: &'g Group<E>,
    lane: usize,
}

impl<E: Endpoint> Clone for Streams<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Endpoint> Copy for Streams<'_, E> {}

/// A message that has come, read in place. Dropping it gives its slot back; messages may be dropped in any order.
#[must_use = "dropping a message gives it back unread"]
pub struct Arrived<'g, E: Endpoint> {
    group: &'g Group<E>,
    lane: usize,
    from: Rank,
    number: u64,
    /// Taken out when it is dropped.
    message: Received<'g>,
}

/// Room for one message to one peer. If it is dropped and not published, nothing is sent.
#[must_use = "a message that is not published is not sent"]
pub struct Departing<'g, E: Endpoint> {
    group: &'g Group<E>,
    lane: usize,
    to: Rank,
    /// Taken out when it is published.
    room: Option<Room<'g>>,
}

impl<E: Endpoint> Group<E> {
    /// A lane to send and receive on, message by message. Use a lane by rounds or by streams, alike on all ranks.
    ///
    /// # Panics
    ///
    /// If the group has no such lane, or rounds have begun on it.
    pub fn streams(&self, lane: Lane) -> Streams<'_, E> {
        let lane = self.existing(lane);
        let mut state = self.lanes[lane].borrow_mut();
        assert!(state.rounds.begun() == 0 && !state.open, "lane {} is used by rounds", state.id);
        if !std::mem::replace(&mut state.streams, true) {
            // What has come before anybody knew that it would be read so.
            let waiting = state.incoming.iter().enumerate().filter(|(_, stream)| stream.waiting() > 0);
            state.ready = waiting.map(|(from, _)| from).collect();
            state.peers_may_lack_slots = true;
        }
        drop(state);
        Streams { group: self, lane }
    }
}

impl<'g, E: Endpoint> Streams<'g, E> {
    /// This member's number.
    pub fn rank(&self) -> Rank {
        self.group.rank()
    }

    /// What this rank did on this lane so far.
    pub fn stats(&self) -> LaneStats {
        self.group.lanes[self.lane].borrow().stats.clone()
    }

    /// The next message of any peer, those of a peer in order and the peers in turn. `None` if none has come; never waits.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn next(&self) -> Result<Option<Arrived<'g, E>>, CollectiveError> {
        self.look(None)?;
        let from = self.group.lanes[self.lane].borrow().ready.front().copied();
        from.map_or(Ok(None), |from| self.hand_out(from))
    }

    /// The next message of one peer. `None` if none has come; never waits.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn next_from(&self, from: Rank) -> Result<Option<Arrived<'g, E>>, CollectiveError> {
        self.look(Some(from))?;
        self.hand_out(from)
    }

    /// The next message of one peer, waiting for it; `None` if the peer has left.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed, if the peer died, or if nothing came until the deadline.
    pub fn receive(&self, from: Rank) -> Result<Option<Arrived<'g, E>>, CollectiveError> {
        self.look(Some(from))?;
        self.group.wait_for_message(self.lane, from)?;
        self.hand_out(from)
    }

    /// Room for a message of `size` bytes to one peer, with unspecified contents, on a multiple of 64 bytes. It is the
    /// receiver's memory where the transport shares memory and the message is shorter than a slot. `None` while the peer has
    /// given no slot back or while an older message waits for slots: [`Group::wait`] ends when there is room. `None` also while
    /// room towards this peer is held on this lane. Never waits.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed; [`CollectiveError::AfterLeave`].
    pub fn room(&self, to: Rank, size: usize) -> Result<Option<Departing<'g, E>>, CollectiveError> {
        let group = self.group;
        group.progress_lane(self.lane)?;
        group.check()?;
        let mut state = group.lanes[self.lane].borrow_mut();
        if state.rounds.has_left() {
            let error = CollectiveError::AfterLeave { lane: state.id };
            drop(state);
            return Err(group.refuse(self.lane, error));
        }
        let outgoing = &mut state.outgoing[to];
        if !outgoing.has_credit(&group.endpoint) {
            if !state.wanted.contains(&to) {
                state.wanted.push(to);
            }
            return Ok(None);
        }
        let room = outgoing.room(&group.endpoint, size);
        Ok(room.map(|room| Departing { group, lane: self.lane, to, room: Some(room) }))
    }

    /// As [`room`](Self::room), but waits until there is.
    ///
    /// # Errors
    ///
    /// Those of [`room`](Self::room), and [`CollectiveError::Fault`] if the peer died or gave no slot back until the deadline.
    ///
    /// # Panics
    ///
    /// If room towards this peer is held on this lane: this rank would wait for itself.
    pub fn send(&self, to: Rank, size: usize) -> Result<Departing<'g, E>, CollectiveError> {
        if let Some(room) = self.room(to, size)? {
            return Ok(room);
        }
        self.group.wait_for_slot(self.lane, to)?;
        Ok(self.room(to, size)?.expect("room towards one peer is held once"))
    }

    /// Whether a peer has left the lane, so that nothing more comes from it than is here.
    pub fn has_left(&self, peer: Rank) -> bool {
        self.group.lanes[self.lane].borrow().incoming[peer].has_left()
    }

    /// Fails the whole group because `peers` are late by this rank's own reckoning, and returns the fault: for programs that
    /// wait with [`Group::wait`], which knows of no deadline. `number` is what they were waited for: of a message or of what
    /// messages make up.
    pub fn late(&self, peers: Vec<Rank>, number: u64, waited: Duration) -> CollectiveError {
        let mut fault = self.fault(FaultKind::Late, peers, number);
        fault.waited = waited;
        self.group.fail(fault)
    }

    /// Fails the whole group because `from` sent `bytes` bytes where this rank expected another number, and returns the fault.
    /// `number` as in [`late`](Self::late).
    pub fn unexpected_size(&self, from: Rank, number: u64, bytes: u64, expected: u64) -> CollectiveError {
        let mut fault = self.fault(FaultKind::Sizes, vec![from], number);
        (fault.bytes, fault.expected) = (bytes, Some(expected));
        self.group.fail(fault)
    }

    /// Fails the whole group because `from` has broken an agreement of the ranks, and returns the fault. Other ranks receive the
    /// first 128 bytes of `why`, or a few more. `number` as in [`late`](Self::late).
    pub fn broken(&self, from: Rank, number: u64, why: &str) -> CollectiveError {
        let mut fault = self.fault(FaultKind::Protocol, vec![from], number);
        fault.note = why.to_owned();
        self.group.fail(fault)
    }

    /// Fails the whole group because `peer` left while this rank waited for it, and returns the fault. `number` as in
    /// [`late`](Self::late).
    pub fn gone(&self, peer: Rank, number: u64) -> CollectiveError {
        let mut fault = self.fault(FaultKind::GaveUp, vec![peer], number);
        fault.note = format!("it left while rank {} waited for it", self.group.rank());
        self.group.fail(fault)
    }

    fn fault(&self, kind: FaultKind, peers: Vec<Rank>, number: u64) -> Fault {
        let mut fault = Fault::new(kind, peers, self.group.rank(), Lane(self.lane as u16), number);
        fault.streams = true;
        fault
    }

    /// Tells the other ranks that this one sends nothing more on this lane. Does not wait, and does not end receiving. See
    /// [`drain`](Self::drain) and [`Group::finish`].
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`].
    pub fn leave(&self) -> Result<(), CollectiveError> {
        self.group.check()?;
        self.group.lanes[self.lane].borrow_mut().leave(&self.group.endpoint);
        Ok(())
    }

    /// The next message that other ranks still send, after this one has left; `None` when all have left and everything was
    /// handed out. It waits for as long as others take to leave.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed, or a peer died that has not left.
    pub fn drain(&self) -> Result<Option<Arrived<'g, E>>, CollectiveError> {
        self.leave()?;
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            if !self.group.lanes[self.lane].borrow().in_use() {
                return Ok(None);
            }
            self.group.wait(Duration::MAX)?;
        }
    }

    /// Looks at what has come from all peers or from one; what comes meanwhile from others is still news.
    fn look(&self, from: Option<Rank>) -> Result<(), CollectiveError> {
        self.group.progress_lane(self.lane)?;
        let news = &mut self.group.lanes[self.lane].borrow_mut().news;
        if from.is_none_or(|from| *news == News::Of(from)) {
            *news = News::Nothing;
        }
        self.group.check()
    }

    fn hand_out(&self, from: Rank) -> Result<Option<Arrived<'g, E>>, CollectiveError> {
        let group = self.group;
        let taken = group.lanes[self.lane].borrow_mut().take_message(&group.endpoint, from);
        // Asked last: a message that its transport finds corrupt fails the group when it is looked at.
        let message = taken.map(|(number, message)| Arrived { group, lane: self.lane, from, number, message });
        group.check()?;
        Ok(message)
    }
}

impl<E: Endpoint> Arrived<'_, E> {
    /// Who sent it.
    pub fn from(&self) -> Rank {
        self.from
    }

    /// Its number among the messages of that rank on this lane, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl<E: Endpoint> Deref for Arrived<'_, E> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.message.bytes()
    }
}

impl<E: Endpoint> Drop for Arrived<'_, E> {
    fn drop(&mut self) {
        let message = std::mem::replace(&mut self.message, Received::Copied(None));
        self.group.lanes[self.lane].borrow_mut().incoming[self.from].give_back(&self.group.endpoint, message);
        self.group.endpoint.notify();
    }
}

impl<E: Endpoint> Departing<'_, E> {
    /// Who will receive it.
    pub fn to(&self) -> Rank {
        self.to
    }

    /// Sends the message, to this peer alone. Does not wait: of a message larger than its slot, what fits goes now, and the
    /// rest in later calls on the group, when slots are free.
    pub fn publish(mut self) {
        if let Some(room) = self.room.take() {
            let mut state = self.group.lanes[self.lane].borrow_mut();
            let state = &mut *state;
            state.stats.bytes_sent += room.bytes().len() as u64;
            state.stats.fragmented += u64::from(matches!(room, Room::Staged(_)));
            state.stats.rounds += 1;
            state.unsent |= state.outgoing[self.to].publish(&self.group.endpoint, room);
            self.group.endpoint.notify();
        }
    }
}

impl<E: Endpoint> Deref for Departing<'_, E> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.room.as_ref().map_or(&[], Room::bytes)
    }
}

impl<E: Endpoint> DerefMut for Departing<'_, E> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.room.as_mut().map_or(&mut [], Room::bytes_mut)
    }
}

impl<E: Endpoint> Drop for Departing<'_, E> {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.group.lanes[self.lane].borrow_mut().outgoing[self.to].take_back(room);
        }
    }
}
