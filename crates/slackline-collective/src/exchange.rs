//! Using a lane: begin, publish, take, drain.

use std::mem;
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, Rank};
use smallvec::SmallVec;

use crate::group::Group;
use crate::lane::LaneState;
use crate::{CollectiveError, Fault, FaultKind, LaneStats};

/// How often a rank that has to wait looks before it calls the endpoint's wait: about a microsecond for a few peers, which
/// costs little even where ranks share a core.
const LOOKS: u32 = 64;

/// A rank lingers for the newest round for at most one part in so many of its iteration, which is what lingering can cost. A
/// rank that is further ahead than one round does not linger.
const LINGER_SHARE: u32 = 20;
/// And never longer than this.
const LINGER_MOST: Duration = Duration::from_millis(1);

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
/// A round of `P` ranks whose messages are shorter than their slots costs each rank `P` messages, `2 P` counter updates
/// (publish and release), one fence, no system call unless a peer sleeps, and no copy by this layer. By default a ring has
/// `2 * lag + 2` slots for each ordered pair of ranks.
///
/// A message that does not fit its slot goes in fragments, one for each slot-full. Its sender copies it from memory of its
/// own into the slots; its receiver copies it out of them into memory that grows with what has come, which may copy it
/// again. In a full ring the receiver also copies the messages that keep fragments waiting.
pub struct Exchange<'g, E: Endpoint> {
    group: &'g mut Group<E>,
    lane: usize,
}

/// A round that has begun: room for a message to every rank, this one included. If it is dropped and not published, it never
/// happened.
#[must_use = "a round that is not published never happened"]
pub struct Round<'a, E: Endpoint> {
    group: &'a mut Group<E>,
    lane: usize,
    /// The messages have been lent, and so messages larger than a slot have their room.
    lent: bool,
}

/// A complete round. Its messages lie where they landed; dropping it gives their slots back.
#[must_use = "dropping a complete round gives its messages back unread"]
pub struct Complete<'a, E: Endpoint> {
    group: &'a mut Group<E>,
    lane: usize,
}

impl<E: Endpoint> Group<E> {
    /// A lane to exchange on.
    ///
    /// # Panics
    ///
    /// If the group has no such lane.
    pub fn lane(&mut self, lane: Lane) -> Exchange<'_, E> {
        assert!(lane.index() < self.lanes.len(), "lane {lane} of a group with {} lanes", self.lanes.len());
        Exchange { lane: lane.index(), group: self }
    }
}

impl<E: Endpoint> Exchange<'_, E> {
    /// The endpoint, for its clock and its `sleep`.
    pub fn endpoint(&mut self) -> &mut E {
        &mut self.group.endpoint
    }

    /// This member's number.
    pub fn rank(&self) -> Rank {
        self.group.rank()
    }

    /// Members of the group.
    pub fn ranks(&self) -> usize {
        self.group.ranks()
    }

    /// What this rank did on this lane so far.
    pub fn stats(&self) -> &LaneStats {
        &self.state().stats
    }

    /// As [`Group::progress`], which this calls: it concerns all lanes.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&mut self) -> Result<(), CollectiveError> {
        self.group.progress()
    }

    /// As [`Group::give_up`]: it fails the whole group. The fault names this lane.
    pub fn give_up(&mut self, why: &str) -> CollectiveError {
        self.group.give_up_on(self.lane, why)
    }

    /// Begins the next round, with a message of `sizes[to]` bytes to each rank `to`; zero is an ordinary size.
    ///
    /// Waits only for a free slot, which is there with the default `2 * lag + 2` slots unless messages are larger than a
    /// slot. It never waits for other ranks' rounds; [`take`](Self::take) does.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::TakeFirst`] if rounds that are due have not been taken, [`CollectiveError::Count`] if there is
    /// not one size for each rank, [`CollectiveError::AfterLeave`], [`CollectiveError::Fault`].
    #[inline(always)]
    pub fn begin(&mut self, sizes: &[usize]) -> Result<Round<'_, E>, CollectiveError> {
        self.group.check()?;
        let state = &mut self.group.lanes[self.lane];
        if sizes.len() != state.incoming.len() || state.left || state.due() {
            return Err(self.cannot_begin(sizes.len()));
        }
        for (sending, &size) in state.sending.iter_mut().zip(sizes) {
            *sending = size;
        }
        state.expecting.clear();
        if !state.has_credit(&mut self.group.endpoint) {
            self.group.wait_for_slots(self.lane)?;
        }
        Ok(Round { lane: self.lane, lent: false, group: &mut *self.group })
    }

    /// The next complete round, in order; `None` when this rank may go on.
    ///
    /// After round `i` has been published, rounds up to `i - lag` are due, and `take` waits for them. With elastic delivery
    /// it also hands out later rounds that are already complete. For the newest round, once all older ones have been handed
    /// out, it waits up to a twentieth of an iteration (at most 1 ms), so that balanced ranks see no latency from the lag.
    /// After [`leave`](Exchange::leave) it waits for every round until all ranks have left.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if a rank died, was late, broke the protocol, gave up, or sent a message of another size
    /// than its receiver had [declared](Round::expect).
    #[inline(always)]
    pub fn take(&mut self) -> Result<Option<Complete<'_, E>>, CollectiveError> {
        if self.wait_until_ready()? { self.hand_out().map(Some) } else { Ok(None) }
    }

    /// The next of the rounds that this rank has published, waiting for each as if the lag were 0; `None` when all of them
    /// have been handed out. The lane stays open: use it at the end of a stretch of work, and [`drain`](Exchange::drain) at
    /// the end of all.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn flush(&mut self) -> Result<Option<Complete<'_, E>>, CollectiveError> {
        self.group.progress_lane(self.lane)?;
        self.group.lanes[self.lane].record_lead();
        let outstanding = self.state().outstanding();
        if outstanding && !self.state().complete() {
            self.await_round()?;
        }
        // Asked last, as in `take`.
        self.group.check()?;
        if outstanding { self.hand_out().map(Some) } else { Ok(None) }
    }

    /// Tells the other ranks that this one begins no more rounds on this lane; its later messages count as empty. Does not
    /// wait. The rank has to go on taking until all have left (see [`drain`](Exchange::drain)).
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
            state.unsent = true;
            self.group.endpoint.notify();
        }
        Ok(())
    }

    /// Leaves the lane, if this rank has not yet, and hands out the remaining rounds: its own, and those that other ranks
    /// still publish. `None` when all have left and every round has been handed out.
    ///
    /// With several lanes, [`leave`](Exchange::leave) all of them first, or drain them in the same order on every rank.
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
        if self.state().unsent {
            self.group.wait_until_sent(self.lane)?;
        }
        Ok(None)
    }

    #[cold]
    fn cannot_begin(&mut self, given: usize) -> CollectiveError {
        let state = self.state();
        let (lane, lag, ranks) = (state.id, state.options.lag, state.incoming.len());
        let error = if given != ranks {
            CollectiveError::Count { lane, given, ranks }
        } else if state.left {
            CollectiveError::AfterLeave { lane }
        } else {
            CollectiveError::TakeFirst { lane, begun: state.begun, due: state.taken, lag }
        };
        self.refuse(error)
    }

    pub(crate) fn refuse(&mut self, error: CollectiveError) -> CollectiveError {
        self.group.refuse(self.lane, error)
    }

    /// Waits while the next round is due; whether it can be handed out.
    #[inline(always)]
    fn wait_until_ready(&mut self) -> Result<bool, CollectiveError> {
        let ready = self.look_for_round()?;
        // Asked last: a message that its transport finds corrupt fails the group when it is looked at.
        self.group.check()?;
        Ok(ready)
    }

    /// The same, but messages that the transport has found corrupt count, as empty ones.
    #[inline(always)]
    fn look_for_round(&mut self) -> Result<bool, CollectiveError> {
        // One place, looked up once: this is the path of every round.
        let state = &mut self.group.lanes[self.lane];
        if !state.outstanding() && !state.left && !state.unsent {
            // The second look of a balanced rank, once a round.
            return Ok(false);
        }
        match state.progress(&mut self.group.endpoint) {
            Ok(false) => {}
            Ok(true) => self.group.endpoint.notify(),
            Err((from, why)) => return Err(self.group.broken_protocol(self.lane, from, why)),
        }
        state.record_lead();
        if state.ready() {
            return Ok(true);
        }
        if !state.due() {
            return if state.may_linger() { self.linger() } else { Ok(false) };
        }
        self.await_round()?;
        Ok(!self.state().finished())
    }

    /// Waits until the next round is complete, or all have left.
    #[inline(never)]
    fn await_round(&mut self) -> Result<(), CollectiveError> {
        // Most waits of balanced ranks are over before the clock could be read.
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            self.group.progress_lane(self.lane)?;
            if self.state().complete() {
                return Ok(());
            }
        }
        self.group.wait_for_round(self.lane)
    }

    /// Waits a little for the newest round although the lag would let this rank go on; whether it came.
    ///
    /// Ranks that are balanced finish within microseconds of each other. Without this, the first of them would find the
    /// round incomplete, begin the next iteration, and hand the round out a whole iteration later.
    #[inline(never)]
    fn linger(&mut self) -> Result<bool, CollectiveError> {
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            self.group.progress_lane(self.lane)?;
            if self.state().complete() {
                return Ok(true);
            }
        }
        let now = self.group.endpoint.now();
        let state = &mut self.group.lanes[self.lane];
        let Some((then, round)) = state.lingered.replace((now, state.begun)) else {
            return Ok(false);
        };
        let Some(rounds) = state.begun.checked_sub(round).filter(|rounds| *rounds > 0) else {
            return Ok(false);
        };
        let iteration = now.saturating_sub(then) / u32::try_from(rounds).unwrap_or(u32::MAX);
        self.group.linger(self.lane, now, now + (iteration / LINGER_SHARE).min(LINGER_MOST))
    }

    #[inline(always)]
    fn hand_out(&mut self) -> Result<Complete<'_, E>, CollectiveError> {
        self.check_sizes()?;
        Ok(Complete { lane: self.lane, group: &mut *self.group })
    }

    pub(crate) fn state(&self) -> &LaneState {
        &self.group.lanes[self.lane]
    }

    /// Compares what came with what this rank had declared, before anybody reads it.
    #[inline(always)]
    fn check_sizes(&mut self) -> Result<(), CollectiveError> {
        let state = &self.group.lanes[self.lane];
        if state.expected.is_empty() {
            return Ok(());
        }
        self.check_declared()
    }

    #[cold]
    fn check_declared(&mut self) -> Result<(), CollectiveError> {
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

    /// Declares how many bytes this rank expects from each rank in this round. If a message has another size, all ranks get an
    /// error that names both sizes, and nobody reads the message.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Count`] if there is not one size for each rank.
    pub fn expect(&mut self, sizes: &[usize]) -> Result<(), CollectiveError> {
        let state = &mut self.group.lanes[self.lane];
        let (lane, ranks) = (state.id, state.sending.len());
        if sizes.len() != ranks {
            return Err(self.group.refuse(self.lane, CollectiveError::Count { lane, given: sizes.len(), ranks }));
        }
        state.expecting.clear();
        state.expecting.extend_from_slice(sizes);
        Ok(())
    }

    /// Room for the message to each rank, in rank order, all borrowed together. Each has the size given to
    /// [`begin`](Exchange::begin), starts on a multiple of 64 bytes, and holds unspecified bytes until it is written. Room for
    /// a message that fits its slot *is* the receiver's memory where the transport shares memory.
    #[inline(always)]
    pub fn messages_mut(&mut self) -> Messages<'_> {
        let state = &mut self.group.lanes[self.lane];
        let mut rooms = self.group.endpoint.rooms(state.id);
        self.lent = true;
        for ((room, outgoing), &size) in rooms.iter_mut().zip(&mut state.outgoing).zip(&state.sending) {
            if size < room.len() {
                *room = &mut mem::take(room)[..size];
            } else {
                *room = outgoing.stage(size);
            }
        }
        rooms
    }

    /// Whether messages move only inside calls, so that calling [`progress`](Round::progress) helps.
    pub fn needs_progress(&self) -> bool {
        self.group.endpoint.moves_in_calls()
    }

    /// Receives what has landed, without waiting. Call it now and then while messages take long to fill, over transports that
    /// [need it](Round::needs_progress). [Borrow](Round::messages_mut) the rooms again afterwards: they are the same, with
    /// what was written.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&mut self) -> Result<(), CollectiveError> {
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
        if !self.lent {
            self.messages_mut();
        }
        let Round { group, lane, .. } = self;
        let state = &mut group.lanes[lane];
        let slot_bytes = group.endpoint.shape().lanes[lane].slot_bytes;
        let mut bytes = 0;
        for (to, &size) in state.sending.iter().enumerate() {
            bytes += size as u64;
            if size < slot_bytes {
                group.endpoint.publish(state.id, to, size);
            } else {
                state.outgoing[to].send_staged(&mut group.endpoint, state.id, to, state.begun);
                state.stats.fragmented += 1;
                state.unsent = true;
            }
        }
        group.endpoint.notify();
        if !state.expecting.is_empty() {
            state.expected.push_back((state.begun, state.expecting.clone()));
        }
        state.begun += 1;
        state.lead_is_due = true;
        state.stats.rounds += 1;
        state.stats.bytes_sent += bytes;
        Ok(())
    }
}

impl<E: Endpoint> Complete<'_, E> {
    /// The round's number, from 0.
    pub fn number(&self) -> u64 {
        self.group.lanes[self.lane].taken
    }

    /// What `from` sent to this rank in this round, in place; empty if `from` had left. A message of at least one byte starts on
    /// a multiple of 64 bytes.
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
    #[inline(always)]
    fn drop(&mut self) {
        let state = &mut self.group.lanes[self.lane];
        state.pop_round(&mut self.group.endpoint);
        if state.peers_may_lack_slots {
            self.group.endpoint.notify();
        }
    }
}
