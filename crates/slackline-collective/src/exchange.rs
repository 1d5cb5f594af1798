//! Using a lane by rounds: begin, publish, take, drain.

mod round;

use std::cell::RefMut;
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, Rank};

use crate::group::Group;
use crate::lane::{LaneState, News};
use crate::rounds::Rounds;
use crate::{Awaited, CollectiveError, Fault, FaultKind, LaneStats};

pub use round::{Complete, Messages, Round};

/// How often a rank that has to wait looks before it calls the endpoint's wait: about a microsecond for a few peers, which
/// costs little even where ranks share a core.
const LOOKS: u32 = 64;

/// A rank lingers for the newest round for at most one part in so many of its iteration, which is what lingering can cost. A
/// rank that is further ahead than one round does not linger.
const LINGER_SHARE: u32 = 20;
/// And never longer than this.
const LINGER_MOST: Duration = Duration::from_millis(1);

/// One lane of a group: an endless sequence of alltoallv rounds.
///
/// The loop of a rank is: [`begin`](Exchange::begin), fill, [`publish`](Round::publish), then [`take`](Exchange::take) until
/// it returns `None`; at the end [`drain`](Exchange::drain) until it returns `None`.
/// [`flush`](Exchange::flush) catches up without ending.
///
/// A complete round can be held while later ones begin and others are taken, as far as the lag permits.
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
    group: &'g Group<E>,
    lane: usize,
}

impl<E: Endpoint> Clone for Exchange<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Endpoint> Copy for Exchange<'_, E> {}

impl<E: Endpoint> Group<E> {
    /// A lane to exchange on, in rounds.
    ///
    /// # Panics
    ///
    /// If the group has no such lane.
    pub fn lane(&self, lane: Lane) -> Exchange<'_, E> {
        Exchange { group: self, lane: self.existing(lane) }
    }
}

impl<'g, E: Endpoint> Exchange<'g, E> {
    /// The endpoint, for its clock and its `sleep`.
    pub fn endpoint(&self) -> &'g E {
        &self.group.endpoint
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
    pub fn stats(&self) -> LaneStats {
        self.group.lanes[self.lane].borrow().stats.clone()
    }

    /// As [`Group::progress`], which this calls: it concerns all lanes.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&self) -> Result<(), CollectiveError> {
        self.group.progress()
    }

    /// As [`Group::give_up`]: it fails the whole group. The fault names this lane.
    pub fn give_up(&self, why: &str) -> CollectiveError {
        self.group.give_up_on(self.lane, why)
    }

    /// Whether this rank takes part in rounds that others begin without a call of its own: while it waits or makes
    /// [progress](Group::progress) on any lane, it publishes empty rounds as far as another rank has published rounds, within
    /// the bound, and takes those that hold nothing for it. Rounds that hold something are there to be taken as ever, and have
    /// to be when they are due. Off by default.
    pub fn keep_up(&self, keep_up: bool) {
        self.group.lanes[self.lane].borrow_mut().keeps_up = keep_up;
    }

    /// Begins the next round, with a message of `sizes[to]` bytes to each rank `to`; zero is an ordinary size.
    ///
    /// Waits only for a free slot, which is there with the default `2 * lag + 2` slots unless messages are larger than a
    /// slot. It never waits for other ranks' rounds; [`take`](Self::take) does.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::TakeFirst`] if rounds that are due have not been taken (with [`keep_up`](Self::keep_up), also if one
    /// became due while this call waited for a slot), [`CollectiveError::Count`] if there is
    /// not one size for each rank, [`CollectiveError::RoundOpen`] if a round is open already,
    /// [`CollectiveError::AfterLeave`], [`CollectiveError::Fault`].
    ///
    /// # Panics
    ///
    /// If the lane is used by [streams](Group::streams).
    #[inline(always)]
    pub fn begin(&self, sizes: &[usize]) -> Result<Round<'g, E>, CollectiveError> {
        self.group.check()?;
        let group = self.group;
        let mut state = group.lanes[self.lane].borrow_mut();
        if sizes.len() != state.outgoing.len()
            || state.rounds.has_left()
            || state.open
            || state.streams
            || state.rounds.due()
        {
            drop(state);
            return Err(self.cannot_begin(sizes.len()));
        }
        let mut rooms = state.rooms(&group.endpoint, sizes);
        if rooms.is_none() {
            drop(state);
            group.wait_for_slots(self.lane)?;
            state = group.lanes[self.lane].borrow_mut();
            // Keeping up may have begun rounds meanwhile.
            if state.rounds.due() {
                drop(state);
                return Err(self.cannot_begin(sizes.len()));
            }
            rooms = state.rooms(&group.endpoint, sizes);
        }
        state.open = true;
        state.expecting.clear();
        let rooms = rooms.expect("each peer has a slot, and no room is lent");
        Ok(Round::new(group, self.lane, state.rounds.begun(), rooms))
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
    pub fn take(&self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        // One place, looked up once: this is the path of every round.
        let group = self.group;
        let mut state = group.lanes[self.lane].borrow_mut();
        let mut ready = false;
        // The second look of a balanced rank, once a round, finds nothing to wait for.
        if state.rounds.outstanding() || state.rounds.has_left() || state.unsent {
            match state.progress(&group.endpoint) {
                Ok(false) => {}
                Ok(true) => group.endpoint.notify(),
                Err((from, why)) => {
                    drop(state);
                    return Err(group.broken_protocol(self.lane, from, why));
                }
            }
            state.news = News::Nothing;
            state.record_lead(group.endpoint.rank());
            ready = state.rounds.ready();
            let due = state.rounds.due();
            if !ready && (due || state.rounds.may_linger()) {
                drop(state);
                ready = self.wait_for_next(due)?;
                state = group.lanes[self.lane].borrow_mut();
            }
        }
        // Asked last: a message that its transport finds corrupt fails the group when it is looked at.
        group.check()?;
        if ready { self.hand_out(state).map(Some) } else { Ok(None) }
    }

    /// The next complete round if [`take`](Self::take) would hand it out without waiting.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub fn try_take(&self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        let ready = self.look(self.taken())?.ready();
        self.group.check()?;
        if ready { self.hand_out(self.group.lanes[self.lane].borrow_mut()).map(Some) } else { Ok(None) }
    }

    /// The next of the rounds that this rank has published, waiting for each as if the lag were 0; `None` when all of them
    /// have been handed out. The lane stays open: use it at the end of a stretch of work, and [`drain`](Exchange::drain) at
    /// the end of all.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn flush(&self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        let before = self.taken();
        let outstanding = loop {
            let rounds = self.look(before)?;
            if !rounds.outstanding() || rounds.complete() {
                break rounds.outstanding();
            }
            self.await_round()?;
        };
        // Asked last, as in `take`.
        self.group.check()?;
        if outstanding { self.hand_out(self.group.lanes[self.lane].borrow_mut()).map(Some) } else { Ok(None) }
    }

    /// As [`flush`](Self::flush), but `None` also where that would wait.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn try_flush(&self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        let rounds = self.look(self.taken())?;
        self.group.check()?;
        if rounds.outstanding() && rounds.complete() {
            return self.hand_out(self.group.lanes[self.lane].borrow_mut()).map(Some);
        }
        Ok(None)
    }

    /// Tells the other ranks that this one begins no more rounds on this lane; its later messages count as empty. Does not
    /// wait. The rank has to go on taking until all have left (see [`drain`](Exchange::drain)).
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`].
    ///
    /// # Panics
    ///
    /// If the lane is used by [streams](Group::streams).
    pub fn leave(&self) -> Result<(), CollectiveError> {
        self.group.check()?;
        let streams = self.group.lanes[self.lane].borrow().streams;
        assert!(!streams, "a lane that is used by streams is left and drained through them");
        self.group.lanes[self.lane].borrow_mut().leave(&self.group.endpoint);
        Ok(())
    }

    /// Leaves the lane, if this rank has not yet, and hands out the remaining rounds: its own, and those that other ranks
    /// still publish. `None` when all have left and every round has been handed out.
    ///
    /// With several lanes, every rank [leaves](Exchange::leave) all of them before it drains one, or all drain them in the same
    /// order; [`Group::finish`] does so for a rank that needs nothing more.
    ///
    /// # Errors
    ///
    /// As [`take`](Exchange::take).
    pub fn drain(&self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        self.leave()?;
        if let Some(complete) = self.take()? {
            return Ok(Some(complete));
        }
        // This rank has all it needs, but its peers may not: what still waits for slots has to be out before it ends.
        if self.group.lanes[self.lane].borrow().unsent {
            self.group.wait_until_sent(self.lane)?;
        }
        Ok(None)
    }

    /// As [`begin`](Self::begin), but `None` where that would wait for a free slot. [`Group::wait`] ends when there may be one.
    ///
    /// # Errors
    ///
    /// Those of [`begin`](Self::begin).
    ///
    /// # Panics
    ///
    /// If the lane is used by [streams](Group::streams).
    pub fn try_begin(&self, sizes: &[usize]) -> Result<Option<Round<'g, E>>, CollectiveError> {
        self.group.progress_lane(self.lane)?;
        {
            let mut state = self.group.lanes[self.lane].borrow_mut();
            let refused = state.rounds.has_left() || state.open || state.streams || state.rounds.due();
            if !refused && !state.has_credit(&self.group.endpoint) {
                state.wanted = state.without_credit(&self.group.endpoint);
                return Ok(None);
            }
        }
        self.begin(sizes).map(Some)
    }

    /// Whether all that this rank has published is out, so that none of it needs a further call of this rank.
    pub fn is_sent(&self) -> bool {
        !self.group.lanes[self.lane].borrow().unsent
    }

    /// Fails the whole group because peers are late by this rank's own reckoning, and returns the fault: for programs that wait
    /// with [`Group::wait`], which knows of no deadline. Late are those whose messages the next round lacks, if it is a round
    /// that this rank `awaited` and has published, and those that have all their slots still in use, if it is a slot.
    pub fn late(&self, awaited: Awaited, waited: Duration) -> CollectiveError {
        self.group.late(self.lane, awaited, None, waited)
    }

    #[cold]
    fn cannot_begin(&self, given: usize) -> CollectiveError {
        let state = self.group.lanes[self.lane].borrow();
        let (lane, lag, ranks) = (state.id, state.options.lag, state.incoming.len());
        assert!(!state.streams, "lane {lane} is used by streams: no round begins on it");
        let error = if given != ranks {
            CollectiveError::Count { lane, given, ranks }
        } else if state.rounds.has_left() {
            CollectiveError::AfterLeave { lane }
        } else if state.open {
            CollectiveError::RoundOpen { lane, round: state.rounds.begun() }
        } else {
            CollectiveError::TakeFirst { lane, begun: state.rounds.begun(), due: state.rounds.taken(), lag }
        };
        drop(state);
        self.refuse(error)
    }

    /// Whether a lane without lag has nothing outstanding; the error for barrier and all-gather otherwise.
    pub(crate) fn synchronous(&self) -> Result<usize, CollectiveError> {
        let state = self.group.lanes[self.lane].borrow();
        let (lane, lag, ranks) = (state.id, state.options.lag, state.incoming.len());
        if lag == 0 && !state.rounds.outstanding() {
            return Ok(ranks);
        }
        drop(state);
        Err(self.refuse(CollectiveError::NotSynchronous { lane, lag }))
    }

    fn refuse(&self, error: CollectiveError) -> CollectiveError {
        self.group.refuse(self.lane, error)
    }

    /// Rounds handed out so far.
    fn taken(&self) -> u64 {
        self.group.lanes[self.lane].borrow().rounds.taken()
    }

    /// Looks at what has come, in a call `before` which so many rounds had been handed out. One that keeping up took since is
    /// still news: it may have kept another from beginning.
    fn look(&self, before: u64) -> Result<Rounds, CollectiveError> {
        self.group.progress_lane(self.lane)?;
        let mut state = self.group.lanes[self.lane].borrow_mut();
        state.record_lead(self.group.rank());
        state.news = if state.rounds.taken() == before { News::Nothing } else { News::More };
        Ok(state.rounds)
    }

    /// Waits for the next round, as long as `take` has to or may; whether it came.
    #[inline(never)]
    fn wait_for_next(&self, due: bool) -> Result<bool, CollectiveError> {
        if !due {
            return self.linger();
        }
        loop {
            self.await_round()?;
            let rounds = self.group.lanes[self.lane].borrow().rounds;
            // Not so if keeping up took what was due.
            if rounds.ready() || !rounds.due() {
                return Ok(rounds.ready());
            }
        }
    }

    /// Waits until the next round is complete, or taken because this rank keeps up, or all have left.
    #[inline(never)]
    fn await_round(&self) -> Result<(), CollectiveError> {
        // Most waits of balanced ranks are over before the clock could be read.
        let round = self.taken();
        if self.spin_for_round(round)? { Ok(()) } else { self.group.wait_for_round(self.lane, round) }
    }

    /// Looks a few times for `round`, which is the next; whether it is complete, or taken because this rank keeps up.
    #[inline(always)]
    fn spin_for_round(&self, round: u64) -> Result<bool, CollectiveError> {
        for _ in 0..LOOKS {
            std::hint::spin_loop();
            self.group.progress_lane(self.lane)?;
            if self.group.lanes[self.lane].borrow().rounds.has_come(round) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits a little for the newest round although the lag would let this rank go on; whether it came.
    ///
    /// Ranks that are balanced finish within microseconds of each other. Without this, the first of them would find the
    /// round incomplete, begin the next iteration, and hand the round out a whole iteration later.
    #[inline(never)]
    fn linger(&self) -> Result<bool, CollectiveError> {
        let round = self.taken();
        if self.spin_for_round(round)? {
            return Ok(self.group.lanes[self.lane].borrow().rounds.ready());
        }
        let now = self.group.endpoint.now();
        let (then, rounds) = {
            let mut state = self.group.lanes[self.lane].borrow_mut();
            let begun = state.rounds.begun();
            let Some((then, round)) = state.lingered.replace((now, begun)) else {
                return Ok(false);
            };
            let Some(rounds) = begun.checked_sub(round).filter(|rounds| *rounds > 0) else {
                return Ok(false);
            };
            (then, rounds)
        };
        let iteration = now.saturating_sub(then) / u32::try_from(rounds).unwrap_or(u32::MAX);
        self.group.linger(self.lane, now, now + (iteration / LINGER_SHARE).min(LINGER_MOST))
    }

    /// Hands out the next round, which is complete.
    #[inline(always)]
    fn hand_out(&self, mut state: RefMut<'g, LaneState>) -> Result<Complete<'g, E>, CollectiveError> {
        let number = state.rounds.taken();
        let messages = state.take_round(&self.group.endpoint);
        let complete = Complete::new(self.group, self.lane, number, messages);
        if state.expected.is_empty() {
            return Ok(complete);
        }
        self.check_declared(state, complete)
    }

    /// Compares what came with what this rank had declared, before anybody reads it.
    #[inline(never)]
    fn check_declared(
        &self,
        mut state: RefMut<'g, LaneState>,
        complete: Complete<'g, E>,
    ) -> Result<Complete<'g, E>, CollectiveError> {
        let declared = state.expected.pop_front_if(|(round, _)| *round == complete.number());
        drop(state);
        let (_, sizes) = declared.unwrap_or_default();
        for (from, &expected) in sizes.iter().enumerate() {
            let came = complete.message(from).len();
            if came != expected {
                let lane = self.group.lanes[self.lane].borrow().id;
                let mut fault = Fault::new(FaultKind::Sizes, vec![from], self.group.rank(), lane, complete.number());
                (fault.bytes, fault.expected) = (came as u64, Some(expected as u64));
                return Err(self.group.fail(fault));
            }
        }
        Ok(complete)
    }
}
