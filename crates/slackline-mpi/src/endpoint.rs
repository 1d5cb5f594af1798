//! The endpoint over MPI's point-to-point messages.

mod alarm;
mod control;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, Message, PeerState, Rank, Room, TransportError};

use crate::ffi::MpiError;
use crate::ffi::rings::{Landed, Peer, Receives, Route, SendRing};
use crate::ffi::slots::{FRAME, Slots};
use crate::frame::{CONTROL_BYTES, Control, Header, unwrap_count};
use crate::world::{World, WorldError};

use alarm::Alarm;
use control::{CONTROL_SLOTS, ControlRing, Farewells, Poisoning};

/// How long a waiting rank spins, and how long it then yields its core between looks, before it sleeps between them. MPI
/// cannot sleep until a message comes; a nap of 50 µs takes about twice that.
const SPIN: Duration = Duration::from_micros(20);
pub(crate) const YIELD: Duration = Duration::from_millis(5);
/// How long it sleeps between looks.
pub(crate) const NAP: Duration = Duration::from_micros(50);

/// How long an endpoint that has left completes its sends, at most.
const FAREWELL: Duration = Duration::from_secs(10);
/// The same for one that was dropped without leaving or whose group failed.
const HASTE: Duration = Duration::from_millis(500);

/// Lanes with slots up to this size have all their receives posted at all times. Larger messages use rendezvous: MPI copies
/// one with a posted receive inside the next call, before it returns. With the next round's receives posted, a rank that is
/// a little late would copy its peers' next messages before it publishes its own, and the ranks would wait for each other's
/// copies in turn.
const EXPECTED: usize = 4096;

/// When nothing has landed for this long, per KiB of a lane's slots, all of the lane's receives are posted. It is longer than
/// a peer takes to copy a message of that size (500 ns per KiB is 2 GB/s).
const IDLE_A_KIB: Duration = Duration::from_nanos(500);
const IDLE: Duration = Duration::from_micros(20);

/// Looks between two looks at the clock.
const LOOKS: u32 = 16;

/// One rank's end of a group over MPI. A message is an `MPI_Isend` from an owned slot into a receive that its receiver has
/// posted.
///
/// Each lane has a duplicated communicator. A sender never has more messages in flight than the receiver has slots: counts
/// of released messages travel in the headers of messages in the other direction, or alone if there are none. Receives are
/// posted in advance: for slots up to 4 KiB all of them; for larger slots as many as this rank has published itself (the
/// rounds that it waits for), and the rest when nothing else comes. A rank's messages to itself do not use MPI.
///
/// # Progress
///
/// MPI moves messages only inside its calls: [`progress`](Endpoint::progress) is one `MPI_Testsome` over the oldest receive
/// of every ring. Messages above the library's eager limit (4 KiB by default in Open MPI's shared memory) move only while
/// both sides call. [`wait`](Endpoint::wait) polls, at first without a pause, later every 50 µs.
///
/// # Failure
///
/// A rank whose endpoint is dropped without [`detach`](Endpoint::detach) tells its peers. If a process is killed, `mpirun`
/// ends the whole job: MPI's own rule. A poison goes to all ranks, and each waits for half a second, so that they agree if
/// several ranks poison the group at once: the smallest rank's reason wins.
///
/// # Memory
///
/// Two slots (one to send, one to receive) for each peer, lane and slot of the shape, touched only as far as messages reach.
pub struct MpiEndpoint {
    world: World,
    rank: Rank,
    shape: GroupShape,
    /// `ranks` a lane.
    pairs: Vec<PeerCounts>,
    /// None where another transport serves the peer.
    sends: Vec<Option<SendRing>>,
    /// One ring for each pair, and behind them the control messages from all.
    receives: Receives,
    /// To each peer; None for this rank itself.
    controls: Vec<Option<ControlRing>>,
    /// What a look has brought, until it is taken in.
    landed: RefCell<Vec<Landed>>,
    /// By lane: the peers from which something has landed since that was asked for.
    news: Vec<RefCell<Vec<Rank>>>,
    peers: Vec<Farewells>,
    /// Counts everything that a wait is for, but alarms.
    changes: Cell<u64>,
    seen_changes: Cell<u64>,
    alarm: Arc<Alarm>,
    seen_alarms: Cell<u64>,
    poisoning: RefCell<Option<Poisoning>>,
    /// The reason, once it has settled.
    poison: OnceCell<Vec<u8>>,
    began: Instant,
    /// Looks in a row that brought nothing, since when about, and for how long.
    idle_looks: Cell<u32>,
    idle_since: Cell<Instant>,
    idle: Cell<Duration>,
    ended: Cell<bool>,
}

/// Where this rank stands with one peer on one lane.
#[derive(Default)]
struct PeerCounts {
    published: Cell<u64>,
    /// Of those, the ones whose sends are done.
    sent: Cell<u64>,
    /// Of those, the ones that the peer has released.
    credited: Cell<u64>,
    landed: Cell<u64>,
    released: Cell<u64>,
    /// `released` as last told to the peer.
    told: Cell<u64>,
    /// The peer is in the lane's news.
    is_news: Cell<bool>,
    /// Lengths of the messages to oneself, by slot; empty for other peers.
    own_lengths: Box<[Cell<usize>]>,
}

/// Counts one more.
#[inline]
fn count_up(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl MpiEndpoint {
    /// Joins a group of all ranks of the job. All ranks have to call it, equally often, with the same shape. Waits for all.
    ///
    /// # Errors
    ///
    /// On every rank alike: [`WorldError::Disagree`], [`WorldError::Ranks`], and [`WorldError::Transport`] for a shape that
    /// cannot be laid out or has slots of 2 GiB or more (messages of any size still pass, in fragments).
    /// [`WorldError::Mpi`], [`WorldError::Late`].
    pub fn join(world: &World, shape: &GroupShape) -> Result<Self, WorldError> {
        let shape = world.agree(shape, "MPI alone")?;
        Self::with(world, shape, |_| true)
    }

    /// With rings for those peers only of which `serves` says so; the others hear control messages only.
    pub(crate) fn with(world: &World, shape: GroupShape, serves: impl Fn(Rank) -> bool) -> Result<Self, WorldError> {
        for (number, lane) in shape.lanes.iter().enumerate() {
            if lane.slot_bytes > i32::MAX as usize - FRAME {
                let why = format!(
                    "lane {number} has slots of {} bytes; a message of MPI has fewer than 2^31",
                    lane.slot_bytes
                );
                return Err(TransportError::Shape { ranks: shape.ranks, why }.into());
            }
        }
        let (lanes, control, tag) = world.contexts(shape.lanes.len())?;
        let (rank, ranks) = (world.rank(), shape.ranks);
        let mut pairs = Vec::new();
        let mut sends = Vec::new();
        let mut rings = Vec::new();
        for (lane, comm) in shape.lanes.iter().zip(lanes) {
            let slots = |lane: &LaneShape| Slots::new(lane.slots, lane.slot_bytes);
            for peer in 0..ranks {
                let route = Route { comm, peer: Peer::Rank(peer), tag };
                let own = peer == rank;
                pairs.push(PeerCounts {
                    own_lengths: vec![Cell::new(0); if own { lane.slots } else { 0 }].into(),
                    ..PeerCounts::default()
                });
                sends.push(serves(peer).then(|| SendRing::new(route, slots(lane))));
                rings.push((!own && serves(peer)).then(|| (route, slots(lane))));
            }
        }
        let control_slots = |count| Slots::new(count, CONTROL_BYTES.next_multiple_of(slackline_transport::SLOT_ALIGN));
        let from_all = Route { comm: control, peer: Peer::Any, tag };
        rings.push((ranks > 1).then(|| (from_all, control_slots(CONTROL_SLOTS + ranks))));
        let to = |peer| ControlRing {
            ring: SendRing::new(Route { peer: Peer::Rank(peer), ..from_all }, control_slots(CONTROL_SLOTS)),
            next: Cell::new(0),
        };
        let farewells = || Farewells { left: vec![Cell::new(None); shape.lanes.len()], died: Cell::new(false) };
        let endpoint = MpiEndpoint {
            world: world.clone(),
            rank,
            pairs,
            sends,
            receives: Receives::new(rings),
            controls: (0..ranks).map(|peer| (peer != rank).then(|| to(peer))).collect(),
            landed: RefCell::default(),
            news: shape.lanes.iter().map(|_| RefCell::new(Vec::with_capacity(ranks))).collect(),
            peers: (0..ranks).map(|_| farewells()).collect(),
            shape,
            changes: Cell::new(0),
            seen_changes: Cell::new(0),
            alarm: Arc::default(),
            seen_alarms: Cell::new(0),
            poisoning: RefCell::new(None),
            poison: OnceCell::new(),
            began: Instant::now(),
            idle_looks: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            idle: Cell::new(Duration::ZERO),
            ended: Cell::new(false),
        };
        endpoint.expect_messages()?;
        endpoint.receives.post(endpoint.pairs.len(), u64::MAX)?;
        // Nobody sends before the first receives are posted.
        world.barrier("joining the group")?;
        Ok(endpoint)
    }

    #[inline]
    fn index(&self, lane: Lane, peer: Rank) -> usize {
        assert!(peer < self.shape.ranks, "rank {peer} of a group of {}", self.shape.ranks);
        lane.index() * self.shape.ranks + peer
    }

    #[inline]
    fn slots(&self, index: usize) -> u64 {
        self.shape.lanes[index / self.shape.ranks].slots as u64
    }

    #[inline]
    fn is_own(&self, index: usize) -> bool {
        index % self.shape.ranks == self.rank
    }

    /// How many slots are free as far as this rank knows.
    #[inline]
    fn known_free(&self, index: usize) -> u64 {
        let pair = &self.pairs[index];
        self.slots(index) - (pair.published.get() - pair.credited.get().min(pair.sent.get()))
    }

    /// Posts the receives of the messages that are due, or may be.
    #[inline]
    fn expect_messages(&self) -> Result<(), MpiError> {
        for index in 0..self.pairs.len() {
            let slot_bytes = self.shape.lanes[index / self.shape.ranks].slot_bytes;
            let all = slot_bytes <= EXPECTED || self.idle.get() > IDLE + IDLE_A_KIB * (slot_bytes >> 10) as u32;
            self.receives.post(index, if all { u64::MAX } else { self.pairs[index].published.get() })?;
        }
        Ok(())
    }

    /// Takes in what MPI has for us.
    fn look(&self) -> Result<(), MpiError> {
        let mut landed = self.landed.take();
        let polled = self.receives.poll(|message| landed.push(message));
        if landed.is_empty() {
            self.idle_looks.set(self.idle_looks.get() + 1);
            if self.idle_looks.get() == LOOKS {
                self.idle_looks.set(0);
                self.idle.set(self.idle_since.get().elapsed());
                self.expect_messages()?;
            }
        } else {
            self.idle_looks.set(0);
            self.idle.set(Duration::ZERO);
            self.idle_since.set(Instant::now());
        }
        for message in landed.drain(..) {
            count_up(&self.changes);
            if message.ring < self.pairs.len() {
                self.take_in(&message);
            } else {
                self.hear(message.ring)?;
            }
        }
        self.landed.replace(landed);
        polled
    }

    /// A message has landed.
    #[inline]
    fn take_in(&self, message: &Landed) {
        let header = Header::from_bytes(message.header);
        let pair = &self.pairs[message.ring];
        let credited = unwrap_count(pair.credited.get(), header.released);
        if credited > pair.published.get() || header.number != pair.landed.get() as u32 {
            return self.corrupt(message.ring, &format!("{header:?}"));
        }
        // Older than what came by itself, it may be: communicators do not wait for each other.
        pair.credited.set(pair.credited.get().max(credited));
        self.count_landed(message.ring);
    }

    /// One message more has landed, which is news.
    #[inline]
    fn count_landed(&self, index: usize) {
        let pair = &self.pairs[index];
        count_up(&pair.landed);
        if !pair.is_news.replace(true) {
            self.news[index / self.shape.ranks].borrow_mut().push(index % self.shape.ranks);
        }
    }

    /// Brings the number of sends that are done up to date.
    #[inline]
    fn reap(&self, index: usize) -> Result<(), MpiError> {
        let slots = self.slots(index);
        let (Some(ring), pair) = (&self.sends[index], &self.pairs[index]) else { return Ok(()) };
        while pair.sent.get() < pair.published.get() && ring.is_free((pair.sent.get() % slots) as usize)? {
            count_up(&pair.sent);
        }
        Ok(())
    }

    /// Whether something that a wait is for has happened since this was asked last.
    pub(crate) fn has_changed(&self) -> bool {
        let (changes, alarms) = (self.changes.get(), self.alarm.count());
        let changed = self.seen_changes.replace(changes) != changes;
        let called = self.seen_alarms.replace(alarms) != alarms;
        changed || called
    }

    /// Every peer has left or died.
    fn all_gone(&self) -> bool {
        let gone = |(rank, peer): (usize, &Farewells)| rank == self.rank || peer.died.get() || peer.has_left();
        self.peers.iter().enumerate().all(gone)
    }

    /// Waits until everything that this rank has sent is out.
    fn finish(&self, patience: Duration) -> Result<bool, MpiError> {
        let until = Instant::now() + patience;
        let mut finished = true;
        for ring in self.sends.iter().flatten() {
            finished &= ring.finish(until)?;
        }
        for control in self.controls.iter().flatten() {
            finished &= control.ring.finish(until)?;
        }
        Ok(finished)
    }
}

impl Endpoint for MpiEndpoint {
    #[inline]
    fn rank(&self) -> Rank {
        self.rank
    }

    #[inline]
    fn shape(&self) -> &GroupShape {
        &self.shape
    }

    #[inline]
    fn progress(&self) {
        if let Err(error) = self.look() {
            self.broken(&error);
        }
    }

    fn moves_in_calls(&self) -> bool {
        true
    }

    #[inline]
    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        let index = self.index(lane, to);
        if self.known_free(index) == 0
            && let Err(error) = self.reap(index)
        {
            self.broken(&error);
        }
        self.known_free(index) as usize
    }

    #[inline]
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        let index = self.index(lane, to);
        if self.known_free(index) == 0 {
            return None;
        }
        self.sends[index].as_ref()?.room((self.pairs[index].published.get() % self.slots(index)) as usize)
    }

    #[inline]
    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        let index = self.index(lane, to);
        assert!(self.known_free(index) > 0, "published without a free slot");
        let ring = self.sends[index].as_ref().expect("every peer has a ring");
        let pair = &self.pairs[index];
        let slot = (pair.published.get() % self.slots(index)) as usize;
        assert!(!ring.is_lent(slot), "published a slot whose room is held");
        if self.is_own(index) {
            let slot_bytes = self.shape.lanes[lane.index()].slot_bytes;
            assert!(len <= slot_bytes, "published {len} bytes in a slot of {slot_bytes}");
            pair.own_lengths[slot].set(len);
            count_up(&pair.published);
            count_up(&pair.sent);
            count_up(&self.changes);
            return self.count_landed(index);
        }
        let sent = ring.send(slot, Header::new(pair.published.get(), pair.released.get()).to_bytes(), len);
        pair.told.set(pair.released.get());
        count_up(&pair.published);
        if let Err(error) = sent {
            self.broken(&error);
        }
    }

    #[inline]
    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        self.pairs[self.index(lane, from)].landed.get()
    }

    #[inline]
    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        let first = self.index(lane, 0);
        for from in self.news[lane.index()].borrow_mut().drain(..) {
            let pair = &self.pairs[first + from];
            pair.is_news.set(false);
            found(from, pair.landed.get());
        }
    }

    #[inline]
    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        let index = self.index(lane, from);
        if !self.is_own(index) {
            return self.receives.message(index, number);
        }
        let pair = &self.pairs[index];
        assert!(
            number >= pair.released.get() && number < pair.landed.get(),
            "message {number} was asked for, which has been released or not landed"
        );
        let slot = (number % self.slots(index)) as usize;
        self.sends[index].as_ref().expect("every peer has a ring").content(slot, pair.own_lengths[slot].get())
    }

    #[inline]
    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        let index = self.index(lane, from);
        let pair = &self.pairs[index];
        if self.is_own(index) {
            let (released, landed) = (pair.released.get(), pair.landed.get());
            assert!(
                upto >= released && upto <= landed,
                "released up to message {upto}, outside of {released} ..= {landed}"
            );
            let ring = self.sends[index].as_ref().expect("every peer has a ring");
            for number in released..upto {
                let slot = (number % self.slots(index)) as usize;
                assert!(!ring.is_lent(slot), "message {number} was released while it is held");
            }
            pair.credited.set(upto);
        } else {
            self.receives.release(index, upto);
        }
        pair.released.set(upto);
    }

    #[inline]
    fn notify(&self) {
        if let Err(error) = self.expect_messages().and_then(|()| self.give_credit()) {
            self.broken(&error);
        }
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        self.notify();
        let begin = self.now();
        loop {
            self.progress();
            if self.has_changed() {
                return Ok(());
            }
            let now = self.now();
            if now >= until {
                return Ok(());
            }
            match now - begin {
                waited if waited < SPIN => std::hint::spin_loop(),
                waited if waited < YIELD => std::thread::yield_now(),
                _ => std::thread::sleep(NAP.min(until - now)),
            }
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        let said = &self.peers[peer];
        if said.died.get() {
            return PeerState::Dead;
        }
        let ranks = self.shape.ranks;
        let all_here = |(lane, left): (usize, &Cell<Option<u64>>)| {
            left.get().is_some_and(|published| self.pairs[lane * ranks + peer].landed.get() >= published)
        };
        if said.left.iter().enumerate().all(all_here) { PeerState::Left } else { PeerState::Alive }
    }

    fn poison(&self, reason: &[u8]) {
        // What others have reported already was first.
        self.progress();
        self.report_and_settle(reason);
    }

    #[inline]
    fn poisoned(&self) -> Option<&[u8]> {
        if !self.is_poisoned() {
            return None;
        }
        Some(self.poison.get_or_init(|| self.settled()))
    }

    fn detach(&self) {
        if self.ended.replace(true) {
            return;
        }
        // A message to oneself goes nowhere.
        for peer in 0..self.shape.ranks {
            for lane in 0..self.shape.lanes.len() {
                let published = self.pairs[lane * self.shape.ranks + peer].published.get();
                let farewell = Control::Left { lane: Lane(lane as u16), published };
                let _ = self.tell(peer, &farewell, Instant::now() + HASTE);
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Drop for MpiEndpoint {
    fn drop(&mut self) {
        let orderly = self.ended.get() && !self.is_poisoned();
        if !self.ended.get() {
            self.tell_all(&Control::Died);
        }
        let patience = if orderly { FAREWELL } else { HASTE };
        let finished = self.finish(patience).unwrap_or(false);
        // Until all have said that they leave too, so that nothing of this group is under way when the next one begins, or
        // when MPI ends. Ranks end a group together, so this is short.
        let until = Instant::now() + if orderly { FAREWELL } else { Duration::ZERO };
        while !self.all_gone() && self.look().is_ok() && Instant::now() < until {
            std::thread::yield_now();
        }
        let cancelled = self.receives.cancel(Instant::now() + HASTE).unwrap_or(false);
        if !orderly || !finished || !cancelled {
            self.world.inner.failed.set(true);
        }
    }
}

impl std::fmt::Debug for MpiEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MpiEndpoint").field("rank", &self.rank).field("shape", &self.shape).finish_non_exhaustive()
    }
}
