//! A transport of one's own, as docs/extending.md shows it: threads of one process, connected by queues behind locks. Run it
//! with `cargo run -p slackline-transport --example queues`.

use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use slackline_transport::{
    Endpoint, GroupShape, Lane, Message, PeerState, Rank, Room, SLOT_ALIGN, TransportError, conformance,
};

/// Memory of one message. It moves from the sender to the receiver and back.
struct Slot {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

/// What the ranks of a group share. Rings are numbered by lane, sender and receiver.
struct Shared {
    shape: GroupShape,
    began: Instant,
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    filled: Vec<Vec<Slot>>,
    empty: Vec<Vec<Slot>>,
    peers: Vec<PeerState>,
    poison: Option<Vec<u8>>,
    notified: u64,
    /// By rank: its waker was called.
    called: Vec<bool>,
}

/// Where this rank stands towards one peer on one lane. Each slot that may be lent has a cell of its own.
struct Pair {
    next: RefCell<Option<Slot>>,
    free: RefCell<Vec<Slot>>,
    /// Message `n` is in place `n % slots`.
    held: Vec<RefCell<Option<Slot>>>,
    landed: Cell<u64>,
    released: Cell<u64>,
}

struct QueueEndpoint {
    rank: Rank,
    shared: Arc<Shared>,
    pairs: Vec<Pair>,
    seen: Cell<u64>,
    poison: OnceCell<Vec<u8>>,
}

fn group(shape: &GroupShape) -> Result<Vec<QueueEndpoint>, TransportError> {
    let shape = shape.rounded()?;
    let (ranks, lanes) = (shape.ranks, shape.lanes.len());
    let slots = |ring: usize| {
        let lane = shape.lanes[ring / (ranks * ranks)];
        let slot = |_| {
            let bytes = vec![0; lane.slot_bytes + SLOT_ALIGN];
            Slot { start: bytes.as_ptr().align_offset(SLOT_ALIGN), length: lane.slot_bytes, bytes }
        };
        (0..lane.slots).map(slot).collect()
    };
    let state = State {
        filled: (0..lanes * ranks * ranks).map(|_| Vec::new()).collect(),
        empty: (0..lanes * ranks * ranks).map(slots).collect(),
        peers: vec![PeerState::Alive; ranks],
        poison: None,
        notified: 0,
        called: vec![false; ranks],
    };
    let shared = Shared { began: Instant::now(), state: Mutex::new(state), bell: Condvar::new(), shape };
    let shared = Arc::new(shared);
    let pair = |index: usize| Pair {
        next: RefCell::new(None),
        free: RefCell::default(),
        held: (0..shared.shape.lanes[index / ranks].slots).map(|_| RefCell::new(None)).collect(),
        landed: Cell::new(0),
        released: Cell::new(0),
    };
    let endpoint = |rank| {
        let pairs = (0..lanes * ranks).map(pair).collect();
        QueueEndpoint { rank, shared: Arc::clone(&shared), pairs, seen: Cell::new(0), poison: OnceCell::new() }
    };
    Ok((0..ranks).map(endpoint).collect())
}

impl QueueEndpoint {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    fn ring(&self, lane: Lane, from: Rank, to: Rank) -> usize {
        (lane.index() * self.shared.shape.ranks + from) * self.shared.shape.ranks + to
    }

    fn pair(&self, lane: Lane, peer: Rank) -> &Pair {
        &self.pairs[lane.index() * self.shared.shape.ranks + peer]
    }

    fn end(&self, how: PeerState) {
        let own = &mut self.state().peers[self.rank];
        if *own == PeerState::Alive {
            *own = how;
        }
    }
}

impl Pair {
    fn place(&self, number: u64) -> &RefCell<Option<Slot>> {
        &self.held[number as usize % self.held.len()]
    }
}

impl Endpoint for QueueEndpoint {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn shape(&self) -> &GroupShape {
        &self.shared.shape
    }

    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        let ring = self.ring(lane, self.rank, to);
        let returned = std::mem::take(&mut self.state().empty[ring]);
        let Pair { next, free, .. } = self.pair(lane, to);
        free.borrow_mut().extend(returned);
        // A slot that is lent is free until it is published.
        let next = next.try_borrow().map_or(1, |next| usize::from(next.is_some()));
        next + free.borrow().len()
    }

    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        let bytes = self.shared.shape.lanes[lane.index()].slot_bytes;
        let Pair { next, free, .. } = self.pair(lane, to);
        let mut next = next.try_borrow_mut().ok()?;
        if next.is_none() {
            *next = free.borrow_mut().pop();
        }
        RefMut::filter_map(next, |next| next.as_mut().map(|slot| &mut slot.bytes[slot.start..][..bytes])).ok()
    }

    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        let ring = self.ring(lane, self.rank, to);
        let Pair { next, free, .. } = self.pair(lane, to);
        let next = next.try_borrow_mut().expect("a room that is not held").take();
        let mut slot = next.or_else(|| free.borrow_mut().pop()).expect("a free slot");
        slot.length = len;
        self.state().filled[ring].push(slot);
    }

    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        let ring = self.ring(lane, from, self.rank);
        let arrived = std::mem::take(&mut self.state().filled[ring]);
        let pair = self.pair(lane, from);
        for slot in arrived {
            let number = pair.landed.get();
            *pair.place(number).borrow_mut() = Some(slot);
            pair.landed.set(number + 1);
        }
        pair.landed.get()
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        let slot = self.pair(lane, from).place(number).borrow();
        Ref::map(slot, |slot| {
            let slot = slot.as_ref().expect("a message that is here");
            &slot.bytes[slot.start..][..slot.length]
        })
    }

    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        let ring = self.ring(lane, from, self.rank);
        let pair = self.pair(lane, from);
        for number in pair.released.get()..upto {
            let slot = pair.place(number).try_borrow_mut().expect("a message that is not held").take();
            self.state().empty[ring].push(slot.expect("a message that is here"));
            pair.released.set(number + 1);
        }
    }

    fn notify(&self) {
        self.state().notified += 1;
        self.shared.bell.notify_all();
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        let left = until.saturating_sub(self.now());
        let nothing = |state: &mut State| state.notified == self.seen.get() && !state.called[self.rank];
        let woken = self.shared.bell.wait_timeout_while(self.state(), left, nothing);
        let mut state = woken.unwrap().0;
        self.seen.set(state.notified);
        state.called[self.rank] = false;
        Ok(())
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::new(Alarm { rank: self.rank, shared: Arc::clone(&self.shared) }))
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        self.state().peers[peer]
    }

    fn poison(&self, reason: &[u8]) {
        self.state().poison.get_or_insert_with(|| reason.to_vec());
        self.notify();
    }

    fn poisoned(&self) -> Option<&[u8]> {
        if self.poison.get().is_none() {
            let reason = self.state().poison.clone()?;
            self.poison.get_or_init(|| reason);
        }
        self.poison.get().map(Vec::as_slice)
    }

    fn detach(&self) {
        self.end(PeerState::Left);
        self.notify();
    }

    fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Drop for QueueEndpoint {
    fn drop(&mut self) {
        self.end(PeerState::Dead);
        self.notify();
    }
}

/// Wakes one rank from any thread.
struct Alarm {
    rank: Rank,
    shared: Arc<Shared>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.shared.state.lock().unwrap().called[self.rank] = true;
        self.shared.bell.notify_all();
    }
}

fn main() -> Result<(), conformance::Failed> {
    conformance::check_all(|shape| group(shape).expect("a valid shape"))?;
    println!("passed");
    Ok(())
}
