//! A program that never waits inside a call of an exchange, and one that leaves without waiting for the others: over the
//! simulation, where a wait without end is an error.

use std::time::Duration;

use slackline_collective::{Awaited, CollectiveError, Delivery, FaultKind, Group, GroupOptions, LaneOptions};
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Endpoint, Lane};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Two ranks with so many slots of 64 bytes towards each.
fn two(lane: LaneOptions, slots: usize, program: impl Fn(Group<Box<dyn Endpoint>>) + Send + Sync) {
    let options = GroupOptions::new([lane]);
    let mut shape = options.shape(2, 64);
    shape.lanes[0].slots = slots;
    let run =
        |endpoint| program(Group::new(Box::new(Checked::new(endpoint)) as Box<dyn Endpoint>, options.clone()).unwrap());
    sim::run(&SimConfig::new(shape, 1), run).unwrap().values().unwrap();
}

#[test]
fn a_round_begins_only_where_it_need_not_wait_for_a_slot() {
    two(LaneOptions::lag(0), 1, |group| {
        let rounds = group.lane(Lane(0));
        rounds.try_begin(&[1; 2]).unwrap().expect("all slots are free").publish().unwrap();
        let refused = rounds.try_begin(&[1; 2]).map(|_| ()).unwrap_err();
        assert!(matches!(refused, CollectiveError::TakeFirst { .. }), "no reason to try again: {refused}");
        let held = rounds.take().unwrap().unwrap();
        if group.rank() == 1 {
            group.endpoint().sleep(5 * MILLISECOND);
            drop(held);
        } else {
            drop(held);
            let before = group.endpoint().now();
            assert!(rounds.try_begin(&[1; 2]).unwrap().is_none(), "the peer still reads in the only slot");
            assert_eq!(group.endpoint().now(), before);
            while rounds.try_begin(&[1; 2]).unwrap().is_none() {
                group.wait(Duration::MAX).unwrap();
            }
            assert!(group.endpoint().now() >= 5 * MILLISECOND);
        }
        group.finish().unwrap();
    });
}

#[test]
fn complete_rounds_are_flushed_and_others_are_not_waited_for() {
    two(LaneOptions { lag: 4, delivery: Delivery::Fixed }, 5, |group| {
        let rounds = group.lane(Lane(0));
        if group.rank() == 1 {
            group.endpoint().sleep(5 * MILLISECOND);
        }
        for _ in 0..3 {
            rounds.begin(&[1; 2]).unwrap().publish().unwrap();
        }
        if group.rank() == 0 {
            let before = group.endpoint().now();
            assert!(rounds.try_flush().unwrap().is_none());
            assert_eq!(group.endpoint().now(), before);
        }
        group.endpoint().sleep(10 * MILLISECOND);
        assert!(rounds.try_take().unwrap().is_none(), "fixed delivery hands out nothing yet");
        for number in 0..3 {
            assert_eq!(rounds.try_flush().unwrap().expect("complete").number(), number);
        }
        assert!(rounds.try_flush().unwrap().is_none());
        group.finish().unwrap();
    });
}

#[test]
fn a_large_message_is_sent_when_its_last_piece_is_out() {
    two(LaneOptions::lag(0), 2, |group| {
        let rounds = group.lane(Lane(0));
        assert!(rounds.is_sent());
        let from_zero = group.rank() == 0;
        if !from_zero {
            group.endpoint().sleep(5 * MILLISECOND);
        }
        rounds.begin(&[0, if from_zero { 500 } else { 0 }]).unwrap().publish().unwrap();
        assert_eq!(rounds.is_sent(), !from_zero, "500 bytes are more than two slots");
        while !rounds.is_sent() {
            group.wait(Duration::MAX).unwrap();
            group.progress().unwrap();
        }
        assert!(group.endpoint().now() >= 5 * MILLISECOND, "the peer took nothing before");
        // What is out needs nothing more of its sender.
        if from_zero {
            group.endpoint().sleep(Duration::from_secs(1));
        } else {
            assert_eq!(rounds.take().unwrap().unwrap().message(0).len(), 500);
            assert!(group.endpoint().now() < 100 * MILLISECOND);
        }
        group.finish().unwrap();
    });
}

/// What both ranks are told when rank 0 finds rank 1 late, which holds its first round and begins no other.
fn late(slots: usize, awaited: Awaited, round: u64) {
    two(LaneOptions::lag(0), slots, |group| {
        let rounds = group.lane(Lane(0));
        rounds.begin(&[1; 2]).unwrap().publish().unwrap();
        let held = rounds.take().unwrap().unwrap();
        let error = if group.rank() == 1 {
            group.endpoint().sleep(5 * MILLISECOND);
            drop(held);
            rounds.begin(&[1; 2]).map(|_| ()).unwrap_err()
        } else {
            drop(held);
            if let Some(begun) = rounds.try_begin(&[1; 2]).unwrap() {
                begun.publish().unwrap();
            }
            group.endpoint().sleep(3 * MILLISECOND);
            assert!(rounds.try_take().unwrap().is_none());
            rounds.late(awaited, 3 * MILLISECOND)
        };
        let CollectiveError::Fault(fault) = error else { panic!("not a fault: {error}") };
        assert_eq!((fault.kind, &fault.ranks[..], fault.reporter, fault.round), (FaultKind::Late, &[1][..], 0, round));
        assert_eq!((fault.awaited, fault.waited), (awaited, 3 * MILLISECOND));
        assert!(rounds.try_flush().is_err(), "the group has failed");
    });
}

#[test]
fn who_lacks_in_the_next_round_is_late_to_all() {
    late(2, Awaited::Message, 1);
}

#[test]
fn who_gives_no_slot_back_is_late_to_all() {
    late(1, Awaited::Slot, 1);
}

/// Rank 0 sends 500 bytes and parts, rank 1 looks after 5 ms and leaves after a second: when rank 0 has parted, and what rank 1
/// received.
fn parted(patience: Duration) -> (Duration, Result<usize, CollectiveError>) {
    let options = GroupOptions::new([LaneOptions::lag(0)]);
    let report = sim::run(&SimConfig::new(options.shape(2, 64), 1), |endpoint| {
        let group = Group::new(&endpoint, options.clone()).unwrap();
        let mut received = Ok(0);
        if group.rank() == 0 {
            group.lane(Lane(0)).begin(&[0, 500]).unwrap().publish().unwrap();
            group.part(patience).unwrap();
        } else {
            endpoint.sleep(5 * MILLISECOND);
            group.lane(Lane(0)).begin(&[0; 2]).unwrap().publish().unwrap();
            received = group.lane(Lane(0)).take().map(|round| round.unwrap().message(0).len());
            endpoint.sleep(Duration::from_secs(1));
        }
        (endpoint.now(), received)
    });
    let [(when, _), (_, received)] = report.unwrap().values().unwrap().try_into().expect("two ranks");
    (when, received)
}

#[test]
fn who_parts_waits_until_all_is_out_and_no_longer_than_it_has_patience() {
    let (when, received) = parted(Duration::from_secs(1));
    assert_eq!(received.unwrap(), 500);
    assert!(5 * MILLISECOND <= when && when < 10 * MILLISECOND, "parted at {when:?}");

    let (when, received) = parted(MILLISECOND);
    assert!(MILLISECOND <= when && when < 2 * MILLISECOND, "parted at {when:?}");
    let CollectiveError::Fault(fault) = received.unwrap_err() else { panic!("not a fault") };
    assert_eq!((fault.kind, &fault.ranks[..]), (FaultKind::Dead, &[0][..]), "{fault}");
}
