//! The rings between processes, and the launcher.
//!
//! A rank is this test program itself, started again to run the one test `role` with the part to play in its environment.

use crate::talk;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio, exit};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use slackline_transport::conformance::Check;
use slackline_transport::launch::{Launch, LaunchOutcome, OutputMode};
use slackline_transport::shm::{GROUP_VARIABLE, RANK_VARIABLE, Segment, ShmEndpoint, attach_from_env};
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, PeerState, Rank, TransportError};

const ROLE: &str = "SLACKLINE_TEST_ROLE";
const ARGUMENT: &str = "SLACKLINE_TEST_ARGUMENT";

/// Long enough for any machine, short enough not to hang a test run.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a rank ends with when it has seen what it should not; unlike any code that the tests expect.
const WRONG: i32 = 99;

fn shape(ranks: usize) -> GroupShape {
    GroupShape { ranks, lanes: vec![LaneShape { slots: 2, slot_bytes: 64 }] }
}

/// This program, in a role.
fn player(role: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "processes::role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument);
    command
}

fn play(shape: GroupShape, role: &str, argument: &str) -> LaunchOutcome {
    Launch::new(shape, |_| player(role, argument)).run().unwrap()
}

fn shell(script: impl Into<String>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &script.into()]);
    command
}

fn attached() -> ShmEndpoint {
    match attach_from_env(PATIENCE) {
        Ok(Some(endpoint)) => endpoint,
        other => {
            eprintln!("attaching: {other:?}");
            exit(WRONG)
        }
    }
}

fn demand(holds: bool, what: &str) {
    if !holds {
        eprintln!("{what}");
        exit(WRONG);
    }
}

#[test]
fn a_launcher_raises_its_limit_of_open_files_or_names_it() {
    assert!(player("narrow", "").status().unwrap().success());
}

/// Not a test: what the processes that the tests start do.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let argument = std::env::var(ARGUMENT).unwrap();
    match role.as_str() {
        "converse" => {
            let mut words = argument.split(' ').map(|word| word.parse::<u64>().unwrap());
            let (seed, most, pauses) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap() == 1);
            let endpoint = attached();
            if let Err(error) = talk::converse(&endpoint, seed, most, pauses) {
                eprintln!("{error}");
                exit(WRONG);
            }
            endpoint.detach();
        }
        "ball" => {
            let endpoint = attached();
            let late = talk::pass_a_ball(&endpoint, argument.parse().unwrap(), Duration::from_millis(40));
            endpoint.detach();
            demand(late < 100, &format!("{late} waits lasted as long as a whole sleep"));
        }
        // Attaches, tells so, and waits to be killed.
        "stay" => {
            let endpoint = attached();
            println!("\npid {}", std::process::id());
            loop {
                endpoint.sleep(PATIENCE);
            }
        }
        // Told to, ends in an orderly way, but without leaving the group.
        "vanish" => {
            let endpoint = attached();
            while endpoint.landed(Lane(0), 0) == 0 {
                endpoint.wait(endpoint.now() + PATIENCE).unwrap();
            }
            endpoint.publish(Lane(0), 0, 1);
            exit(0);
        }
        "starve" => {
            // Descriptors are left for attaching, and not for a look at each peer.
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(open + 5), ..limit }).unwrap();
            let endpoint = attached();
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(400) {
                for peer in 0..endpoint.shape().ranks {
                    demand(endpoint.peer_state(peer) != PeerState::Dead, "a living rank is called dead");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            endpoint.detach();
        }
        "conform" => {
            let check = Check::named(&argument).unwrap();
            if let Err(failed) = check.run(attached()) {
                demand(false, &failed.to_string());
            }
        }
        "poison" => {
            let endpoint = attached();
            if endpoint.rank() == 1 {
                endpoint.poison(b"rank 1 has had enough");
            }
            while endpoint.poisoned().is_none() {
                endpoint.wait(endpoint.now() + PATIENCE).unwrap();
            }
            demand(endpoint.poisoned() == Some(b"rank 1 has had enough"), "another poison");
            endpoint.detach();
        }
        // Rank 1 gives up, and takes longer to end than the others, which learn of it.
        "slow to end" => {
            let endpoint = attached();
            if endpoint.rank() == 1 {
                endpoint.poison(b"rank 1 has had enough");
                endpoint.sleep(Duration::from_millis(300));
                exit(5);
            }
            while endpoint.poisoned().is_none() {
                endpoint.wait(endpoint.now() + PATIENCE).unwrap();
            }
            exit(6);
        }
        // Rank 1 ends before it attaches; the others must be told which one it was.
        "miss" => {
            if std::env::var(RANK_VARIABLE).unwrap() == "1" {
                exit(0);
            }
            match attach_from_env(PATIENCE) {
                // By the time that this one looks, the other may have ended for the same reason.
                Err(TransportError::Failed { why }) if why == "rank 1 ended before all ranks had attached" => exit(9),
                other => demand(false, &format!("{other:?}")),
            }
        }
        "refused" => match attach_from_env(PATIENCE) {
            Err(error @ TransportError::Attach { .. }) => {
                demand(error.to_string().contains(&argument), &error.to_string())
            }
            other => demand(false, &format!("{other:?}")),
        },
        "alone" => demand(matches!(attach_from_env(PATIENCE), Ok(None)), "a group out of nowhere"),
        "pinned" => {
            let mine = rustix::thread::sched_getaffinity(None).unwrap();
            demand(mine.count() == argument.parse::<u32>().unwrap(), &format!("{} cores", mine.count()));
        }
        "narrow" => {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let narrow = |maximum| {
                setrlimit(Resource::Nofile, Rlimit { current: Some(open + 8), maximum }).unwrap();
                Launch::new(shape(12), |_| shell("exit 0")).run()
            };
            let outcome = narrow(getrlimit(Resource::Nofile).maximum);
            demand(outcome.as_ref().is_ok_and(|outcome| outcome.exit_code() == 0), &format!("{outcome:?}"));
            let refused = narrow(Some(open + 8));
            let named =
                matches!(refused, Err(TransportError::Descriptors { ranks: 12, allowed, .. }) if allowed == open + 8);
            demand(named, &format!("{refused:?}"));
        }
        "launcher" => exit(Launch::new(shape(2), |_| player("stay", "")).run().unwrap().exit_code()),
        "chatter" => {
            let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo out $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; \
                          echo err $i >&2; done; printf unfinished";
            // The test harness has begun a line.
            println!();
            let mode = if argument == "first" { OutputMode::FirstRank } else { OutputMode::Marked };
            exit(Launch::new(shape(3), |_| shell(script)).output(mode).run().unwrap().exit_code());
        }
        other => demand(false, other),
    }
}

fn shapes() -> impl Strategy<Value = GroupShape> {
    let lane = (1usize..6, 0usize..700).prop_map(|(slots, slot_bytes)| LaneShape { slots, slot_bytes });
    (1usize..5, prop::collection::vec(lane, 1..4)).prop_map(|(ranks, lanes)| GroupShape { ranks, lanes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn every_message_arrives_whole_and_in_order(shape in shapes(), seed: u64, pauses: bool) {
        let outcome = play(shape, "converse", &format!("{seed} 60 {}", u8::from(pauses)));
        prop_assert_eq!(outcome.exit_code(), 0, "{:?}", outcome);
    }
}

#[test]
fn eight_processes_converse_on_however_few_cores() {
    let shape = GroupShape { ranks: 8, lanes: vec![LaneShape { slots: 3, slot_bytes: 4096 }] };
    assert_eq!(play(shape, "converse", "3 200 0").exit_code(), 0);
}

#[test]
fn a_ball_between_four_processes_loses_no_wake_up() {
    assert_eq!(play(shape(4), "ball", "50000").exit_code(), 0);
}

#[test]
fn processes_conform() {
    for check in Check::ALL {
        for ranks in [1, 3] {
            let outcome = play(check.shape(ranks), "conform", check.name());
            assert_eq!(outcome.exit_code(), 0, "{check}: {outcome:?}");
        }
    }
}

#[test]
fn the_rank_that_poisoned_the_group_is_named_though_another_exits_first() {
    let outcome = play(shape(3), "slow to end", "");
    assert_eq!((outcome.failed, outcome.exit_code()), (Some(1), 5), "{outcome:?}");
    assert_eq!(outcome.poison.as_deref(), Some(&b"rank 1 has had enough"[..]));
    let outcome = Launch::new(shape(2), |rank| shell(if rank == 1 { "exit 3" } else { "exit 0" })).run().unwrap();
    assert_eq!((outcome.failed, outcome.poison), (Some(1), None));
}

#[test]
fn poison_reaches_every_process() {
    assert_eq!(play(shape(3), "poison", "").exit_code(), 0);
}

/// Rank 0 in this process, rank 1 in another, which nobody waits for: when it ends, it is a zombie.
fn with_one_peer(role: &str) -> (Segment, ShmEndpoint, Child) {
    let segment = Segment::create(&shape(2)).unwrap();
    let endpoint = segment.rank(0).unwrap();
    let handover = segment.handover().unwrap();
    let child = player(role, "").envs(handover.variables(1)).stdout(Stdio::null()).spawn().unwrap();
    endpoint.wait_for_all(PATIENCE).unwrap();
    (segment, endpoint, child)
}

fn state_after(endpoint: &ShmEndpoint, limit: Duration) -> PeerState {
    let until = endpoint.now() + limit;
    while endpoint.now() < until && endpoint.peer_state(1) == PeerState::Alive {
        endpoint.wait(until).unwrap();
    }
    endpoint.peer_state(1)
}

#[test]
fn a_stopped_process_is_alive_and_a_killed_one_is_dead_before_anybody_waits_for_it() {
    let (_segment, endpoint, mut child) = with_one_peer("stay");
    let pid = Pid::from_child(&child);
    assert_eq!(endpoint.peer_state(1), PeerState::Alive);
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(state_after(&endpoint, Duration::from_millis(300)), PeerState::Alive);
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(state_after(&endpoint, Duration::from_millis(500)), PeerState::Dead);
    child.wait().unwrap();
    assert_eq!(endpoint.peer_state(1), PeerState::Dead);
}

#[test]
fn a_living_rank_is_not_dead_to_one_that_has_no_descriptor_left_to_look() {
    let outcome = play(shape(12), "starve", "");
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
}

#[test]
fn a_process_that_ends_without_leaving_is_dead_and_its_messages_stay() {
    let (_segment, endpoint, mut child) = with_one_peer("vanish");
    endpoint.publish(Lane(0), 1, 0);
    endpoint.notify();
    assert_eq!(state_after(&endpoint, PATIENCE), PeerState::Dead);
    assert_eq!(endpoint.landed(Lane(0), 1), 1);
    assert_eq!(endpoint.message(Lane(0), 1, 0).len(), 1);
    child.wait().unwrap();
}

#[test]
fn a_process_with_a_wrong_environment_is_refused() {
    let segment = Segment::create(&shape(1)).unwrap();
    let handover = segment.handover().unwrap();
    let [(_, group), _] = handover.variables(0);
    let (number, token) = group.split_once(':').unwrap();
    let other_token: String = token.chars().rev().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    for (group, rank, why) in [
        (format!("{number}:{other_token}"), "0", "token"),
        (format!("2:{token}"), "0", "not a memory file"),
        (format!("1000:{token}"), "0", "descriptor 1000: Bad file descriptor"),
        (format!("{number}:"), "0", "not a descriptor and a token"),
        (group.clone(), "1", "the group has 1 ranks"),
        (group.clone(), "first", "not a number"),
    ] {
        let mut refused = player("refused", why);
        refused.env(GROUP_VARIABLE, group).env(RANK_VARIABLE, rank).stdout(Stdio::null());
        assert_eq!(refused.status().unwrap().code(), Some(0), "{why}");
    }
    // None of them took the place.
    let mut good = player("converse", "1 10 0");
    assert!(good.envs(handover.variables(0)).stdout(Stdio::null()).status().unwrap().success());
    let mut again = player("refused", "has taken this rank");
    assert!(again.envs(handover.variables(0)).stdout(Stdio::null()).status().unwrap().success());
    assert!(player("alone", "").stdout(Stdio::null()).status().unwrap().success());
}

#[test]
fn a_rank_that_ends_before_it_attaches_is_named() {
    let outcome = play(shape(3), "miss", "");
    assert_eq!(outcome.exit_code(), 9);
    assert_eq!(outcome.statuses.iter().map(|status| status.code().unwrap()).collect::<Vec<_>>(), [9, 0, 9]);
}

#[test]
fn the_first_failure_ends_the_others_and_gives_the_exit_code() {
    let scripts = |failing: &'static str| {
        move |rank: Rank| match rank {
            1 => shell(failing),
            // Deaf to SIGTERM: only a kill ends it.
            2 => shell("trap '' TERM; while :; do sleep 1; done"),
            _ => shell("exec sleep 1000"),
        }
    };
    let began = Instant::now();
    for (failing, code) in [("exit 3", 3), ("kill -9 $$", 137)] {
        let outcome = Launch::new(shape(3), scripts(failing)).run().unwrap();
        assert_eq!((outcome.exit_code(), outcome.failed), (code, Some(1)));
        use std::os::unix::process::ExitStatusExt;
        assert_eq!([0, 2].map(|rank: Rank| outcome.statuses[rank].signal()), [Some(15), Some(9)]);
    }
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_and_leaves_nothing_behind() {
    let launched = Launch::new(shape(2), |rank| match rank {
        0 => shell("exec sleep 1000"),
        _ => Command::new("/nonexistent/program"),
    })
    .run();
    assert!(
        matches!(launched, Err(TransportError::System { rank: 1, action: "starting a process", .. })),
        "{launched:?}"
    );
}

#[test]
fn pinned_ranks_have_one_core_each_unless_there_are_too_few() {
    let all = rustix::thread::sched_getaffinity(None).unwrap().count() as usize;
    for (ranks, cores) in [(all, 1), (all + 1, all)] {
        let outcome = Launch::new(shape(ranks), |_| player("pinned", &cores.to_string())).pin(true).run().unwrap();
        assert_eq!(outcome.exit_code(), 0);
    }
}

/// A launcher in a process of its own with two ranks that stay for ever, and the ranks' process numbers.
fn launcher() -> (Child, Vec<u32>) {
    let mut launcher = player("launcher", "").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(launcher.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let pids =
        lines.filter_map(|line| line.split_once("] pid ").map(|(_, pid)| pid.parse().unwrap())).take(2).collect();
    (launcher, pids)
}

fn all_gone(pids: &[u32]) -> bool {
    let began = Instant::now();
    let runs =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while pids.iter().any(runs) {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn ranks_die_with_a_launcher_that_is_killed() {
    let (mut launcher, pids) = launcher();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    assert!(all_gone(&pids), "ranks outlive their launcher");
}

#[test]
fn signals_to_the_launcher_end_the_ranks_and_show_in_its_exit_code() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mut launcher, pids) = launcher();
        kill_process(Pid::from_child(&launcher), signal).unwrap();
        assert_eq!(launcher.wait().unwrap().code(), Some(code));
        assert!(all_gone(&pids), "ranks outlive their launcher");
    }
}

/// The lines `out 1 ...` to `out 300 ...` (or `err`), each whole and in order.
fn in_order(lines: &[&str], kind: &str) -> bool {
    let tail = if kind == "out" { format!(" {}", "a".repeat(38)) } else { String::new() };
    let lines: Vec<&&str> = lines.iter().filter(|line| line.starts_with(kind)).collect();
    lines.len() == 300 && lines.iter().enumerate().all(|(index, line)| **line == format!("{kind} {}{tail}", index + 1))
}

#[test]
fn output_comes_in_whole_lines_with_the_rank_in_front() {
    for mode in ["marked", "first"] {
        let output = player("chatter", mode).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        let of = |text: &'_ str, rank: Rank| -> Vec<String> {
            let mark = format!("[rank {rank}] ");
            text.lines().filter_map(|line| line.strip_prefix(&mark).map(str::to_owned)).collect()
        };
        for rank in 0..3 {
            let from = match (mode, rank) {
                ("first", 0) => out.lines().map(str::to_owned).collect(),
                ("first", _) => of(&err, rank),
                _ => of(&out, rank),
            };
            let from: Vec<&str> = from.iter().map(String::as_str).collect();
            assert!(in_order(&from, "out"), "{mode}, rank {rank}: {:.300}", from.join("\n"));
            assert!(from.iter().any(|line| line.ends_with("unfinished")), "{mode}, rank {rank} lost its last line");
            let errors = of(&err, rank);
            assert!(in_order(&errors.iter().map(String::as_str).collect::<Vec<_>>(), "err"), "{mode}, rank {rank}");
        }
    }
}
