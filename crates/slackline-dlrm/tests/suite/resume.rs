//! Imports that did not come to their end, and the same imports once more.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use proptest::prelude::*;
use slackline_dlrm::{DlrmError, ImportOptions, ImportReport, ModelDirectory, Result, import, write_synthetic};

use crate::common::golden;

/// The import of a model of 5 tables in 2 files, `every` bytes apart; it unwinds at call number `stop` of its progress, and
/// leaves what it leaves.
fn run(out: &Path, rows: &str, every: u64, stop: usize) -> std::thread::Result<Result<ImportReport>> {
    let mut options = ImportOptions::new(2);
    options.rows = vec![rows.parse().unwrap()];
    options.keep_every = every;
    let mut calls = 0;
    catch_unwind(AssertUnwindSafe(|| {
        import(&golden("dot.pt"), &golden("dot.json"), out, &options, &mut |_| {
            calls += 1;
            // Not a panic, which would be reported.
            if calls == stop {
                std::panic::resume_unwind(Box::new("stopped"));
            }
        })
    }))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn same(one: &Path, other: &Path) {
    assert_eq!(names(one), names(other));
    for name in names(one) {
        assert!(fs::read(one.join(&name)).unwrap() == fs::read(other.join(&name)).unwrap(), "{name} differs");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn an_import_that_is_stopped_anywhere_and_gone_on_with_is_the_same(
        stops in prop::collection::vec(1usize..25, 1..4),
        every in prop::sample::select(&[1u64, 100, 1 << 20][..]),
        rows in prop::sample::select(&["f32", "int8", "f16"][..]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let [whole, out] = ["whole", "model"].map(|name| folder.path().join(name));
        let expected = run(&whole, rows, every, 0).unwrap().unwrap();
        let mut ended = None;
        for stop in stops.into_iter().chain([0]) {
            ended = run(&out, rows, every, stop).ok().map(Result::unwrap);
            if ended.is_some() {
                break;
            }
            prop_assert!(!out.exists());
            prop_assert_eq!(names(folder.path()), [".model.partial", "whole"]);
        }
        prop_assert_eq!(ended.unwrap().written.losses, expected.written.losses);
        same(&whole, &out);
        prop_assert_eq!(names(folder.path()), ["model", "whole"]);
    }
}

/// A folder with an import that was stopped after its first file and some of the second.
fn stopped() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    assert!(run(&out, "f16", 1, 17).is_err());
    assert_eq!(names(&folder.path().join(".model.partial")), ["binding.json", "journal.json", "model"]);
    folder
}

#[test]
fn what_is_left_of_a_finished_directory_goes_with_the_next_attempt() {
    let folder = stopped();
    let [out, partial] = ["model", ".model.partial"].map(|name| folder.path().join(name));
    let refused = |partial_goes: bool| {
        let imported = run(&out, "f16", 1, 0).unwrap().unwrap_err();
        assert!(matches!(imported, DlrmError::Exists { .. }), "{imported}");
        assert_eq!(partial.exists(), !partial_goes);
    };
    // Somebody has put another directory there: what was imported may still be wanted.
    fs::create_dir(&out).unwrap();
    refused(false);
    // Killed after the directory has got its name.
    fs::remove_dir(&out).unwrap();
    fs::rename(partial.join("model"), &out).unwrap();
    refused(true);
    // The same where nothing is resumed.
    fs::create_dir(&partial).unwrap();
    let config =
        slackline_dlrm::ModelConfig::from_json(&fs::read_to_string(golden("dot.json")).unwrap()).unwrap().config;
    let written = write_synthetic(&config, 1, &out, 1, &mut |_| ());
    assert!(matches!(written, Err(DlrmError::Exists { .. })) && !partial.exists());
}

#[test]
fn what_was_left_is_not_trusted_if_it_was_altered() {
    let model = ".model.partial/model";
    let kept = names(&stopped().path().join(model));
    assert!(kept.iter().any(|name| name.ends_with(".safetensors") && name.starts_with("tables")), "{kept:?}");
    for name in kept.iter().filter(|name| name.starts_with("tables")).map(|name| format!("{model}/{name}")) {
        for damage in ["flip", "cut", "gone"] {
            let folder = stopped();
            let path = folder.path().join(&name);
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "flip" => bytes[4096] ^= 1,
                _ => bytes.truncate(4097),
            }
            if damage == "gone" {
                fs::remove_file(&path).unwrap()
            } else {
                fs::write(&path, bytes).unwrap()
            }
            let out = folder.path().join("model");
            let refused = run(&out, "f16", 1, 0).unwrap().unwrap_err();
            assert!(matches!(refused, DlrmError::Leftover { .. }), "{damage} {name}: {refused}");
            assert!(refused.to_string().contains("--restart") && !out.exists(), "{refused}");
            assert!(folder.path().join(".model.partial").exists(), "what is left is for the user to decide");
        }
    }
    let folder = stopped();
    let journal = folder.path().join(".model.partial/journal.json");
    let text = fs::read_to_string(&journal).unwrap().replacen('1', "2", 1);
    fs::write(&journal, text).unwrap();
    let refused = run(&folder.path().join("model"), "f16", 1, 0).unwrap().unwrap_err().to_string();
    assert!(refused.contains("journal.json was altered"), "{refused}");
}

#[test]
fn another_import_does_not_go_on_with_it_and_may_begin_anew() {
    let folder = stopped();
    let out = folder.path().join("model");
    let refused = run(&out, "int8", 1, 0).unwrap().unwrap_err();
    assert!(matches!(&refused, DlrmError::OtherImport { differs, .. } if differs.contains("rows was")), "{refused}");
    let mut options = ImportOptions::new(3);
    options.rows = vec!["f16".parse().unwrap()];
    let again = |options: &ImportOptions| import(&golden("dot.pt"), &golden("dot.json"), &out, options, &mut |_| ());
    assert!(again(&options).unwrap_err().to_string().contains("shards was 2 and is 3"));
    let copy = folder.path().join("copy.pt");
    fs::copy(golden("dot.pt"), &copy).unwrap();
    let refused = import(&copy, &golden("dot.json"), &out, &options, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("checkpoint was") && refused.contains("copy.pt"), "{refused}");
    options.restart = true;
    assert_eq!(again(&options).unwrap().written.resumed, 0);
    assert_eq!(names(folder.path()), ["copy.pt", "model"]);
    ModelDirectory::open(&out).unwrap().verify(&mut |_| ()).unwrap();
}

#[test]
fn a_checkpoint_that_was_written_anew_is_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let [checkpoint, out] = ["dot.pt", "model"].map(|name| folder.path().join(name));
    fs::copy(golden("dot.pt"), &checkpoint).unwrap();
    let options = ImportOptions::new(2);
    let once = |stop: bool| {
        catch_unwind(AssertUnwindSafe(|| {
            let progress = &mut |_: slackline_dlrm::Progress<'_>| {
                if stop {
                    std::panic::resume_unwind(Box::new(""))
                }
            };
            import(&checkpoint, &golden("dot.json"), &out, &options, progress)
        }))
    };
    assert!(once(true).is_err());
    let file = fs::File::options().write(true).open(&checkpoint).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let refused = once(false).unwrap().unwrap_err().to_string();
    assert!(refused.contains("files: ") && refused.contains("dot.pt was"), "{refused}");
}

#[test]
fn of_two_imports_at_a_time_the_second_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let mut second = None;
    let options = ImportOptions::default();
    let first = import(&golden("dot.pt"), &golden("dot.json"), &out, &options, &mut |_| {
        let other = || import(&golden("dot.pt"), &golden("dot.json"), &out, &options, &mut |_| ()).unwrap_err();
        second.get_or_insert_with(other);
    });
    first.unwrap();
    let second = second.unwrap();
    assert!(matches!(second, DlrmError::Locked { .. }), "{second}");
    assert_eq!(names(folder.path()), ["model"]);
}

#[test]
fn input_that_is_bad_leaves_nothing_even_when_an_import_was_left() {
    // A value that int8 rows cannot hold, in the last table.
    let folder = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "model"].map(|name| folder.path().join(name));
    let text = fs::read_to_string(golden("dot.json")).unwrap();
    write_synthetic(&slackline_dlrm::ModelConfig::from_json(&text).unwrap().config, 1, &source, 1, &mut |_| ())
        .unwrap();
    let file = source.join("tables-00001-of-00001.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let mut options = ImportOptions::default();
    options.rows = vec!["int8".parse().unwrap()];
    options.keep_every = 1;
    let index = source.join("model.safetensors.index.json");
    let refused = import(&index, &golden("dot.json"), &out, &options, &mut |_| ()).unwrap_err();
    assert!(matches!(refused, DlrmError::UnfitRow(_)), "{refused}");
    assert_eq!(names(folder.path()), ["source"]);
}
