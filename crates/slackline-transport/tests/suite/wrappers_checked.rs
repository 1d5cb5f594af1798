//! Each rule of use, broken: the checked endpoint says so. And each promise, by transports that break it.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

use crate::traffic::{micros, shape, traffic};
use slackline_transport::sim::{self, RankEnd, SimConfig, SimEndpoint};
use slackline_transport::{Checked, Endpoint, GroupShape, Lane, Message, PeerState, Rank, Room, TransportError};

const L0: Lane = Lane(0);

/// Runs two ranks with 2 slots of 64 bytes on 1 lane; rank 0 does `wrong` after two messages of rank 1 have landed.
fn broken(wrong: impl Fn(&Checked<SimEndpoint>) + Send + Sync) -> String {
    used(wrong).expect_err("nothing was found wrong")
}

fn used(use_it: impl Fn(&Checked<SimEndpoint>) + Send + Sync) -> Result<(), String> {
    let report = sim::run(&SimConfig::new(shape(2, 1, 2, 64), 0), |endpoint| {
        let endpoint = Checked::new(endpoint);
        if endpoint.rank() == 0 {
            endpoint.sleep(micros(100));
            assert_eq!(endpoint.landed(L0, 1), 2);
            use_it(&endpoint);
        } else {
            for _ in 0..2 {
                assert!(endpoint.free_slots(L0, 0) > 0);
                endpoint.publish(L0, 0, 5);
            }
            endpoint.notify();
        }
        endpoint.detach();
    });
    match report.unwrap().values() {
        Ok(_) => Ok(()),
        Err((0, RankEnd::Panicked { message, .. })) => Err(message),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn right_use_passes() {
    let result = used(|endpoint| {
        for to in [0, 1] {
            assert_eq!(endpoint.free_slots(L0, to), 2);
            endpoint.room(L0, to).unwrap()[63] = 1;
            endpoint.publish(L0, to, 64);
            endpoint.publish(L0, to, 0);
            assert_eq!(endpoint.free_slots(L0, to), 0);
        }
        endpoint.notify();
        assert_eq!(endpoint.message(L0, 1, 1).len(), 5);
        endpoint.release(L0, 1, 0);
        endpoint.release(L0, 1, 2);
        endpoint.release(L0, 1, 2);
        endpoint.notify();
        endpoint.detach();
        // What may be asked of a detached endpoint, and a second detach.
        endpoint.poisoned();
        endpoint.sleep(micros(1));
        endpoint.detach();
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn clean_traffic_passes_over_the_simulation() {
    let report = sim::run(&SimConfig::new(shape(4, 2, 3, 100), 8), |endpoint| {
        let endpoint = Checked::new(endpoint);
        let seen = traffic(&endpoint, 50, micros(1)).unwrap();
        endpoint.detach();
        seen.len()
    });
    assert_eq!(report.unwrap().values().unwrap(), [400; 4]);
}

#[test]
fn publish_needs_a_free_slot_that_was_asked_for() {
    let message = broken(|endpoint| endpoint.publish(L0, 1, 0));
    assert_eq!(message, "rank 0, lane 0: publish to peer 1 without a free slot");
    let message = broken(|endpoint| {
        assert_eq!(endpoint.free_slots(L0, 1), 2);
        (0..3).for_each(|_| endpoint.publish(L0, 1, 0));
    });
    assert_eq!(message, "rank 0, lane 0: publish to peer 1 without a free slot");
}

#[test]
fn a_room_tells_of_one_slot() {
    let message = broken(|endpoint| {
        drop(endpoint.room(L0, 1));
        endpoint.publish(L0, 1, 0);
        endpoint.publish(L0, 1, 0);
    });
    assert_eq!(message, "rank 0, lane 0: publish to peer 1 without a free slot");
}

#[test]
fn publish_fits_its_slot() {
    let message = broken(|endpoint| {
        endpoint.free_slots(L0, 1);
        endpoint.publish(L0, 1, 65);
    });
    assert_eq!(message, "rank 0, lane 0: publish of 65 bytes to peer 1 in a slot of 64");
}

#[test]
fn messages_are_read_only_between_released_and_landed() {
    let message = broken(|endpoint| {
        endpoint.message(L0, 1, 2);
    });
    assert_eq!(message, "rank 0, lane 0: message 2 from peer 1 is outside released 0 .. landed 2");
    let message = broken(|endpoint| {
        endpoint.release(L0, 1, 1);
        endpoint.message(L0, 1, 0);
    });
    assert_eq!(message, "rank 0, lane 0: message 0 from peer 1 is outside released 1 .. landed 2");
}

#[test]
fn release_stays_within_what_landed_and_goes_forward() {
    let message = broken(|endpoint| endpoint.release(L0, 1, 3));
    assert_eq!(message, "rank 0, lane 0: release up to 3 of peer 1, but only 2 landed");
    let message = broken(|endpoint| {
        endpoint.release(L0, 1, 2);
        endpoint.release(L0, 1, 1);
    });
    assert_eq!(message, "rank 0, lane 0: release up to 1 of peer 1 goes back behind 2");
}

#[test]
fn ranks_lanes_and_poison_have_their_limits() {
    let message = broken(|endpoint| {
        endpoint.landed(Lane(1), 0);
    });
    assert_eq!(message, "rank 0: landed on lane 1, but there are 1 lanes");
    let message = broken(|endpoint| {
        endpoint.free_slots(L0, 2);
    });
    assert_eq!(message, "rank 0: free_slots with peer 2, but there are 2 ranks");
    let message = broken(|endpoint| {
        endpoint.peer_state(7);
    });
    assert_eq!(message, "rank 0: peer_state with peer 7, but there are 2 ranks");
    let message = broken(|endpoint| endpoint.poison(&[0; 241]));
    assert_eq!(message, "rank 0: poison of 241 bytes, but 240 are carried");
}

#[test]
fn a_detached_endpoint_is_not_used() {
    type Use = fn(&Checked<SimEndpoint>);
    let uses: [(&str, Use); 10] = [
        ("free_slots", |endpoint| assert!(endpoint.free_slots(L0, 1) < 99)),
        ("room", |endpoint| drop(endpoint.room(L0, 1))),
        ("publish", |endpoint| endpoint.publish(L0, 1, 0)),
        ("landed", |endpoint| assert!(endpoint.landed(L0, 1) < 99)),
        ("message", |endpoint| assert!(endpoint.message(L0, 1, 0).len() < 99)),
        ("release", |endpoint| endpoint.release(L0, 1, 1)),
        ("notify", |endpoint| endpoint.notify()),
        ("wait", |endpoint| endpoint.wait(Duration::MAX).unwrap()),
        ("peer_state", |endpoint| assert_eq!(endpoint.peer_state(1), PeerState::Alive)),
        ("poison", |endpoint| endpoint.poison(b"")),
    ];
    for (name, wrong) in uses {
        let message = broken(|endpoint| {
            endpoint.detach();
            wrong(endpoint);
        });
        assert_eq!(message, format!("rank 0: {name} after detach"));
    }
}

/// A transport of one rank that keeps its promises until `notify`.
struct Liar {
    shape: GroupShape,
    free: Cell<usize>,
    landed: Cell<u64>,
    news: Cell<Option<(Rank, u64)>>,
    /// Where the slots begin in `memory`, at a cache line: the room first, then a slot for each message.
    start: Cell<usize>,
    room_bytes: Cell<usize>,
    message_bytes: Cell<usize>,
    memory: RefCell<Vec<u8>>,
    poison: Cell<Option<&'static [u8]>>,
    lie: fn(&Liar),
}

impl Liar {
    fn new(lie: fn(&Liar)) -> Self {
        let memory = vec![0; 1024];
        Self {
            shape: shape(1, 1, 4, 64),
            free: Cell::new(3),
            landed: Cell::new(2),
            news: Cell::new(None),
            start: Cell::new(memory.as_ptr().align_offset(64)),
            room_bytes: Cell::new(64),
            message_bytes: Cell::new(32),
            memory: RefCell::new(memory),
            poison: Cell::new(Some(b"first")),
            lie,
        }
    }
}

impl Endpoint for Liar {
    fn rank(&self) -> Rank {
        0
    }
    fn shape(&self) -> &GroupShape {
        &self.shape
    }
    fn free_slots(&self, _: Lane, _: Rank) -> usize {
        self.free.get()
    }
    fn room(&self, _: Lane, _: Rank) -> Option<Room<'_>> {
        Some(RefMut::map(self.memory.borrow_mut(), |memory| &mut memory[self.start.get()..][..self.room_bytes.get()]))
    }
    fn publish(&self, _: Lane, _: Rank, _: usize) {}
    fn landed(&self, _: Lane, _: Rank) -> u64 {
        self.landed.get()
    }
    fn landings(&self, _: Lane, found: &mut dyn FnMut(Rank, u64)) {
        self.news.get().into_iter().for_each(|(from, landed)| found(from, landed));
    }
    fn message(&self, _: Lane, _: Rank, number: u64) -> Message<'_> {
        let start = self.start.get() + 64 * (number as usize + 1);
        Ref::map(self.memory.borrow(), |memory| &memory[start..][..self.message_bytes.get()])
    }
    fn release(&self, _: Lane, _: Rank, _: u64) {}
    fn notify(&self) {
        (self.lie)(self);
    }
    fn wait(&self, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
    fn peer_state(&self, _: Rank) -> PeerState {
        PeerState::Alive
    }
    fn poison(&self, _: &[u8]) {}
    fn poisoned(&self) -> Option<&[u8]> {
        self.poison.get()
    }
    fn detach(&self) {}
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
}

/// What is found when a transport lies between two looks at everything, at the end of which all messages are released.
fn found(lie: fn(&Liar)) -> Result<(), String> {
    let endpoint = Checked::new(Liar::new(lie));
    let look = || {
        endpoint.poisoned();
        endpoint.free_slots(L0, 0);
        drop(endpoint.room(L0, 0));
        endpoint.landings(L0, &mut |_, _| {});
        endpoint.landed(L0, 0)
    };
    look();
    endpoint.notify();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let landed = look();
        endpoint.release(L0, 0, landed);
    }));
    result.map_err(|payload| *payload.downcast::<String>().unwrap())
}

fn honest(honest: &Liar) {
    honest.free.set(4);
    honest.landed.set(4);
    honest.news.set(Some((0, 3)));
}

#[test]
fn a_transport_may_free_slots_and_land_messages() {
    assert_eq!(found(honest), Ok(()));
}

#[test]
fn a_transport_keeps_its_promises() {
    for (lie, want) in [
        (
            (|liar| liar.free.set(2)) as fn(&Liar),
            "rank 0, lane 0: free slots towards peer 0 went from 3 to 2 without a publish",
        ),
        (|liar| liar.free.set(5), "rank 0, lane 0: 5 free slots towards peer 0 in a ring of 4"),
        (|liar| liar.landed.set(1), "rank 0, lane 0: messages landed from peer 0 went back from 2 to 1"),
        (|liar| liar.landed.set(5), "rank 0, lane 0: 5 messages landed from peer 0 and 0 are released, in a ring of 4"),
        (|liar| liar.news.set(Some((0, 1))), "rank 0, lane 0: messages landed from peer 0 went back from 2 to 1"),
        (
            |liar| liar.news.set(Some((0, 5))),
            "rank 0, lane 0: 5 messages landed from peer 0 and 0 are released, in a ring of 4",
        ),
        (|liar| liar.news.set(Some((1, 0))), "rank 0: landings with peer 1, but there are 1 ranks"),
        (
            |liar| liar.memory.borrow_mut()[liar.start.get() + 2 * 64 + 31] = 1,
            "rank 0, lane 0: message 1 from peer 0 changed between landing and release",
        ),
        (
            |liar| liar.message_bytes.set(31),
            "rank 0, lane 0: message 0 from peer 0 changed between landing and release",
        ),
        (
            |liar| {
                liar.landed.set(3);
                liar.message_bytes.set(65);
            },
            "rank 0, lane 0: message 2 from peer 0 has 65 bytes, in a slot of 64",
        ),
        (|liar| liar.room_bytes.set(63), "rank 0, lane 0: room of 63 bytes towards peer 0, in a slot of 64"),
        (|liar| liar.room_bytes.set(0), "rank 0, lane 0: room of 0 bytes towards peer 0, in a slot of 64"),
        (
            |liar| liar.start.set(liar.start.get() + 8),
            "rank 0, lane 0: the room towards peer 0 is not at a multiple of 64 bytes",
        ),
        (|liar| liar.poison.set(None), "rank 0: the group's poison changed"),
        (|liar| liar.poison.set(Some(b"second")), "rank 0: the group's poison changed"),
    ] {
        assert_eq!(found(lie), Err(want.into()));
    }
}
