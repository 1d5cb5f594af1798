//! Messages and rooms that are held, and wakers, where a caught panic or another thread is needed beside a job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slackline_mpi::{NodeEndpoint, Peers, World};
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
    let (peers, world): (Peers, _) = (words[0].parse().unwrap(), World::join().unwrap());
    let shape = GroupShape { ranks: world.ranks(), lanes: vec![LaneShape { slots: 2, slot_bytes: 64 }] };
    let endpoint = NodeEndpoint::join(&world, &shape, peers).unwrap();
    what_is_held_stays(&endpoint);
    a_wait_ends_from_another_thread(&endpoint);
    let waker = endpoint.waker();
    endpoint.detach();
    drop(endpoint);
    waker.wake();
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
