//! The conformance suite over the transports of this crate, and over transports that break their promises.

use std::time::Duration;

use slackline_transport::conformance::{Check, check_all};
use slackline_transport::delay::DelaySchedule;
use slackline_transport::shm::Segment;
use slackline_transport::sim::{self, SimConfig, SimEndpoint};
use slackline_transport::{
    Checked, Delayed, Endpoint, GroupShape, Lane, LaneShape, PeerState, Rank, Rooms, SLOT_ALIGN, TransportError,
    threads,
};

#[test]
fn threads_conform() {
    check_all(|shape| threads::group(shape).unwrap()).unwrap();
}

#[test]
fn shared_memory_conforms() {
    check_all(|shape| {
        let segment = Segment::create(shape).unwrap();
        (0..shape.ranks).map(|rank| segment.rank(rank).unwrap()).collect()
    })
    .unwrap();
}

#[test]
fn the_simulation_conforms() {
    for check in Check::ALL {
        for (ranks, seed) in [(1, 0), (2, 1), (3, 2), (5, 3), (5, 4)] {
            let report = sim::run(&SimConfig::new(check.shape(ranks), seed), |endpoint| check.run(endpoint)).unwrap();
            report.values().unwrap().into_iter().collect::<Result<(), _>>().unwrap();
        }
    }
}

#[test]
fn the_wrappers_conform() {
    let delays = DelaySchedule::new(&"random:0..1".parse().unwrap(), 1, 5, Duration::from_micros(200)).unwrap();
    check_all(|shape| {
        let group = threads::group(shape).unwrap().into_iter();
        group.map(|endpoint| Checked::new(Delayed::new(endpoint, delays.clone(), Lane(0)))).collect()
    })
    .unwrap();
}

#[test]
fn rooms_and_messages_of_every_transport_are_aligned() {
    let shape = GroupShape { ranks: 2, lanes: vec![LaneShape { slots: 3, slot_bytes: 1 }; 2] };
    let aligned = |mut endpoint: Box<dyn Endpoint>| {
        for number in 0..9 {
            for lane in [Lane(0), Lane(1)] {
                let own = endpoint.rank();
                assert!(endpoint.rooms(lane).iter().all(|room| room.as_ptr().addr().is_multiple_of(SLOT_ALIGN)));
                endpoint.publish(lane, own, 1 + number as usize);
                assert_eq!(endpoint.landed(lane, own), number + 1);
                assert!(endpoint.message(lane, own, number).as_ptr().addr().is_multiple_of(SLOT_ALIGN));
                endpoint.release(lane, own, number + 1);
                assert!(endpoint.free_slots(lane, own) > 0);
            }
        }
        endpoint.detach();
    };
    for endpoint in threads::group(&shape).unwrap() {
        aligned(Box::new(endpoint));
    }
    aligned(Box::new(Segment::create(&shape).unwrap().rank(1).unwrap()));
    sim::run(&SimConfig::new(shape, 0), |endpoint| aligned(Box::new(endpoint))).unwrap().values().unwrap();
}

/// What a broken transport does wrong.
#[derive(Clone, Copy)]
enum Wrong {
    /// Never wakes anybody.
    NoNotify,
    /// Does not tell that it has left.
    NoDetach,
    /// Cuts every message to 8 bytes.
    Cuts,
    /// Every rank knows its own poison.
    OwnPoison,
    /// Says that one slot is free, always.
    AlwaysFree,
    /// The clock stands still in a sleep.
    NoSleep,
}

struct Broken {
    inner: SimEndpoint,
    wrong: Wrong,
    poison: Option<Vec<u8>>,
}

impl Endpoint for Broken {
    fn rank(&self) -> Rank {
        self.inner.rank()
    }
    fn shape(&self) -> &GroupShape {
        self.inner.shape()
    }
    fn free_slots(&mut self, lane: Lane, to: Rank) -> usize {
        let free = self.inner.free_slots(lane, to);
        if matches!(self.wrong, Wrong::AlwaysFree) { free.max(1) } else { free }
    }
    fn rooms(&mut self, lane: Lane) -> Rooms<'_> {
        self.inner.rooms(lane)
    }
    fn publish(&mut self, lane: Lane, to: Rank, len: usize) {
        self.inner.publish(lane, to, if matches!(self.wrong, Wrong::Cuts) { len.min(8) } else { len });
    }
    fn landed(&mut self, lane: Lane, from: Rank) -> u64 {
        self.inner.landed(lane, from)
    }
    fn message(&self, lane: Lane, from: Rank, number: u64) -> &[u8] {
        self.inner.message(lane, from, number)
    }
    fn release(&mut self, lane: Lane, from: Rank, upto: u64) {
        self.inner.release(lane, from, upto);
    }
    fn notify(&mut self) {
        if !matches!(self.wrong, Wrong::NoNotify) {
            self.inner.notify();
        }
    }
    fn wait(&mut self, until: Duration) -> Result<(), TransportError> {
        self.inner.wait(until)
    }
    fn peer_state(&mut self, peer: Rank) -> PeerState {
        self.inner.peer_state(peer)
    }
    fn poison(&mut self, reason: &[u8]) {
        self.inner.poison(reason);
        if matches!(self.wrong, Wrong::OwnPoison) {
            self.poison.get_or_insert(reason.to_vec());
        }
    }
    fn poisoned(&mut self) -> Option<&[u8]> {
        if self.poison.is_some() { self.poison.as_deref() } else { self.inner.poisoned() }
    }
    fn detach(&mut self) {
        if !matches!(self.wrong, Wrong::NoDetach) {
            self.inner.detach();
        }
    }
    fn now(&self) -> Duration {
        self.inner.now()
    }
    fn sleep(&mut self, duration: Duration) {
        if !matches!(self.wrong, Wrong::NoSleep) {
            self.inner.sleep(duration);
        }
    }
}

#[test]
fn a_transport_that_breaks_a_promise_fails_its_check() {
    for (wrong, check, why) in [
        (Wrong::NoNotify, Check::Wakes, "waited"),
        (Wrong::NoDetach, Check::Leaves, "rank 1 has detached and is Dead"),
        (Wrong::Cuts, Check::Order, "8 bytes of 128"),
        (Wrong::OwnPoison, Check::PoisonRace, "knows the reason"),
        (Wrong::AlwaysFree, Check::Full, "1 free slots towards rank"),
        (Wrong::NoSleep, Check::Deadlines, "a sleep of 20ms took"),
    ] {
        // In virtual time, since a failure takes the patience of the other rank.
        let main = |inner| check.run(Broken { inner, wrong, poison: None });
        let outcomes = sim::run(&SimConfig::new(check.shape(2), 0), main).unwrap().values().unwrap();
        let whys: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|failed| failed.to_string()).collect();
        assert!(whys.iter().any(|said| said.contains(why)), "{whys:?} does not say `{why}`");
        assert_eq!(Check::named(check.name()), Some(check));
    }
}
