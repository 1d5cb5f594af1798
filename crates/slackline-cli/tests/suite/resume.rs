//! Runs that ended early and are gone on with: the same bytes, the same report.

use std::fs;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::common::{Place, Run, until};
use serde_json::Value;

const SLOW: &str = "infer model --input rows.csv --delay random:1..1 --delay-unit 50 --output out.csv";
const PARTIAL: &str = ".out.csv.partial";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn report(place: &Place, command: &str) -> Value {
    serde_json::from_str(&place.succeed(&words(&format!("{command} --json")))).unwrap()
}

fn kept_bytes(place: &Place) -> u64 {
    fs::metadata(place.path(PARTIAL).join("content")).map_or(0, |content| content.len())
}

/// Kills a slow run once it has written more than it went on with.
fn killed(place: &Place, how: &str) {
    let begun = kept_bytes(place).max(50);
    let mut child = place.command(&words(&format!("{SLOW} {how}"))).spawn().unwrap();
    until("more rows", || (kept_bytes(place) > begun).then_some(()));
    child.kill().unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.code, None, "it was killed before its end: {}{}", run.stdout, run.stderr);
    // Ranks of their own processes follow.
    until("an end of all ranks", || fs::File::open(place.path(PARTIAL)).unwrap().try_lock().ok());
}

#[test]
fn a_killed_run_is_gone_on_with_to_the_same_bytes_and_measures() {
    let place = Place::new(1200);
    let whole = report(&place, "infer model --input rows.csv --output whole.csv");
    let rest = |how: &str| format!("infer model --input rows.csv --output out.csv --resume {how}");
    for (first, second, how) in [
        ("--ranks 2 --batch 4", "--ranks 3 --batch 3", "--ranks 3 --batch 100 --lag 0"),
        ("--ranks 3 --batch 4 --transport shm", "--ranks 1 --batch 2", "--ranks 1"),
        ("--ranks 1 --batch 4", "--ranks 2 --batch 5 --transport shm", "--ranks 2 --transport shm --batch 7"),
    ] {
        killed(&place, first);
        assert_eq!(place.names(), [PARTIAL, "config.json", "model", "rows.csv", "whole.csv"]);
        // Killed once more, on other ranks, and the last row torn.
        killed(&place, &format!("{second} --resume"));
        let content = fs::OpenOptions::new().write(true).open(place.path(PARTIAL).join("content")).unwrap();
        content.set_len(kept_bytes(&place) - 3).unwrap();
        let resumed = report(&place, &rest(how));
        assert_eq!(place.read("out.csv"), place.read("whole.csv"), "{first}, {second}, {how}");
        let kept = resumed["resumed_rows"].as_u64().unwrap();
        assert!(kept > 0 && kept < 1200, "{kept}");
        for same in ["rows", "auc", "auc_error", "log_loss", "labelled", "not_a_number"] {
            assert_eq!(resumed[same], whole[same], "{same}");
        }
        assert_eq!(resumed["auc_error"], 0.0);
        fs::remove_file(place.path("out.csv")).unwrap();
        assert_eq!(place.names(), ["config.json", "model", "rows.csv", "whole.csv"]);
    }
    // With nothing to go on with, it begins.
    assert_eq!(report(&place, &rest("--ranks 2"))["resumed_rows"], 0);
    assert_eq!(place.read("out.csv"), place.read("whole.csv"));
}

#[test]
fn an_error_of_a_rank_keeps_the_rows_and_a_signal_does() {
    let place = Place::new(1200);
    place.succeed(&words("infer model --input rows.csv --output whole.csv"));
    for _ in 0..2 {
        let running = crate::common::Running::start(&place, &["--resume"]);
        until("rows", || (kept_bytes(&place) > 50).then_some(()));
        let first = rustix::process::Pid::from_raw(running.ranks[2]).unwrap();
        rustix::process::kill_process(first, rustix::process::Signal::USR1).unwrap();
        let run = running.end();
        assert!(run.stderr.contains("[rank 2] slackline: error: ended by signal 10 (SIGUSR1)"), "{}", run.stderr);
        assert_eq!(run.code, Some(128 + 10), "{}", run.stderr);
    }
    let text = place.succeed(&words("infer model --input rows.csv --output out.csv --resume"));
    assert!(text.contains("of the rows were there"), "{text}");
    assert_eq!(place.read("out.csv"), place.read("whole.csv"));
}

#[test]
fn another_computation_or_input_is_refused_by_name_and_takes_over_without_resume() {
    let place = Place::new(1200);
    place.succeed(&words("init --config config.json --seed 4 --output other"));
    fs::copy(place.path("rows.csv"), place.path("copy.csv")).unwrap();
    killed(&place, "--ranks 2 --batch 4");
    let kept = fs::read(place.path(PARTIAL).join("content")).unwrap();
    let refused = |command: &str| place.fail(&words(&format!("{command} --output out.csv --resume")));
    for (command, item) in [
        ("infer other --input rows.csv", "the model (digest) was"),
        ("infer model --input copy.csv", "the input (last change) was"),
        ("infer model --input rows.csv --wire f16", "--wire was f32 and is f16"),
        ("infer other --input rows.csv --ranks 2", "the model (digest) was"),
    ] {
        let line = refused(command);
        assert!(line.contains(".out.csv.partial: left by another run (") && line.contains(item), "{line}");
        assert!(line.contains("leave out --resume to start over"), "{line}");
    }
    // As if nothing had changed, but rows have.
    let rows = place.read("rows.csv");
    let changed: SystemTime = fs::metadata(place.path("rows.csv")).unwrap().modified().unwrap();
    fs::write(place.path("rows.csv"), rows.replacen("\n0,", "\n9,", 1)).unwrap();
    fs::File::options().write(true).open(place.path("rows.csv")).unwrap().set_modified(changed).unwrap();
    let line = refused("infer model --input rows.csv");
    assert!(line.contains("the input (digest of parts) was"), "{line}");
    assert_eq!(fs::read(place.path(PARTIAL).join("content")).unwrap(), kept);
    place.succeed(&words("infer other --input rows.csv --output out.csv"));
    place.succeed(&words("infer other --input rows.csv --output whole.csv"));
    assert_eq!(place.read("out.csv"), place.read("whole.csv"));
    assert!(!place.path(PARTIAL).exists());
}

#[test]
fn a_file_that_may_not_grow_is_an_error_that_names_it() {
    let place = Place::new(3000);
    place.succeed(&words("infer model --input rows.csv --output whole.csv"));
    for ranks in ["1", "2"] {
        // No file may become larger than 16 KiB.
        let command = format!("infer model --input rows.csv --batch 16 --ranks {ranks} --output out.csv");
        let ended = Command::new("bash")
            .args(["-c", r#"ulimit -f 16; exec "$@""#, "limited", env!("CARGO_BIN_EXE_slackline")])
            .args(words(&command))
            .current_dir(place.path("."))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let run = Run::of(ended);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        assert!(run.stderr.contains("out.csv: cannot write: File too large"), "{}", run.stderr);
        assert!(!place.path("out.csv").exists());
    }
    place.succeed(&words("infer model --input rows.csv --output out.csv --resume"));
    assert_eq!(place.read("out.csv"), place.read("whole.csv"));
}
