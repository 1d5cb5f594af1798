//! `slackline import` as a process that is killed, interrupted, or runs into a full disk, and run once more.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{Place, Run};
use serde_json::Value;

/// Tables of 24 MiB, in two files.
const CONFIG: &str = r#"{"arch_sparse_feature_size": 64, "arch_embedding_size": [50000, 300, 40000, 8000],
    "arch_mlp_bot": "4-16-64", "arch_mlp_top": "16-1"}"#;

const IMPORT: &str = "import source/model.safetensors.index.json --config config.json --shards 2 --keep-every 1";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A folder with a checkpoint, and the model that an import makes of it.
fn place(rows: &str) -> Place {
    let place = Place::empty();
    fs::write(place.path("config.json"), CONFIG).unwrap();
    place.succeed(&words("init --config config.json --seed 2 --output source"));
    place.succeed(&words(&format!("{IMPORT} --output whole --rows {rows}")));
    place
}

fn same(place: &Place, other: &str) {
    let entries: Vec<_> = fs::read_dir(place.path("whole")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries.len(), fs::read_dir(place.path(other)).unwrap().count());
    for name in entries {
        let read = |model: &str| fs::read(place.path(model).join(&name)).unwrap();
        assert!(read("whole") == read(other), "{name:?} differs");
    }
}

/// Bytes in the folder of unfinished work.
fn written(place: &Place) -> u64 {
    let Ok(entries) = fs::read_dir(place.path(".model.partial/model")) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

#[test]
fn an_import_that_is_killed_is_gone_on_with_and_comes_out_the_same() {
    for rows in ["f32", "int8"] {
        let place = place(rows);
        let all: u64 =
            fs::read_dir(place.path("whole")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        let import = format!("{IMPORT} --output model --rows {rows} --json");
        // Each time a little further: in the first file, in the second, and at once.
        for part in [1, 3, 0, 5] {
            let mut child = place.command(&words(&import)).spawn().unwrap();
            // Without a pause, so that it cannot come to its end meanwhile.
            while child.try_wait().unwrap().is_none() && written(&place) * 10 < all * part {
                std::thread::yield_now();
            }
            child.kill().unwrap();
            let run = Run::of(child.wait_with_output().unwrap());
            assert_eq!(run.code, None, "it was killed before its end: {}{}", run.stdout, run.stderr);
            assert!(!place.path("model").exists());
        }
        let report: Value = serde_json::from_str(&place.succeed(&words(&import))).unwrap();
        assert!(report["resumed_bytes"].as_u64().unwrap() > 0, "{report:#}");
        same(&place, "model");
        assert_eq!(place.names(), ["config.json", "model", "source", "whole"]);
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_import_goes_on_when_there_is_room() {
    let place = place("f32");
    // No file may become larger than 8 MiB, and the system says so instead of ending the process.
    let limited = r#"trap "" XFSZ; ulimit -f 8192; exec "$@""#;
    let command = format!("{IMPORT} --output model");
    let ended = Command::new("bash")
        .args(["-c", limited, "limited", env!("CARGO_BIN_EXE_slackline")])
        .args(words(&command))
        .current_dir(place.path("."))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let run = Run::of(ended);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert!(run.stderr.contains("tables-00001-of-00002") && run.stderr.lines().count() == 1, "{}", run.stderr);
    assert!(!place.path("model").exists() && written(&place) > 0);
    let text = place.succeed(&words(&command));
    assert!(text.contains("resumed an import"), "{text}");
    same(&place, "model");
}

#[test]
fn what_was_found_is_said_for_people_and_for_programs() {
    let place = place("f32");
    let text = place.succeed(&words(&format!("{IMPORT} --output text --rows emb_l.0.*=int8")));
    for part in ["safetensors with an index", "reference DLRM", "50000 x 64", "f32 -> int8", "largest error"] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
    let json = place.succeed(&words(&format!("{IMPORT} --output json --rows emb_l.0.*=int8 --json")));
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["format"], "safetensors with an index");
    assert_eq!(report["tables"][0]["kept"], "int8");
    assert_eq!(report["tables"][1]["bytes"], 300 * 64 * 4);
    assert_eq!(report["losses"].as_array().unwrap().len(), 1);
    assert_eq!(report["resumed_bytes"], 0);
    let help = place.succeed(&["import", "--help"]);
    assert!(help.contains("snapshot/") && help.contains("--from-rows int8"), "{help}");
    let run = place.run(&words(&format!("{IMPORT} --output other --from-rows f16")));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}
