//! One rank's end of a simulated group.

use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::io;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use super::block::{Block, Spare};
use super::network::{Arrived, Network, Parcel, Shared};
use super::schedule::{Phase, nanos};
use crate::{Endpoint, GroupShape, Lane, Message, POISON_BYTES, PeerState, Rank, Room, TransportError};

/// An [`Endpoint`] in virtual time; made by [`run`](super::run) for each rank.
///
/// Between two calls of `wait` or `sleep`, it reads only what landed before the rank's turn began, and takes no lock except
/// in `notify`, `poison` and `detach`. `publish` copies the message once.
///
/// # Panics
///
/// When the rank dies, or the simulation has failed, `wait` and `sleep` unwind the rank's thread with a payload that
/// [`run`](super::run) recognises, and print nothing. If the thread is already unwinding, or the rank's main function has
/// returned, `wait` returns an error instead, and `sleep` returns at once. The endpoint panics if the rules of use are
/// broken, and after some millions of calls without a wait, since virtual time cannot advance then.
pub struct SimEndpoint {
    rank: Rank,
    shared: Arc<Shared>,
    now: Cell<Duration>,
    /// By lane and peer.
    outs: Vec<OutRing>,
    /// By lane and peer.
    ins: Vec<InRing>,
    /// For each lane the peers of which something has landed since the last look for news.
    news: Vec<RefCell<Vec<Rank>>>,
    /// What was published and released, but not yet handed to the network; time does not move while it lies here.
    outbox: RefCell<Vec<(Rank, Parcel)>>,
    /// Peers to which something was sent without a notification.
    unnotified: RefCell<Vec<bool>>,
    peers: Vec<Cell<PeerState>>,
    poison: OnceCell<Arc<[u8]>>,
    /// Some counter moved since the last `wait`.
    woken: Cell<bool>,
    alarm: Arc<Alarm>,
    /// Empty but while it is emptied; kept for its memory.
    inbox: RefCell<Vec<Arrived>>,
    /// Of messages that have been released, for those that are published.
    spare: RefCell<Spare>,
    polls: Cell<u32>,
}

#[derive(Default)]
struct OutRing {
    published: Cell<u64>,
    released: Cell<u64>,
    /// The next slot, once it was asked for.
    room: RefCell<Option<Block>>,
}

struct InRing {
    landed: Cell<u64>,
    released: Cell<u64>,
    /// The peer is in the lane's news.
    is_news: Cell<bool>,
    /// Message `n` is in slot `n % slots`.
    slots: Box<[RefCell<Option<Block>>]>,
}

/// Wakes a rank from any thread.
struct Alarm {
    rank: Rank,
    rings: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if !self.rings.swap(true, Ordering::AcqRel) {
            self.shared.lock().alarm(self.rank);
        }
    }
}

/// The payload with which a rank's thread is unwound.
pub(super) struct Stopped;

/// So many questions in a row without a `wait`, a `sleep`, a `publish` or a `release` are a loop without end.
const MOST_POLLS: u32 = 1 << 23;

impl SimEndpoint {
    /// To be called on the rank's thread, in its first turn.
    pub(super) fn new(rank: Rank, shared: Arc<Shared>) -> Self {
        let rings = shared.shape.lanes.len() * shared.shape.ranks;
        let ranks = shared.shape.ranks;
        let endpoint = Self {
            rank,
            now: Cell::new(Duration::ZERO),
            outs: (0..rings).map(|_| OutRing::default()).collect(),
            ins: (0..rings).map(|ring| InRing::new(shared.shape.lanes[ring / ranks].slots)).collect(),
            news: shared.shape.lanes.iter().map(|_| RefCell::default()).collect(),
            outbox: RefCell::default(),
            unnotified: RefCell::new(vec![false; ranks]),
            peers: vec![Cell::new(PeerState::Alive); ranks],
            poison: OnceCell::new(),
            woken: Cell::new(false),
            alarm: Arc::new(Alarm { rank, rings: AtomicBool::new(false), shared: Arc::clone(&shared) }),
            inbox: RefCell::default(),
            spare: RefCell::default(),
            polls: Cell::new(0),
            shared: Arc::clone(&shared),
        };
        endpoint.begin_turn(&mut shared.lock());
        endpoint
    }

    fn ring(&self, lane: Lane, peer: Rank) -> usize {
        let shape = &self.shared.shape;
        assert!(
            lane.index() < shape.lanes.len() && peer < shape.ranks,
            "rank {}: there is no ring with peer {peer} on lane {lane}",
            self.rank
        );
        lane.index() * shape.ranks + peer
    }

    fn free(&self, ring: usize, lane: Lane) -> usize {
        let OutRing { published, released, .. } = &self.outs[ring];
        self.shared.shape.lanes[lane.index()].slots - (published.get() - released.get()) as usize
    }

    fn polled(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() > MOST_POLLS && !thread::panicking() {
            self.polls.set(0);
            panic!(
                "rank {}: asked its endpoint {MOST_POLLS} times without waiting, but virtual time ({:?}) moves only in \
                 wait and sleep",
                self.rank,
                self.now.get()
            );
        }
    }

    /// Hands the outbox to the network.
    fn send_off(&self, network: &mut Network, wakes: bool) {
        let mut outbox = self.outbox.borrow_mut();
        if network.is_gone(self.rank) {
            outbox.clear();
        }
        let mut unnotified = self.unnotified.borrow_mut();
        for (to, parcel) in outbox.drain(..) {
            network.send(self.rank, to, wakes, parcel);
            unnotified[to] |= !wakes;
        }
    }

    fn end_turn(&self, phase: Phase, until: u64) -> Result<(), TransportError> {
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, false);
        if !network.is_gone(self.rank) {
            network.schedule.stop(self.rank, phase, until);
            let next = network.next_turn().expect("this rank has not ended");
            if next != self.rank {
                drop(network);
                shared.give_turn(next);
                shared.take_turn(self.rank);
                network = shared.lock();
            }
        }
        if network.is_gone(self.rank) {
            let over = network.has_ended(self.rank);
            drop(network);
            if over || thread::panicking() {
                let source = io::Error::other("the simulation of this rank has ended");
                return Err(TransportError::System { rank: self.rank, action: "waiting", source });
            }
            panic::resume_unwind(Box::new(Stopped));
        }
        let notified = self.begin_turn(&mut network);
        self.woken.set(notified && phase == Phase::Sleeping);
        Ok(())
    }

    /// Takes in what has landed; returns whether a notification was among it.
    fn begin_turn(&self, network: &mut Network) -> bool {
        self.now.set(Duration::from_nanos(network.now()));
        self.polls.set(0);
        let mut inbox = self.inbox.borrow_mut();
        let notified = network.collect(self.rank, &mut inbox);
        let ranks = self.shared.shape.ranks;
        for Arrived { from, parcel } in inbox.drain(..) {
            match parcel {
                Parcel::Message { lane, block, .. } => self.land(lane, from, block),
                Parcel::Credit { lane, upto } => self.outs[lane * ranks + from].released.set(upto),
                Parcel::State(state) => self.peers[from].set(state),
                Parcel::Poison(reason) => drop(self.poison.set(reason)),
                Parcel::Wake => {}
            }
        }
        notified
    }

    fn land(&self, lane: usize, from: Rank, block: Block) {
        let ring = &self.ins[lane * self.shared.shape.ranks + from];
        let number = ring.landed.get();
        *ring.slot(number).borrow_mut() = Some(block);
        ring.landed.set(number + 1);
        if !ring.is_news.replace(true) {
            self.news[lane].borrow_mut().push(from);
        }
    }
}

impl InRing {
    fn new(slots: usize) -> Self {
        InRing {
            landed: Cell::new(0),
            released: Cell::new(0),
            is_news: Cell::new(false),
            slots: (0..slots).map(|_| RefCell::new(None)).collect(),
        }
    }

    fn slot(&self, number: u64) -> &RefCell<Option<Block>> {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }
}

impl Endpoint for SimEndpoint {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn shape(&self) -> &GroupShape {
        &self.shared.shape
    }

    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        self.polled();
        self.free(self.ring(lane, to), lane)
    }

    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        let at = self.ring(lane, to);
        if self.free(at, lane) == 0 {
            return None;
        }
        let room = self.outs[at].room.try_borrow_mut().ok()?;
        let slot_bytes = self.shared.shape.lanes[lane.index()].slot_bytes;
        Some(RefMut::map(room, |room| &mut **room.get_or_insert_with(|| Block::zeroed(slot_bytes))))
    }

    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        let at = self.ring(lane, to);
        let (rank, slot) = (self.rank, self.shared.shape.lanes[lane.index()].slot_bytes);
        assert!(self.free(at, lane) > 0, "rank {rank}, lane {lane}: no free slot towards rank {to}");
        assert!(len <= slot, "rank {rank}, lane {lane}: {len} bytes to rank {to} in a slot of {slot}");
        let ring = &self.outs[at];
        let Ok(room) = ring.room.try_borrow() else {
            panic!("rank {rank}, lane {lane}: published to rank {to} while the room is held");
        };
        // A room that was never asked for has unspecified contents, too: zeros.
        let mut block = self.spare.borrow_mut().take(len);
        match room.as_ref() {
            Some(room) => block.copy_from_slice(&room[..len]),
            None => block.fill(0),
        }
        let number = ring.published.get();
        ring.published.set(number + 1);
        self.polls.set(0);
        if to == rank {
            self.land(lane.index(), rank, block);
            self.woken.set(true);
        } else {
            // While the bytes are at hand.
            let hash = xxhash_rust::xxh3::xxh3_64(&block);
            self.outbox.borrow_mut().push((to, Parcel::Message { lane: lane.index(), number, block, hash }));
        }
    }

    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        self.polled();
        self.ins[self.ring(lane, from)].landed.get()
    }

    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        self.polled();
        let first = self.ring(lane, 0);
        for from in self.news[lane.index()].borrow_mut().drain(..) {
            let ring = &self.ins[first + from];
            ring.is_news.set(false);
            found(from, ring.landed.get());
        }
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        let ring = &self.ins[self.ring(lane, from)];
        let (released, landed) = (ring.released.get(), ring.landed.get());
        assert!(
            (released..landed).contains(&number),
            "rank {}, lane {lane}: message {number} from rank {from} is not in {released} .. {landed}",
            self.rank,
        );
        Ref::map(ring.slot(number).borrow(), |block| &**block.as_ref().expect("a message that has landed"))
    }

    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        let at = self.ring(lane, from);
        let ring = &self.ins[at];
        let (released, landed) = (ring.released.get(), ring.landed.get());
        assert!(
            (released..=landed).contains(&upto),
            "rank {}, lane {lane}: release up to {upto} of rank {from} is not in {released} ..= {landed}",
            self.rank,
        );
        for number in released..upto {
            let Ok(mut slot) = ring.slot(number).try_borrow_mut() else {
                panic!(
                    "rank {}, lane {lane}: message {number} from rank {from} was released while it is held",
                    self.rank
                );
            };
            self.spare.borrow_mut().keep(slot.take());
        }
        if upto == released {
            return;
        }
        ring.released.set(upto);
        self.polls.set(0);
        if from == self.rank {
            self.outs[at].released.set(upto);
            self.woken.set(true);
        } else {
            self.outbox.borrow_mut().push((from, Parcel::Credit { lane: lane.index(), upto }));
        }
    }

    fn notify(&self) {
        let late = self.unnotified.borrow().contains(&true);
        if self.outbox.borrow().is_empty() && !late {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, true);
        if late && !network.is_gone(self.rank) {
            for (to, unnotified) in self.unnotified.borrow_mut().iter_mut().enumerate() {
                if std::mem::take(unnotified) {
                    network.send(self.rank, to, true, Parcel::Wake);
                }
            }
        }
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        let alarmed = self.alarm.rings.swap(false, Ordering::AcqRel);
        if self.woken.replace(false) || alarmed || until <= self.now.get() {
            self.polled();
            return Ok(());
        }
        self.end_turn(Phase::Waiting, nanos(until))
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        self.polled();
        self.peers[peer].get()
    }

    fn poison(&self, reason: &[u8]) {
        let mut network = self.shared.lock();
        if network.is_gone(self.rank) {
            return;
        }
        if network.poison.is_none() {
            let reason: Arc<[u8]> = reason[..reason.len().min(POISON_BYTES)].into();
            network.poison = Some(Arc::clone(&reason));
            for peer in (0..self.peers.len()).filter(|&peer| peer != self.rank) {
                network.send(self.rank, peer, true, Parcel::Poison(Arc::clone(&reason)));
            }
        }
        if let Some(poison) = &network.poison {
            self.poison.get_or_init(|| Arc::clone(poison));
        }
    }

    fn poisoned(&self) -> Option<&[u8]> {
        self.polled();
        self.poison.get().map(|reason| &**reason)
    }

    fn detach(&self) {
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, false);
        if !network.is_gone(self.rank) {
            network.leave(self.rank, PeerState::Left);
        }
    }

    fn now(&self) -> Duration {
        self.polled();
        self.now.get()
    }

    fn sleep(&self, duration: Duration) {
        if duration > Duration::ZERO {
            let until = nanos(self.now.get()).saturating_add(nanos(duration));
            // An error says that there is no time left to sleep in.
            let _ = self.end_turn(Phase::Sleeping, until);
        }
    }
}

impl Drop for SimEndpoint {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, false);
        if !network.is_gone(self.rank) {
            network.leave(self.rank, PeerState::Dead);
        }
    }
}

impl std::fmt::Debug for SimEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEndpoint").field("rank", &self.rank).field("now", &self.now).finish_non_exhaustive()
    }
}
