//! The property suite and faults over the simulated network: the same code in virtual time, with latencies that reorder
//! everything but the messages of one pair.

use std::time::Duration;

use crate::common::{Spec, bounded_lag, specs};
use proptest::prelude::*;
use slackline_collective::{CollectiveError, Delivery, FaultKind, Group, GroupOptions, LaneOptions};
use slackline_transport::sim::{self, Death, SimConfig, SimEndpoint, Stall};
use slackline_transport::{Checked, Endpoint, GroupShape, Lane};

fn config(spec: &Spec, slowest_us: u64) -> SimConfig {
    let mut config = SimConfig::new(spec.shape(), spec.seed);
    config.latency = Duration::from_nanos(200)..=Duration::from_micros(slowest_us);
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_round_is_exactly_what_was_sent(spec in specs(8, 14, 500), slowest_us in 1u64..400) {
        let config = config(&spec, slowest_us);
        let expected = sim::run(&config, |endpoint| crate::common::oracle(endpoint, &spec)).unwrap().values().unwrap();
        let came = sim::run(&config, |endpoint| bounded_lag(Checked::new(endpoint), &spec).unwrap().0).unwrap();
        prop_assert_eq!(came.values().unwrap(), expected);
    }
}

/// Two hundred rounds of 1 ms on four ranks, one of which (in turn) takes 2 ms more; the virtual time of the whole.
fn delayed_in_turn(lag: usize, delivery: Delivery) -> Duration {
    let lane = LaneOptions { lag, delivery };
    let shape = GroupShape { ranks: 4, lanes: vec![lane.shape(16)] };
    let report = sim::run(&SimConfig::new(shape, 1), |endpoint| {
        let rank = endpoint.rank() as u64;
        let group = Group::new(endpoint, GroupOptions::new([lane])).unwrap();
        for round in 0..200u64 {
            let slow = round % 4 == rank;
            group.endpoint().sleep(Duration::from_millis(if slow { 3 } else { 1 }));
            let exchange = group.lane(Lane(0));
            exchange.begin(&[16; 4]).unwrap().publish().unwrap();
            while exchange.take().unwrap().is_some() {}
        }
        while group.lane(Lane(0)).drain().unwrap().is_some() {}
    });
    report.unwrap().makespan
}

#[test]
fn transient_delays_are_masked_by_lag_and_by_nothing_else() {
    // Synchronous: every round takes 3 ms. Unbounded lag: every rank works 200 * 1 ms + 50 * 2 ms.
    let synchronous = delayed_in_turn(0, Delivery::Elastic);
    assert!(synchronous >= Duration::from_millis(600), "{synchronous:?}");
    for delivery in [Delivery::Elastic, Delivery::Fixed] {
        let lagging = delayed_in_turn(4, delivery);
        assert!(lagging >= Duration::from_millis(300), "{lagging:?} is less than the work");
        assert!(lagging < Duration::from_millis(310), "{lagging:?} with {delivery} delivery");
    }
}

type Ended = Result<(), CollectiveError>;

/// Rounds without end, or until an error.
fn endless(endpoint: SimEndpoint, deadline: Duration) -> Ended {
    let ranks = endpoint.shape().ranks;
    let lane = LaneOptions::lag(2);
    let group = Group::new(endpoint, GroupOptions::new([lane]).deadline(deadline))?;
    loop {
        let busy = 100 + 30 * group.rank() as u64;
        group.endpoint().sleep(Duration::from_micros(busy));
        let exchange = group.lane(Lane(0));
        exchange.begin(&vec![100; ranks])?.publish()?;
        while exchange.take()?.is_some() {}
    }
}

fn five_ranks() -> SimConfig {
    SimConfig::new(GroupShape { ranks: 5, lanes: vec![LaneOptions::lag(2).shape(64)] }, 9)
}

fn faults(config: &SimConfig, deadline: Duration) -> Vec<String> {
    let report = sim::run(config, |endpoint| endless(endpoint, deadline)).unwrap();
    report.ranks.into_iter().filter_map(Result::ok).map(|end| end.unwrap_err().to_string()).collect()
}

#[test]
fn a_dead_rank_ends_all_with_one_story() {
    let mut config = five_ranks();
    config.dead.push(Death { rank: 3, at: Duration::from_millis(20) });
    let stories = faults(&config, Duration::from_secs(30));
    assert_eq!(stories.len(), 4);
    assert!(stories.iter().all(|story| story == &stories[0]), "{stories:#?}");
    assert!(stories[0].starts_with("rank 3 died: rank "), "{}", stories[0]);
}

#[test]
fn a_stalled_rank_is_late_and_the_ranks_it_holds_up_are_not() {
    let mut config = five_ranks();
    config.stalled.push(Stall { rank: 1, from: Duration::from_millis(10), length: Duration::from_secs(60) });
    let stories = faults(&config, Duration::from_secs(1));
    assert_eq!(stories.len(), 5, "the late rank is told, too");
    assert!(stories.iter().all(|story| story == &stories[0]), "{stories:#?}");
    assert!(stories[0].starts_with("rank 1 late: rank "), "{}", stories[0]);
}

#[test]
fn a_stall_within_the_deadline_is_waited_for() {
    let lane = LaneOptions::lag(1);
    let shape = GroupShape { ranks: 3, lanes: vec![lane.shape(8)] };
    let mut config = SimConfig::new(shape, 5);
    config.stalled.push(Stall { rank: 2, from: Duration::ZERO, length: Duration::from_secs(5) });
    let report = sim::run(&config, |endpoint| {
        let group = Group::new(endpoint, GroupOptions::new([lane]).deadline(Duration::from_secs(6))).unwrap();
        group.endpoint().sleep(Duration::from_millis(1));
        let exchange = group.lane(Lane(0));
        for _ in 0..10 {
            exchange.begin(&[8; 3]).unwrap().publish().unwrap();
            while exchange.take().unwrap().is_some() {}
        }
        while exchange.drain().unwrap().is_some() {}
        group.stats(Lane(0)).blocked_on_bound
    });
    let report = report.unwrap();
    assert!(report.makespan >= Duration::from_secs(5));
    assert!(report.values().unwrap()[0] > Duration::from_secs(4));
}

#[test]
fn a_bad_message_is_a_fault_that_names_its_sender() {
    let lane = LaneOptions::lag(0);
    let shape = GroupShape { ranks: 3, lanes: vec![lane.shape(64)] };
    let report = sim::run(&SimConfig::new(shape, 5), |endpoint| {
        let full = endpoint.shape().lanes[0].slot_bytes;
        if endpoint.rank() == 2 {
            // Not a rank that follows the protocol: it sends bytes of its own.
            for to in 0..3 {
                endpoint.room(Lane(0), to).unwrap().fill(7);
                endpoint.publish(Lane(0), to, full);
            }
            endpoint.notify();
            endpoint.sleep(Duration::from_secs(1));
            endpoint.detach();
            return None;
        }
        let group = Group::new(endpoint, GroupOptions::new([lane])).unwrap();
        let exchange = group.lane(Lane(0));
        exchange.begin(&[1; 3]).unwrap().publish().ok();
        Some(exchange.take().map(drop).unwrap_err())
    });
    for error in report.unwrap().values().unwrap().into_iter().flatten() {
        let CollectiveError::Fault(fault) = error else { panic!("{error}") };
        assert_eq!((fault.kind, fault.ranks.as_slice()), (FaultKind::Protocol, &[2][..]), "{fault}");
    }
}
