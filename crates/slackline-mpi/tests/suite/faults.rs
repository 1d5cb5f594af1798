//! What becomes of a job when one of its ranks fails: real processes, real signals, under `mpirun`.

use std::fs;
use std::io::Write;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use slackline_collective::{CollectiveError, Group, GroupOptions, GroupShape, Lane, LaneOptions};
use slackline_mpi::{NodeEndpoint, Peers};

use crate::mpirun;

const RANKS: usize = 4;
const GUILTY: usize = 2;
const DEADLINE: Duration = Duration::from_secs(1);
/// The deadline, agreeing, a second for last words, and what `mpirun` takes to end a job on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);

/// What happens, and the words that every other rank has to say (none where MPI ends the job before they can).
const CASES: &[(&str, Option<&str>)] = &[
    ("absent", Some("rank 2 has not come to comparing the shape of the group within")),
    ("stopped", Some("rank 2")),
    ("killed", None),
    ("panicked", Some("it panicked")),
    ("returned", Some("it dropped its group")),
    ("sizes", Some("expected 7")),
];

pub(crate) fn test() {
    for (case, words) in CASES {
        // Before there is a group, it makes no difference what will carry its messages.
        let ways = if *case == "absent" { &["auto"][..] } else { &["mpi", "auto", "nodes:2"] };
        for peers in ways {
            // Found again in /proc.
            let token = format!("faults-of-{}", std::process::id());
            let begin = Instant::now();
            let output = mpirun::run(mpirun::this_program(RANKS, &["faults", case, peers, &token]));
            let took = begin.elapsed();
            check(&format!("{case}, {peers}"), &output, took, *words);
            // Some launchers end a little before the processes that they have killed.
            let until = Instant::now() + Duration::from_secs(5);
            while !left_behind(&token).is_empty() {
                assert!(Instant::now() < until, "{case}, {peers}: processes {:?} are left", left_behind(&token));
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("{case}, {peers}: ended after {took:.1?} with {}", output.status);
        }
    }
}

fn check(what: &str, output: &Output, took: Duration, words: Option<&str>) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{what} went well:\n{said}");
    assert!(took < LONGEST, "{what} took {took:?}:\n{said}");
    let Some(words) = words else { return };
    // "FAULT of rank R: story"
    let stories: Vec<(&str, &str)> =
        said.lines().filter_map(|line| line.split_once("FAULT of rank ")?.1.split_once(": ")).collect();
    let innocent: Vec<_> = stories.iter().filter(|(rank, _)| *rank != "2").collect();
    assert_eq!(innocent.len(), RANKS - 1, "{what}: not every other rank has a story:\n{said}");
    assert!(innocent.iter().all(|(_, story)| *story == innocent[0].1), "{what}: the stories differ:\n{said}");
    assert!(innocent[0].1.contains(words), "{what}: the story does not say `{words}`:\n{said}");
}

/// Processes whose command line holds the token.
fn left_behind(token: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(token)).collect()
}

/// `words`: what happens, and what carries the messages.
pub(crate) fn rank(words: &[String]) {
    let (case, peers): (&str, Peers) = (&words[0], words[1].parse().unwrap());
    let world = mpirun::join();
    if case == "absent" {
        // So that all begin to wait at once.
        world.barrier("the test").unwrap();
        if world.rank() == GUILTY {
            kill_process(getpid(), Signal::STOP).unwrap();
        }
        world.set_patience(DEADLINE);
    }
    let lane = LaneOptions::lag(2);
    let shape = GroupShape { ranks: RANKS, lanes: vec![lane.shape(100)] };
    let endpoint = match NodeEndpoint::join(&world, &shape, peers) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            // How long exactly each has waited is its own.
            let story = error.to_string().split_inclusive("within").next().unwrap_or_default().to_owned();
            std::io::stderr().write_all(format!("FAULT of rank {}: {story}\n", world.rank()).as_bytes()).unwrap();
            // On a busy machine the others need more than a second for their words.
            std::thread::sleep(2 * DEADLINE);
            world.abort(3);
        }
    };
    let group = Group::new(endpoint, GroupOptions::new([lane]).deadline(DEADLINE)).unwrap();
    let error = work(&group, case).unwrap_err();
    // In one write, so that lines of several ranks do not mix.
    std::io::stderr().write_all(format!("FAULT of rank {}: {error}\n", world.rank()).as_bytes()).unwrap();
    drop(group);
    world.abort(3);
}

fn work(group: &Group<NodeEndpoint>, case: &str) -> Result<(), CollectiveError> {
    let guilty = group.rank() == GUILTY;
    for number in 0.. {
        let fails = guilty && number == 20;
        match case {
            "stopped" if fails => kill_process(getpid(), Signal::STOP).unwrap(),
            "killed" if fails => kill_process(getpid(), Signal::KILL).unwrap(),
            "panicked" if fails => panic!("on purpose"),
            // As if `?` had returned early; the group is dropped by the caller.
            "returned" if fails => return Err(CollectiveError::AfterLeave { lane: Lane(0) }),
            _ => {}
        }
        let exchange = group.lane(Lane(0));
        let mut round = exchange.begin(&[50; RANKS])?;
        round.messages_mut().into_iter().for_each(|message| message.fill(number as u8));
        if case == "sizes" && fails {
            round.expect(&[50, 50, 50, 7])?;
        }
        round.publish()?;
        while let Some(complete) = exchange.take()? {
            assert!(complete.messages().iter().all(|message| *message == [complete.number() as u8; 50]));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
