//! What `infer` predicts: the same bits however it is run, and those of the model in one process.

use std::fs;

use crate::common::Place;
use serde_json::Value;
use slackline_data::{Batch, Input, InputShape};
use slackline_dlrm::{LocalModel, ModelDirectory};
use slackline_embedding::{Load, Verify};

fn infer(place: &Place, words: &str) -> String {
    let words: Vec<&str> =
        ["infer", "model", "--input", "rows.csv"].into_iter().chain(words.split_whitespace()).collect();
    place.succeed(&words)
}

/// Id and prediction of every row of an output.
fn rows_of(text: &str) -> Vec<(&str, f32)> {
    let (header, rows) = text.split_once('\n').unwrap();
    assert_eq!(header, "id,prediction");
    rows.lines().map(|row| row.split_once(',').unwrap()).map(|(id, p)| (id, p.parse().unwrap())).collect()
}

fn local_predictions(place: &Place) -> Vec<f32> {
    let directory = ModelDirectory::open(place.path("model")).unwrap();
    let rows = directory.config().rows();
    let all: Vec<usize> = (0..rows.len()).collect();
    let shape = InputShape { dense_features: directory.config().dense_features(), table_rows: rows.to_vec() };
    let tables = directory.load_tables(&all, Load::Mapped, Verify::Checksums).unwrap();
    let mut model = LocalModel::new(directory.load_dense().unwrap(), tables).unwrap();
    let mut input = Input::open(place.path("rows.csv"), None, &shape).unwrap();
    let (mut batch, mut fresh, mut predictions) = (Batch::default(), Vec::new(), Vec::new());
    while input.next_batch(10, &mut batch).unwrap() {
        model.predict(&batch, &mut fresh).unwrap();
        predictions.extend_from_slice(&fresh);
    }
    predictions
}

#[test]
fn one_process_and_many_ranks_give_the_same_bits() {
    let place = Place::new(203);
    infer(&place, "--output first.csv");
    let first = place.read("first.csv");
    let expected = local_predictions(&place);
    let found: Vec<f32> = rows_of(&first).iter().map(|(_, prediction)| *prediction).collect();
    assert_eq!(found, expected);
    let ids: Vec<String> = rows_of(&first).iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(ids, (0..203).map(|id| id.to_string()).collect::<Vec<_>>(), "the ids that generate gives");
    for words in [
        "--ranks 2 --lag 0",
        "--ranks 2 --lag 1 --transport shm --batch 7",
        "--ranks 3 --lag 2 --delivery fixed --batch 2",
        "--ranks 4 --lag 4 --transport shm --delay turn:0..2 --batch 16",
        "--ranks 8 --lag 8 --batch 16 --delay random:0..1",
        "--ranks 8 --lag 2 --transport shm --batch 3",
        "--ranks 8 --lag 8 --transport shm --delivery fixed --batch 16",
        "--ranks 1 --lag 0 --transport shm --batch 1000",
        "--ranks 1 --lag 3 --delivery fixed --batch 16",
        "--ranks 1 --batch 16 --pin",
        "--ranks 5 --lag 1 --batch 32 --delay spikes:0.2x5 --pin",
    ] {
        infer(&place, &format!("{words} --output again.csv"));
        assert!(place.read("again.csv") == first, "{words}");
    }
}

#[test]
fn plans_of_all_kinds_keep_the_predictions() {
    let place = Place::new(203);
    infer(&place, "--output first.csv");
    let first = place.read("first.csv");
    let words = |words: &str| place.succeed(&words.split_whitespace().collect::<Vec<_>>());
    let profiled = words("profile model --input rows.csv --batch 16 --output profile.json");
    assert!(profiled.contains("203 samples") && profiled.contains("emb_l.4.weight"), "{profiled}");
    for how in [
        "",
        "--calibrate --split both",
        "--profile profile.json --split columns --replicate 100",
        "--profile profile.json --hot 2K",
        "--place emb_l.0.*=columns:2 --place emb_l.4.*=rank:1 --memory 1M",
    ] {
        let planned = words(&format!("plan model --ranks 3 {how} --output plan.json"));
        assert!(
            planned.starts_with("5 tables on 3 ranks") && planned.contains("as in the reference DLRM"),
            "{planned}"
        );
        for run in ["--lag 2 --batch 16", "--transport shm --batch 7 --lag 0"] {
            infer(&place, &format!("--plan plan.json {run} --output again.csv"));
            assert!(place.read("again.csv") == first, "{how}; {run}");
        }
    }
    words("plan model --ranks 3 --profile profile.json --hot 2K --output plan.json");
    let report: Value = serde_json::from_str(&infer(&place, "--plan plan.json --json")).unwrap();
    let saved: u64 =
        report["per_rank"].as_array().unwrap().iter().map(|rank| rank["saved_bytes"].as_u64().unwrap()).sum();
    assert!(saved > 0 && report["ranks"] == 3, "{report}");
    // By rows the sums are made in another order, the same for any lag and transport.
    words("plan model --ranks 3 --place emb_l.0.*=rows:3 --output plan.json");
    infer(&place, "--plan plan.json --output rows_0.csv");
    infer(&place, "--plan plan.json --lag 4 --transport shm --batch 32 --output rows_1.csv");
    assert_eq!(place.read("rows_0.csv"), place.read("rows_1.csv"));
    for ((id, one), (other_id, other)) in rows_of(&place.read("rows_0.csv")).iter().zip(rows_of(&first)) {
        assert!(*id == other_id && (one - other).abs() < 1e-6);
    }
}

#[test]
fn a_plan_that_does_not_fit_is_refused_by_its_file() {
    let place = Place::new(10);
    let words = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    place.succeed(&words("plan model --ranks 3 --output plan.json"));
    let refused = place.fail(&words("infer model --input rows.csv --plan plan.json --ranks 2"));
    assert!(refused.contains("plan.json: the plan is for 3 ranks, not 2"), "{refused}");
    let text = place.read("plan.json").replace("\"rows\":300", "\"rows\":301").replace("\"end\":300", "\"end\":301");
    fs::write(place.path("plan.json"), text).unwrap();
    let refused = place.fail(&words("infer model --input rows.csv --plan plan.json"));
    assert!(refused.contains("plan.json: the plan is for another model"), "{refused}");
    fs::write(place.path("plan.json"), "{}").unwrap();
    assert!(place.fail(&words("infer model --input rows.csv --plan plan.json")).contains("plan.json"));
    let full = place.fail(&words("plan model --ranks 2 --memory 1K"));
    assert!(full.contains("emb_l.0.weight 9600") && full.contains("2 ranks of 1024 bytes have 2048"), "{full}");
    let idle = place.run(&words("plan model --ranks 2 --place nothing=whole"));
    assert!(idle.code == Some(2) && idle.stderr.contains("matches no table"), "{}", idle.stderr);
}

#[test]
fn json_is_one_object_and_nothing_else() {
    let place = Place::new(100);
    for transport in ["threads", "shm"] {
        let text = infer(&place, &format!("--ranks 4 --transport {transport} --batch 8 --lag 3 --json"));
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["rows"], 100);
        assert_eq!(report["ranks"], 4);
        assert_eq!(report["transport"], transport);
        assert_eq!(report["format"], "criteo-csv");
        assert!((0.0..=1.0).contains(&report["auc"].as_f64().unwrap()));
        assert!(report["log_loss"].as_f64().unwrap() > 0.0);
        assert!(report["rows_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(report["latency"]["count"], 4 * 13, "13 batches of 8, the last of 4, on 4 ranks");
        assert!(report["latency"]["p99_ms"].as_f64() >= report["latency"]["p50_ms"].as_f64());
        let lags = report["per_rank"].as_array().unwrap();
        assert_eq!(lags.len(), 4);
        assert!(lags.iter().all(|rank| rank["observed_lag"].as_u64().unwrap() <= 3), "the bound is the lag");
    }
}

#[test]
fn one_rank_reports_the_same_with_a_group_and_without() {
    let place = Place::new(100);
    // Fixed delivery takes a group to keep rounds back; elastic delivery leaves a single rank nothing to wait for.
    let report = |delivery: &str| -> Value {
        let text = infer(&place, &format!("--batch 8 --lag 3 --delivery {delivery} --json --output {delivery}.csv"));
        serde_json::from_str(&text).unwrap()
    };
    let (alone, grouped) = (report("elastic"), report("fixed"));
    assert_eq!(place.read("elastic.csv"), place.read("fixed.csv"));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&alone), names(&grouped));
    assert_eq!(names(&alone["per_rank"][0]), names(&grouped["per_rank"][0]));
    for same in ["rows", "ranks", "transport", "lag", "auc", "log_loss", "planned_imbalance", "lookup_imbalance"] {
        assert_eq!(alone[same], grouped[same], "{same}");
    }
    assert_eq!((&alone["latency"]["count"], &grouped["latency"]["count"]), (&13.into(), &13.into()));
    for report in [&alone, &grouped] {
        let rank = &report["per_rank"][0];
        assert!(
            ["load_seconds", "warmup_seconds", "lookup_seconds"].iter().all(|name| rank[name].as_f64() > Some(0.0))
        );
        assert_eq!(
            (&rank["sent_bytes"], &rank["saved_bytes"], &rank["observed_lag"]),
            (&0.into(), &0.into(), &0.into())
        );
    }
}

#[test]
fn a_late_rank_shows_in_the_observed_lag() {
    let place = Place::new(64);
    let words = "--ranks 2 --batch 8 --lag 3 --delay slow:rank=1,x1 --delay-unit 30 --json";
    let report: Value = serde_json::from_str(&infer(&place, words)).unwrap();
    assert!(report["per_rank"][0]["observed_lag"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(report["per_rank"][1]["observed_lag"], 0, "{report}");
    let seconds = report["seconds"].as_f64().unwrap();
    assert!(seconds >= 8.0 * 0.03, "eight delays were slept: {seconds}");
}

#[test]
fn inputs_without_ids_labels_or_rows() {
    let place = Place::new(20);
    // As text with tabs and without labels.
    let csv = place.read("rows.csv");
    let unlabelled: Vec<String> =
        csv.lines().skip(1).map(|row| row.split(',').skip(2).collect::<Vec<_>>().join("\t") + "\n").collect();
    fs::write(place.path("bare.tsv"), unlabelled.concat()).unwrap();
    let text = place.succeed(&["infer", "model", "--input", "bare.tsv", "--ranks", "2", "--output", "bare.csv"]);
    assert!(text.contains("20 rows of bare.tsv (criteo-tsv)") && !text.contains("AUC"), "{text}");
    infer(&place, "--output labelled.csv");
    assert_eq!(
        place.read("bare.csv"),
        place.read("labelled.csv"),
        "row numbers stand for ids, and labels change nothing"
    );
    // A header alone.
    fs::write(place.path("none.csv"), csv.lines().next().unwrap()).unwrap();
    let text = place.succeed(&["infer", "model", "--input", "none.csv", "--ranks", "3", "--output", "none-out.csv"]);
    assert!(text.contains("0 rows of none.csv"), "{text}");
    assert_eq!(place.read("none-out.csv"), "id,prediction\n");
}

#[test]
fn the_ids_of_the_input_come_back() {
    let place = Place::new(3);
    let csv = place.read("rows.csv");
    let renamed: Vec<String> = csv
        .lines()
        .enumerate()
        .map(
            |(at, row)| {
                if at == 0 { format!("{row}\n") } else { format!("user {at}{}\n", &row[row.find(',').unwrap()..]) }
            },
        )
        .collect();
    fs::write(place.path("rows.csv"), renamed.concat()).unwrap();
    infer(&place, "--output out.csv --ranks 2");
    let written = place.read("out.csv");
    let ids: Vec<&str> = rows_of(&written).iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["user 1", "user 2", "user 3"]);
}

#[test]
fn what_people_read() {
    let place = Place::new(300);
    let text = infer(&place, "--ranks 2 --output out.csv");
    for part in [
        "300 rows of rows.csv (criteo-csv)",
        "2 ranks (threads), batches of 128, lag 2, elastic delivery",
        "\nAUC           0.",
        "\nlog loss      0.",
        "rows/s",
        "\nlatency       p50 ",
        "latency: from starting a batch that has been read",
        "\nobserved lag  ",
        "\npredictions   out.csv",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
}

#[test]
fn every_way_of_loading_is_ready_after_warming_up_and_predicts_the_same() {
    let place = Place::new(60);
    infer(&place, "--output first.csv");
    for load in Load::ALL {
        let how = format!("--ranks 3 --lag 1 --transport shm --batch 16 --load {load}");
        let report: Value = serde_json::from_str(&infer(&place, &format!("{how} --json --output again.csv"))).unwrap();
        assert_eq!(place.read("again.csv"), place.read("first.csv"), "{load}");
        assert_eq!(report["load"], load.to_string());
        for phase in ["load_seconds", "warmup_seconds"] {
            let of_rank = report["per_rank"].as_array().unwrap().iter().map(|rank| rank[phase].as_f64().unwrap());
            let largest = of_rank.fold(0.0, f64::max);
            assert!(largest > 0.0, "{load}: {phase} of no rank");
            assert_eq!(report[phase].as_f64(), Some(largest), "{load}: {phase}");
        }
        let text = infer(&place, &how);
        assert!(text.contains(&format!("tables {load} in ")) && text.contains("warmed up in"), "{text}");
    }
}
