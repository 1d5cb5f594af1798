//! Messages, rooms and rounds that are held, at the endpoint and on a group; and wakers. A caught panic or another thread is
//! needed beside a job for some of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slackline_collective::{Arrived, Complete, Group, GroupOptions, LaneOptions};
use slackline_mpi::{NodeEndpoint, Peers};
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape};

use crate::mpirun;

const LANE: Lane = Lane(0);
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn test() {
    for peers in ["mpi", "auto", "nodes:2"] {
        for ranks in [1, 4] {
            let program = mpirun::this_program(ranks, &["held", peers]);
            mpirun::expect_success(program, &format!("held, {peers}, {ranks} ranks"));
        }
    }
}

/// `words`: what carries the messages.
pub(crate) fn rank(words: &[String]) {
    let (peers, world): (Peers, _) = (words[0].parse().unwrap(), mpirun::join());
    let shape = GroupShape { ranks: world.ranks(), lanes: vec![LaneShape { slots: 2, slot_bytes: 64 }] };
    let endpoint = NodeEndpoint::join(&world, &shape, peers).unwrap();
    what_is_held_stays(&endpoint);
    a_wait_ends_from_another_thread(&endpoint);
    let waker = endpoint.waker();
    endpoint.detach();
    drop(endpoint);
    waker.wake();

    let options = GroupOptions::new(vec![LaneOptions::lag(1); 3]).deadline(2 * PATIENCE);
    let endpoint = NodeEndpoint::join(&world, &options.shape(world.ranks(), 64), peers).unwrap();
    let group = Group::new(endpoint, options).unwrap();
    requests_are_held_while_room_is_filled_on_one_lane_and_on_two(&group);
    a_round_is_held_while_the_next_begins(&group);
    group.finish().unwrap();
}

fn what_is_held_stays(endpoint: &NodeEndpoint) {
    let ranks = endpoint.shape().ranks;
    let wait_for = |count| {
        while !(0..ranks).all(|peer| endpoint.landed(LANE, peer) == count) {
            assert!(endpoint.now() < PATIENCE, "no message {count} of every rank");
            endpoint.wait(PATIENCE).unwrap();
        }
    };
    for peer in 0..ranks {
        endpoint.room(LANE, peer).unwrap().fill(1);
        endpoint.publish(LANE, peer, 64);
    }
    endpoint.notify();
    wait_for(1);
    for peer in 0..ranks {
        let message = endpoint.message(LANE, peer, 0);
        let mut room = endpoint.room(LANE, peer).unwrap();
        room.copy_from_slice(&message);
        refused("message 0 was released while it is held", || endpoint.release(LANE, peer, 1));
        assert!(endpoint.room(LANE, peer).is_none());
        refused("published a slot whose room is held", || endpoint.publish(LANE, peer, 64));
        // Neither has left a trace.
        assert_eq!(*endpoint.message(LANE, peer, 0), *message);
        drop((message, room));
        endpoint.release(LANE, peer, 1);
        endpoint.publish(LANE, peer, 64);
    }
    endpoint.notify();
    wait_for(2);
    assert!((0..ranks).all(|peer| *endpoint.message(LANE, peer, 1) == [1; 64]));
}

/// Every rank asks every rank, itself included, and holds what it was asked while it fills room towards all of them.
fn requests_are_held_while_room_is_filled_on_one_lane_and_on_two(group: &Group<NodeEndpoint>) {
    let (own, ranks) = (group.rank() as u8, group.ranks());
    let (one, two) = (group.streams(Lane(0)), group.streams(Lane(1)));
    for number in 0..20u8 {
        for to in 0..ranks {
            let mut room = one.send(to, 40).unwrap();
            room.fill(number ^ own);
            room.publish();
        }
        let requests: Vec<_> = (0..ranks).map(|from| one.receive(from).unwrap().expect("nobody leaves")).collect();
        // All rooms together, before any is published; those of one lane in another order than those of the other.
        let mut same: Vec<_> =
            requests.iter().map(|request| one.send(request.from(), request.len()).unwrap()).collect();
        let mut other: Vec<_> = requests.iter().map(|request| two.send(request.from(), 55).unwrap()).collect();
        for ((request, same), other) in requests.iter().zip(&mut same).zip(&mut other) {
            same.copy_from_slice(request);
            other.fill(request[0] + 100);
        }
        other.into_iter().rev().for_each(|room| room.publish());
        same.into_iter().for_each(|room| room.publish());
        let answers: Vec<_> =
            (0..ranks).map(|from| [&two, &one].map(|lane| lane.receive(from).unwrap().unwrap())).collect();
        let all = |message: &Arrived<'_, NodeEndpoint>, byte: u8, length| message.to_vec() == vec![byte; length];
        for (from, (request, [first, second])) in requests.iter().zip(&answers).enumerate() {
            assert_eq!((request.from(), request.number()), (from, 2 * u64::from(number)));
            assert!(request.as_ptr().addr().is_multiple_of(64), "in place");
            assert!(all(request, number ^ from as u8, 40), "held, and as it was");
            assert!(all(first, (number ^ own) + 100, 55) && all(second, number ^ own, 40));
        }
        // Back in another order than they came.
        drop(answers);
        requests.into_iter().rev().for_each(drop);
    }
}

/// What is sent in a round is read from the one before, which is held meanwhile.
fn a_round_is_held_while_the_next_begins(group: &Group<NodeEndpoint>) {
    let (own, ranks) = (group.rank() as u8, group.ranks());
    let rounds = group.lane(Lane(2));
    let mut held = VecDeque::new();
    for number in 0..30u8 {
        let mut round = rounds.begin(&vec![50; ranks]).unwrap();
        for (to, room) in round.messages_mut().into_iter().enumerate() {
            match held.back() {
                Some(last) => {
                    let last: &Complete<'_, NodeEndpoint> = last;
                    let nothing = last.message(to)[0] ^ last.number() as u8 ^ to as u8;
                    room.fill(nothing ^ number ^ own);
                }
                None => room.fill(number ^ own),
            }
        }
        round.publish().unwrap();
        while let Some(complete) = rounds.take().unwrap() {
            held.push_back(complete);
        }
        while held.len() > 1 {
            let complete = held.pop_front().unwrap();
            let right = |from| *complete.message(from) == [complete.number() as u8 ^ from as u8; 50];
            assert!((0..ranks).all(right), "round {}", complete.number());
        }
    }
    drop(held);
    while rounds.flush().unwrap().is_some() {}
}

fn refused(why: &str, call: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(call)).expect_err(why);
    let text = panic.downcast_ref::<String>().map(String::as_str);
    assert_eq!(text.or_else(|| panic.downcast_ref::<&str>().copied()), Some(why));
}

fn a_wait_ends_from_another_thread(endpoint: &NodeEndpoint) {
    let called = Arc::new(AtomicBool::new(false));
    let caller = {
        let (called, waker) = (Arc::clone(&called), endpoint.waker());
        std::thread::spawn(move || {
            // Until the wait has fallen asleep.
            std::thread::sleep(Duration::from_millis(20));
            called.store(true, Ordering::Relaxed);
            waker.wake();
        })
    };
    let begin = endpoint.now();
    while !called.load(Ordering::Relaxed) {
        endpoint.wait(begin + PATIENCE).unwrap();
    }
    assert!(endpoint.now() - begin < PATIENCE / 2, "a wait that its waker was to end");
    caller.join().unwrap();
}
