//! The property suite between processes that share memory, and real processes that are killed and stopped.
//!
//! A rank is this test program itself, started again to run the one test `role` with its part in the environment.

use std::process::{Command, exit};
use std::time::{Duration, Instant};

use crate::common::{Spec, bounded_lag, on_threads, oracle, specs};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use slackline_collective::{Delivery, Fault, FaultKind, Group, GroupOptions, LaneOptions};
use slackline_transport::launch::{Launch, LaunchOutcome};
use slackline_transport::{Endpoint, GroupShape, Lane, shm, threads};

const ROLE: &str = "SLACKLINE_TEST_ROLE";
const DEADLINE: Duration = Duration::from_secs(2);
const WRONG: i32 = 99;
/// What a rank of `endless` ends with when the group has failed, as it should.
const FAULT: i32 = 7;

fn play(shape: GroupShape, role: &str) -> LaunchOutcome {
    let player = |_| {
        // What the test harness of a rank prints is of no interest; its errors are.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" > /dev/null"#]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::role", "--nocapture", "--test-threads=1"]).env(ROLE, role);
        command
    };
    Launch::new(shape, player).run().unwrap()
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let endpoint = match shm::attach_from_env(Duration::from_secs(30)) {
        Ok(Some(endpoint)) => endpoint,
        other => {
            eprintln!("cannot attach: {other:?}");
            exit(WRONG);
        }
    };
    if let Some(numbers) = role.strip_prefix("exchange ") {
        let (spec, expected) = parse(numbers);
        let rank = endpoint.rank();
        let came = bounded_lag(endpoint, &spec).unwrap().0;
        assert_eq!(came.iter().fold(0, |sum: u64, digest| sum.rotate_left(1) ^ digest), expected[rank]);
        return;
    }
    let (victim, signal) = role.split_once(' ').unwrap();
    let victim: usize = victim.parse().unwrap();
    let lane = LaneOptions::lag(2);
    let group = Group::new(endpoint, GroupOptions::new([lane]).deadline(DEADLINE)).unwrap();
    let (rank, ranks) = (group.rank(), group.ranks());
    let exchange = group.lane(Lane(0));
    let began = Instant::now();
    let mut published = 0;
    let error = loop {
        if published == 500 && rank == victim {
            let pid = std::process::id().to_string();
            let stop_and_go = format!("kill -STOP {pid}; sleep 4; kill -CONT {pid}");
            let script = if signal == "KILL" { format!("kill -KILL {pid}") } else { stop_and_go };
            Command::new("sh").args(["-c", &script]).status().unwrap();
        }
        let round = exchange.begin(&vec![64; ranks]).and_then(|round| round.publish());
        published += 1;
        let taken = round.and_then(|()| {
            loop {
                match exchange.take() {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        });
        if let Err(error) = taken {
            break error.to_string();
        }
    };
    let blamed = match signal {
        "KILL" => format!("rank {victim} died: rank "),
        _ => format!("rank {victim} late: rank "),
    };
    eprintln!("{error}, after {:?}", began.elapsed());
    exit(if error.starts_with(&blamed) { FAULT } else { WRONG });
}

#[test]
fn every_round_is_exactly_what_was_sent_between_processes() {
    let mut runner = TestRunner::default();
    for _ in 0..12 {
        let spec = specs(8, 12, 300).new_tree(&mut runner).unwrap().current();
        let digests = on_threads(threads::group(&spec.shape()).unwrap(), |endpoint| oracle(endpoint, &spec));
        let digests: Vec<u64> = digests
            .iter()
            .map(|rounds| rounds.iter().fold(0, |sum: u64, digest| sum.rotate_left(1) ^ digest))
            .collect();
        let outcome = play(spec.shape(), &format!("exchange {}", write(&spec, &digests)));
        assert_eq!(outcome.exit_code(), 0, "{spec:?}");
    }
}

#[test]
fn a_killed_rank_is_dead_to_all_others() {
    let shape = GroupShape { ranks: 4, lanes: vec![LaneOptions::lag(2).shape(64)] };
    let began = Instant::now();
    let outcome = play(shape, "1 KILL");
    assert_eq!((outcome.failed, outcome.exit_code()), (Some(1), 128 + 9));
    for rank in [0, 2, 3] {
        assert_eq!(outcome.statuses[rank].code(), Some(FAULT), "rank {rank}");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_stopped_rank_is_late_to_all_others_and_learns_of_it() {
    let shape = GroupShape { ranks: 4, lanes: vec![LaneOptions::lag(2).shape(64)] };
    let outcome = play(shape, "2 STOP");
    for rank in [0, 1, 3] {
        assert_eq!(outcome.statuses[rank].code(), Some(FAULT), "rank {rank}");
    }
    assert_ne!(outcome.statuses[2].code(), Some(WRONG), "when it went on, it was told the same story, or it was ended");
    // The launcher knows which rank noticed; the fault knows who is to blame.
    assert!(outcome.failed.is_some_and(|rank| rank != 2), "{outcome:?}");
    let fault = Fault::from_poison(&outcome.poison.unwrap()).unwrap();
    assert_eq!((fault.kind, fault.ranks.as_slice()), (FaultKind::Late, &[2][..]), "{fault}");
}

fn write(spec: &Spec, digests: &[u64]) -> String {
    let fixed = u64::from(spec.delivery == Delivery::Fixed);
    let sizes = [spec.ranks, spec.lag, spec.slots, spec.capacity, spec.largest_message].map(|size| size as u64);
    let words = sizes.into_iter().chain([fixed, spec.seed, spec.pause]).chain(spec.rounds.iter().copied());
    words.chain(digests.iter().copied()).map(|word| word.to_string()).collect::<Vec<_>>().join(" ")
}

fn parse(numbers: &str) -> (Spec, Vec<u64>) {
    let words: Vec<u64> = numbers.split(' ').map(|word| word.parse().unwrap()).collect();
    let ranks = words[0] as usize;
    let spec = Spec {
        ranks,
        lag: words[1] as usize,
        slots: words[2] as usize,
        capacity: words[3] as usize,
        largest_message: words[4] as usize,
        delivery: if words[5] == 1 { Delivery::Fixed } else { Delivery::Elastic },
        seed: words[6],
        pause: words[7],
        rounds: words[8..8 + ranks].to_vec(),
    };
    (spec, words[8 + ranks..].to_vec())
}
