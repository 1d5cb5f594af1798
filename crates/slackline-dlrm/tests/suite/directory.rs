//! Model directories: what an import writes, what it refuses, and how a damaged directory is found out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
#[cfg(feature = "import")]
use slackline_dlrm::{Arguments, FORMAT_VERSION, ImportOptions, RowChoice, import};
use slackline_dlrm::{DirectoryDefect, DlrmError, ModelConfig, ModelDirectory, write_synthetic};
#[cfg(feature = "import")]
use slackline_embedding::RowFormat;
use slackline_embedding::{Load, ShardError, Verify};

use crate::common::golden;

const INDEX: &str = "model.safetensors.index.json";

fn config(name: &str) -> ModelConfig {
    ModelConfig::from_json(&fs::read_to_string(golden(name)).unwrap()).unwrap().config
}

/// A fresh directory with a model in two shard files.
fn synthetic() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    write_synthetic(&config("dot.json"), 1, &out, 2, &mut |_| ()).unwrap();
    (folder, out)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[cfg(feature = "import")]
#[test]
fn an_import_writes_the_files_of_the_field_and_reports_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let mut last = (0, 0);
    let report = import(&golden("dot.pt"), &golden("dot.json"), &out, &ImportOptions::new(2), &mut |progress| {
        assert!(progress.done >= last.0 && progress.done <= progress.total && !progress.tensor.is_empty());
        last = (progress.done, progress.total);
    })
    .unwrap();
    assert_eq!(last.0, last.1, "progress ends at the total");
    assert_eq!(names(folder.path()), ["model"], "nothing is left beside it");
    assert_eq!(
        names(&out),
        [
            "config.json",
            "dense.safetensors",
            "model.safetensors.index.json",
            "tables-00001-of-00002.safetensors",
            "tables-00002-of-00002.safetensors"
        ]
    );
    assert_eq!(report.tensors, 5 + 8);
    assert_eq!(report.unused_keys, ["mini_batch_size"]);
    assert!(report.unused_tensors.is_empty());
    assert!(report.skipped.iter().any(|name| name.contains("nepochs")), "{:?}", report.skipped);
    assert_eq!(report.written.table_bytes(), 51 * 4 * 4);
    assert_eq!(report.dense_values, (6 * 8 + 9 * 4) + (20 * 6 + 7));
    assert_eq!(report.written.files.len(), 2);
    // 29 rows are more than half of all 51.
    assert_eq!(report.written.files.iter().map(|(_, bytes)| *bytes).max(), Some(29 * 16));

    let written: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(written["format_version"], FORMAT_VERSION);
    assert_eq!(written["arch_mlp_top"], json!([19, 6, 1]), "the top MLP is written complete");
    let index: Value = serde_json::from_slice(&fs::read(out.join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 13);
    assert_eq!(index["weight_map"]["bot_l.0.bias"], "dense.safetensors");
    assert_eq!(index["metadata"]["total_size"], report.written.table_bytes() + 4 * report.dense_values as u64);
}

#[cfg(feature = "import")]
#[test]
fn what_was_imported_is_what_the_checkpoint_holds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    import(&golden("cat.pt"), &golden("cat.json"), &out, &ImportOptions::default(), &mut |_| ()).unwrap();
    let original = slackline_checkpoint::Checkpoint::open(golden("cat.pt")).unwrap();
    // Read by the index with a reader that knows nothing of model directories.
    let copy = slackline_checkpoint::Checkpoint::open(out.join(INDEX)).unwrap();
    assert_eq!(original.tensors().keys().collect::<Vec<_>>(), copy.tensors().keys().collect::<Vec<_>>());
    for (name, info) in original.tensors() {
        assert_eq!(copy.tensors()[name].shape, info.shape, "{name}");
        assert_eq!(copy.read_f32(name).unwrap(), original.read_f32(name).unwrap(), "{name}");
    }
}

#[test]
fn more_shards_than_tables_give_a_file_a_table_and_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("dot.json");
    let out = folder.path().join("many");
    write_synthetic(&config, 1, &out, 100, &mut |_| ()).unwrap();
    let directory = ModelDirectory::open(&out).unwrap();
    assert_eq!(directory.summary().files.len(), 5 + 1);
    let none = write_synthetic(&config, 1, &folder.path().join("none"), 0, &mut |_| ());
    assert!(matches!(none, Err(DlrmError::NoShards)));
    assert_eq!(names(folder.path()), ["many"]);
}

#[test]
fn models_with_compressed_tables_are_complete() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["qr_mult.json", "qr_concat.json", "md.json", "hashed.json"] {
        let out = folder.path().join(name);
        write_synthetic(&config(name), 1, &out, 2, &mut |_| ()).unwrap();
        ModelDirectory::open(&out).unwrap().verify(&mut |_| ()).unwrap();
    }
}

#[test]
fn equal_seeds_give_equal_files() {
    let (_one, first) = synthetic();
    let (_two, second) = synthetic();
    for name in names(&first) {
        assert!(fs::read(first.join(&name)).unwrap() == fs::read(second.join(&name)).unwrap(), "{name} differs");
    }
}

#[test]
fn what_exists_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("dot.json");
    let (directory, file, dangling) = ("directory", "file", "dangling");
    fs::create_dir(folder.path().join(directory)).unwrap();
    fs::write(folder.path().join(file), "mine").unwrap();
    symlink("nowhere", folder.path().join(dangling)).unwrap();
    for name in [directory, file, dangling] {
        let error = write_synthetic(&config, 1, &folder.path().join(name), 1, &mut |_| ()).unwrap_err();
        assert!(matches!(error, DlrmError::Exists { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(fs::read_to_string(folder.path().join(file)).unwrap(), "mine");
    assert_eq!(names(&folder.path().join(directory)), Vec::<String>::new());
}

#[test]
fn a_directory_that_appears_while_writing_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let error = write_synthetic(&config("dot.json"), 1, &out, 1, &mut |_| {
        let _ = fs::create_dir(&out);
    });
    assert!(matches!(error, Err(DlrmError::Exists { .. })));
    assert_eq!(names(&out), Vec::<String>::new());
    assert_eq!(names(folder.path()), ["model"], "the part that was written is gone");
}

#[test]
fn nothing_has_the_name_before_all_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    write_synthetic(&config("dot.json"), 1, &out, 2, &mut |_| assert!(!out.exists())).unwrap();
    assert!(out.exists());
}

#[cfg(feature = "import")]
#[test]
fn disagreements_of_checkpoint_and_configuration_name_tensor_and_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |change: &[(&str, Value)]| {
        let path = folder.path().join("arguments.json");
        fs::copy(golden("dot.json"), &path).unwrap();
        change_json(&path, |object| {
            for (key, value) in change {
                object[*key] = value.clone();
            }
        });
        let out = folder.path().join("model");
        let error = import(&golden("dot.pt"), &path, &out, &ImportOptions::default(), &mut |_| ()).unwrap_err();
        assert_eq!(names(folder.path()), ["arguments.json"], "nothing is left behind");
        error.to_string()
    };
    let text = refuse(&[("arch_embedding_size", json!([7, 3, 1, 11, 30]))]);
    assert!(text.contains("emb_l.4.weight") && text.contains("[29, 4]") && text.contains("[30, 4]"), "{text}");
    let text = refuse(&[("arch_mlp_bot", json!([5, 9, 4]))]);
    assert!(text.contains("arch_mlp_bot is [5, 9, 4]") && text.contains("widths [5, 8, 4]"), "{text}");
    let text = refuse(&[("arch_mlp_bot", json!([5, 8, 8, 4]))]);
    assert!(text.contains("arch_mlp_bot is [5, 8, 8, 4]") && text.contains("widths [5, 8, 4]"), "{text}");
    let text = refuse(&[("arch_mlp_bot", json!([5, 4])), ("arch_embedding_size", json!([7, 3, 1, 11, 29]))]);
    assert!(text.contains("arch_mlp_bot is [5, 4]"), "{text}");
    // Not merely left out: a model with fewer layers or tables would predict something else.
    let text = refuse(&[("arch_embedding_size", json!([7, 3, 1, 11])), ("arch_mlp_top", json!([19, 6, 1]))]);
    assert!(text.contains("5 tables (rows [7, 3, 1, 11, 29])") && text.contains("lists 4"), "{text}");
    let text = refuse(&[("arch_embedding_size", json!([7, 3, 1, 11, 29, 2])), ("arch_mlp_top", json!([6, 1]))]);
    assert!(text.contains("5 tables") && text.contains("lists 6 (rows [7, 3, 1, 11, 29, 2])"), "{text}");
    let text = refuse(&[("arch_sparse_feature_size", json!(8))]);
    assert!(text.contains("arguments.json") && text.contains("arch_mlp_bot"), "{text}");
    assert!(text.contains("have arch_sparse_feature_size 4, arch_embedding_size [7, 3, 1, 11, 29]"), "{text}");
    let text = refuse(&[
        ("arch_sparse_feature_size", json!(6)),
        ("arch_mlp_bot", json!([5, 8, 6])),
        ("arch_mlp_top", json!([6, 1])),
    ]);
    assert!(text.contains("shape [7, 4]; arch_sparse_feature_size requires [7, 6]"), "{text}");
    let text = refuse(&[("arch_interaction_op", json!("cat"))]);
    assert!(text.contains("arch_mlp_top") && text.contains("arch_interaction_op \"dot\" without"), "{text}");
}

#[cfg(feature = "import")]
#[test]
fn a_missing_tensor_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arguments.json");
    fs::copy(golden("dot.json"), &path).unwrap();
    // The layers that are there agree, and one more is asked for.
    change_json(&path, |object| object["arch_mlp_bot"] = json!([5, 8, 4, 4]));
    let out = folder.path().join("model");
    let error = import(&golden("dot.pt"), &path, &out, &ImportOptions::default(), &mut |_| ()).unwrap_err();
    assert!(matches!(&error, DlrmError::Widths { argument: "arch_mlp_bot", .. }), "{error}");
    assert!(error.to_string().contains("dot.pt") && error.to_string().contains("arch_mlp_bot"), "{error}");
    let (_folder, model) = synthetic();
    change_json(&model.join(INDEX), |index| {
        index["weight_map"].as_object_mut().unwrap().remove("top_l.2.bias");
    });
    let error = ModelDirectory::open(&model).unwrap_err().to_string();
    assert!(error.contains("top_l.2.bias") && error.contains("arch_mlp_top"), "{error}");
}

#[test]
fn planner_costs_tables_and_summary_are_those_of_the_model() {
    let (_folder, out) = synthetic();
    let directory = ModelDirectory::open(&out).unwrap();
    let costs = directory.tables();
    assert_eq!(costs.iter().map(|cost| cost.rows).collect::<Vec<_>>(), [7, 3, 1, 11, 29]);
    assert!(costs.iter().all(|cost| cost.row_bytes == 16 && cost.dim == 4 && cost.lookups_per_sample == 1.0));
    let tables = directory.load_tables(&[4, 1], Load::Mapped, Verify::HeaderOnly).unwrap();
    assert_eq!(tables.iter().map(|table| table.rows()).collect::<Vec<_>>(), [29, 3]);
    assert_eq!(tables[0].name(), "emb_l.4.weight");
    let error = directory.load_tables(&[5], Load::Mapped, Verify::HeaderOnly).unwrap_err().to_string();
    assert_eq!(error, "there is no table 5: the model has 5 tables");
    let text = directory.summary().to_string();
    for part in ["[5, 8, 4]", "[19, 6, 1]", "51 rows", "816 bytes", "emb_l.3.weight", "dense.safetensors", "0.1.0"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let mut seen = Vec::new();
    directory.verify(&mut |progress| seen.push((progress.done, progress.total))).unwrap();
    assert_eq!(seen.last().map(|(done, _)| *done), Some(816 + 4 * 211));
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 == pair[1].1));
}

#[test]
fn names_in_the_index_cannot_lead_out_of_the_directory() {
    for name in ["../model/dense.safetensors", "/etc/passwd", "..", ".", "", "./dense.safetensors", "a/b", "a\0b"] {
        let (_folder, out) = synthetic();
        change_json(&out.join(INDEX), |index| index["weight_map"]["bot_l.0.bias"] = json!(name));
        let error = ModelDirectory::open(&out).unwrap_err();
        let DlrmError::Corrupt { file, defect: DirectoryDefect::FileName { tensor, name: found } } = &error else {
            panic!("{name:?}: {error}");
        };
        assert!(file.ends_with(INDEX) && tensor == "bot_l.0.bias" && found == name);
    }
}

#[test]
fn links_may_stay_inside_but_not_lead_out() {
    let (folder, out) = synthetic();
    let dense = out.join("dense.safetensors");
    fs::rename(&dense, out.join("moved.safetensors")).unwrap();
    symlink("moved.safetensors", &dense).unwrap();
    ModelDirectory::open(&out).unwrap();
    fs::rename(out.join("moved.safetensors"), folder.path().join("outside.safetensors")).unwrap();
    fs::remove_file(&dense).unwrap();
    symlink("../outside.safetensors", &dense).unwrap();
    let error = ModelDirectory::open(&out).unwrap_err();
    assert!(matches!(error, DlrmError::Corrupt { defect: DirectoryDefect::Escapes { .. }, .. }), "{error}");
    // The directory itself may be reached by a link.
    fs::remove_file(&dense).unwrap();
    fs::rename(folder.path().join("outside.safetensors"), &dense).unwrap();
    symlink(&out, folder.path().join("link")).unwrap();
    ModelDirectory::open(folder.path().join("link")).unwrap();
}

#[test]
fn missing_and_odd_files_are_named() {
    let (_folder, out) = synthetic();
    let shard = out.join("tables-00002-of-00002.safetensors");
    fs::remove_file(&shard).unwrap();
    let error = ModelDirectory::open(&out).unwrap_err();
    assert!(
        matches!(&error, DlrmError::Corrupt { file, defect: DirectoryDefect::Missing } if *file == shard),
        "{error}"
    );
    fs::create_dir(&shard).unwrap();
    let error = ModelDirectory::open(&out).unwrap_err();
    assert!(matches!(error, DlrmError::Corrupt { defect: DirectoryDefect::NotAFile, .. }), "{error}");
    let error = ModelDirectory::open(out.join("elsewhere")).unwrap_err().to_string();
    assert!(error.contains("elsewhere"), "{error}");
}

#[test]
fn another_version_is_refused() {
    for (version, shown) in [(json!(2), "2"), (json!("1"), "\"1\""), (Value::Null, "missing")] {
        let (_folder, out) = synthetic();
        change_json(&out.join("config.json"), |config| config["format_version"] = version);
        let error = ModelDirectory::open(&out).unwrap_err();
        assert!(matches!(error, DlrmError::Corrupt { defect: DirectoryDefect::Version { .. }, .. }));
        assert!(error.to_string().contains(&format!("format_version {shown};")), "{error}");
    }
}

#[test]
fn a_configuration_that_does_not_fit_the_weights_is_refused() {
    let (_folder, out) = synthetic();
    change_json(&out.join("config.json"), |config| config["arch_mlp_bot"] = json!([6, 8, 4]));
    let error = ModelDirectory::open(&out).unwrap_err().to_string();
    assert!(error.contains("bot_l.0.weight") && error.contains("[8, 5]") && error.contains("[8, 6]"), "{error}");
    let (_folder, out) = synthetic();
    change_json(&out.join("config.json"), |config| config["arch_embedding_size"] = json!([7, 3, 1, 11, 28]));
    let error = ModelDirectory::open(&out).unwrap_err().to_string();
    assert!(error.contains("emb_l.4.weight") && error.contains("[29, 4]") && error.contains("[28, 4]"), "{error}");
}

#[test]
fn every_altered_weight_is_found() {
    let (_folder, out) = synthetic();
    let dense = out.join("dense.safetensors");
    let whole = fs::read(&dense).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in (header..whole.len()).step_by(97) {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(&dense, altered).unwrap();
        let error = ModelDirectory::open(&out).unwrap().load_dense().unwrap_err();
        assert!(matches!(error, DlrmError::Corrupt { defect: DirectoryDefect::Checksum { .. }, .. }), "{error}");
    }
    fs::write(&dense, &whole).unwrap();
    let shard = out.join("tables-00001-of-00002.safetensors");
    let mut altered = fs::read(&shard).unwrap();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&shard, altered).unwrap();
    let directory = ModelDirectory::open(&out).unwrap();
    let error = directory.verify(&mut |_| ()).unwrap_err();
    assert!(matches!(error, DlrmError::Shard(ShardError::Corrupt { .. })), "{error}");
    let all = [0, 1, 2, 3, 4];
    assert!(directory.load_tables(&all, Load::Mapped, Verify::Checksums).is_err());
    assert!(directory.load_tables(&all, Load::Mapped, Verify::HeaderOnly).is_ok(), "nothing was asked for");
}

#[test]
fn damaged_headers_are_errors_and_never_panics() {
    let (_folder, out) = synthetic();
    for name in names(&out) {
        let path = out.join(&name);
        let whole = fs::read(&path).unwrap();
        // Many lengths up to a few hundred, then some more, and garbage at many places of the beginning.
        for length in (0..whole.len().min(300)).step_by(3).chain((300..whole.len()).step_by(613)) {
            fs::write(&path, &whole[..length]).unwrap();
            // The last byte of a JSON file is its line end.
            if length + 1 < whole.len() {
                assert!(ModelDirectory::open(&out).is_err(), "{name} cut to {length} bytes");
            }
        }
        for at in (0..whole.len().min(2000)).step_by(11) {
            let mut altered = whole.clone();
            altered[at] = altered[at].wrapping_add(0x55);
            fs::write(&path, altered).unwrap();
            let _ = ModelDirectory::open(&out).and_then(|directory| directory.verify(&mut |_| ()));
        }
        fs::write(&path, &whole).unwrap();
    }
    ModelDirectory::open(&out).unwrap().verify(&mut |_| ()).unwrap();
}

/// The whole program is killed while it imports; run by itself by the test below.
#[test]
#[ignore = "a part of an_import_that_is_killed_leaves_no_directory"]
fn import_until_killed() {
    let Some(out) = std::env::var_os("SLACKLINE_TEST_OUT") else { return };
    write_synthetic(&config("dot.json"), 1, Path::new(&out), 2, &mut |progress| {
        if progress.tensor.starts_with("emb_l") {
            println!("in the middle");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    })
    .unwrap();
}

#[test]
fn an_import_that_is_killed_leaves_no_directory() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "directory::import_until_killed", "--nocapture"])
        .env("SLACKLINE_TEST_OUT", &out)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("in the middle")), "the import did not begin");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists());
    // One name, which the next one takes over.
    assert_eq!(names(folder.path()), [".model.partial"]);
    // While it writes, another is refused.
    let mut refused = 0;
    write_synthetic(&config("dot.json"), 1, &out, 2, &mut |_| {
        let error = write_synthetic(&config("dot.json"), 1, &out, 2, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(".model.partial: locked by another run"), "{error}");
        refused += 1;
    })
    .unwrap();
    assert!(refused > 0);
    ModelDirectory::open(&out).unwrap().verify(&mut |_| ()).unwrap();
    assert_eq!(names(folder.path()), ["model"]);
    // What an unfinished import has left is not thrown away by another command.
    let partial = folder.path().join(".other.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("binding.json"), "{}").unwrap();
    let error = write_synthetic(&config("dot.json"), 1, &folder.path().join("other"), 2, &mut |_| ()).unwrap_err();
    let error = format!("{error} {:?}", std::error::Error::source(&error));
    assert!(error.contains("binding.json") && error.contains("another command left"), "{error}");
    assert_eq!(names(&partial), ["binding.json"]);
}

#[cfg(feature = "import")]
#[test]
fn rows_are_kept_in_the_formats_that_are_chosen_and_what_they_lose_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let [full, narrow, back] = ["full", "narrow", "back"].map(|name| folder.path().join(name));
    let config = ModelConfig::new(Arguments {
        sparse_feature_size: 4,
        embedding_size: vec![50, 20, 30],
        mlp_bot: vec![3, 4],
        mlp_top: vec![8, 1],
        ..Arguments::default()
    })
    .unwrap();
    write_synthetic(&config, 1, &full, 2, &mut |_| {}).unwrap();
    let choices: Vec<RowChoice> =
        ["int8", "emb_l.1.*=f16", "emb_l.2.*=int4"].map(|choice| choice.parse().unwrap()).into();
    let written = slackline_dlrm::convert(&full, &narrow, &choices, 1, &mut |_| {}).unwrap();
    assert_eq!(written.table_bytes(), 50 * (4 + 8) + 20 * 8 + 30 * (2 + 4));
    assert_eq!(written.losses.len(), 3);
    for (loss, format) in written.losses.iter().zip([RowFormat::F16, RowFormat::Int8, RowFormat::Int4]) {
        // In the order of the file: rows of larger powers of two first.
        let bound = if format == RowFormat::Int4 { 0.05 } else { 5e-3 };
        assert!(loss.largest < bound && loss.rms <= loss.largest && loss.largest > 0.0, "{loss:?}");
    }

    // Predictions stay close, and rows that keep their format are copied byte for byte.
    let formats = |path| {
        let tables = ModelDirectory::open(path).unwrap().summary().tables;
        tables.into_iter().map(|table| (table.tensor, table.row_format, table.xxh3)).collect::<Vec<_>>()
    };
    let again = slackline_dlrm::convert(&narrow, &back, &[], 3, &mut |_| {}).unwrap();
    assert_eq!((again.files.len(), again.losses.len()), (3, 0));
    assert_eq!(formats(&narrow), formats(&back));
    assert_eq!(
        formats(&narrow).iter().map(|(_, format, _)| *format).collect::<Vec<_>>(),
        [RowFormat::Int8, RowFormat::F16, RowFormat::Int4]
    );

    let error =
        slackline_dlrm::convert(&full, &folder.path().join("x"), &["emb.9=f16".parse().unwrap()], 1, &mut |_| {});
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "row format emb.9=f16: no table has such a name; tables are named emb_l.0.weight, emb_l.1.weight and so on"
    );
    assert!(!folder.path().join("x").exists());
}
