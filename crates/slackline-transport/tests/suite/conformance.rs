//! The conformance suite over the transports of this crate, and over transports that break their promises.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::task::Waker;
use std::time::Duration;

use slackline_transport::conformance::{Check, check_all};
use slackline_transport::delay::DelaySchedule;
use slackline_transport::shm::Segment;
use slackline_transport::sim::{self, SimConfig, SimEndpoint};
use slackline_transport::{
    Checked, Delayed, Endpoint, GroupShape, Lane, LaneShape, Message, PeerState, Rank, Room, SLOT_ALIGN,
    TransportError, threads,
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
fn what_points_to_an_endpoint_is_one() {
    for check in [Check::Order, Check::Held, Check::Landings] {
        let main = |mut endpoint: SimEndpoint| match endpoint.rank() {
            0 => check.run(Box::new(endpoint) as Box<dyn Endpoint>),
            1 => check.run(&endpoint as &dyn Endpoint),
            2 => check.run(&mut endpoint),
            3 => check.run(Box::new(&endpoint)),
            _ => check.run(Box::new(endpoint)),
        };
        let report = sim::run(&SimConfig::new(check.shape(5), 6), main).unwrap();
        report.values().unwrap().into_iter().collect::<Result<(), _>>().unwrap();
    }
    check_all(|shape| {
        let group = threads::group(shape).unwrap().into_iter();
        group.map(|endpoint| Box::new(endpoint) as Box<dyn Endpoint + Send>).collect()
    })
    .unwrap();
}

#[test]
fn rooms_and_messages_of_every_transport_are_aligned() {
    let shape = GroupShape { ranks: 2, lanes: vec![LaneShape { slots: 3, slot_bytes: 1 }; 2] };
    let aligned = |endpoint: Box<dyn Endpoint>| {
        for number in 0..9 {
            for lane in [Lane(0), Lane(1)] {
                let own = endpoint.rank();
                for peer in 0..2 {
                    assert!(endpoint.room(lane, peer).unwrap().as_ptr().addr().is_multiple_of(SLOT_ALIGN));
                }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Lends no rooms.
    NoRoom,
    /// Lends one room at a time.
    OneRoom,
    /// Shows every message at one place, whoever holds another there.
    OnePlace,
    /// Shows no new messages while one is held.
    HeldUp,
    /// Has no news of landed messages.
    NoNews,
    /// Its waker does nothing.
    Deaf,
}

struct Broken {
    inner: SimEndpoint,
    wrong: Wrong,
    poison: OnceCell<Vec<u8>>,
    /// Where `OnePlace` and `HeldUp` show messages, one a peer.
    places: [RefCell<Place>; 2],
    /// By lane and peer, as `HeldUp` last told.
    landed: [[Cell<u64>; 2]; 4],
}

#[repr(align(64))]
struct Place([u8; 320]);

impl Broken {
    fn new(inner: SimEndpoint, wrong: Wrong) -> Self {
        let places = [0, 1].map(|_| RefCell::new(Place([0; 320])));
        Broken { inner, wrong, poison: OnceCell::new(), places, landed: Default::default() }
    }
}

impl Endpoint for Broken {
    fn rank(&self) -> Rank {
        self.inner.rank()
    }
    fn shape(&self) -> &GroupShape {
        self.inner.shape()
    }
    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        let free = self.inner.free_slots(lane, to);
        if self.wrong == Wrong::AlwaysFree { free.max(1) } else { free }
    }
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        match self.wrong {
            Wrong::NoRoom => None,
            Wrong::OneRoom if (0..2).any(|peer| peer != to && self.inner.room(lane, peer).is_none()) => None,
            _ => self.inner.room(lane, to),
        }
    }
    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        self.inner.publish(lane, to, if self.wrong == Wrong::Cuts { len.min(8) } else { len });
    }
    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        let landed = &self.landed[lane.index()][from];
        if self.wrong != Wrong::HeldUp || self.places.iter().all(|place| place.try_borrow_mut().is_ok()) {
            landed.set(self.inner.landed(lane, from));
        }
        landed.get()
    }
    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        if self.wrong != Wrong::NoNews {
            self.inner.landings(lane, found);
        }
    }
    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        let message = self.inner.message(lane, from, number);
        let place = match self.wrong {
            Wrong::OnePlace => &self.places[0],
            Wrong::HeldUp => &self.places[from],
            _ => return message,
        };
        if let Ok(mut place) = place.try_borrow_mut() {
            place.0[..message.len()].copy_from_slice(&message);
        }
        Ref::map(place.borrow(), |place| &place.0[..message.len()])
    }
    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        self.inner.release(lane, from, upto);
    }
    fn notify(&self) {
        if self.wrong != Wrong::NoNotify {
            self.inner.notify();
        }
    }
    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        self.inner.wait(until)
    }
    fn waker(&self) -> Waker {
        if self.wrong == Wrong::Deaf { Waker::noop().clone() } else { self.inner.waker() }
    }
    fn peer_state(&self, peer: Rank) -> PeerState {
        self.inner.peer_state(peer)
    }
    fn poison(&self, reason: &[u8]) {
        self.inner.poison(reason);
        if self.wrong == Wrong::OwnPoison {
            self.poison.get_or_init(|| reason.to_vec());
        }
    }
    fn poisoned(&self) -> Option<&[u8]> {
        self.poison.get().map(Vec::as_slice).or_else(|| self.inner.poisoned())
    }
    fn detach(&self) {
        if self.wrong != Wrong::NoDetach {
            self.inner.detach();
        }
    }
    fn now(&self) -> Duration {
        self.inner.now()
    }
    fn sleep(&self, duration: Duration) {
        if self.wrong != Wrong::NoSleep {
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
        (Wrong::NoRoom, Check::Fresh, "no room towards rank 0"),
        (Wrong::OneRoom, Check::Held, "no room towards rank 1 beside its message"),
        (Wrong::OnePlace, Check::Held, "after it was held"),
        (Wrong::HeldUp, Check::Held, "waited"),
        (Wrong::NoNews, Check::Landings, "waited"),
        (Wrong::Deaf, Check::Deadlines, "a wait after its waker was called took 10s"),
    ] {
        // In virtual time, since a failure takes the patience of the other rank.
        let main = |inner| check.run(Broken::new(inner, wrong));
        let outcomes = sim::run(&SimConfig::new(check.shape(2), 0), main).unwrap().values().unwrap();
        let whys: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|failed| failed.to_string()).collect();
        assert!(whys.iter().any(|said| said.contains(why)), "{whys:?} does not say `{why}`");
        assert_eq!(Check::named(check.name()), Some(check));
    }
}
