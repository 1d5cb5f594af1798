//! The rings between threads of one process.

use crate::talk;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, PeerState, TransportError, threads};
use threads::ThreadEndpoint;

/// Runs `body` on a thread for each rank.
fn on_threads<T: Send>(shape: &GroupShape, body: impl Fn(ThreadEndpoint) -> T + Sync) -> Vec<T> {
    let group = threads::group(shape).unwrap();
    std::thread::scope(|scope| {
        let running: Vec<_> = group.into_iter().map(|endpoint| scope.spawn(|| body(endpoint))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn one_lane(ranks: usize, slots: usize, slot_bytes: usize) -> GroupShape {
    GroupShape { ranks, lanes: vec![LaneShape { slots, slot_bytes }] }
}

fn shapes() -> impl Strategy<Value = GroupShape> {
    let lane = (1usize..6, 0usize..700).prop_map(|(slots, slot_bytes)| LaneShape { slots, slot_bytes });
    (1usize..6, prop::collection::vec(lane, 1..4)).prop_map(|(ranks, lanes)| GroupShape { ranks, lanes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_message_arrives_whole_and_in_order(shape in shapes(), seed: u64, pauses: bool) {
        for outcome in on_threads(&shape, |endpoint| {
            let outcome = talk::converse(&endpoint, seed, 40, pauses);
            endpoint.detach();
            outcome
        }) {
            prop_assert_eq!(outcome, Ok(()));
        }
    }
}

#[test]
fn eight_ranks_converse_on_however_few_cores() {
    let shape = one_lane(8, 3, 4096);
    for outcome in on_threads(&shape, |endpoint| {
        let outcome = talk::converse(&endpoint, 8, 400, false);
        endpoint.detach();
        outcome
    }) {
        assert_eq!(outcome, Ok(()));
    }
}

#[test]
fn two_million_messages_between_four_ranks_lose_no_wake_up() {
    // Each wait that lost its wake-up lasts for the rest of a sleep of 50 ms. A machine that is busy with other work may
    // hold a rank up as long now and then; a protocol that loses wake-ups does so thousands of times.
    let late: u64 = on_threads(&one_lane(4, 2, 64), |endpoint| {
        let late = talk::pass_a_ball(&endpoint, 500_000, Duration::from_millis(40));
        endpoint.detach();
        late
    })
    .iter()
    .sum();
    assert!(late < 500, "{late} waits lasted as long as a whole sleep");
}

#[test]
fn a_sleeping_rank_is_woken_by_a_message_by_a_release_by_poison_and_by_an_end() {
    type Wake = fn(&ThreadEndpoint);
    let wakes: [(&str, Wake); 4] = [
        ("message", |endpoint| {
            endpoint.publish(Lane(0), 1, 0);
            endpoint.notify();
        }),
        ("release", |endpoint| {
            assert_eq!(endpoint.landed(Lane(0), 1), 1);
            endpoint.release(Lane(0), 1, 1);
            endpoint.notify();
        }),
        ("poison", |endpoint| endpoint.poison(b"why")),
        ("end", |endpoint| endpoint.detach()),
    ];
    for (what, wake) in wakes {
        let mut quickest = Duration::MAX;
        // A busy machine may delay one try; a wake-up that is missing delays all of them until the sleep ends.
        for _ in 0..20 {
            let mut group = threads::group(&one_lane(2, 1, 64)).unwrap().into_iter();
            let (one, two) = (group.next().unwrap(), group.next().unwrap());
            two.publish(Lane(0), 0, 0);
            let sleeper = std::thread::spawn(move || {
                // Takes in what is there already.
                two.wait(two.now()).unwrap();
                two.wait(two.now() + Duration::from_secs(1)).unwrap();
                Instant::now()
            });
            // Long enough to fall asleep, short enough to lie well within one sleep.
            std::thread::sleep(Duration::from_millis(5));
            let woke = Instant::now();
            wake(&one);
            quickest = quickest.min(sleeper.join().unwrap().saturating_duration_since(woke));
        }
        assert!(quickest < Duration::from_millis(20), "a {what} wakes a sleeper only after {quickest:?}");
    }
}

#[test]
fn a_wait_that_has_nothing_to_see_ends_at_its_time() {
    let group = threads::group(&one_lane(2, 1, 64)).unwrap();
    let endpoint = &group[0];
    endpoint.wait(Duration::MAX).unwrap();
    let until = endpoint.now() + Duration::from_millis(8);
    while endpoint.now() < until {
        endpoint.wait(until).unwrap();
    }
    assert!(endpoint.now() < until + Duration::from_secs(5));
}

#[test]
fn a_wait_after_counters_moved_unseen_returns_at_once_and_only_once() {
    let group = threads::group(&one_lane(2, 2, 64)).unwrap();
    let far = Duration::from_secs(3600);
    group[0].wait(far).unwrap();
    group[1].publish(Lane(0), 0, 0);
    group[0].wait(far).unwrap();
    let until = group[0].now() + Duration::from_millis(2);
    group[0].wait(until).unwrap();
    assert!(group[0].now() >= until, "a wait returned twice for one message");
    assert_eq!(group[0].landed(Lane(0), 1), 1);
}

#[test]
fn a_wait_brings_the_count_of_free_slots_up_to_date() {
    let group = threads::group(&one_lane(2, 3, 64)).unwrap();
    group[0].publish(Lane(0), 1, 0);
    group[0].publish(Lane(0), 1, 0);
    assert_eq!(group[0].free_slots(Lane(0), 1), 1);
    group[1].landed(Lane(0), 0);
    group[1].release(Lane(0), 0, 2);
    group[0].wait(Duration::from_secs(3600)).unwrap();
    group[0].wait(Duration::ZERO).unwrap();
    assert_eq!(group[0].free_slots(Lane(0), 1), 3);
}

#[test]
fn an_endpoint_that_is_dropped_is_dead_and_one_that_detached_has_left() {
    let mut group = threads::group(&one_lane(3, 1, 64)).unwrap().into_iter();
    let (one, two, three) = (group.next().unwrap(), group.next().unwrap(), group.next().unwrap());
    assert_eq!(one.peer_state(1), PeerState::Alive);
    two.publish(Lane(0), 0, 3);
    two.detach();
    drop(two);
    let panicked = std::thread::spawn(move || {
        let _endpoint = three;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(one.peer_state(0), PeerState::Alive);
    assert_eq!(one.peer_state(1), PeerState::Left);
    assert_eq!(one.peer_state(2), PeerState::Dead);
    assert_eq!(one.landed(Lane(0), 1), 1);
    assert_eq!(one.message(Lane(0), 1, 0).len(), 3);
}

#[test]
fn the_first_poison_wins_and_reaches_every_rank() {
    let group = threads::group(&one_lane(3, 1, 64)).unwrap();
    assert_eq!(group[2].poisoned(), None);
    let long = vec![b'x'; 1000];
    group[1].poison(&long);
    group[0].poison(b"second");
    for endpoint in &group {
        assert_eq!(endpoint.poisoned(), Some(&long[..slackline_transport::POISON_BYTES]));
    }
}

#[test]
fn shapes_that_cannot_be_are_refused_with_the_reason() {
    for (shape, why) in [
        (one_lane(0, 1, 64), "it has no ranks"),
        (GroupShape { ranks: 1, lanes: vec![] }, "it has 0 lanes"),
        (one_lane(1, 0, 64), "lane 0 has no slots"),
        (one_lane(1, 1, usize::MAX), "4 GiB or more"),
        (one_lane(1 << 20, 1 << 20, 1 << 30), "more than this machine can address"),
    ] {
        let error = threads::group(&shape).unwrap_err();
        assert!(matches!(error, TransportError::Shape { .. }));
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn large_rings_cost_nothing_until_they_are_used() {
    // 2 * 2 * 64 slots of 4 MiB: 1 GiB.
    let group = threads::group(&one_lane(2, 64, 4 << 20)).unwrap();
    group[0].room(Lane(0), 1).unwrap()[..3].copy_from_slice(b"far");
    group[0].publish(Lane(0), 1, 3);
    assert_eq!(group[1].landed(Lane(0), 0), 1);
    assert_eq!(*group[1].message(Lane(0), 0, 0), *b"far");
}

#[test]
fn rings_that_are_larger_than_the_memory_there_is_are_refused() {
    // 2 * 2 * 1024 slots of 2 GiB: 8 TiB.
    match threads::group(&one_lane(2, 1024, 2 << 30)) {
        Err(TransportError::Memory { needed, available }) => assert!(needed > 8 << 40 && available < needed),
        other => panic!("{other:?}"),
    }
}

#[test]
#[should_panic(expected = "rank 2 of a group of 2")]
fn a_rank_that_does_not_exist_is_refused() {
    let mut shape = one_lane(2, 1, 64);
    shape.lanes.push(shape.lanes[0]);
    threads::group(&shape).unwrap()[0].landed(Lane(0), 2);
}

#[test]
#[should_panic(expected = "which has been released or not landed")]
fn a_message_that_has_been_released_cannot_be_read() {
    let group = threads::group(&one_lane(1, 2, 64)).unwrap();
    let endpoint = &group[0];
    endpoint.publish(Lane(0), 0, 1);
    endpoint.landed(Lane(0), 0);
    endpoint.release(Lane(0), 0, 1);
    endpoint.message(Lane(0), 0, 0);
}

#[test]
#[should_panic(expected = "published 65 bytes in a slot of 64")]
fn a_message_larger_than_a_slot_is_refused() {
    threads::group(&one_lane(1, 2, 64)).unwrap()[0].publish(Lane(0), 0, 65);
}
