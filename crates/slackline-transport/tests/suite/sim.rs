//! The simulated network without faults: what lands, in which order, when, and that it is the same each time.

use std::time::Duration;

use crate::traffic::{Seen, micros, shape, traffic};
use proptest::prelude::*;
use slackline_transport::sim::{self, SimConfig, SimEndpoint, SimError, SimReport};
use slackline_transport::{Checked, Endpoint, Lane, SLOT_ALIGN};

const L0: Lane = Lane(0);

fn publish(endpoint: &impl Endpoint, lane: Lane, to: usize, bytes: &[u8]) {
    assert!(endpoint.free_slots(lane, to) > 0);
    endpoint.room(lane, to).unwrap()[..bytes.len()].copy_from_slice(bytes);
    endpoint.publish(lane, to, bytes.len());
}

fn wait_for(endpoint: &impl Endpoint, lane: Lane, from: usize, landed: u64) {
    while endpoint.landed(lane, from) < landed {
        endpoint.wait(Duration::MAX).unwrap();
    }
}

fn run_traffic(config: &SimConfig, messages: u64) -> SimReport<Vec<Seen>> {
    let report = sim::run(config, |endpoint| {
        // Work that differs by rank, so that ranks block on slots as well as on messages.
        let work = micros(3 * endpoint.rank() as u64);
        let endpoint = Checked::new(endpoint);
        let seen = traffic(&endpoint, messages, work).unwrap();
        endpoint.detach();
        seen
    });
    report.unwrap()
}

prop_compose! {
    fn networks()(
        ranks in 1..6usize, lanes in 1..4usize, slots in 1..5usize, slot_bytes in 0..200usize, seed: u64,
        least in 0..30u64, spread in 0..200u64, ns_per_byte in prop_oneof![Just(0.0), 0.0..50.0], tick in 1..3000u64,
    ) -> SimConfig {
        let mut config = SimConfig::new(shape(ranks, lanes, slots, slot_bytes), seed);
        config.latency = micros(least)..=micros(least + spread);
        config.ns_per_byte = ns_per_byte;
        config.tick = Duration::from_nanos(tick);
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_message_lands_once_whole_and_in_order(config in networks(), messages in 0..12u64) {
        let report = run_traffic(&config, messages);
        let (ranks, lanes) = (config.shape.ranks, config.shape.lanes.len());
        for seen in report.values().unwrap() {
            for (from, lane) in (0..ranks).flat_map(|from| (0..lanes as u16).map(move |lane| (from, lane))) {
                let ring = seen.iter().filter(|seen| (seen.from, seen.lane) == (from, lane));
                prop_assert!(ring.map(|seen| seen.number).eq(0..messages));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run(config in networks(), messages in 1..8u64) {
        let (one, two) = (run_traffic(&config, messages), run_traffic(&config, messages));
        prop_assert_eq!(one.trace, two.trace);
        prop_assert_eq!(one.makespan, two.makespan);
        prop_assert_eq!((one.events, one.turns), (two.events, two.turns));
        prop_assert_eq!(one.values().unwrap(), two.values().unwrap());
    }
}

#[test]
fn another_seed_gives_another_run() {
    let traces = (0..20).map(|seed| run_traffic(&SimConfig::new(shape(3, 1, 2, 64), seed), 3).trace);
    assert_eq!(traces.collect::<std::collections::HashSet<_>>().len(), 20);
}

#[test]
fn the_trace_tells_apart_runs_that_differ_in_one_byte() {
    let trace = |byte: u8| {
        let report = sim::run(&SimConfig::new(shape(2, 1, 1, 1), 0), |endpoint| {
            publish(&endpoint, L0, 1, &[byte]);
            endpoint.detach();
        });
        report.unwrap().trace
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

/// One way: rank 0 sends what it is told to and detaches, rank 1 notes when each message on lane 0 lands.
fn landings(config: &SimConfig, send: impl Fn(&SimEndpoint) + Sync + Send, count: u64) -> Vec<Duration> {
    let report = sim::run(config, |endpoint| {
        if endpoint.rank() == 0 {
            send(&endpoint);
            endpoint.detach();
            return Vec::new();
        }
        let times = (1..=count).map(|landed| {
            wait_for(&endpoint, L0, 0, landed);
            endpoint.now()
        });
        let times = times.collect();
        endpoint.detach();
        times
    });
    report.unwrap().values().unwrap().swap_remove(1)
}

#[test]
fn a_message_lands_after_latency_and_the_time_of_its_bytes() {
    let mut config = SimConfig::new(shape(2, 1, 4, 256), 0);
    config.latency = micros(5)..=micros(5);
    config.ns_per_byte = 2.0;
    let send = |endpoint: &SimEndpoint| {
        publish(endpoint, L0, 1, &[0; 100]);
        publish(endpoint, L0, 1, &[0; 50]);
        endpoint.notify();
        endpoint.sleep(micros(1));
        publish(endpoint, L0, 1, &[]);
        endpoint.notify();
    };
    // The second follows the first through the link; the third finds the link free again.
    assert_eq!(landings(&config, send, 3), [5200, 5300, 6000].map(Duration::from_nanos));
    config.tick = micros(2);
    assert_eq!(landings(&config, send, 3), [6, 6, 6].map(micros));
}

#[test]
fn latencies_fill_their_range() {
    let mut config = SimConfig::new(shape(2, 1, 1, 0), 5);
    config.latency = micros(10)..=micros(20);
    let report = sim::run(&config, |endpoint| {
        // Ping-pong: each leg is one latency. The slot comes back with the answer or after it.
        let (me, peer) = (endpoint.rank(), 1 - endpoint.rank());
        let mut legs = Vec::new();
        for number in 0..400 {
            let begin = endpoint.now();
            if me == 0 {
                while endpoint.free_slots(L0, peer) == 0 {
                    endpoint.wait(Duration::MAX).unwrap();
                }
                publish(&endpoint, L0, peer, &[]);
                endpoint.notify();
            } else {
                wait_for(&endpoint, L0, peer, number + 1);
                endpoint.release(L0, peer, number + 1);
                endpoint.notify();
            }
            legs.push(endpoint.now() - begin);
        }
        endpoint.detach();
        legs
    });
    // On rank 0, all rounds but the first take a message and a release: two latencies.
    let rounds = &report.unwrap().values().unwrap()[0][1..];
    assert!(rounds.iter().all(|round| (micros(20)..=micros(40)).contains(round)));
    let mean = rounds.iter().sum::<Duration>() / rounds.len() as u32;
    assert!((micros(29)..=micros(31)).contains(&mean), "{mean:?}");
    assert!(rounds.iter().any(|&round| round < micros(23)) && rounds.iter().any(|&round| round > micros(37)));
}

#[test]
fn messages_overtake_each_other_between_lanes_and_peers_but_not_within_a_lane() {
    let mut config = SimConfig::new(shape(3, 2, 50, 8), 1);
    config.latency = micros(1)..=micros(1000);
    // Ranks 0 and 1 send on both lanes, one message every microsecond; rank 2 watches.
    let report = sim::run(&config, |endpoint| {
        if endpoint.rank() < 2 {
            for number in 0..50u64 {
                for lane in [Lane(0), Lane(1)] {
                    publish(&endpoint, lane, 2, &number.to_le_bytes());
                }
                endpoint.notify();
                endpoint.sleep(micros(1));
            }
            endpoint.detach();
            return Vec::new();
        }
        let (mut counts, mut history) = ([0; 4], Vec::new());
        while counts != [50; 4] {
            endpoint.wait(Duration::MAX).unwrap();
            for (ring, count) in counts.iter_mut().enumerate() {
                let (lane, from) = (Lane(ring as u16 / 2), ring % 2);
                for number in *count..endpoint.landed(lane, from) {
                    assert_eq!(*endpoint.message(lane, from, number), number.to_le_bytes());
                    *count = number + 1;
                }
            }
            history.push(counts);
        }
        endpoint.detach();
        history
    });
    let history = report.unwrap().values().unwrap().swap_remove(2);
    for (one, two) in [(0, 1), (0, 2), (1, 3)] {
        assert!(history.iter().any(|counts| counts[one] > counts[two]), "ring {one} never led ring {two}");
        assert!(history.iter().any(|counts| counts[one] < counts[two]), "ring {two} never led ring {one}");
    }
}

#[test]
fn slots_come_back_only_with_the_release_of_the_peer() {
    let mut config = SimConfig::new(shape(2, 1, 2, 8), 0);
    config.latency = micros(10)..=micros(10);
    let report = sim::run(&config, |endpoint| {
        if endpoint.rank() == 0 {
            publish(&endpoint, L0, 1, &[1]);
            publish(&endpoint, L0, 1, &[2]);
            endpoint.notify();
            assert_eq!(endpoint.free_slots(L0, 1), 0);
            assert!(endpoint.room(L0, 1).is_none());
            while endpoint.free_slots(L0, 1) == 0 {
                endpoint.wait(Duration::MAX).unwrap();
            }
            assert_eq!(endpoint.free_slots(L0, 1), 1);
        } else {
            wait_for(&endpoint, L0, 0, 2);
            endpoint.sleep(micros(100));
            endpoint.release(L0, 0, 1);
            endpoint.notify();
        }
        endpoint.detach();
        endpoint.now()
    });
    // There in 10, 100 of work, back in 10.
    assert_eq!(report.unwrap().values().unwrap(), [micros(120), micros(110)]);
}

#[test]
fn own_messages_land_at_once_and_lie_aligned() {
    let report = sim::run(&SimConfig::new(shape(1, 1, 2, 100), 0), |endpoint| {
        assert_eq!(endpoint.shape().lanes[0].slot_bytes, 128);
        for number in 0..5 {
            assert_eq!(endpoint.room(L0, 0).unwrap().as_ptr().addr() % SLOT_ALIGN, 0);
            publish(&endpoint, L0, 0, &[7; 99][..number as usize * 20]);
            assert_eq!(endpoint.landed(L0, 0), number + 1);
            assert_eq!(*endpoint.message(L0, 0, number), [7; 99][..number as usize * 20]);
            assert_eq!(endpoint.message(L0, 0, number).as_ptr().addr() % SLOT_ALIGN, 0);
            endpoint.wait(Duration::MAX).unwrap();
            endpoint.release(L0, 0, number + 1);
            assert_eq!(endpoint.free_slots(L0, 0), 2);
        }
        endpoint.detach();
        endpoint.now()
    });
    assert_eq!(report.unwrap().values().unwrap(), [Duration::ZERO]);
}

#[test]
fn a_year_of_sleep_takes_no_time_and_a_wait_ends_at_its_deadline() {
    let year = Duration::from_secs(365 * 24 * 3600);
    let mut config = SimConfig::new(shape(2, 1, 1, 1), 0);
    config.time_limit = 2 * year;
    let report = sim::run(&config, |endpoint| {
        if endpoint.rank() == 0 {
            endpoint.sleep(year);
        } else {
            endpoint.wait(year / 2).unwrap();
        }
        // In the past already: returns at once.
        endpoint.wait(micros(1)).unwrap();
        let now = endpoint.now();
        endpoint.detach();
        now
    });
    let report = report.unwrap();
    assert_eq!(report.makespan, year);
    assert_eq!(report.values().unwrap(), [year, year / 2]);
}

#[test]
fn what_lands_in_a_sleep_is_there_after_it_and_ends_the_next_wait() {
    let report = sim::run(&SimConfig::new(shape(2, 1, 1, 1), 0), |endpoint| {
        if endpoint.rank() == 0 {
            publish(&endpoint, L0, 1, &[1]);
            endpoint.notify();
            endpoint.sleep(micros(1000));
        } else {
            endpoint.sleep(micros(500));
            endpoint.wait(Duration::MAX).unwrap();
            assert_eq!(endpoint.landed(L0, 0), 1);
        }
        endpoint.detach();
        endpoint.now()
    });
    assert_eq!(report.unwrap().values().unwrap(), [micros(1000), micros(500)]);
}

#[test]
fn a_message_without_notify_lands_but_wakes_nobody_until_a_late_notify() {
    let mut config = SimConfig::new(shape(2, 1, 1, 1), 0);
    config.latency = micros(10)..=micros(10);
    let run = |late: bool, patience: Duration| {
        sim::run(&config, move |endpoint| {
            if endpoint.rank() == 0 {
                publish(&endpoint, L0, 1, &[1]);
                endpoint.sleep(micros(100));
                if late {
                    endpoint.notify();
                }
                endpoint.sleep(micros(1000));
                endpoint.wait(patience).unwrap();
                endpoint.detach();
                return Duration::ZERO;
            }
            endpoint.wait(patience).unwrap();
            assert_eq!(endpoint.landed(L0, 0), 1);
            endpoint.detach();
            endpoint.now()
        })
    };
    assert_eq!(run(true, micros(2000)).unwrap().values().unwrap()[1], micros(110));
    assert_eq!(run(false, micros(2000)).unwrap().values().unwrap()[1], micros(2000));
    match run(false, Duration::MAX).unwrap_err() {
        SimError::Deadlock { waiting, unnotified, .. } => {
            assert_eq!((waiting, unnotified), (vec![0, 1], vec![1]));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn polling_without_waiting_is_told_rather_than_hanging() {
    let report =
        sim::run(
            &SimConfig::new(shape(2, 1, 1, 1), 0),
            |endpoint| {
                while endpoint.rank() == 0 && endpoint.landed(L0, 1) == 0 {}
            },
        );
    let (rank, end) = report.unwrap().values().unwrap_err();
    assert_eq!(rank, 0);
    assert!(end.to_string().contains("virtual time (0ns) moves only in wait and sleep"), "{end}");
}

#[test]
fn hundreds_of_ranks_exchange_with_all_others() {
    let mut config = SimConfig::new(shape(256, 1, 2, 8), 3);
    config.tick = micros(5);
    let report = sim::run(&config, |endpoint| {
        let seen = traffic(&endpoint, 2, micros(1)).unwrap();
        endpoint.detach();
        seen.len()
    });
    let report = report.unwrap();
    // Messages and releases between all pairs, and a departure a pair.
    assert!(report.events >= 256 * 255 * (2 + 1), "{}", report.events);
    assert_eq!(report.values().unwrap(), [512; 256]);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let good = SimConfig::new(shape(2, 1, 1, 1), 0);
    let refused = |change: &dyn Fn(&mut SimConfig), want: &str| {
        let mut config = good.clone();
        change(&mut config);
        let error = sim::run(&config, |_| ()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    refused(&|config| config.shape.ranks = 0, "0 ranks");
    refused(&|config| config.shape.lanes.clear(), "lanes");
    refused(&|config| config.shape.lanes[0].slots = 0, "lane 0 has no slots");
    refused(&|config| config.latency = micros(2)..=micros(1), "latency");
    refused(&|config| config.ns_per_byte = -1.0, "-1 ns");
    refused(&|config| config.tick = Duration::ZERO, "tick");
    refused(&|config| config.stalled = vec![sim::Stall { rank: 2, from: micros(0), length: micros(1) }], "rank 2");
    refused(&|config| config.dead = vec![sim::Death { rank: 9, at: micros(0) }], "rank 9");
    refused(&|config| config.stack_bytes = usize::MAX / 2, "starting the thread of a simulated rank");
}
