//! Each rule of use, broken: the checked endpoint says so. And each promise, by transports that break it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::traffic::{micros, shape, traffic};
use slackline_transport::sim::{self, RankEnd, SimConfig, SimEndpoint};
use slackline_transport::{Checked, Endpoint, GroupShape, Lane, PeerState, Rank, Rooms, TransportError};

const L0: Lane = Lane(0);

/// Runs two ranks with 2 slots of 64 bytes on 1 lane; rank 0 does `wrong` after two messages of rank 1 have landed.
fn broken(wrong: impl Fn(&mut Checked<SimEndpoint>) + Send + Sync) -> String {
    used(wrong).expect_err("nothing was found wrong")
}

fn used(use_it: impl Fn(&mut Checked<SimEndpoint>) + Send + Sync) -> Result<(), String> {
    let report = sim::run(&SimConfig::new(shape(2, 1, 2, 64), 0), |endpoint| {
        let mut endpoint = Checked::new(endpoint);
        if endpoint.rank() == 0 {
            endpoint.sleep(micros(100));
            assert_eq!(endpoint.landed(L0, 1), 2);
            use_it(&mut endpoint);
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
        let mut endpoint = Checked::new(endpoint);
        let seen = traffic(&mut endpoint, 50, micros(1)).unwrap();
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
        endpoint.rooms(L0);
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
    type Use = fn(&mut Checked<SimEndpoint>);
    let uses: [(&str, Use); 10] = [
        ("free_slots", |endpoint| assert!(endpoint.free_slots(L0, 1) < 99)),
        ("rooms", |endpoint| drop(endpoint.rooms(L0))),
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
    free: usize,
    landed: u64,
    /// Where the slots begin in `memory`, at a cache line: the room first, then a slot for each message.
    start: usize,
    room_bytes: usize,
    message_bytes: usize,
    memory: Vec<u8>,
    poison: Option<Vec<u8>>,
    lie: Option<fn(&mut Liar)>,
}

impl Liar {
    fn new(lie: fn(&mut Liar)) -> Self {
        let memory = vec![0; 1024];
        Self {
            shape: shape(1, 1, 4, 64),
            free: 3,
            landed: 2,
            start: memory.as_ptr().align_offset(64),
            room_bytes: 64,
            message_bytes: 32,
            memory,
            poison: Some(b"first".into()),
            lie: Some(lie),
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
    fn free_slots(&mut self, _: Lane, _: Rank) -> usize {
        self.free
    }
    fn rooms(&mut self, _: Lane) -> Rooms<'_> {
        [&mut self.memory[self.start..][..self.room_bytes]].into_iter().collect()
    }
    fn publish(&mut self, _: Lane, _: Rank, _: usize) {}
    fn landed(&mut self, _: Lane, _: Rank) -> u64 {
        self.landed
    }
    fn message(&self, _: Lane, _: Rank, number: u64) -> &[u8] {
        &self.memory[self.start + 64 * (number as usize + 1)..][..self.message_bytes]
    }
    fn release(&mut self, _: Lane, _: Rank, _: u64) {}
    fn notify(&mut self) {
        self.lie.take().unwrap()(self);
    }
    fn wait(&mut self, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
    fn peer_state(&mut self, _: Rank) -> PeerState {
        PeerState::Alive
    }
    fn poison(&mut self, _: &[u8]) {}
    fn poisoned(&mut self) -> Option<&[u8]> {
        self.poison.as_deref()
    }
    fn detach(&mut self) {}
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&mut self, _: Duration) {}
}

/// What is found when a transport lies between two looks at everything, at the end of which all messages are released.
fn found(lie: fn(&mut Liar)) -> Result<(), String> {
    let mut endpoint = Checked::new(Liar::new(lie));
    let look = |endpoint: &mut Checked<Liar>| {
        endpoint.poisoned();
        endpoint.free_slots(L0, 0);
        endpoint.rooms(L0);
        endpoint.landed(L0, 0)
    };
    look(&mut endpoint);
    endpoint.notify();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let landed = look(&mut endpoint);
        endpoint.release(L0, 0, landed);
    }));
    result.map_err(|payload| *payload.downcast::<String>().unwrap())
}

#[test]
fn a_transport_may_free_slots_and_land_messages() {
    assert_eq!(found(|honest| (honest.free, honest.landed) = (4, 4)), Ok(()));
}

#[test]
fn a_transport_keeps_its_promises() {
    for (lie, want) in [
        (
            (|liar| liar.free = 2) as fn(&mut Liar),
            "rank 0, lane 0: free slots towards peer 0 went from 3 to 2 without a publish",
        ),
        (|liar| liar.free = 5, "rank 0, lane 0: 5 free slots towards peer 0 in a ring of 4"),
        (|liar| liar.landed = 1, "rank 0, lane 0: messages landed from peer 0 went back from 2 to 1"),
        (|liar| liar.landed = 5, "rank 0, lane 0: 5 messages landed from peer 0 and 0 are released, in a ring of 4"),
        (
            |liar| liar.memory[liar.start + 2 * 64 + 31] = 1,
            "rank 0, lane 0: message 1 from peer 0 changed between landing and release",
        ),
        (|liar| liar.message_bytes = 31, "rank 0, lane 0: message 0 from peer 0 changed between landing and release"),
        (
            |liar| (liar.landed, liar.message_bytes) = (3, 65),
            "rank 0, lane 0: message 2 from peer 0 has 65 bytes, in a slot of 64",
        ),
        (|liar| liar.room_bytes = 63, "rank 0, lane 0: room of 63 bytes towards peer 0, which has 3 free slots of 64"),
        (|liar| liar.room_bytes = 0, "rank 0, lane 0: room of 0 bytes towards peer 0, which has 3 free slots of 64"),
        (|liar| liar.start += 8, "rank 0, lane 0: the room towards peer 0 is not at a multiple of 64 bytes"),
        (|liar| liar.poison = None, "rank 0: the group's poison changed"),
        (|liar| liar.poison = Some(b"second".into()), "rank 0: the group's poison changed"),
    ] {
        assert_eq!(found(lie), Err(want.into()));
    }
}
