//! Wakers: a wait that another thread ends.

use std::task::Waker;
use std::thread;
use std::time::Duration;

use crate::traffic::shape;
use slackline_transport::shm::Segment;
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Delayed, Endpoint, Lane, threads};

/// Longer than it takes to fall asleep, and well within one sleep of 50 ms.
const ASLEEP: Duration = Duration::from_millis(8);

const FAR: Duration = Duration::from_secs(3600);

/// The one rank of a group, over every transport whose clock is the machine's, and behind the wrappers.
fn endpoints() -> Vec<Box<dyn Endpoint + Send>> {
    let shape = shape(1, 1, 2, 64);
    let thread = || threads::group(&shape).unwrap().remove(0);
    let none = "none".parse().unwrap();
    let schedule = slackline_transport::delay::DelaySchedule::new(&none, 0, 1, Duration::ZERO).unwrap();
    vec![
        Box::new(thread()),
        Box::new(Segment::create(&shape).unwrap().rank(0).unwrap()),
        Box::new(Checked::new(Delayed::new(thread(), schedule, Lane(0)))),
    ]
}

/// Waits once for nothing, so that the endpoint has looked at everything.
fn settle(endpoint: &dyn Endpoint) {
    endpoint.wait(endpoint.now()).unwrap();
    let until = endpoint.now() + Duration::from_millis(1);
    while endpoint.now() < until {
        endpoint.wait(until).unwrap();
    }
}

/// How long one wait lasts.
fn waited(endpoint: &dyn Endpoint) -> Duration {
    let began = endpoint.now();
    endpoint.wait(began + FAR).unwrap();
    endpoint.now() - began
}

#[test]
fn a_waker_ends_a_wait_that_is_asleep() {
    for endpoint in endpoints() {
        settle(&endpoint);
        let mut quickest = Duration::MAX;
        // A busy machine may delay one try; a wake-up that is missing delays all of them until the sleep ends.
        for _ in 0..20 {
            let waker = endpoint.waker();
            let other = thread::spawn(move || {
                thread::sleep(ASLEEP);
                waker.wake();
            });
            quickest = quickest.min(waited(&endpoint));
            other.join().unwrap();
        }
        assert!((ASLEEP / 2..Duration::from_millis(30)).contains(&quickest), "a wait was ended after {quickest:?}");
    }
}

#[test]
fn a_waker_that_was_called_before_ends_the_next_wait_and_only_that() {
    for endpoint in endpoints() {
        settle(&endpoint);
        let waker = endpoint.waker();
        // Calls before a wait count as one, whichever waker they were made with.
        let others = [waker.clone(), endpoint.waker()];
        others.iter().for_each(Waker::wake_by_ref);
        thread::spawn(move || waker.wake()).join().unwrap();
        let quick = waited(&endpoint);
        assert!(quick < Duration::from_millis(20), "a wait whose waker had been called lasted for {quick:?}");
        let until = endpoint.now() + Duration::from_millis(2);
        endpoint.wait(until).unwrap();
        assert!(endpoint.now() >= until, "calls before one wait have ended two");
    }
}

#[test]
fn a_waker_may_outlive_its_endpoint() {
    for endpoint in endpoints() {
        let waker = endpoint.waker();
        endpoint.detach();
        waker.wake_by_ref();
        drop(endpoint);
        waker.wake_by_ref();
        thread::spawn(move || waker.wake()).join().unwrap();
    }
    let report = sim::run(&SimConfig::new(shape(2, 1, 1, 64), 0), |endpoint| {
        endpoint.detach();
        endpoint.waker()
    });
    for waker in report.unwrap().values().unwrap() {
        waker.wake();
    }
}

#[test]
fn a_waker_ends_no_wait_of_a_peer() {
    let mut group = threads::group(&shape(2, 1, 2, 64)).unwrap();
    let (peer, endpoint) = (group.pop().unwrap(), group.pop().unwrap());
    settle(&peer);
    endpoint.waker().wake();
    let until = peer.now() + Duration::from_millis(2);
    peer.wait(until).unwrap();
    assert!(peer.now() >= until, "a peer's wait was ended");
}

#[test]
fn in_virtual_time_a_rank_wakes_another_by_its_waker() {
    let wakers = std::sync::Mutex::new(Vec::new());
    let report = sim::run(&SimConfig::new(shape(2, 1, 1, 64), 0), |endpoint| {
        if endpoint.rank() == 0 {
            wakers.lock().unwrap().push(endpoint.waker());
            endpoint.wait(FAR).unwrap();
        } else {
            endpoint.sleep(Duration::from_micros(70));
            let waker = wakers.lock().unwrap().pop().unwrap();
            waker.wake();
        }
        endpoint.detach();
        endpoint.now()
    });
    assert_eq!(report.unwrap().values().unwrap(), [Duration::from_micros(70); 2]);
}
