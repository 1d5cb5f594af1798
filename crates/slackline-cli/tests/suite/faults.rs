//! Ranks that are killed, stopped and interrupted, as real processes: everybody ends, with the right story, and nothing is
//! left behind.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{Place, Run, Running, assert_gone, has_open, until};
use rustix::process::{Pid, Signal, kill_process};

fn send(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
}

fn assert_nothing_left(place: &Place) {
    // But for rows that were predicted, for --resume.
    assert_eq!(place.names_but(".out.csv.partial"), ["config.json", "model", "rows.csv"]);
    let shared = fs::read_dir("/dev/shm").into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let ours: Vec<_> = shared.filter(|name| name.to_string_lossy().contains("slackline")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

/// The line of one rank.
fn line_of(stderr: &str, rank: usize) -> &str {
    let mark = format!("[rank {rank}] slackline: error: ");
    stderr
        .lines()
        .find_map(|line| line.strip_prefix(&mark))
        .unwrap_or_else(|| panic!("nothing of rank {rank}: {stderr}"))
}

#[test]
fn a_killed_rank_ends_all_and_is_named_by_all() {
    let place = Place::new(5000);
    for killed in [2, 0] {
        let running = Running::start(&place, &[]);
        send(running.ranks[killed], Signal::KILL);
        let run = running.end();
        assert_eq!(run.code, Some(128 + 9), "{}", run.stderr);
        assert_eq!(run.stdout, "");
        // A survivor that had not ended by itself within two seconds would have been ended without a word.
        for survivor in (0..4).filter(|&rank| rank != killed) {
            let line = line_of(&run.stderr, survivor);
            assert!(line.contains(&format!("rank {killed}")), "{line}");
        }
        assert!(run.stderr.contains(&format!("rank {killed} was killed (signal: 9")), "{}", run.stderr);
        assert_nothing_left(&place);
    }
}

#[test]
fn a_stopped_rank_is_named_after_the_deadline_and_ended() {
    let place = Place::new(5000);
    let running = Running::start(&place, &["--deadline", "1"]);
    let begin = Instant::now();
    send(running.ranks[1], Signal::STOP);
    let run = running.end();
    assert!(begin.elapsed() >= Duration::from_secs(1), "it may be a second late");
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    for other in [0, 2, 3] {
        let line = line_of(&run.stderr, other);
        assert!(line.contains("rank 1"), "{line}");
    }
    // The last line, too, names who was late and not who found out.
    let last = run.stderr.lines().last().unwrap();
    assert!(last.starts_with("slackline: error: rank 1 late: "), "{last}");
    assert_nothing_left(&place);
}

#[test]
fn all_killed_ranks_are_named() {
    let place = Place::new(5000);
    let running = Running::start(&place, &[]);
    for rank in [3, 1] {
        send(running.ranks[rank], Signal::KILL);
    }
    let run = running.end();
    let last = run.stderr.lines().last().unwrap();
    assert!(last.contains("rank 1") && last.contains("rank 3") && last.contains("killed (signal: 9"), "{last}");
}

#[test]
fn a_table_that_is_cut_short_under_the_ranks_is_an_error_that_all_tell() {
    let place = Place::new(5000);
    let whole = fs::read(place.path("model/tables-00001-of-00002.safetensors")).unwrap();
    let cut = || {
        let file = fs::OpenOptions::new().write(true).open(place.path("model/tables-00001-of-00002.safetensors"));
        file.unwrap().set_len(4096).unwrap();
    };
    let told = |line: &str| line.contains("tables-00001-of-00002.safetensors: the file is short");
    let running = Running::start(&place, &[]);
    cut();
    let run = running.end();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    for rank in 0..4 {
        assert!(told(line_of(&run.stderr, rank)), "{}", run.stderr);
    }
    assert!(!run.stderr.contains("signal"), "{}", run.stderr);
    assert_nothing_left(&place);

    fs::write(place.path("model/tables-00001-of-00002.safetensors"), whole).unwrap();
    let words = "infer model --input rows.csv --format criteo-csv --ranks 2 --batch 1 --delay random:1..1 \
                 --delay-unit 50 --output out.csv";
    let child = place.command(&words.split_whitespace().collect::<Vec<_>>()).spawn().unwrap();
    let input = fs::canonicalize(place.path("rows.csv")).unwrap();
    until("a run that reads its input", || has_open(child.id() as i32, &input).then_some(()));
    cut();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(told(&run.stderr), "{}", run.stderr);
    assert_nothing_left(&place);
}

#[test]
fn signals_to_the_command_end_all_ranks() {
    let place = Place::new(5000);
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let running = Running::start(&place, &[]);
        send(running.pid(), signal);
        let run = running.end();
        assert_eq!(run.code, Some(128 + number), "{}", run.stderr);
        assert!(run.stderr.contains(&format!("ended by signal {number}")), "{}", run.stderr);
        assert_nothing_left(&place);
    }
}

#[test]
fn ranks_do_not_outlive_a_killed_command() {
    let place = Place::new(5000);
    let mut running = Running::start(&place, &[]);
    send(running.pid(), Signal::KILL);
    running.child.wait().unwrap();
    let exists = |rank: &i32| fs::read_to_string(format!("/proc/{rank}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    until("end of the ranks", || (!running.ranks.iter().any(exists)).then_some(()));
    assert_gone(&running.ranks);
    assert_nothing_left(&place);
}

#[test]
fn a_rank_that_is_late_by_its_own_delay_is_named_with_threads_too() {
    let place = Place::new(50);
    let words = "infer model --input rows.csv --ranks 3 --batch 8 --delay slow:rank=2,x1 --delay-unit 5000 --deadline 1 \
                 --output out.csv";
    let line = place.fail(&words.split(' ').collect::<Vec<_>>());
    assert!(line.contains("rank 2"), "{line}");
    assert_nothing_left(&place);
}
