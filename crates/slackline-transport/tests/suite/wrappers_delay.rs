//! Delay profiles, schedules, and the endpoint that follows them.

use std::io::Write;
use std::time::Duration;

use crate::traffic::{micros, shape, traffic};
use proptest::prelude::*;
use slackline_transport::delay::{DelayError, DelayProfile, DelaySchedule};
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Delayed, Endpoint, Lane};

const UNIT: Duration = Duration::from_micros(1000);

fn schedule(profile: &str, seed: u64, ranks: usize) -> DelaySchedule {
    DelaySchedule::new(&profile.parse().unwrap(), seed, ranks, UNIT).unwrap()
}

/// In units.
fn delays(schedule: &DelaySchedule, ranks: usize, rounds: u64) -> Vec<Vec<f64>> {
    let units = |delay: Duration| delay.as_secs_f64() / UNIT.as_secs_f64();
    (0..rounds).map(|round| (0..ranks).map(|rank| units(schedule.delay(rank, round))).collect()).collect()
}

fn profiles() -> impl Strategy<Value = DelayProfile> {
    let range = (0.0..10.0, 0.0..10.0).prop_map(|(low, more): (f64, f64)| (low, low + more));
    prop_oneof![
        Just(DelayProfile::None),
        range.clone().prop_map(|(low, high)| DelayProfile::Turn { low, high }),
        range.prop_map(|(low, high)| DelayProfile::Random { low, high }),
        (0.0..=1.0, 0.0..1e6).prop_map(|(probability, size)| DelayProfile::Spikes { probability, size }),
        (0..3usize, 0.0..1e-3).prop_map(|(rank, size)| DelayProfile::Slow { rank, size }),
    ]
}

proptest! {
    #[test]
    fn profiles_are_read_back_as_they_are_written(profile in profiles(), file in "[a-z:.,x=/]{1,20}") {
        for profile in [profile, DelayProfile::Trace { file: file.into() }] {
            prop_assert_eq!(&profile.to_string().parse::<DelayProfile>().unwrap(), &profile);
            #[cfg(feature = "serde")]
            {
                let json = serde_json::to_string(&profile).unwrap();
                prop_assert_eq!(&json, &format!("\"{profile}\""));
                prop_assert_eq!(serde_json::from_str::<DelayProfile>(&json).unwrap(), profile);
            }
        }
    }

    #[test]
    fn delays_do_not_depend_on_who_asks_when(
        profile in profiles(), seed: u64,
        asked in prop::collection::vec((0..5usize, prop_oneof![0..50u64, any::<u64>()]), 1..40),
    ) {
        let one = DelaySchedule::new(&profile, seed, 5, UNIT).unwrap();
        let two = DelaySchedule::new(&profile, seed, 5, UNIT).unwrap();
        let forwards: Vec<_> = asked.iter().map(|&(rank, round)| one.delay(rank, round)).collect();
        let mut backwards: Vec<_> = asked.iter().rev().map(|&(rank, round)| two.delay(rank, round)).collect();
        backwards.reverse();
        prop_assert_eq!(forwards, backwards);
        prop_assert_eq!(one.delay(5, 0), Duration::ZERO);
    }

    #[test]
    fn turns_delay_exactly_one_rank_a_round(ranks in 1..9usize, seed: u64) {
        for (round, delays) in delays(&schedule("turn:0.5..2", seed, ranks), ranks, 40).into_iter().enumerate() {
            for (rank, delay) in delays.into_iter().enumerate() {
                let allowed = if rank == round % ranks { 0.5..=2.0 } else { 0.0..=0.0 };
                prop_assert!(allowed.contains(&delay));
            }
        }
    }
}

#[test]
fn random_delays_fill_their_range_independently_for_each_rank() {
    let delays = delays(&schedule("random:1..3", 11, 4), 4, 5000);
    for rank in 0..4 {
        assert!(delays.iter().all(|round| (1.0..=3.0).contains(&round[rank])));
        let mean = delays.iter().map(|round| round[rank]).sum::<f64>() / 5000.0;
        // The standard error is 0.008.
        assert!((mean - 2.0).abs() < 0.04, "rank {rank}: {mean}");
        // No correlation with the next rank, nor with the rank's own next round: error 0.014 of the variance 1/3.
        let others = |round: usize, rank: usize| delays[(round + rank / 4) % 5000][rank % 4] - 2.0;
        for (name, other) in [("next rank", rank + 1), ("next round", rank + 4)] {
            let products = (0..5000).map(|round| others(round, rank) * others(round, other)).sum::<f64>() / 5000.0;
            assert!(products.abs() < 0.03, "rank {rank} and its {name}: {products}");
        }
    }
    assert_ne!(schedule("random:1..3", 11, 4).delay(0, 0), schedule("random:1..3", 12, 4).delay(0, 0));
}

#[test]
fn spikes_are_as_frequent_and_as_large_as_asked() {
    let delays: Vec<f64> = delays(&schedule("spikes:0.1x10", 2, 2), 2, 5000).concat();
    assert!(delays.iter().all(|&delay| delay == 0.0 || delay == 10.0));
    let spikes = delays.iter().filter(|&&delay| delay > 0.0).count();
    // 1000 expected, standard deviation 30.
    assert!((850..1150).contains(&spikes), "{spikes}");
    assert_eq!(schedule("spikes:0x10", 2, 2).delay(0, 0), Duration::ZERO);
    assert!((0..1000).all(|round| schedule("spikes:1x10", 2, 2).delay(1, round) == 10 * UNIT));
}

#[test]
fn the_slow_rank_is_always_slow_and_nobody_else() {
    for round in delays(&schedule("slow:rank=1,x1.5", 0, 3), 3, 100) {
        assert_eq!(round, [0.0, 1.5, 0.0]);
    }
    assert_eq!(delays(&schedule("none", 0, 2), 2, 100), vec![[0.0, 0.0]; 100]);
}

#[test]
fn profiles_that_are_not_understood_say_why() {
    for (text, why) in [
        ("", "expected none, turn:"),
        ("none:", "expected none, turn:"),
        ("wobbly:1", "expected none, turn:"),
        ("turn:1", "range of units such as 0..2"),
        ("turn:2..1", "2..1 is not a range"),
        ("random:-1..1", "-1..1 is not a range"),
        ("random:0..inf", "0..inf is not a range"),
        ("random:NaN..1", "not a range"),
        ("spikes:1.5x1", "probability 1.5 is not in 0..1"),
        ("spikes:0.5xNaN", "size NaN is not"),
        ("spikes:0.5", "such as 0.1x10"),
        ("slow:0,x1", "such as rank=0,x1"),
        ("slow:rank=0,x-1", "size -1 is not"),
        ("trace:", "name of a file"),
    ] {
        let error = text.parse::<DelayProfile>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("delay profile `{text}`: ")) && error.contains(why), "{error}");
        #[cfg(feature = "serde")]
        assert!(serde_json::from_str::<DelayProfile>(&format!("\"{text}\"")).unwrap_err().to_string().contains(why));
    }
    // Profiles that were not parsed are checked when they are bound.
    let unparsed = DelayProfile::Random { low: 3.0, high: 1.0 };
    let error = DelaySchedule::new(&unparsed, 0, 1, UNIT).unwrap_err().to_string();
    assert_eq!(error, "delay profile `random:3..1`: 3..1 is not a range of finite units from low to high");
    let error = DelaySchedule::new(&"slow:rank=4,x1".parse().unwrap(), 0, 4, UNIT).unwrap_err().to_string();
    assert_eq!(error, "delay profile `slow:rank=4,x1`: a group of 4 has no rank 4");
}

fn trace(text: &str) -> (String, Result<DelaySchedule, DelayError>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let profile = DelayProfile::Trace { file: file.path().to_owned() };
    (file.path().display().to_string(), DelaySchedule::new(&profile, 0, 3, UNIT))
}

#[test]
fn a_trace_is_followed() {
    // With the byte order mark of some editors.
    let (_, schedule) = trace("\u{feff}# measured somewhere\n\n2 7 1.5   # late\n 0 7 0\n0\t3 2\n");
    let schedule = schedule.unwrap();
    assert_eq!(schedule.delay(2, 7), micros(1500));
    assert_eq!(schedule.delay(0, 3), micros(2000));
    for (rank, round) in [(0, 7), (1, 7), (2, 8), (2, 0)] {
        assert_eq!(schedule.delay(rank, round), Duration::ZERO);
    }
}

#[test]
fn errors_in_a_trace_name_file_and_line() {
    for (text, line, why) in [
        ("0 1 2\n0 2\n", 2, "expected `rank round units`, found 2 fields"),
        ("0 1 2 3", 1, "found 4 fields"),
        ("# head\n\nx 1 1", 3, "`x` is not a rank"),
        ("3 0 1", 1, "a group of 3 has no rank 3"),
        ("0 -1 1", 1, "`-1` is not a round"),
        ("0 0 1\n0 1 -2", 2, "`-2` is not a finite number of units"),
        ("0 0 inf", 1, "`inf` is not a finite number of units"),
        ("0 0 1\n1 0 1\n0 0 2", 3, "rank 0 in round 0 stands already on line 1"),
    ] {
        let (file, result) = trace(text);
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(&format!("delay trace {file}, line {line}: ")) && error.contains(why), "{error}");
    }
    let missing = DelayProfile::Trace { file: "no/such/trace".into() };
    let error = DelaySchedule::new(&missing, 0, 3, UNIT).unwrap_err();
    assert!(matches!(error, DelayError::TraceFile { .. }));
    assert!(error.to_string().starts_with("delay trace no/such/trace: "), "{error}");
}

#[test]
fn a_delayed_endpoint_sleeps_once_a_burst_on_its_lane_only() {
    let schedule = schedule("random:1..2", 9, 2);
    let report = sim::run(&SimConfig::new(shape(2, 2, 8, 8), 0), |endpoint| {
        let me = endpoint.rank();
        let endpoint = Delayed::new(endpoint, schedule.clone(), Lane(1));
        let mut expected = Duration::ZERO;
        for round in 0..3 {
            for peer in 0..2 {
                assert!(endpoint.free_slots(Lane(1), peer) > 0);
            }
            // Asking twice for a room begins nothing, nor does the other lane.
            for (lane, peer) in [(1, 0), (1, 0), (1, 1), (0, 0)] {
                assert!(endpoint.room(Lane(lane), peer).is_some());
            }
            endpoint.publish(Lane(0), 0, 1);
            assert_eq!((endpoint.now(), endpoint.bursts()), (expected, round));
            expected += schedule.delay(me, round);
            endpoint.publish(Lane(1), 0, 1);
            drop(endpoint.room(Lane(0), 1));
            endpoint.publish(Lane(1), 1, 1);
            assert_eq!((endpoint.now(), endpoint.bursts()), (expected, round + 1));
            endpoint.notify();
        }
        // Rounds of empty messages need no rooms: a notify ends a burst, too.
        endpoint.publish(Lane(1), 0, 0);
        assert_eq!(endpoint.now(), expected + schedule.delay(me, 3));
        endpoint.detach();
    });
    report.unwrap().values().unwrap();
}

#[test]
fn delays_change_when_but_not_what() {
    let run = |profile: &str| {
        let schedule = schedule(profile, 1, 3);
        let report = sim::run(&SimConfig::new(shape(3, 1, 2, 32), 0), |endpoint| {
            let endpoint = Delayed::new(endpoint, schedule.clone(), Lane(0));
            let seen = traffic(&endpoint, 6, Duration::ZERO).unwrap();
            endpoint.detach();
            seen.len()
        });
        let report = report.unwrap();
        (report.makespan, report.values().unwrap())
    };
    let (fast, seen) = run("none");
    let (slow, late) = run("slow:rank=2,x1");
    assert_eq!(seen, late);
    assert!(fast < UNIT && slow > 3 * UNIT, "{fast:?} {slow:?}");
}
