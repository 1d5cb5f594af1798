//! Against a trained model and its predictions by PyTorch. Run when `SLACKLINE_SHARED_DATA` names the folder that has them.

use std::fs;
use std::path::PathBuf;

use crate::common::Place;
use serde_json::{Value, json};
use slackline_data::NpzFile;

fn shared(name: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("SLACKLINE_SHARED_DATA") else {
        eprintln!("skipped: SLACKLINE_SHARED_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join(name).into_os_string().into_string().unwrap())
}

#[test]
fn a_trained_model_predicts_what_pytorch_predicted() {
    let Some(folder) = shared("criteo-trained") else { return };
    let file = |name: &str| format!("{folder}/{name}");
    let place = Place::empty();
    place.succeed(&[
        "import",
        &file("kaggle16.pt"),
        "--config",
        &file("kaggle16.json"),
        "--output",
        "model",
        "--shards",
        "3",
    ]);
    place.succeed(&["inspect", "model", "--verify"]);
    let expected = fs::read_to_string(file("kaggle16_predictions.csv")).unwrap();
    for run in ["--ranks 1", "--ranks 4 --transport shm --lag 4 --batch 16", "--ranks 3 --lag 0 --delivery fixed"] {
        let input = file("heldout.csv");
        let words = ["infer", "model", "--input", &input, "--output", "out.csv", "--json"];
        let report = place.succeed(&words.into_iter().chain(run.split(' ')).collect::<Vec<_>>());
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["rows"], 400);
        assert_eq!(format!("{:.4}", report["auc"].as_f64().unwrap()), "0.6060", "{run}");
        let found = place.read("out.csv");
        assert_eq!(found.lines().count(), expected.lines().count());
        let mut largest = 0f64;
        for (found, expected) in found.lines().zip(expected.lines()).skip(1) {
            let (id, prediction) = found.split_once(',').unwrap();
            let expected: Vec<&str> = expected.split(',').collect();
            assert_eq!(id, expected[0]);
            let number = |text: &str| text.parse::<f64>().unwrap();
            largest = largest.max((number(prediction) - number(expected[2])).abs());
        }
        eprintln!("{run}: largest difference {largest:.2e}");
        assert!(largest <= 1e-6, "{run}: {largest}");
    }
}

#[test]
fn bags_of_many_rows_predict_what_pytorch_predicted() {
    let Some(folder) = shared("golden") else { return };
    let file = |name: &str| format!("{folder}/{name}");
    let mut golden = NpzFile::open(file("dlrm_tiny_io.npz")).unwrap();
    let (_, expected): (_, Vec<f32>) = golden.f32("prob").unwrap();
    let shape: Value = serde_json::from_str(&fs::read_to_string(file("dlrm_tiny.json")).unwrap()).unwrap();
    let config = json!({
        "arch_sparse_feature_size": shape["dim"],
        "arch_embedding_size": shape["ln_emb"],
        "arch_mlp_bot": shape["ln_bot"],
        "arch_mlp_top": shape["ln_top"],
    });
    for checkpoint in ["dlrm_tiny.pt", "dlrm_tiny_legacy.pt", "dlrm_tiny.safetensors"] {
        let place = Place::empty();
        fs::write(place.path("config.json"), config.to_string()).unwrap();
        place.succeed(&["import", &file(checkpoint), "--config", "config.json", "--output", "model"]);
        let input = file("dlrm_tiny_io.npz");
        place.succeed(&["infer", "model", "--input", &input, "--ranks", "4", "--batch", "5", "--output", "out.csv"]);
        let text = place.read("out.csv");
        let found: Vec<f32> = text.lines().skip(1).map(|row| row.split_once(',').unwrap().1.parse().unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-6, "{checkpoint}: {found} instead of {expected}");
        }
    }
}

#[test]
fn quantised_rows_predict_what_pytorch_predicted_with_them() {
    let Some(folder) = shared("criteo-trained") else { return };
    let file = |name: &str| format!("{folder}/{name}");
    let expected = fs::read_to_string(file("kaggle16_predictions.csv")).unwrap();
    for (column, rows) in [(3, "int8"), (4, "int4")] {
        let place = Place::empty();
        let said = place.succeed(&[
            "import",
            &file("kaggle16.pt"),
            "--config",
            &file("kaggle16.json"),
            "--output",
            "model",
            "--rows",
            rows,
        ]);
        assert_eq!(said.matches("largest error").count(), 26, "{said}");
        let input = file("heldout.csv");
        place.succeed(&["infer", "model", "--input", &input, "--ranks", "3", "--output", "out.csv"]);
        let found = place.read("out.csv");
        let mut largest = 0f64;
        for (found, expected) in found.lines().zip(expected.lines()).skip(1) {
            let number = |text: &str| text.parse::<f64>().unwrap();
            let expected = number(expected.split(',').nth(column).unwrap());
            largest = largest.max((number(found.split_once(',').unwrap().1) - expected).abs());
        }
        eprintln!("{rows}: largest difference {largest:.2e}");
        assert!(largest <= 1e-5, "{rows}: {largest}");
    }
}

#[test]
fn quantised_rows_in_bags_of_many_predict_what_pytorch_predicted_with_them() {
    let Some(folder) = shared("golden") else { return };
    let file = |name: &str| format!("{folder}/{name}");
    let mut golden = NpzFile::open(file("dlrm_tiny_io.npz")).unwrap();
    let shape: Value = serde_json::from_str(&fs::read_to_string(file("dlrm_tiny.json")).unwrap()).unwrap();
    let config = json!({
        "arch_sparse_feature_size": shape["dim"],
        "arch_embedding_size": shape["ln_emb"],
        "arch_mlp_bot": shape["ln_bot"],
        "arch_mlp_top": shape["ln_top"],
    });
    for rows in ["int8", "int4"] {
        let (_, expected): (_, Vec<f32>) = golden.f32(&format!("prob_{rows}")).unwrap();
        let place = Place::empty();
        fs::write(place.path("config.json"), config.to_string()).unwrap();
        place.succeed(&["import", &file("dlrm_tiny.pt"), "--config", "config.json", "--output", "full"]);
        place.succeed(&["convert", "full", "--output", "model", "--rows", rows]);
        let input = file("dlrm_tiny_io.npz");
        place.succeed(&["infer", "model", "--input", &input, "--ranks", "4", "--batch", "5", "--output", "out.csv"]);
        let text = place.read("out.csv");
        let found: Vec<f32> = text.lines().skip(1).map(|row| row.split_once(',').unwrap().1.parse().unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        let largest = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
        eprintln!("{rows}: largest difference {largest:.2e}");
        assert!(largest <= 1e-6, "{rows}: {largest}");
    }
}
