//! Directories of torchsnapshot: real ones (see `golden/make_snapshots.py`), and truncated, altered and malicious ones.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{golden, read_all};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use slackline_checkpoint::{Checkpoint, CheckpointError, Corrupt, DType, Format};

const TABLE: &str = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_";

/// Every tensor that the safetensors file lists is in the checkpoint, in the same shape and with the same bytes, however
/// it is read.
fn holds(checkpoint: &Checkpoint, expected: &str) {
    let bytes = fs::read(golden(expected)).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert!(expected.len() > 4);
    for (name, tensor) in expected.tensors() {
        let info = &checkpoint.tensors()[&name];
        assert_eq!(info.shape, tensor.shape(), "{name}");
        assert_eq!(checkpoint.read_bytes(&name).unwrap(), tensor.data(), "{name}");
        let rows = info.shape.first().copied().unwrap_or(0);
        for first in 1..=rows {
            let mut part = Vec::new();
            let sink = |bytes: &[u8]| {
                part.extend_from_slice(bytes);
                Ok::<(), CheckpointError>(())
            };
            checkpoint.stream_from(&name, first, 6, sink).unwrap();
            assert_eq!(part, &tensor.data()[tensor.data().len() / rows * first..], "{name} from {first} on");
        }
    }
}

/// A copy of a golden snapshot that may be changed.
fn copied(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() { copy(&entry.path(), &to) } else { fs::copy(entry.path(), to).map(drop).unwrap() }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(name), folder.path());
    folder
}

fn change(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join(".snapshot_metadata");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest["manifest"]);
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn parts_of_all_ranks_are_put_together() {
    let checkpoint = Checkpoint::open(golden("snapshot_ranks")).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchSnapshot);
    holds(&checkpoint, "snapshot.safetensors");
    let names: Vec<&str> = checkpoint.tensors().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    // What was saved with torch.save for its type is listed by the name that it had, `/`, `%` and all.
    let odd = &checkpoint.tensors()["over_arch/odd%name"];
    assert_eq!((&odd.dtype, &odd.shape[..]), (&DType::Other("torch.complex64".to_owned()), &[2, 3][..]));
    assert!(matches!(checkpoint.read_bytes("over_arch/odd%name"), Err(CheckpointError::WrongType { .. })));
    assert_eq!(checkpoint.skipped(), ["optimizer", "progress"]);
    // The manifest may be named as well.
    let same = Checkpoint::open(golden("snapshot_ranks").join(".snapshot_metadata")).unwrap();
    assert_eq!(same.tensors(), checkpoint.tensors());
    // The manifest, 8 parts of tables, 5 chunks and a bias.
    assert_eq!(checkpoint.files().count(), 1 + 9 + 5 + 1);
}

#[test]
fn tensors_that_share_a_file_are_found_in_it_by_a_manifest_in_yaml() {
    let checkpoint = Checkpoint::open(golden("snapshot_batched")).unwrap();
    holds(&checkpoint, "snapshot_batched.safetensors");
    assert_eq!(checkpoint.tensors().len(), 14);
    assert_eq!(checkpoint.read_f32("net.scalar").unwrap(), [2.5]);
    assert_eq!(checkpoint.skipped(), ["net.lr (float)", "net.name (str)"]);
    assert_eq!(checkpoint.files().count(), 2);
}

#[test]
fn a_byte_order_mark_changes_no_manifest_and_no_index() {
    let marked = |file: &Path| {
        fs::write(file, [b"\xef\xbb\xbf", &fs::read(file).unwrap()[..]].concat()).unwrap();
    };
    for name in ["snapshot_ranks", "snapshot_batched"] {
        let folder = copied(name);
        marked(&folder.path().join(".snapshot_metadata"));
        let found = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(found.tensors(), Checkpoint::open(golden(name)).unwrap().tensors(), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "safetensors" || ending == "json") {
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let index = folder.path().join("model.safetensors.index.json");
    marked(&index);
    let expected = Checkpoint::open(golden("model.safetensors.index.json")).unwrap();
    assert_eq!(Checkpoint::open(index).unwrap().tensors(), expected.tensors());
}

#[test]
fn without_a_model_every_tensor_is_taken_and_copies_of_ranks_are_told() {
    let folder = copied("snapshot_ranks");
    change(folder.path(), |manifest| {
        let entries = manifest.as_object_mut().unwrap();
        let renamed = |(path, entry): (&String, &Value)| (path.replace("/model", "/net"), entry.clone());
        *entries = entries.iter().map(renamed).collect();
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors().len(), 7);
    assert_eq!(checkpoint.read_f32("optimizer.momentum").unwrap(), [0.0; 3], "the lowest rank's");
    let skipped = checkpoint.skipped();
    assert_eq!(skipped, ["progress.seen (builtins.set)", "progress.steps (int)", "rank 1's own copies of 1 tensors"]);
}

#[test]
fn small_tensors_of_torch_save_are_read() {
    let folder = copied("snapshot_ranks");
    fs::copy(golden("fields.pt"), folder.path().join("many.pt")).unwrap();
    let entry = |location: &str| {
        json!({"type": "Tensor", "location": location, "serializer": "torch_save", "dtype": "torch.float32",
               "shape": [3], "replicated": false, "byte_range": null})
    };
    // A tensor alone, written here as torch.save writes it.
    let alone = crate::common::Pickler::new().tensor(3, 0, &[3], &[1]).stop();
    fs::write(folder.path().join("one.pt"), crate::common::torch_zip(&alone, &[1.0, 2.0, 3.0])).unwrap();
    change(folder.path(), |manifest| manifest["0/model/saved"] = entry("one.pt"));
    assert_eq!(Checkpoint::open(folder.path()).unwrap().read_f32("saved").unwrap(), [1.0, 2.0, 3.0]);
    for (location, said) in [("many.pt", "is not one tensor"), ("0/optimizer/momentum", "not a checkpoint")] {
        change(folder.path(), |manifest| manifest["0/model/saved"] = entry(location));
        let refused = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    change(folder.path(), |manifest| {
        manifest["0/model/saved"] = entry("one.pt");
        manifest["0/model/saved"]["byte_range"] = json!([0, 12]);
    });
    assert!(matches!(Checkpoint::open(folder.path()), Err(CheckpointError::Unsupported { .. })));
}

#[test]
fn a_dtensor_that_several_ranks_hold_is_taken_once() {
    let folder = copied("snapshot_ranks");
    change(folder.path(), |manifest| {
        for rank in 0..2 {
            let name = format!("{rank}/model/{TABLE}2.weight");
            manifest[&name] = manifest[format!("1/model/{TABLE}2.weight")].clone();
            manifest[&name]["type"] = "DTensor".into();
            manifest[&name]["mesh"] = json!([0, 1]);
            manifest[&name]["dim_map"] = json!([[-1], [-1]]);
            manifest[&name]["shards"][0]["tensor"]["replicated"] = true.into();
        }
    });
    holds(&Checkpoint::open(folder.path()).unwrap(), "snapshot.safetensors");
}

#[test]
fn holes_overlaps_and_contradictions_are_refused_by_name() {
    let rows = |rank: usize| format!("{rank}/model/{TABLE}0.weight");
    let columns = |rank: usize| format!("{rank}/model/{TABLE}1.weight");
    type Change = Box<dyn Fn(&mut Value)>;
    let cases: Vec<(&str, Change)> = vec![
        ("hole", Box::new(move |m| drop(m[rows(0)]["shards"].as_array_mut().unwrap().remove(0)))),
        ("overlap", Box::new(move |m| m[rows(0)]["shards"][1]["offsets"] = json!([10, 0]))),
        ("overlap", Box::new(move |m| m[columns(1)]["shards"][0]["offsets"] = json!([0, 4]))),
        ("hole", Box::new(move |m| m[columns(1)]["shards"][1]["offsets"] = json!([6, 5]))),
        ("different numbers of dimensions", Box::new(move |m| m[columns(1)]["shards"][1]["offsets"] = json!([5]))),
        ("is a tensor of", Box::new(move |m| m[columns(1)]["shards"][1]["sizes"] = json!([3, 1]))),
        (
            "bytes, not 0..",
            Box::new(move |m| {
                m[columns(1)]["shards"][1]["sizes"] = json!([1, 2]);
                m[columns(1)]["shards"][1]["tensor"]["shape"] = json!([1, 2]);
            }),
        ),
        ("torch.float64", Box::new(move |m| m[rows(1)]["shards"][0]["tensor"]["dtype"] = "torch.float64".into())),
        ("begins at", Box::new(move |m| m[rows(1)]["shards"][0]["offsets"] = json!([u64::MAX, 0]))),
        ("serializer", Box::new(move |m| m[rows(1)]["shards"][0]["tensor"]["serializer"] = "zstd".into())),
        ("lacks shards", Box::new(move |m| drop(m[rows(1)].as_object_mut().unwrap().remove("shards")))),
        ("on another", Box::new(move |m| m[rows(1)]["type"] = "Tensor".into())),
        ("no rank has", Box::new(move |m| (0..2).for_each(|rank| m[columns(rank)]["shards"] = json!([])))),
    ];
    for (number, (said, make)) in cases.into_iter().enumerate() {
        let folder = copied("snapshot_ranks");
        change(folder.path(), make);
        let refused = Checkpoint::open(folder.path()).expect_err(said).to_string();
        assert!(refused.contains(said) && refused.contains("t_cat_"), "case {number}: {refused}");
    }
}

#[test]
fn nothing_outside_of_the_snapshot_is_read() {
    let folder = copied("snapshot_ranks");
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, [0; 36]).unwrap();
    symlink(&secret, folder.path().join("link")).unwrap();
    symlink(outside.path(), folder.path().join("folder")).unwrap();
    let bias = "0/model/dense_arch.model._mlp.0._linear.bias";
    let place = |location: &str| {
        change(folder.path(), |manifest| manifest[bias]["location"] = location.into());
        Checkpoint::open(folder.path())
    };
    let dotted = format!("0/../../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    for location in [&dotted, secret.to_str().unwrap(), "link", "folder/secret", "", ".", "0/./optimizer/momentum/.."] {
        let refused = place(location).unwrap_err();
        let escapes = |cause: &Corrupt| matches!(cause, Corrupt::Escapes { location: named } if named == location);
        assert!(matches!(&refused, CheckpointError::Corrupt { cause, .. } if escapes(cause)), "{location}: {refused}");
    }
    let missing = place("0/nowhere").unwrap_err().to_string();
    assert!(missing.contains("0/nowhere"), "{missing}");
    assert!(place("0").unwrap_err().to_string().contains("not a regular file"));
    // Within the snapshot, links are as good as files.
    symlink("replicated/model/dense_arch.model._mlp.0._linear.bias", folder.path().join("inner")).unwrap();
    assert_eq!(place("inner").unwrap().tensors()["dense_arch.model._mlp.0._linear.bias"].shape, [9]);
}

#[test]
fn files_that_are_short_long_or_replaced_are_refused() {
    let folder = copied("snapshot_ranks");
    let table = format!("{TABLE}0.weight");
    let path = folder.path().join(format!("sharded/model/{table}_4_0"));
    let whole = fs::read(&path).unwrap();
    for bytes in [&whole[1..], &[&whole[..], &[0]].concat(), &[]] {
        fs::write(&path, bytes).unwrap();
        let refused = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("weight_4_0") && refused.contains("48 bytes"), "{refused}");
    }
    fs::write(&path, &whole).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    checkpoint.read_f32(&table).unwrap();
    fs::write(folder.path().join("other"), &whole).unwrap();
    fs::rename(folder.path().join("other"), &path).unwrap();
    let refused = checkpoint.read_f32(&table).unwrap_err();
    assert!(matches!(refused, CheckpointError::Corrupt { cause: Corrupt::Replaced, .. }), "{refused}");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(7).unwrap();
    assert!(checkpoint.read_f32(&table).is_err());

    let batched = copied("snapshot_batched");
    for entry in fs::read_dir(batched.path().join("batched")).unwrap() {
        File::options().write(true).open(entry.unwrap().path()).unwrap().set_len(500).unwrap();
    }
    let refused = Checkpoint::open(batched.path()).unwrap_err();
    let truncated = |cause: &Corrupt| matches!(cause, Corrupt::Truncated { .. });
    assert!(matches!(&refused, CheckpointError::Corrupt { cause, .. } if truncated(cause)), "{refused}");
}

#[test]
fn other_directories_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        Checkpoint::open(folder.path()),
        Err(CheckpointError::Foreign { kind: "an empty directory", .. })
    ));
    fs::write(folder.path().join(".metadata"), b"\x80\x02.").unwrap();
    let refused = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("torch.distributed.checkpoint"), "{refused}");
}

#[test]
fn manifests_that_are_no_manifests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = "{type: Tensor, location: a, serializer: buffer_protocol, dtype: torch.float32, shape: [1]}";
    for (text, said) in [
        (String::new(), "manifest"),
        ("- 1\n- 2\n".to_owned(), "manifest"),
        ("version: 1\n".to_owned(), "no `manifest`"),
        ("manifest: {}\n".to_owned(), "no tensor"),
        (format!("manifest: {{model/x: {tensor}}}\n"), "does not begin with a rank"),
        (format!("manifest: {{0/x: {tensor}, 0/x: {tensor}}}\n"), "0/x"),
        (format!("manifest: {{0/x: {tensor}}}\nmanifest: {{}}\n"), "manifest"),
        ("manifest: {0/x: {type: Tensor, shape: [-1]}}\n".to_owned(), "0/x"),
        ("manifest: {0/x: {type: Tensor, byte_range: [1]}}\n".to_owned(), "0/x"),
        (format!("manifest: &a {{0/x: {tensor}, 1/x: *a}}\n"), "manifest"),
        (format!("manifest: {{0/x: {{type: list, shape: {}}}}}\n", "[".repeat(200)), "manifest"),
    ] {
        fs::write(folder.path().join(".snapshot_metadata"), &text).unwrap();
        let refused = Checkpoint::open(folder.path()).expect_err(&text).to_string();
        assert!(refused.contains(said) && refused.lines().count() == 1, "{text}: {refused}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn an_altered_or_truncated_manifest_is_refused_or_read(
        name in prop::sample::select(&["snapshot_ranks", "snapshot_batched"][..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), token()), 1..6),
        end in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let folder = golden(name);
        let mut bytes = fs::read(folder.join(".snapshot_metadata")).unwrap();
        for (at, token) in changes {
            let at = at.index(bytes.len());
            let to = (at + token.len()).min(bytes.len());
            bytes.splice(at..to, token);
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        // Beside links to the files, so that what is still sound is read.
        let altered = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != ".snapshot_metadata" {
                let to = altered.path().join(entry.file_name());
                fs::create_dir(&to).unwrap();
                link_all(&entry.path(), &to);
            }
        }
        fs::write(altered.path().join(".snapshot_metadata"), bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(altered.path()) {
            read_all(&checkpoint);
        }
    }
}

fn link_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&to).unwrap();
            link_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// What is put into a manifest: a byte, or something that means something there.
fn token() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "-1",
        "0",
        "9",
        "18446744073709551615",
        "Tensor",
        "ShardedTensor",
        "torch_save",
        "torch.float64",
        "null",
        "[]",
        "{}",
        "..",
        "/",
        "&a ",
        "*a ",
        "!!binary ",
        "\n",
        ": ",
        "- ",
        "\"",
        "1/model/x",
        "[0, 0, 0]",
    ];
    prop_oneof![
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        2 => prop::sample::select(words.map(str::as_bytes).map(<[u8]>::to_vec).to_vec()),
    ]
}
