//! Names of unknown origin in every kind of input, and large values on the wire.

use std::fs;
use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};
use slackline_dlrm::Printable;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::common::{Place, Run};

/// Tensors of single precision, as a safetensors file.
fn safetensors(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let from = data.len();
        values.iter().for_each(|value| data.extend_from_slice(&value.to_le_bytes()));
        header.insert((*name).to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = serde_json::to_string(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// A checkpoint of `torch.save` that holds an object of a class of that name.
fn pickled_object(class: &str) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let pickle = [b"\x80\x04".to_vec(), text("module"), text(class), b"\x93)R.".to_vec()].concat();
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("m/data.pkl", stored).unwrap();
    zip.write_all(&pickle).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Names with what a terminal would obey: colours, cursor moves, line ends of all kinds, reordered text.
fn names() -> impl Strategy<Value = String> {
    let parts = [
        "\u{1b}[31m",
        "\n",
        "\r",
        "slackline: error: fake",
        "\u{7f}",
        "\u{9b}2J",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{85}",
    ];
    let long = Just("long".repeat(500));
    let part =
        prop_oneof![8 => prop::sample::select(parts.to_vec()).prop_map(str::to_owned), 2 => "[a-z. ]{1,5}", 1 => long];
    prop::collection::vec(part, 2..6).prop_map(|parts| format!("x{}", parts.concat()))
}

fn check(what: &str, run: &Run) {
    assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
    let text = format!("{}{}", run.stdout, run.stderr);
    let odd = text.chars().find(|&c| c != '\n' && Printable::is_unprintable(c));
    assert_eq!(odd, None, "{what}: {text}");
    assert!(!text.lines().any(|line| line.starts_with("slackline: error: fake")), "{what}: {text}");
    assert!(text.lines().all(|line| line.chars().count() < 10_000), "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn no_message_of_any_command_speaks_to_the_terminal(name in names()) {
        let place = Place::new(3);
        let write = |file: &str, bytes: &[u8]| fs::write(place.path(file), bytes).unwrap();
        let run = |words: &[&str]| {
            let run = place.run(words);
            check(words[0], &run);
            run
        };
        let refused = |words: &[&str]| assert_eq!(run(words).code, Some(1), "{words:?}");
        let import = |file: &str| refused(&["import", file, "--config", "config.json", "--output", "out"]);

        write("named.safetensors", &safetensors(&[(&name, &[1], &[0.0])]));
        import("named.safetensors");
        write("object.pt", &pickled_object(&name));
        import("object.pt");
        write("index.json", json!({ "weight_map": { &name: "absent", "t": &name } }).to_string().as_bytes());
        import("index.json");
        fs::create_dir(place.path("snapshot")).unwrap();
        let entry = json!({"type": "Tensor", "location": &name, "serializer": &name, "dtype": &name, "shape": [1]});
        let manifest = json!({ "manifest": { format!("0/{name}"): entry } });
        write("snapshot/.snapshot_metadata", manifest.to_string().as_bytes());
        import("snapshot");

        let mut config: Value = serde_json::from_str(&place.read("config.json")).unwrap();
        config[&name] = json!(1);
        write("more.json", config.to_string().as_bytes());
        let words = ["import", "model/model.safetensors.index.json", "--config", "more.json", "--output", "imported"];
        assert_eq!(run(&words).code, Some(0), "a key that is not used is listed");
        config["arch_interaction_op"] = json!(name);
        write("odd.json", config.to_string().as_bytes());
        for command in ["init", "generate"] {
            let rows: &[&str] = if command == "init" { &[] } else { &["--rows", "1"] };
            refused(&[&[command, "--config", "odd.json", "--output", "out"][..], rows].concat());
        }

        let mut written: Value = serde_json::from_str(&place.read("imported/config.json")).unwrap();
        written["slackline_version"] = json!(name);
        write("imported/config.json", written.to_string().as_bytes());
        assert_eq!(run(&["inspect", "imported"]).code, Some(0));
        let told = run(&["inspect", "imported", "--json"]);
        assert!(serde_json::from_str::<Value>(&told.stdout).unwrap()["written_by"].is_string());
        let mut index: Value = serde_json::from_str(&place.read("imported/model.safetensors.index.json")).unwrap();
        index["weight_map"]["emb_l.0.weight"] = json!(name);
        write("imported/model.safetensors.index.json", index.to_string().as_bytes());
        let convert = ["convert", "imported", "--output", "out"];
        for command in [&["inspect", "imported"][..], &["plan", "imported", "--ranks", "2"], &convert] {
            refused(command);
        }

        let infer = |input: &str, more: &[&str]| {
            let run = run(&[&["infer", "model", "--input", input, "--output", "out.csv"][..], more].concat());
            assert_ne!(run.code, Some(0), "{input}");
        };
        let quoted = name.replace(['\n', '\r'], " ");
        write("header.csv", place.read("rows.csv").replacen("I1", &quoted, 1).as_bytes());
        infer("header.csv", &[]);
        let rows = place.read("rows.csv");
        let (head, row) = rows.split_once('\n').unwrap();
        write("value.csv", format!("{head}\n{}", row.replacen(',', &format!(",{quoted}"), 3)).as_bytes());
        infer("value.csv", &["--ranks", "2", "--transport", "shm"]);
        refused(&["profile", "model", "--input", "value.csv", "--output", "profile.json"]);
        run(&["plan", "model", "--ranks", "2", "--output", "plan.json"]);
        let quoted = json!(name).to_string();
        let plan = place.read("plan.json").replace("emb_l.1.weight", quoted.trim_matches('"'));
        write("plan.json", plan.as_bytes());
        infer("rows.csv", &["--plan", "plan.json"]);

        // A file of that name, and an argument.
        let path: String = name.chars().filter(|&c| c != '/').take(60).collect();
        write(&path, b"neither a checkpoint nor rows");
        import(&path);
        refused(&["inspect", &path]);
        infer(&path, &[]);
        assert_eq!(run(&["plan", "model", "--ranks", "2", "--place", &name]).code, Some(2));
        assert_eq!(run(&["convert", "model", "--output", "out", "--rows", &name]).code, Some(2));
    }
}

#[test]
fn a_sum_that_the_wire_would_make_infinite_ends_all_ranks_with_table_and_sample() {
    let place = Place::empty();
    let config =
        r#"{"arch_sparse_feature_size": 2, "arch_embedding_size": "3-4", "arch_mlp_bot": "1-2", "arch_mlp_top": "1"}"#;
    fs::write(place.path("config.json"), config).unwrap();
    let table = [0.5, 1.0, 2.0, 60000.0, 70000.0, -1.0, 0.0, 0.0];
    let tensors: [(&str, &[usize], &[f32]); 6] = [
        ("emb_l.0.weight", &[3, 2], &[1.0; 6]),
        ("emb_l.1.weight", &[4, 2], &table),
        ("bot_l.0.weight", &[2, 1], &[1.0; 2]),
        ("bot_l.0.bias", &[2], &[0.0; 2]),
        ("top_l.0.weight", &[1, 5], &[0.0; 5]),
        ("top_l.0.bias", &[1], &[0.0]),
    ];
    fs::write(place.path("model.safetensors"), safetensors(&tensors)).unwrap();
    place.succeed(&["import", "model.safetensors", "--config", "config.json", "--output", "model"]);
    // Row 2 of the second table, which f16 does not hold, in sample 4.
    let rows: String = [0, 1, 3, 0, 2, 1].map(|row| format!("0.5,1,{row:x}\n")).concat();
    fs::write(place.path("rows.csv"), format!("I1,C1,C2\n{rows}")).unwrap();
    let infer = ["infer", "model", "--input", "rows.csv", "--output", "out.csv", "--batch", "2"];
    for ranks in [&["--ranks", "1"][..], &["--ranks", "2"], &["--ranks", "2", "--transport", "shm"]] {
        let words = [&infer[..], ranks].concat();
        place.succeed(&words);
        fs::remove_file(place.path("out.csv")).unwrap();
        place.succeed(&[&words[..], &["--wire", "bf16"]].concat());
        fs::remove_file(place.path("out.csv")).unwrap();
        let run = place.run(&[&words[..], &["--wire", "f16"]].concat());
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        let cause = "emb_l.1.weight, sample 4: column 0 of the pooled vector is 70000, too large for f16";
        assert!(run.stderr.contains(cause), "{}", run.stderr);
        assert!(!place.path("out.csv").exists());
    }
}
