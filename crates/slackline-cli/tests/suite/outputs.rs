//! What commands write: never over what they read, one at a time, and nothing mute or left behind when a signal ends them.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};

use crate::common::{Place, Run, until};
use rustix::process::{Pid, Signal, kill_process};

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Whether whoever runs the tests ignores a signal, as `nohup` does: the commands then ignore it, too, and rightly.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A run on threads that goes on for minutes and has begun to write rows.
fn slow(place: &Place) -> Child {
    let slow = "infer model --input rows.csv --ranks 2 --batch 1 --delay random:1..1 --delay-unit 50 --output out.csv";
    let child = place.command(&words(slow)).spawn().unwrap();
    let content = place.path(".out.csv.partial/content");
    until("rows", || fs::metadata(&content).is_ok_and(|content| content.len() > 20).then_some(()));
    child
}

#[test]
fn no_command_writes_over_any_of_its_inputs() {
    let place = Place::new(30);
    place.succeed(&words("profile model --input rows.csv --output profile.json"));
    place.succeed(&words("plan model --ranks 1 --output plan.json"));
    fs::write(place.path("trace.csv"), "rank,round,delay\n").unwrap();
    fs::copy(place.path("model/dense.safetensors"), place.path("source.safetensors")).unwrap();
    symlink("rows.csv", place.path("link.csv")).unwrap();
    fs::hard_link(place.path("rows.csv"), place.path("twin.csv")).unwrap();
    fs::hard_link(place.path("model/dense.safetensors"), place.path("twin.safetensors")).unwrap();
    let model = [
        "model",
        "model/config.json",
        "model/model.safetensors.index.json",
        "model/dense.safetensors",
        "model/tables-00001-of-00002.safetensors",
        "model/tables-00002-of-00002.safetensors",
        "twin.safetensors",
    ];
    let rows = ["rows.csv", "link.csv", "twin.csv", "./model/../rows.csv"];
    let commands: [(&str, &[&str]); 8] = [
        ("import source.safetensors --config config.json", &["source.safetensors", "config.json"]),
        ("convert model", &model),
        ("init --config config.json", &["config.json"]),
        ("generate --config config.json --rows 10", &["config.json"]),
        ("profile model --input rows.csv", &[&model[..], &rows[..]].concat()),
        ("convert-input model --input rows.csv --to npz", &[&model[..], &rows[..]].concat()),
        ("plan model --ranks 1 --profile profile.json", &[&model[..], &["profile.json"]].concat()),
        (
            "infer model --input rows.csv --plan plan.json --delay trace:trace.csv",
            &[&model[..], &rows[..], &["plan.json", "trace.csv"]].concat(),
        ),
    ];
    let state = || {
        let files = place.names().into_iter().filter(|name| name != "model").map(|name| place.path(&name));
        let model = fs::read_dir(place.path("model")).unwrap().map(|entry| entry.unwrap().path());
        files.chain(model).map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let before = state();
    for (command, inputs) in commands {
        for input in inputs {
            let run = place.run(&[&words(command)[..], &["--output", input]].concat());
            assert_eq!(run.code, Some(2), "{command} --output {input}: {}", run.stderr);
            assert!(run.stderr.contains("the output is ") && run.stderr.lines().count() == 1, "{}", run.stderr);
        }
    }
    assert!(state() == before, "nothing has changed, and nothing is left");
}

#[test]
fn an_output_is_written_by_one_run_at_a_time() {
    let place = Place::new(5000);
    fs::write(place.path("out.csv"), "before").unwrap();
    let mut first = slow(&place);
    for second in [
        "infer model --input rows.csv --output out.csv",
        "infer model --input rows.csv --output out.csv --ranks 2 --transport shm --resume",
        "profile model --input rows.csv --output out.csv",
        "plan model --ranks 2 --output out.csv",
        "generate --config config.json --rows 5 --output out.csv",
    ] {
        let line = place.fail(&words(second));
        assert!(line.contains("out.csv") && line.contains("another run is writing it"), "{second}: {line}");
    }
    assert!(first.try_wait().unwrap().is_none());
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(place.read("out.csv"), "before");
    // What the killed one has left is in nobody's way.
    for next in ["plan model --ranks 2 --output out.csv", "generate --config config.json --rows 5 --output out.csv"] {
        place.succeed(&words(next));
        assert_eq!(place.names(), ["config.json", "model", "out.csv", "rows.csv"]);
    }
}

#[test]
fn signals_are_errors_with_a_cause() {
    let place = Place::new(5000);
    fs::write(place.path("out.csv"), "before").unwrap();
    for (signal, number, name) in [
        (Signal::HUP, 1, "SIGHUP"),
        (Signal::INT, 2, "SIGINT"),
        (Signal::QUIT, 3, "SIGQUIT"),
        (Signal::USR1, 10, "SIGUSR1"),
        (Signal::ALARM, 14, "SIGALRM"),
        (Signal::TERM, 15, "SIGTERM"),
        (Signal::XCPU, 24, "SIGXCPU"),
    ] {
        if is_ignored(number) {
            continue;
        }
        let child = slow(&place);
        send(&child, signal);
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(128 + number), "{}", run.stderr);
        let said =
            format!("slackline: error: ended by signal {number} ({name}); the rows that were predicted are kept");
        assert!(run.stderr.starts_with(&said) && run.stderr.lines().count() == 1, "{}", run.stderr);
        assert_eq!(place.read("out.csv"), "before");
        // The next turn is about rows of its own.
        fs::remove_dir_all(place.path(".out.csv.partial")).unwrap();
    }
    // What its caller wants ignored, as nohup does, stays ignored.
    let script = r#"trap "" HUP; exec "$@""#;
    let mut child = std::process::Command::new("bash")
        .args(["-c", script, "ignoring", env!("CARGO_BIN_EXE_slackline")])
        .args(words("generate --config config.json --rows 1000000000 --output rows.tsv"))
        .current_dir(place.path("."))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let content = place.path(".rows.tsv.partial/content");
    let length = || fs::metadata(&content).map_or(0, |content| content.len());
    until("rows", || (length() > 0).then_some(()));
    send(&child, Signal::HUP);
    let before = length();
    until("more rows", || (length() > before).then_some(()));
    send(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn signals_to_a_launcher_are_told_by_their_own_names() {
    let place = Place::new(5000);
    let advice = "; the rows that were predicted are kept: add --resume to go on";
    for (signal, number, name) in
        [(Signal::HUP, 1, "SIGHUP"), (Signal::INT, 2, "SIGINT"), (Signal::USR2, 12, "SIGUSR2")]
    {
        if is_ignored(number) {
            continue;
        }
        let running = crate::common::Running::start(&place, &[]);
        kill_process(Pid::from_raw(running.pid()).unwrap(), signal).unwrap();
        let run = running.end();
        assert_eq!(run.code, Some(128 + number), "{}", run.stderr);
        let last = run.stderr.lines().last().unwrap();
        assert_eq!(last, format!("slackline: error: ended by signal {number} ({name}){advice}"));
    }
}

#[test]
fn what_interrupted_runs_leave_has_one_name_that_the_next_one_takes_over() {
    let place = Place::new(3);
    let huge =
        fs::read_to_string(place.path("config.json")).unwrap().replace("300-7-50-1-120", "1000000000-7-50-1-120");
    fs::write(place.path("huge.json"), huge).unwrap();
    for (endless, next, output) in [
        ("init --config huge.json --output new", "init --config config.json --output new", "new"),
        (
            "generate --config config.json --rows 1000000000 --output new.tsv",
            "generate --config config.json --rows 3 --output new.tsv",
            "new.tsv",
        ),
    ] {
        let partial = format!(".{output}.partial");
        for signal in [Signal::INT, Signal::KILL, Signal::TERM] {
            if is_ignored(signal.as_raw()) {
                continue;
            }
            let child = place.command(&words(endless)).spawn().unwrap();
            until("a partial output", || place.path(&partial).exists().then_some(()));
            send(&child, signal);
            let run = Run::of(child.wait_with_output().unwrap());
            assert_ne!(run.code, Some(0), "{}", run.stderr);
            assert_eq!(place.names_but(&partial), ["config.json", "huge.json", "model", "rows.csv"]);
        }
        place.succeed(&words(next));
        let mut expected = vec!["config.json", "huge.json", "model", output, "rows.csv"];
        expected.sort_unstable();
        assert_eq!(place.names(), expected);
        if place.path(output).is_dir() {
            fs::remove_dir_all(place.path(output)).unwrap();
        } else {
            fs::remove_file(place.path(output)).unwrap();
        }
    }
}
