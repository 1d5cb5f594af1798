//! The real program with real rank processes, small enough for any machine. Looks at outputs and never at times.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(out: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackline-bench"));
    command.args(args).arg("--output").arg(out).output().expect("the program starts")
}

const SLEPT: [&str; 15] = [
    "run",
    "--ranks",
    "2",
    "--rounds",
    "12",
    "--reps",
    "2",
    "--warmup",
    "5",
    "--lags",
    "0,2",
    "--work",
    "slept",
    "--unit-us",
    "200",
];

const MODEL: [&str; 17] = [
    "run",
    "--ranks",
    "3",
    "--rounds",
    "6",
    "--reps",
    "1",
    "--warmup",
    "3",
    "--lags",
    "1,4",
    "--scenario",
    "turn",
    "--batch",
    "10",
    "--table-rows",
    "50",
];

#[test]
fn every_scenario_runs_on_processes_and_leaves_results_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &[&SLEPT[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on stdout");
    assert_eq!(results["format"], "slackline-bench");
    assert_eq!(results["settings"]["ranks"], 2);
    assert_eq!(results["settings"]["seed"], 1);
    assert!(results["machine"]["cores"].as_u64().unwrap() >= 1);
    assert!(results["versions"]["rustc"].as_str().unwrap().starts_with("rustc "));
    assert!(results["command"].as_array().unwrap().iter().any(|word| word == "--json"));
    let names: Vec<&str> =
        results["scenarios"].as_array().unwrap().iter().map(|s| s["scenario"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["balanced", "turn", "random", "spikes", "slow"]);
    for scenario in results["scenarios"].as_array().unwrap() {
        // A round sleeps for 200 µs at least.
        assert!(scenario["unit_us"].as_f64().unwrap() >= 200.0);
        let lags = scenario["lags"].as_array().unwrap();
        assert_eq!(lags.iter().map(|lag| lag["lag"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(lags[0]["speedup"]["median"], 1.0);
        for lag in lags {
            assert!(lag["throughput"]["min"].as_f64().unwrap() > 0.0);
            let share = lag["share_of_ideal"]["max"].as_f64().unwrap();
            assert!(share > 0.0 && share <= 1.0, "{share} of the ideal");
            let bound = lag["lag"].as_u64().unwrap();
            assert!(lag["open_latency_us"]["p50"]["min"].as_f64().unwrap() >= 200.0);
            assert!(lag["observed_lag"].as_u64().unwrap() <= bound);
        }
        assert_eq!(scenario["timelines"].as_array().unwrap().len(), 2);
    }
    let stored: Value = serde_json::from_slice(&fs::read(folder.path().join("results.json")).unwrap()).unwrap();
    assert_eq!(stored, results);
    assert!(fs::read_to_string(folder.path().join("report.html")).unwrap().ends_with("</html>\n"));
}

#[test]
fn the_model_predicts_the_same_on_processes_and_on_threads_as_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    for transport in ["shm", "threads"] {
        let output = bench(folder.path(), &[&MODEL[..], &["--transport", transport]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("turn (turn:0..2)") && text.contains("samples/s") && text.contains("report.html"),
            "{text}"
        );
    }
}

#[test]
fn the_oracle_has_the_same_outputs_as_every_lag() {
    for transport in ["shm", "threads"] {
        for work in [&SLEPT[..], &MODEL[..]] {
            let folder = tempfile::tempdir().unwrap();
            let more = ["--baselines", "--transport", transport];
            let one = if work == SLEPT { &["--scenario", "turn"][..] } else { &[] };
            let output = bench(folder.path(), &[work, &more, one].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let lags = if work == SLEPT { "0, 2" } else { "0, 1, 4" };
            let said = format!("that of one process; over: bounded lag ({lags}); synchronous oracle.");
            assert!(text.contains(&said), "{text}");
            let stored: Value = serde_json::from_slice(&fs::read(folder.path().join("results.json")).unwrap()).unwrap();
            let baselines = stored["scenarios"][0]["baselines"].as_array().unwrap();
            assert_eq!(baselines.len(), 1);
            assert_eq!((&baselines[0]["name"], &baselines[0]["lag"]), (&"synchronous oracle".into(), &0.into()));
            assert!(baselines[0]["throughput"]["min"].as_f64().unwrap() > 0.0);
            // A synchronous exchange waits while it publishes, which is no work.
            let share = baselines[0]["share_of_ideal"]["max"].as_f64().unwrap();
            assert!(share > 0.0 && share <= 1.0, "{share} of the ideal");
        }
    }
}

#[test]
fn a_wrong_output_ends_with_1_and_shows_no_timing() {
    for work in [&SLEPT[..], &MODEL[..]] {
        let folder = tempfile::tempdir().unwrap();
        let output = bench(folder.path(), &[work, &["--flip-bit", "1"]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("wrong output") && stderr.contains("rank 1"), "{stderr}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no results file of a wrong run");
    }
}

#[test]
fn nonsense_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], word: &str| {
        let output = bench(folder.path(), args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(word), "{args:?}: {stderr}");
    };
    refused(&["run", "--scenario", "quick"], "quick");
    refused(&["run", "--scenario", "no-such.toml"], "no-such.toml");
    refused(&["run", "--lags", "0,2,2"], "listed twice");
    refused(&["run", "--ranks", "0"], "a number from 1 to");
    // Numbers at the edge, and a file without an end.
    let edge = u64::MAX.to_string();
    for words in [
        "run --ranks",
        "run --rounds",
        "run --reps",
        "run --warmup",
        "run --lags",
        "run --batch",
        "run --bytes",
        "run --unit-us",
        "run --own-unit-us",
        "run --table-rows",
        "exchange --sizes",
        "exchange --lag",
        "exchange --blocks",
        "requests --late-ms",
        "requests --seconds",
        "dense --batch",
        "dense --turns",
        "embedding --rows",
        "embedding --lookups",
        "plan --batches",
    ] {
        let words: Vec<&str> = words.split(' ').chain([edge.as_str()]).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_slackline-bench")).args(&words).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains("a number from"), "{words:?}: {stderr}");
    }
    refused(&["run", "--scenario", "/dev/zero"], "/dev/zero: more than 1048576 bytes");
    refused(&["run", "--load", "1e300"], "load");
    refused(&["run", "--load", "0"], "load");
    refused(&["run", "--delivery", "soon"], "soon");
    refused(&["run", "--pin", "--transport", "threads"], "pin");
    let mine = folder.path().join("mine.toml");
    fs::write(&mine, "name = \"mine\"\nwords = \"w\"\ndelay = \"slow:rank=9,x1\"\nexpect = \"none\"\n").unwrap();
    refused(&["run", "--scenario", mine.to_str().unwrap()], "rank 9");
}

#[test]
fn the_exchange_prints_a_line_for_each_size() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackline-bench"));
    let output = command
        .args(["exchange", "--sizes", "64,200000", "--blocks", "1", "--json", "--read", "--lag", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["bytes"].as_u64().unwrap()).collect::<Vec<_>>(), [64, 200_000]);
    assert!(lines.iter().all(|line| line["us"]["median"].as_f64().unwrap() > 0.0 && line["lag"] == 1));
}

#[test]
fn the_dense_part_prints_a_line_for_each_batch() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackline-bench"));
    command.args(["dense", "--shape", "kaggle", "--batch", "1,3", "--turns", "1", "--json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    assert!(lines.iter().all(|line| line["gigaflops"][0].as_f64().unwrap() > 0.0 && line["shape"] == "kaggle"));
}

#[test]
fn loading_measures_every_way_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackline-bench"));
    command.args(["loading", "--gib", "0.01", "--turns", "1", "--json", "--dir"]).arg(folder.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Where the user may not lock so much memory, that way is left out, with a word.
    let refused = usize::from(String::from_utf8_lossy(&output.stderr).contains("locked is left out"));
    assert_eq!(lines.len(), 2 * (slackline_embedding::Load::ALL.len() - refused));
    let bytes = lines[0]["table_bytes"].as_u64().unwrap();
    for line in &lines {
        let run = &line["runs"][0];
        assert_eq!(run["answers"], lines[0]["runs"][0]["answers"]);
        assert!(run["peak_bytes"].as_u64().unwrap() >= run["resident_bytes"].as_u64().unwrap());
        if line["way"] == "copied" {
            assert!(run["resident_bytes"].as_u64().unwrap() > bytes);
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn requests_are_answered_among_processes_one_of_which_is_late() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackline-bench"));
    let output = command
        .args(["requests", "--ranks", "3", "--late-ms", "30", "--late-rank", "0", "--seconds", "1", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on stdout");
    assert_eq!((&result["late"], &result["late_ms"]), (&0.into(), &30.0.into()));
    for answers in ["prompt", "of_late"] {
        assert!(result[answers]["answers"].as_u64().unwrap() > 0, "{result}");
    }
}
