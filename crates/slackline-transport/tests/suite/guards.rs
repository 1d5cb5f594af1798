//! Messages and rooms that are held while the endpoint goes on, and what may not be done meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::traffic::shape;
use slackline_transport::shm::Segment;
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Endpoint, Lane, threads};

const L0: Lane = Lane(0);

/// Runs `body` with the one rank of a group, over every transport and behind a wrapper. A ring has 2 slots of 64 bytes.
fn everywhere(body: impl Fn(&dyn Endpoint) + Sync) {
    let shape = shape(1, 1, 2, 64);
    body(&threads::group(&shape).unwrap()[0]);
    body(&Segment::create(&shape).unwrap().rank(0).unwrap());
    body(&Checked::new(threads::group(&shape).unwrap().remove(0)));
    let report = sim::run(&SimConfig::new(shape, 0), |endpoint| {
        body(&endpoint);
        endpoint.detach();
    });
    report.unwrap().values().unwrap();
}

fn send(endpoint: &dyn Endpoint, byte: u8) {
    assert!(endpoint.free_slots(L0, 0) > 0);
    endpoint.room(L0, 0).unwrap()[0] = byte;
    endpoint.publish(L0, 0, 1);
}

/// A look may bring one message at a time, but needs no wait.
fn look(endpoint: &dyn Endpoint, messages: u64) {
    assert_eq!((0..messages).map(|_| endpoint.landed(L0, 0)).last(), Some(messages));
}

/// The text with which `wrong` panics.
fn refused(wrong: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(wrong)).expect_err("it was let through");
    payload.downcast::<String>().map_or_else(|other| (*other.downcast::<&str>().unwrap()).into(), |text| *text)
}

#[test]
fn a_message_is_not_released_while_it_is_held() {
    everywhere(|endpoint| {
        send(endpoint, 1);
        send(endpoint, 2);
        look(endpoint, 2);
        let held = endpoint.message(L0, 0, 1);
        let twice = endpoint.message(L0, 0, 1);
        // What lies before it may go.
        endpoint.release(L0, 0, 1);
        assert_eq!(endpoint.free_slots(L0, 0), 1);
        drop(held);
        let why = refused(|| endpoint.release(L0, 0, 2));
        assert!(why.contains("message 1") && why.contains("released while it is held"), "{why}");
        assert_eq!(*twice, [2]);
    });
    everywhere(|endpoint| {
        send(endpoint, 1);
        send(endpoint, 2);
        look(endpoint, 2);
        drop((endpoint.message(L0, 0, 0), endpoint.message(L0, 0, 1)));
        endpoint.release(L0, 0, 2);
        assert_eq!(endpoint.free_slots(L0, 0), 2);
    });
}

#[test]
fn a_refused_release_releases_nothing() {
    for endpoint in threads::group(&shape(1, 1, 2, 64)).unwrap() {
        send(&endpoint, 1);
        send(&endpoint, 2);
        look(&endpoint, 2);
        let held = endpoint.message(L0, 0, 1);
        refused(|| endpoint.release(L0, 0, 2));
        drop(held);
        assert_eq!(*endpoint.message(L0, 0, 0), [1]);
        assert_eq!(endpoint.free_slots(L0, 0), 0);
        endpoint.release(L0, 0, 2);
        assert_eq!(endpoint.free_slots(L0, 0), 2);
    }
}

#[test]
fn a_slot_is_not_published_while_its_room_is_held() {
    everywhere(|endpoint| {
        assert_eq!(endpoint.free_slots(L0, 0), 2);
        let mut room = endpoint.room(L0, 0).unwrap();
        assert!(endpoint.room(L0, 0).is_none(), "a room is lent twice");
        let why = refused(|| endpoint.publish(L0, 0, 1));
        assert!(why.contains("room is held"), "{why}");
        assert_eq!(endpoint.landed(L0, 0), 0);
        room[0] = 7;
    });
    everywhere(|endpoint| {
        assert_eq!(endpoint.free_slots(L0, 0), 2);
        let mut room = endpoint.room(L0, 0).unwrap();
        room[0] = 7;
        drop(room);
        endpoint.publish(L0, 0, 1);
        look(endpoint, 1);
        assert_eq!(*endpoint.message(L0, 0, 0), [7]);
    });
}

#[test]
fn an_answer_is_written_while_its_request_is_held() {
    everywhere(|endpoint| {
        send(endpoint, 20);
        look(endpoint, 1);
        let request = endpoint.message(L0, 0, 0);
        let mut answer = endpoint.room(L0, 0).unwrap();
        answer[0] = request[0] + 1;
        // Questions may be asked meanwhile.
        assert_eq!((endpoint.free_slots(L0, 0), endpoint.landed(L0, 0)), (1, 1));
        endpoint.notify();
        drop(answer);
        endpoint.publish(L0, 0, 1);
        look(endpoint, 2);
        assert_eq!((&*request, &*endpoint.message(L0, 0, 1)), (&[20][..], &[21][..]));
    });
}
