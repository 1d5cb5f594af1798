//! Waiting: for a round, for slots, for anything; and who is to blame when it takes too long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use slackline_transport::{Endpoint, PeerState, Rank};

use super::Group;
use crate::lane::{LaneState, News, Sizes};
use crate::{Awaited, CollectiveError, Fault, FaultKind};

impl<E: Endpoint> Group<E> {
    /// Waits until a message or a farewell has come on any lane that its user has not looked for since, a slot is free towards a
    /// peer for which [`Streams::room`](crate::Streams::room) had none, the last of what waited for slots on a lane is out, the
    /// [`waker`](Self::waker) was called, or the endpoint's clock reaches `until`. It may return early: look again, and call it
    /// again. A message of a round counts as soon as it has come, also while others of that round are missing.
    ///
    /// Waiting here is no lateness of anybody: a group may rest for as long as it likes. Only what has to get out, because a
    /// message did not fit the free slots, has to get out within the deadline.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed, or if a rank has died that has not left the lanes in use.
    pub fn wait(&self, until: Duration) -> Result<(), CollectiveError> {
        // Peers are looked at when nothing else has come, and then before what has landed: a peer may publish its last message
        // and end.
        let mut gone = Vec::new();
        loop {
            self.progress_all()?;
            self.check()?;
            let news = self.lanes.iter().fold(false, |news, lane| news | self.has_news(&mut lane.borrow_mut()));
            let now = self.endpoint.now();
            if self.alarm.called.swap(false, Ordering::Acquire) || news || now >= until {
                return Ok(());
            }
            for lane in 0..self.lanes.len() {
                let dead = self.needed(&gone, lane, None);
                if !dead.is_empty() {
                    return Err(self.blame(FaultKind::Dead, dead, lane, Awaited::Message, Duration::ZERO));
                }
            }
            let mut until = until;
            for (number, lane) in self.lanes.iter().enumerate() {
                let mut lane = lane.borrow_mut();
                if !lane.unsent {
                    continue;
                }
                let since = *lane.unsent_since.get_or_insert(now);
                let late = since.saturating_add(self.deadline);
                if now >= late {
                    let full = lane.unsent_to();
                    drop(lane);
                    return Err(self.blame(FaultKind::Late, full, number, Awaited::Slot, now - since));
                }
                until = until.min(late);
            }
            let now_gone = self.gone();
            if now_gone != gone {
                gone = now_gone;
                continue;
            }
            self.endpoint.wait(until)?;
        }
    }

    /// Whether there is something that the user of the lane has not looked at. Asked once, it is looked at.
    fn has_news(&self, lane: &mut LaneState) -> bool {
        let LaneState { wanted, outgoing, news, .. } = lane;
        let before = wanted.len();
        wanted.retain(|&to| !outgoing[to].has_credit(&self.endpoint));
        std::mem::take(news) != News::Nothing || wanted.len() < before
    }

    pub(crate) fn progress_all(&self) -> Result<(), CollectiveError> {
        for lane in 0..self.lanes.len() {
            self.progress_lane(lane)?;
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn progress_lane(&self, lane: usize) -> Result<(), CollectiveError> {
        let mut state = self.lanes[lane].borrow_mut();
        match state.progress(&self.endpoint) {
            Ok(false) => {}
            Ok(true) => self.endpoint.notify(),
            Err((from, why)) => {
                drop(state);
                return Err(self.broken_protocol(lane, from, why));
            }
        }
        if state.keeps_up {
            self.keep_up(&mut state);
        }
        Ok(())
    }

    /// Publishes empty rounds as far as others have published theirs, and takes rounds that hold nothing for this rank.
    #[cold]
    fn keep_up(&self, lane: &mut LaneState) {
        while !lane.rounds.has_left() && !lane.open && !lane.streams {
            let next = lane.rounds.taken();
            let declared = lane.expected.front().is_some_and(|(round, _)| *round == next);
            if lane.rounds.outstanding() && lane.rounds.complete() && !declared && lane.next_is_empty(&self.endpoint) {
                let mut messages = lane.take_round(&self.endpoint);
                lane.give_back_round(&self.endpoint, &mut messages);
                if lane.peers_may_lack_slots {
                    self.endpoint.notify();
                }
            } else if lane.rounds.is_behind() && !lane.rounds.due() {
                let nothing = Sizes::from_elem(0, lane.outgoing.len());
                let Some(mut rooms) = lane.rooms(&self.endpoint, &nothing) else { return };
                lane.publish(&self.endpoint, &mut rooms);
            } else {
                return;
            }
        }
    }

    /// Waits until the next round of `lane`, which is `round`, is complete, or taken because this rank keeps up, or all have
    /// left.
    #[cold]
    pub(crate) fn wait_for_round(&self, lane: usize, round: u64) -> Result<(), CollectiveError> {
        let ready = |lane: &LaneState| lane.rounds.has_come(round) || lane.rounds.finished();
        let waited = self.wait_until(lane, Awaited::Message, None, ready)?;
        self.lanes[lane].borrow_mut().stats.blocked_on_bound += waited;
        Ok(())
    }

    /// Waits until the next round of `lane` is complete, but not past `until`; whether it is. Late peers are no fault here.
    pub(crate) fn linger(&self, lane: usize, begin: Duration, until: Duration) -> Result<bool, CollectiveError> {
        loop {
            self.progress_all()?;
            let now = self.endpoint.now();
            let mut state = self.lanes[lane].borrow_mut();
            let complete = state.rounds.complete();
            if complete || now >= until {
                state.stats.lingered += now.saturating_sub(begin);
                return Ok(complete);
            }
            drop(state);
            self.check()?;
            self.endpoint.wait(until)?;
        }
    }

    /// Waits until a round can begin on `lane`, or, because this rank keeps up, not before others are taken.
    #[cold]
    pub(crate) fn wait_for_slots(&self, lane: usize) -> Result<(), CollectiveError> {
        let ready = |lane: &LaneState| lane.rounds.due() || lane.has_credit(&self.endpoint);
        let waited = self.wait_until(lane, Awaited::Slot, None, ready)?;
        self.lanes[lane].borrow_mut().stats.blocked_on_credit += waited;
        Ok(())
    }

    /// Waits until a message to `to` can begin on `lane`.
    #[cold]
    pub(crate) fn wait_for_slot(&self, lane: usize, to: Rank) -> Result<(), CollectiveError> {
        let ready = |lane: &LaneState| lane.outgoing[to].has_credit(&self.endpoint);
        let waited = self.wait_until(lane, Awaited::Slot, Some(to), ready)?;
        self.lanes[lane].borrow_mut().stats.blocked_on_credit += waited;
        Ok(())
    }

    /// Waits until a message from `from` is there on `lane`, or that rank has left.
    #[cold]
    pub(crate) fn wait_for_message(&self, lane: usize, from: Rank) -> Result<(), CollectiveError> {
        let ready = |lane: &LaneState| lane.incoming[from].waiting() > 0 || lane.incoming[from].has_left();
        let waited = self.wait_until(lane, Awaited::Message, Some(from), ready)?;
        self.lanes[lane].borrow_mut().stats.blocked_on_bound += waited;
        Ok(())
    }

    /// Waits until everything that was published on `lane` is out.
    #[cold]
    pub(crate) fn wait_until_sent(&self, lane: usize) -> Result<(), CollectiveError> {
        let waited = self.wait_until(lane, Awaited::Slot, None, |lane| !lane.unsent)?;
        self.lanes[lane].borrow_mut().stats.blocked_on_credit += waited;
        Ok(())
    }

    /// Waits until `lane` is `ready`, for `peer` or for all of them, and how long it took.
    fn wait_until(
        &self,
        lane: usize,
        awaited: Awaited,
        peer: Option<Rank>,
        ready: impl Fn(&LaneState) -> bool,
    ) -> Result<Duration, CollectiveError> {
        let begin = self.endpoint.now();
        let until = begin.saturating_add(self.deadline);
        // Peers are looked at when nothing else has come, and then before what has landed: a peer may publish its last message
        // and end.
        let mut gone = Vec::new();
        loop {
            self.progress_all()?;
            let now = self.endpoint.now();
            if ready(&self.lanes[lane].borrow()) {
                return Ok(now.saturating_sub(begin));
            }
            self.check()?;
            let waited = now.saturating_sub(begin);
            let dead = self.needed(&gone, lane, (awaited == Awaited::Slot).then_some(peer));
            if !dead.is_empty() {
                return Err(self.blame(FaultKind::Dead, dead, lane, awaited, waited));
            }
            if now >= until {
                return Err(self.late(lane, awaited, peer, waited));
            }
            let now_gone = self.gone();
            if now_gone != gone {
                gone = now_gone;
                continue;
            }
            self.endpoint.wait(until)?;
        }
    }

    /// Fails the group because `peer`, or whoever keeps `lane` waiting, is late.
    pub(crate) fn late(&self, lane: usize, awaited: Awaited, peer: Option<Rank>, waited: Duration) -> CollectiveError {
        let state = self.lanes[lane].borrow();
        let late = match (peer, awaited) {
            (Some(peer), _) => vec![peer],
            (None, Awaited::Message) => state.missing(),
            (None, Awaited::Slot) if state.rounds.has_left() => state.unsent_to(),
            (None, Awaited::Slot) => state.without_credit(&self.endpoint),
        };
        drop(state);
        self.blame(FaultKind::Late, late, lane, awaited, waited)
    }

    /// Peers that have ended.
    fn gone(&self) -> Vec<Rank> {
        let own = self.rank();
        let gone = |&peer: &Rank| peer != own && self.endpoint.peer_state(peer) != PeerState::Alive;
        (0..self.ranks()).filter(gone).collect()
    }

    /// Those of `peers` of which some lane that is in use still expects something, or, where slots are `awaited` on `lane`, of
    /// one peer or of all, whose slots they are: a peer that has left goes on giving slots back until all have left.
    fn needed(&self, peers: &[Rank], lane: usize, awaited: Option<Option<Rank>>) -> Vec<Rank> {
        if peers.is_empty() {
            return Vec::new();
        }
        let state = self.lanes[lane].borrow();
        let full = match awaited {
            Some(None) if !state.rounds.has_left() => state.without_credit(&self.endpoint),
            Some(Some(peer)) => vec![peer],
            _ => Vec::new(),
        };
        let owes = |peer| self.lanes.iter().any(|lane| lane.borrow().needs(peer));
        peers.iter().copied().filter(|&peer| full.contains(&peer) || owes(peer)).collect()
    }

    fn blame(
        &self,
        kind: FaultKind,
        ranks: Vec<Rank>,
        lane: usize,
        awaited: Awaited,
        waited: Duration,
    ) -> CollectiveError {
        let state = self.lanes[lane].borrow();
        let first = ranks.first().map(|&rank| &state.incoming[rank]);
        let number = match (state.streams, awaited) {
            (true, Awaited::Message) => first.map_or(0, |stream| stream.arrived()),
            (false, Awaited::Message) => state.rounds.taken(),
            (true, Awaited::Slot) => ranks.first().map_or(0, |&rank| state.outgoing[rank].published()),
            (false, Awaited::Slot) => state.rounds.begun(),
        };
        let partial = first.and_then(|stream| stream.partial_bytes());
        let mut fault = Fault::new(kind, ranks, self.endpoint.rank(), state.id, number);
        (fault.awaited, fault.waited, fault.streams) = (awaited, waited, state.streams);
        (fault.bytes, fault.expected) = partial.map_or((0, None), |(here, total)| (here, Some(total)));
        drop(state);
        self.fail(fault)
    }
}
