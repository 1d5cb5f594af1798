//! One rank's end of a simulated group.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::block::Block;
use super::network::{Arrived, Network, Parcel, Shared};
use super::schedule::{Phase, nanos};
use crate::{Endpoint, GroupShape, Lane, POISON_BYTES, PeerState, Rank, Rooms, TransportError};

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
    now: Duration,
    /// By lane and peer.
    outs: Vec<OutRing>,
    /// By lane and peer.
    ins: Vec<InRing>,
    /// What was published and released, but not yet handed to the network; time does not move while it lies here.
    outbox: Vec<(Rank, Parcel)>,
    /// Peers to which something was sent without a notification.
    unnotified: Vec<bool>,
    peers: Vec<PeerState>,
    poison: Option<Arc<[u8]>>,
    /// Some counter moved since the last `wait`.
    woken: bool,
    /// Empty but while it is emptied; kept for its memory.
    inbox: Vec<Arrived>,
    polls: Cell<u32>,
}

#[derive(Default)]
struct OutRing {
    published: u64,
    released: u64,
    /// The next slot, once it was asked for.
    room: Option<Block>,
}

#[derive(Default)]
struct InRing {
    landed: u64,
    released: u64,
    /// `released .. landed`.
    messages: VecDeque<Block>,
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
        let mut endpoint = Self {
            rank,
            now: Duration::ZERO,
            outs: (0..rings).map(|_| OutRing::default()).collect(),
            ins: (0..rings).map(|_| InRing::default()).collect(),
            outbox: Vec::new(),
            unnotified: vec![false; ranks],
            peers: vec![PeerState::Alive; ranks],
            poison: None,
            woken: false,
            inbox: Vec::new(),
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
        let OutRing { published, released, .. } = self.outs[ring];
        self.shared.shape.lanes[lane.index()].slots - (published - released) as usize
    }

    fn polled(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() > MOST_POLLS && !thread::panicking() {
            self.polls.set(0);
            panic!(
                "rank {}: asked its endpoint {MOST_POLLS} times without waiting, but virtual time ({:?}) moves only in \
                 wait and sleep",
                self.rank, self.now
            );
        }
    }

    /// Hands the outbox to the network.
    fn send_off(&mut self, network: &mut Network, wakes: bool) {
        if network.is_gone(self.rank) {
            self.outbox.clear();
        }
        for (to, parcel) in self.outbox.drain(..) {
            network.send(self.rank, to, wakes, parcel);
            self.unnotified[to] |= !wakes;
        }
    }

    fn end_turn(&mut self, phase: Phase, until: u64) -> Result<(), TransportError> {
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
        self.woken = notified && phase == Phase::Sleeping;
        Ok(())
    }

    /// Takes in what has landed; returns whether a notification was among it.
    fn begin_turn(&mut self, network: &mut Network) -> bool {
        self.now = Duration::from_nanos(network.now());
        self.polls.set(0);
        let notified = network.collect(self.rank, &mut self.inbox);
        let ranks = self.shared.shape.ranks;
        for Arrived { from, parcel } in self.inbox.drain(..) {
            match parcel {
                Parcel::Message { lane, block, .. } => self.ins[lane * ranks + from].land(block),
                Parcel::Credit { lane, upto } => self.outs[lane * ranks + from].released = upto,
                Parcel::State(state) => self.peers[from] = state,
                Parcel::Poison(reason) => self.poison = Some(reason),
                Parcel::Wake => {}
            }
        }
        notified
    }
}

impl InRing {
    fn land(&mut self, block: Block) {
        self.messages.push_back(block);
        self.landed += 1;
    }
}

impl Endpoint for SimEndpoint {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn shape(&self) -> &GroupShape {
        &self.shared.shape
    }

    fn free_slots(&mut self, lane: Lane, to: Rank) -> usize {
        self.polled();
        self.free(self.ring(lane, to), lane)
    }

    fn rooms(&mut self, lane: Lane) -> Rooms<'_> {
        let first = self.ring(lane, 0);
        let shape = self.shared.shape.lanes[lane.index()];
        let rings = &mut self.outs[first..first + self.shared.shape.ranks];
        let rooms = rings.iter_mut().map(|ring| match ring.published - ring.released < shape.slots as u64 {
            true => &mut **ring.room.get_or_insert_with(|| Block::zeroed(shape.slot_bytes)),
            false => &mut [],
        });
        rooms.collect()
    }

    fn publish(&mut self, lane: Lane, to: Rank, len: usize) {
        let at = self.ring(lane, to);
        let (rank, slot) = (self.rank, self.shared.shape.lanes[lane.index()].slot_bytes);
        assert!(self.free(at, lane) > 0, "rank {rank}, lane {lane}: no free slot towards rank {to}");
        assert!(len <= slot, "rank {rank}, lane {lane}: {len} bytes to rank {to} in a slot of {slot}");
        let ring = &mut self.outs[at];
        // A room that was never asked for has unspecified contents, too: zeros.
        let block = match &ring.room {
            Some(room) => Block::copy_of(&room[..len]),
            None => Block::zeroed(len),
        };
        let number = ring.published;
        ring.published += 1;
        self.polls.set(0);
        if to == rank {
            self.ins[at].land(block);
            self.woken = true;
        } else {
            self.outbox.push((to, Parcel::Message { lane: lane.index(), number, block }));
        }
    }

    fn landed(&mut self, lane: Lane, from: Rank) -> u64 {
        self.polled();
        self.ins[self.ring(lane, from)].landed
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> &[u8] {
        let ring = &self.ins[self.ring(lane, from)];
        assert!(
            (ring.released..ring.landed).contains(&number),
            "rank {}, lane {lane}: message {number} from rank {from} is not in {} .. {}",
            self.rank,
            ring.released,
            ring.landed
        );
        &ring.messages[(number - ring.released) as usize]
    }

    fn release(&mut self, lane: Lane, from: Rank, upto: u64) {
        let at = self.ring(lane, from);
        let ring = &mut self.ins[at];
        assert!(
            (ring.released..=ring.landed).contains(&upto),
            "rank {}, lane {lane}: release up to {upto} of rank {from} is not in {} ..= {}",
            self.rank,
            ring.released,
            ring.landed
        );
        if upto == ring.released {
            return;
        }
        ring.messages.drain(..(upto - ring.released) as usize);
        ring.released = upto;
        self.polls.set(0);
        if from == self.rank {
            self.outs[at].released = upto;
            self.woken = true;
        } else {
            self.outbox.push((from, Parcel::Credit { lane: lane.index(), upto }));
        }
    }

    fn notify(&mut self) {
        let late = self.unnotified.contains(&true);
        if self.outbox.is_empty() && !late {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, true);
        if late && !network.is_gone(self.rank) {
            for to in 0..self.unnotified.len() {
                if std::mem::take(&mut self.unnotified[to]) {
                    network.send(self.rank, to, true, Parcel::Wake);
                }
            }
        }
    }

    fn wait(&mut self, until: Duration) -> Result<(), TransportError> {
        if std::mem::take(&mut self.woken) || until <= self.now {
            self.polled();
            return Ok(());
        }
        self.end_turn(Phase::Waiting, nanos(until))
    }

    fn peer_state(&mut self, peer: Rank) -> PeerState {
        self.polled();
        self.peers[peer]
    }

    fn poison(&mut self, reason: &[u8]) {
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
        self.poison = network.poison.clone();
    }

    fn poisoned(&mut self) -> Option<&[u8]> {
        self.polled();
        self.poison.as_deref()
    }

    fn detach(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut network = shared.lock();
        self.send_off(&mut network, false);
        if !network.is_gone(self.rank) {
            network.leave(self.rank, PeerState::Left);
        }
    }

    fn now(&self) -> Duration {
        self.polled();
        self.now
    }

    fn sleep(&mut self, duration: Duration) {
        if duration > Duration::ZERO {
            let until = nanos(self.now).saturating_add(nanos(duration));
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
