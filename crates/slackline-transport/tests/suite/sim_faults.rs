//! Deaths, departures, stalls, panics, poison and deadlocks in the simulated network.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::traffic::{micros, shape, traffic};
use proptest::prelude::*;
use slackline_transport::sim::{self, Death, RankEnd, SimConfig, SimEndpoint, SimError, Stall};
use slackline_transport::{Checked, Endpoint, Lane, POISON_BYTES, PeerState, TransportError};

const L0: Lane = Lane(0);

fn pair() -> SimConfig {
    let mut config = SimConfig::new(shape(2, 2, 4, 8), 0);
    config.latency = micros(10)..=micros(10);
    config
}

/// Waits until the peer is seen to have ended; returns how, when, and how many of its messages had landed by then.
fn await_end(endpoint: &impl Endpoint, peer: usize) -> (PeerState, Duration, u64) {
    loop {
        match endpoint.peer_state(peer) {
            PeerState::Alive => endpoint.wait(Duration::MAX).unwrap(),
            state => return (state, endpoint.now(), endpoint.landed(L0, peer)),
        }
    }
}

fn send_one(endpoint: &impl Endpoint, to: usize) {
    assert!(endpoint.free_slots(L0, to) > 0);
    endpoint.publish(L0, to, 3);
    endpoint.notify();
}

#[test]
fn a_death_is_seen_after_the_detection_delay_and_what_was_sent_before_lands() {
    for waits in [true, false] {
        let mut config = pair();
        config.dead = vec![Death { rank: 0, at: micros(500) }];
        config.detection = micros(3000);
        let report = sim::run(&config, |endpoint| {
            if endpoint.rank() == 1 {
                let seen = await_end(&endpoint, 0);
                endpoint.detach();
                return seen;
            }
            endpoint.sleep(micros(499));
            send_one(&endpoint, 1);
            if waits {
                endpoint.wait(Duration::MAX).unwrap();
            } else {
                endpoint.sleep(Duration::from_secs(1));
            }
            unreachable!("dies before it gets here");
        });
        let report = report.unwrap();
        assert_eq!(report.ranks[0], Err(RankEnd::Killed { at: micros(500) }));
        assert_eq!(report.ranks[1], Ok((PeerState::Dead, micros(3500), 1)));
    }
}

#[test]
fn an_end_is_never_seen_before_the_messages_sent_ahead_of_it() {
    for detach in [true, false] {
        let mut config = pair();
        config.latency = micros(1)..=micros(1000);
        config.detection = micros(2);
        for seed in 0..50 {
            config.seed = seed;
            let report = sim::run(&config, |endpoint| {
                if endpoint.rank() == 1 {
                    return await_end(&endpoint, 0);
                }
                send_one(&endpoint, 1);
                send_one(&endpoint, 1);
                if detach {
                    endpoint.detach();
                }
                (PeerState::Alive, Duration::ZERO, 0)
            });
            let (state, _, landed) = report.unwrap().values().unwrap()[1];
            assert_eq!((state, landed), (if detach { PeerState::Left } else { PeerState::Dead }, 2));
        }
    }
}

#[test]
fn a_panic_ends_one_rank_which_its_peers_see_dead() {
    let report = sim::run(&pair(), |endpoint| {
        if endpoint.rank() == 0 {
            endpoint.sleep(micros(7));
            panic!("out of {}", "luck");
        }
        await_end(&endpoint, 0).0
    });
    let report = report.unwrap();
    assert_eq!(report.ranks[0], Err(RankEnd::Panicked { at: micros(7), message: "out of luck".into() }));
    assert_eq!(report.ranks[1], Ok(PeerState::Dead));
    assert_eq!(report.values().unwrap_err().0, 0);
}

/// As a collective may do when it is dropped: tells the others, and waits for what never comes.
struct Clinging(SimEndpoint);

impl Drop for Clinging {
    fn drop(&mut self) {
        self.0.sleep(micros(1));
        self.0.poison(b"from beyond");
        self.0.notify();
        while self.0.wait(Duration::MAX).is_ok() {}
    }
}

#[test]
fn the_dead_do_nothing_more_while_they_unwind() {
    let mut config = pair();
    config.dead = vec![Death { rank: 0, at: micros(5) }];
    let report = sim::run(&config, |endpoint| {
        if endpoint.rank() == 0 {
            let clinging = Clinging(endpoint);
            clinging.0.wait(Duration::MAX).unwrap();
            return false;
        }
        let endpoint = endpoint;
        let end = await_end(&endpoint, 0);
        endpoint.sleep(micros(1000));
        end.0 == PeerState::Dead && endpoint.poisoned().is_none()
    });
    let report = report.unwrap();
    assert_eq!(report.ranks, [Err(RankEnd::Killed { at: micros(5) }), Ok(true)]);
}

#[test]
fn a_rank_killed_before_it_began_never_begins() {
    let mut config = pair();
    config.stalled = vec![Stall { rank: 0, from: micros(0), length: micros(100) }];
    config.dead = vec![Death { rank: 0, at: micros(50) }];
    let begun = AtomicUsize::new(0);
    let report = sim::run(&config, |_endpoint| begun.fetch_add(1, Ordering::Relaxed)).unwrap();
    assert_eq!(report.ranks[0], Err(RankEnd::Killed { at: micros(50) }));
    assert_eq!(begun.into_inner(), 1);
}

#[test]
fn a_stalled_rank_gets_its_messages_and_goes_on_alive_after_the_stall() {
    let mut config = pair();
    config.stalled = vec![
        Stall { rank: 0, from: micros(100), length: micros(200) },
        Stall { rank: 0, from: micros(300), length: micros(50) },
    ];
    let report = sim::run(&config, |endpoint| {
        let mut times = Vec::new();
        if endpoint.rank() == 0 {
            for _ in 0..8 {
                endpoint.sleep(micros(40));
                times.push(endpoint.now().as_micros());
            }
            assert_eq!(endpoint.landed(L0, 1), 4);
        } else {
            for _ in 0..40 {
                if endpoint.free_slots(L0, 0) > 0 {
                    send_one(&endpoint, 0);
                }
                endpoint.sleep(micros(10));
                assert_eq!(endpoint.peer_state(0), PeerState::Alive);
            }
        }
        endpoint.detach();
        times
    });
    // The third sleep would end at 120, within the first stall; that one leads straight into the second.
    assert_eq!(report.unwrap().values().unwrap()[0], [40, 80, 350, 390, 430, 470, 510, 550]);
}

#[test]
fn a_stall_in_a_wait_ends_late_whether_woken_or_out_of_patience() {
    for patience in [micros(20), Duration::MAX] {
        let mut config = pair();
        config.stalled = vec![Stall { rank: 1, from: micros(5), length: micros(95) }];
        let report = sim::run(&config, |endpoint| {
            if endpoint.rank() == 0 {
                send_one(&endpoint, 1);
            } else {
                endpoint.wait(patience).unwrap();
                assert_eq!(endpoint.landed(L0, 0), 1);
            }
            endpoint.detach();
            endpoint.now()
        });
        assert_eq!(report.unwrap().values().unwrap()[1], micros(100));
    }
}

#[test]
fn a_deadlock_names_who_waits_and_who_died() {
    let mut config = SimConfig::new(shape(4, 1, 1, 1), 0);
    config.dead = vec![Death { rank: 2, at: micros(70) }];
    config.detection = micros(30);
    let error = sim::run(&config, |endpoint| {
        match endpoint.rank() {
            0 => assert!(endpoint.now() > Duration::ZERO, "a false claim"),
            1 => endpoint.detach(),
            _ => loop {
                endpoint.wait(Duration::MAX).unwrap();
            },
        };
    })
    .unwrap_err();
    let text = error.to_string();
    match error {
        SimError::Deadlock { at, waiting, died, .. } => {
            assert_eq!((at, waiting), (micros(100), vec![3]));
            assert_eq!(died[1], (2, RankEnd::Killed { at: micros(70) }));
            assert_eq!(died[0].0, 0);
        }
        other => panic!("{other}"),
    }
    assert_eq!(
        text,
        "deadlock at 100µs: ranks [3] wait for ever; rank 0 panicked at 0ns: a false claim; rank 2 was killed at 70µs"
    );
}

#[test]
fn sleeping_for_ever_is_a_deadlock_too() {
    let error = sim::run(&pair(), |endpoint| endpoint.sleep(Duration::MAX)).unwrap_err();
    assert!(matches!(error, SimError::Deadlock { ref waiting, .. } if *waiting == [0, 1]), "{error}");
}

#[test]
fn ranks_that_wait_in_steps_for_ever_meet_the_time_limit() {
    let mut config = pair();
    config.time_limit = Duration::from_millis(100);
    let error = sim::run(&config, |endpoint| {
        while endpoint.rank() == 1 {
            let until = endpoint.now() + micros(100);
            endpoint.wait(until).unwrap();
        }
    })
    .unwrap_err();
    assert!(matches!(error, SimError::TimeLimit { ref running, .. } if *running == [1]), "{error}");
    assert!(error.to_string().contains("100ms"), "{error}");
}

#[test]
fn an_endpoint_that_outlives_its_rank_is_of_no_use_but_harmless() {
    let report = sim::run(&pair(), |endpoint| endpoint).unwrap();
    let endpoints = report.values().unwrap();
    send_one(&endpoints[0], 1);
    endpoints[0].poison(b"late");
    endpoints[0].sleep(micros(1));
    assert!(matches!(endpoints[0].wait(Duration::MAX), Err(TransportError::System { rank: 0, .. })));
    assert_eq!(endpoints[0].poisoned(), None);
}

#[test]
fn poison_travels_is_cut_to_length_and_wakes() {
    let report = sim::run(&pair(), |endpoint| {
        if endpoint.rank() == 0 {
            endpoint.poison(&[7; 2 * POISON_BYTES]);
        }
        while endpoint.poisoned().is_none() {
            endpoint.wait(Duration::MAX).unwrap();
        }
        assert_eq!(endpoint.poisoned(), Some(&[7; POISON_BYTES][..]));
        endpoint.now()
    });
    assert_eq!(report.unwrap().values().unwrap(), [micros(0), micros(10)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_first_poison_wins_everywhere(times in prop::collection::vec(0..60u64, 2..7), seed: u64) {
        let config = SimConfig::new(shape(times.len(), 1, 1, 1), seed);
        let report = sim::run(&config, |endpoint| {
            let endpoint = Checked::new(endpoint);
            let at = micros(times[endpoint.rank()]);
            while endpoint.now() < at {
                endpoint.wait(at).unwrap();
            }
            endpoint.poison(&[endpoint.rank() as u8]);
            let first = endpoint.poisoned().map(<[u8]>::to_vec);
            endpoint.sleep(micros(1000));
            assert_eq!(endpoint.poisoned(), first.as_deref());
            first
        });
        let first = (0..times.len()).min_by_key(|&rank| (times[rank], rank)).unwrap() as u8;
        for poison in report.unwrap().values().unwrap() {
            prop_assert_eq!(poison, Some(vec![first]));
        }
    }

    #[test]
    fn faults_are_as_deterministic_as_the_rest(
        seed: u64,
        dead in prop::collection::vec((0..5usize, 0..300u64), 0..3),
        stalled in prop::collection::vec((0..5usize, 0..200u64, 0..200u64), 0..4),
    ) {
        let mut config = SimConfig::new(shape(5, 2, 2, 64), seed);
        config.detection = micros(50);
        config.dead = dead.iter().map(|&(rank, at)| Death { rank, at: micros(at) }).collect();
        let stall = |&(rank, from, length): &(usize, u64, u64)| Stall { rank, from: micros(from), length: micros(length) };
        config.stalled = stalled.iter().map(stall).collect();
        let run = || sim::run(&config, |endpoint| {
            let endpoint = Checked::new(endpoint);
            let seen = traffic(&endpoint, 5, micros(7));
            endpoint.detach();
            seen.unwrap()
        });
        match (run(), run()) {
            (Ok(one), Ok(two)) => {
                prop_assert_eq!(one.trace, two.trace);
                prop_assert_eq!(one.ranks, two.ranks);
            }
            // Whoever still needs a message or a slot of a dead rank waits for ever.
            (Err(one), Err(two)) => {
                prop_assert!(!dead.is_empty());
                let deadlock = matches!(one, SimError::Deadlock { .. });
                prop_assert!(deadlock, "{}", one);
                prop_assert_eq!(one.to_string(), two.to_string());
            }
            (one, two) => prop_assert!(false, "{one:?} and {two:?}"),
        }
    }
}
