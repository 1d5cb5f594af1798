//! A rank's membership: its lanes, and the fault that ends them all.

mod wait;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, Rank};

use crate::lane::LaneState;
use crate::{CollectiveError, Fault, FaultKind, GroupOptions, HEADER_BYTES, LaneOptions, LaneStats};

/// One rank's membership in a group. It drives an endpoint for all lanes.
///
/// A lane is used by [rounds](crate::Exchange) or by [streams](crate::Streams), and several at once: all calls take `&self`, and messages and
/// rooms of different lanes, or of one, can be held together. While a rank waits on one lane, it keeps receiving and sending on
/// the others.
///
/// Dropping a group before a lane on which this rank has published or left is [drained](crate::Exchange::drain) tells the other
/// ranks that this one gave up, and why: it panicked, or a call was an error such as [`CollectiveError::Count`]. So an early
/// return or a panic on one rank reaches the others at once and not at their deadline.
pub struct Group<E: Endpoint> {
    pub(crate) endpoint: E,
    pub(crate) lanes: Vec<RefCell<LaneState>>,
    deadline: Duration,
    fault: OnceCell<Fault>,
    /// The last call that was an error of this rank's own.
    refused: Cell<Option<Refused>>,
    alarm: Arc<Alarm>,
    /// All ranks have left all lanes.
    finished: Cell<bool>,
}

/// A call that was refused, and where its lane stood: if the lane has not moved since, the rank has not recovered.
struct Refused {
    lane: usize,
    at: (u64, u64),
    why: String,
}

/// Tells a group's own wait from the endpoint's that the waker was called.
struct Alarm {
    called: AtomicBool,
    endpoint: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        self.endpoint.wake_by_ref();
    }
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
            RefCell::new(LaneState::new(Lane(number as u16), lane, shape.ranks, shape.lanes[number]))
        };
        let lanes = options.lanes.iter().enumerate().map(lane).collect();
        let alarm = Arc::new(Alarm { called: AtomicBool::new(false), endpoint: endpoint.waker() });
        let (fault, refused) = (OnceCell::new(), Cell::new(None));
        Ok(Group { endpoint, lanes, deadline: options.deadline, fault, refused, alarm, finished: Cell::new(false) })
    }

    /// The place of a lane that there is.
    ///
    /// # Panics
    ///
    /// If the group has no such lane.
    pub(crate) fn existing(&self, lane: Lane) -> usize {
        assert!(lane.index() < self.lanes.len(), "lane {lane} of a group with {} lanes", self.lanes.len());
        lane.index()
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
    pub fn stats(&self, lane: Lane) -> LaneStats {
        self.lanes[self.existing(lane)].borrow().stats.clone()
    }

    /// The endpoint, for its clock and its `sleep`.
    pub fn endpoint(&self) -> &E {
        &self.endpoint
    }

    /// Ends a [`wait`](Self::wait) of this rank from any thread: the one that is under way, or else the next one. It may
    /// outlive the group.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    /// Receives what has landed and sends what waits for slots, on all lanes, without waiting. Call it now and then during
    /// long computations if messages are larger than a slot or the transport [moves messages only inside
    /// calls](Endpoint::moves_in_calls).
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed.
    pub fn progress(&self) -> Result<(), CollectiveError> {
        self.check()?;
        self.progress_all()
    }

    /// Leaves all lanes, and returns when all ranks have left them. What still comes is received and dropped.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed, or a rank died that has not left.
    pub fn finish(self) -> Result<(), CollectiveError> {
        self.check()?;
        for lane in &self.lanes {
            lane.borrow_mut().leave(&self.endpoint);
        }
        loop {
            self.progress()?;
            for lane in &self.lanes {
                let lane = &mut *lane.borrow_mut();
                for from in 0..self.ranks() {
                    while let Some((_, message)) = lane.take_message(&self.endpoint, from) {
                        lane.incoming[from].give_back(&self.endpoint, message);
                    }
                }
            }
            self.endpoint.notify();
            if !self.lanes.iter().any(|lane| lane.borrow().is_awaited()) {
                self.finished.set(true);
                return Ok(());
            }
            self.wait(Duration::MAX)?;
        }
    }

    /// Leaves all lanes without waiting for the others to leave: only until what this rank has sent is out, and for at most
    /// `patience`. What still comes is not received. Peers that wait for more from this rank see that it
    /// [has left](crate::Streams::has_left).
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Fault`] if the group has failed, or if a peer that has to take something died.
    pub fn part(self, patience: Duration) -> Result<(), CollectiveError> {
        self.check()?;
        for lane in &self.lanes {
            lane.borrow_mut().leave(&self.endpoint);
        }
        let until = self.endpoint.now().saturating_add(patience);
        loop {
            self.progress()?;
            self.endpoint.notify();
            if self.endpoint.now() >= until || !self.lanes.iter().any(|lane| lane.borrow().unsent) {
                self.finished.set(true);
                return Ok(());
            }
            self.wait(until)?;
        }
    }

    /// Fails the whole group because this rank cannot go on, and returns the fault. Every rank receives the first 128 bytes
    /// of `why`, or a few more. The fault names the first lane that is in use, and the round that would have begun there next;
    /// [`Exchange::give_up`](crate::Exchange::give_up) names its own lane.
    pub fn give_up(&self, why: &str) -> CollectiveError {
        let lane = self.lanes.iter().position(|lane| lane.borrow().in_use()).unwrap_or(0);
        self.give_up_on(lane, why)
    }

    pub(crate) fn give_up_on(&self, lane: usize, why: &str) -> CollectiveError {
        let lane = self.lanes.get(lane).map(RefCell::borrow);
        let (lane, round) = lane.map_or((Lane(0), 0), |lane| (lane.id, lane.rounds.begun()));
        let mut fault = Fault::new(FaultKind::GaveUp, vec![self.rank()], self.rank(), lane, round);
        fault.note = why.to_owned();
        self.fail(fault)
    }

    /// Remembers a call that was refused, for when this rank drops the group because of it.
    #[cold]
    pub(crate) fn refuse(&self, lane: usize, error: CollectiveError) -> CollectiveError {
        let at = self.place(lane);
        self.refused.set(Some(Refused { lane, at, why: error.to_string() }));
        error
    }

    /// Rounds published and handed out so far.
    fn place(&self, lane: usize) -> (u64, u64) {
        let rounds = self.lanes[lane].borrow().rounds;
        (rounds.begun(), rounds.taken())
    }

    /// The group's fault, if this rank knows of one already.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<(), CollectiveError> {
        if self.fault.get().is_none() && self.endpoint.poisoned().is_none() {
            return Ok(());
        }
        Err(self.known_fault())
    }

    #[cold]
    fn known_fault(&self) -> CollectiveError {
        match self.fault.get() {
            Some(fault) => fault.clone().into(),
            None => self.adopt_poison(),
        }
    }

    #[cold]
    pub(crate) fn broken_protocol(&self, lane: usize, from: Rank, why: &str) -> CollectiveError {
        let (id, message) = {
            let lane = self.lanes[lane].borrow();
            (lane.id, lane.incoming[from].arrived())
        };
        let mut fault = Fault::new(FaultKind::Protocol, vec![from], self.rank(), id, message);
        fault.streams = self.lanes[lane].borrow().streams;
        fault.note = why.to_owned();
        self.fail(fault)
    }

    /// Poisons the group with `fault`, unless another fault was first, and returns the one that won.
    pub(crate) fn fail(&self, fault: Fault) -> CollectiveError {
        if let Some(first) = self.fault.get() {
            return first.clone().into();
        }
        self.endpoint.poison(&fault.encode());
        if self.endpoint.poisoned().is_some() {
            return self.adopt_poison();
        }
        self.fault.get_or_init(|| fault).clone().into()
    }

    #[cold]
    fn adopt_poison(&self) -> CollectiveError {
        let reason = self.endpoint.poisoned().unwrap_or_default();
        let fault = || Fault::read(reason, self.rank());
        self.fault.get_or_init(fault).clone().into()
    }
}

impl<E: Endpoint> Drop for Group<E> {
    fn drop(&mut self) {
        if self.fault.get().is_none()
            && !self.finished.get()
            && let Some((lane, why)) = self.unfinished()
        {
            self.give_up_on(lane, &why);
        }
        self.endpoint.detach();
    }
}

impl<E: Endpoint> Group<E> {
    /// A lane that the others still expect this rank on, and what the reason may be that it ends.
    fn unfinished(&self) -> Option<(usize, String)> {
        let refused = self.refused.take().filter(|refused| {
            let lane = self.lanes[refused.lane].borrow();
            let over = if lane.streams { !lane.in_use() } else { lane.rounds.finished() };
            refused.at == self.place(refused.lane) && !over
        });
        let begun = self.lanes.iter().position(|lane| lane.borrow().in_use());
        if std::thread::panicking() {
            return Some((begun?, "it panicked".to_owned()));
        }
        match refused {
            Some(Refused { lane, why, .. }) => Some((lane, why)),
            None => Some((begun?, "it dropped its group before it had drained the lane".to_owned())),
        }
    }
}
