//! A rank's membership: its lanes, its waiting, and the fault that ends them all.

use std::time::Duration;

use slackline_transport::{Endpoint, Lane, PeerState, Rank};

use crate::lane::LaneState;
use crate::{Awaited, CollectiveError, Fault, FaultKind, GroupOptions, HEADER_BYTES, LaneOptions, LaneStats};

/// One rank's membership in a group. It drives an endpoint for all lanes.
///
/// While a rank waits on one lane, it keeps receiving and sending on the others. Dropping a group before a lane on which this
/// rank has published a round or left is [drained](crate::Exchange::drain) tells the other ranks that this one gave up, and why:
/// it panicked, or a call was an error such as [`CollectiveError::Count`]. So an early return or a panic on one rank reaches
/// the others at once and not at their deadline.
pub struct Group<E: Endpoint> {
    pub(crate) endpoint: E,
    pub(crate) lanes: Vec<LaneState>,
    deadline: Duration,
    fault: Option<Fault>,
    /// The last call that was an error of this rank's own.
    refused: Option<Refused>,
}

/// A call that was refused, and where its lane stood: if the lane has not moved since, the rank has not recovered.
struct Refused {
    lane: usize,
    at: (u64, u64),
    why: String,
}

impl<E: Endpoint> Group<E> {
    /// Joins the group that `endpoint` belongs to.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Shape`] if the endpoint has another number of lanes, if a lane has fewer than `lag + 1` slots (which
    /// can deadlock), or if its slots have no room for a header and a byte.
    pub fn new(endpoint: E, options: GroupOptions) -> Result<Self, CollectiveError> {
        let shape = endpoint.shape();
        if shape.lanes.len() != options.lanes.len() {
            let why = format!("{} lanes in the endpoint, {} in the options", shape.lanes.len(), options.lanes.len());
            return Err(CollectiveError::Shape { why });
        }
        for (number, (rings, lane)) in shape.lanes.iter().zip(&options.lanes).enumerate() {
            if rings.slots <= lane.lag {
                let why = format!("lane {number} has {} slots; lag {} needs {}", rings.slots, lane.lag, lane.lag + 1);
                return Err(CollectiveError::Shape { why });
            }
            if rings.slot_bytes <= HEADER_BYTES {
                let why = format!("lane {number} has slots of {} bytes, all header", rings.slot_bytes);
                return Err(CollectiveError::Shape { why });
            }
        }
        let lane = |(number, &lane): (usize, &LaneOptions)| {
            LaneState::new(Lane(number as u16), lane, shape.ranks, shape.lanes[number].slots)
        };
        let lanes = options.lanes.iter().enumerate().map(lane).collect();
        Ok(Group { endpoint, lanes, deadline: options.deadline, fault: None, refused: None })
    }

    /// This member's number.
    pub fn rank(&self) -> Rank {
        self.endpoint.rank()
    }

    /// Members of the group.
    pub fn ranks(&self) -> usize {
        self.endpoint.shape().ranks
    }

    /// What this rank did on a lane so far.
    ///
    /// # Panics
    ///
    /// If the group has no such lane.
    pub fn stats(&self, lane: Lane) -> &LaneStats {
        &self.lanes[lane.index()].stats
    }

    /// The endpoint, for its clock and its `sleep`.
    pub fn endpoint(&mut self) -> &mut E {
        &mut self.endpoint
    }

    /// Receives what has landed and sends what waits for slots, on all lanes, without waiting. Call it now and then during
    /// long computations if messages are larger than a slot or the transport [moves messages only inside
    /// calls](Endpoint::moves_in_calls).
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&mut self) -> Result<(), CollectiveError> {
        self.check()?;
        for lane in 0..self.lanes.len() {
            self.progress_lane(lane)?;
        }
        Ok(())
    }

    /// Fails the whole group because this rank cannot go on, and returns the fault. Every rank receives the first 128 bytes
    /// of `why`, or a few more. The fault names the first lane that is in use, and the round that would have begun there next;
    /// [`Exchange::give_up`](crate::Exchange::give_up) names its own lane.
    pub fn give_up(&mut self, why: &str) -> CollectiveError {
        let lane = self.lanes.iter().position(LaneState::in_use).unwrap_or(0);
        self.give_up_on(lane, why)
    }

    pub(crate) fn give_up_on(&mut self, lane: usize, why: &str) -> CollectiveError {
        let (lane, round) = self.lanes.get(lane).map_or((Lane(0), 0), |lane| (lane.id, lane.begun));
        let mut fault = Fault::new(FaultKind::GaveUp, vec![self.rank()], self.rank(), lane, round);
        fault.note = why.to_owned();
        self.fail(fault)
    }

    /// Remembers a call that was refused, for when this rank drops the group because of it.
    #[cold]
    pub(crate) fn refuse(&mut self, lane: usize, error: CollectiveError) -> CollectiveError {
        self.refused = Some(Refused { lane, at: self.lanes[lane].place(), why: error.to_string() });
        error
    }

    /// The group's fault, if this rank knows of one already.
    #[inline(always)]
    pub(crate) fn check(&mut self) -> Result<(), CollectiveError> {
        if self.fault.is_none() && self.endpoint.poisoned().is_none() {
            return Ok(());
        }
        Err(self.known_fault())
    }

    #[cold]
    fn known_fault(&mut self) -> CollectiveError {
        match &self.fault {
            Some(fault) => fault.clone().into(),
            None => self.adopt_poison(),
        }
    }

    #[inline(always)]
    pub(crate) fn progress_lane(&mut self, lane: usize) -> Result<(), CollectiveError> {
        match self.lanes[lane].progress(&mut self.endpoint) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.endpoint.notify();
                Ok(())
            }
            Err((from, why)) => Err(self.broken_protocol(lane, from, why)),
        }
    }

    #[cold]
    pub(crate) fn broken_protocol(&mut self, lane: usize, from: Rank, why: &str) -> CollectiveError {
        let round = self.lanes[lane].incoming[from].arrived;
        let mut fault = Fault::new(FaultKind::Protocol, vec![from], self.rank(), self.lanes[lane].id, round);
        fault.note = why.to_owned();
        self.fail(fault)
    }

    /// Waits until the next round of `lane` is complete, or all have left.
    #[cold]
    pub(crate) fn wait_for_round(&mut self, lane: usize) -> Result<(), CollectiveError> {
        let ready = |group: &mut Self| group.lanes[lane].complete() || group.lanes[lane].finished();
        let waited = self.wait_until(lane, Awaited::Message, ready)?;
        self.lanes[lane].stats.blocked_on_bound += waited;
        Ok(())
    }

    /// Waits until the next round of `lane` is complete, but not past `until`; whether it is. Late peers are no fault here.
    pub(crate) fn linger(&mut self, lane: usize, begin: Duration, until: Duration) -> Result<bool, CollectiveError> {
        loop {
            for other in 0..self.lanes.len() {
                self.progress_lane(other)?;
            }
            let now = self.endpoint.now();
            let complete = self.lanes[lane].complete();
            if complete || now >= until {
                self.lanes[lane].stats.lingered += now.saturating_sub(begin);
                return Ok(complete);
            }
            self.check()?;
            self.endpoint.wait(until)?;
        }
    }

    /// Waits until a round can begin on `lane`.
    #[cold]
    pub(crate) fn wait_for_slots(&mut self, lane: usize) -> Result<(), CollectiveError> {
        let ready = |group: &mut Self| group.lanes[lane].has_credit(&mut group.endpoint);
        let waited = self.wait_until(lane, Awaited::Slot, ready)?;
        self.lanes[lane].stats.blocked_on_credit += waited;
        Ok(())
    }

    /// Waits until everything that was published on `lane` is out.
    #[cold]
    pub(crate) fn wait_until_sent(&mut self, lane: usize) -> Result<(), CollectiveError> {
        let waited = self.wait_until(lane, Awaited::Slot, |group| !group.lanes[lane].unsent)?;
        self.lanes[lane].stats.blocked_on_credit += waited;
        Ok(())
    }

    /// Poisons the group with `fault`, unless another fault was first, and returns the one that won.
    pub(crate) fn fail(&mut self, fault: Fault) -> CollectiveError {
        if let Some(first) = &self.fault {
            return first.clone().into();
        }
        self.endpoint.poison(&fault.encode());
        if self.endpoint.poisoned().is_some() {
            return self.adopt_poison();
        }
        self.fault = Some(fault.clone());
        fault.into()
    }

    #[cold]
    fn adopt_poison(&mut self) -> CollectiveError {
        let reporter = self.rank();
        let reason = self.endpoint.poisoned().unwrap_or_default();
        let fault = Fault::from_poison(reason).unwrap_or_else(|| {
            let mut fault = Fault::new(FaultKind::Protocol, vec![reporter], reporter, Lane(0), 0);
            // The transport's own words.
            fault.note = match std::str::from_utf8(reason) {
                Ok(text) if !text.is_empty() => text.to_owned(),
                _ => "the group failed with an unreadable reason".to_owned(),
            };
            fault
        });
        self.fault = Some(fault.clone());
        fault.into()
    }

    fn wait_until(
        &mut self,
        lane: usize,
        awaited: Awaited,
        ready: impl Fn(&mut Self) -> bool,
    ) -> Result<Duration, CollectiveError> {
        let begin = self.endpoint.now();
        let until = begin.saturating_add(self.deadline);
        loop {
            // Asked before looking at what has landed: a peer may publish its last message and end.
            let gone = self.gone();
            for other in 0..self.lanes.len() {
                self.progress_lane(other)?;
            }
            if ready(self) {
                return Ok(self.endpoint.now().saturating_sub(begin));
            }
            self.check()?;
            let waited = self.endpoint.now().saturating_sub(begin);
            let gone = self.needed(gone, lane, awaited);
            if !gone.is_empty() {
                return Err(self.blame(FaultKind::Dead, gone, lane, awaited, waited));
            }
            if begin + waited >= until {
                let late = match awaited {
                    Awaited::Message => self.lanes[lane].missing(),
                    Awaited::Slot => self.lanes[lane].without_credit(&mut self.endpoint),
                };
                return Err(self.blame(FaultKind::Late, late, lane, awaited, waited));
            }
            self.endpoint.wait(until)?;
        }
    }

    /// Peers that have ended.
    fn gone(&mut self) -> Vec<Rank> {
        let own = self.rank();
        let mut gone = Vec::new();
        for peer in (0..self.ranks()).filter(|&peer| peer != own) {
            if self.endpoint.peer_state(peer) != PeerState::Alive {
                gone.push(peer);
            }
        }
        gone
    }

    /// Those of `peers` of which some lane that is in use still expects something, or whose slots a round of `lane` waits for:
    /// a peer that has left goes on giving slots back until all have left.
    fn needed(&mut self, mut peers: Vec<Rank>, lane: usize, awaited: Awaited) -> Vec<Rank> {
        if peers.is_empty() {
            return peers;
        }
        let full = match awaited {
            Awaited::Slot if !self.lanes[lane].left => self.lanes[lane].without_credit(&mut self.endpoint),
            _ => Vec::new(),
        };
        let owes = |lane: &LaneState, peer: Rank| {
            lane.in_use() && !(lane.incoming[peer].left && lane.outgoing[peer].is_empty())
        };
        peers.retain(|&peer| full.contains(&peer) || self.lanes.iter().any(|lane| owes(lane, peer)));
        peers
    }

    fn blame(
        &mut self,
        kind: FaultKind,
        ranks: Vec<Rank>,
        lane: usize,
        awaited: Awaited,
        waited: Duration,
    ) -> CollectiveError {
        let state = &self.lanes[lane];
        let round = if awaited == Awaited::Message { state.taken } else { state.begun };
        let partial = ranks.first().and_then(|&rank| state.incoming[rank].partial_bytes());
        let mut fault = Fault::new(kind, ranks, self.endpoint.rank(), state.id, round);
        (fault.awaited, fault.waited) = (awaited, waited);
        (fault.bytes, fault.expected) = partial.map_or((0, None), |(here, total)| (here, Some(total)));
        self.fail(fault)
    }
}

impl<E: Endpoint> Drop for Group<E> {
    fn drop(&mut self) {
        if self.fault.is_none()
            && let Some((lane, why)) = self.unfinished()
        {
            self.give_up_on(lane, &why);
        }
        self.endpoint.detach();
    }
}

impl<E: Endpoint> Group<E> {
    /// A lane that the others still expect this rank on, and what the reason may be that it ends.
    fn unfinished(&mut self) -> Option<(usize, String)> {
        let refused = self.refused.take().filter(|refused| {
            let lane = &self.lanes[refused.lane];
            lane.place() == refused.at && !lane.finished()
        });
        let begun = self.lanes.iter().position(LaneState::in_use);
        if std::thread::panicking() {
            return Some((begun?, "it panicked".to_owned()));
        }
        match refused {
            Some(Refused { lane, why, .. }) => Some((lane, why)),
            None => Some((begun?, "it dropped its group before it had drained the lane".to_owned())),
        }
    }
}
