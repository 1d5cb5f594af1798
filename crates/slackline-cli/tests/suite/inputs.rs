//! How inputs are read: transforms, formats, byte order marks, and positions in errors.

use std::fs::{self, File};
use std::io::Write;

use crate::common::Place;
use serde_json::Value;

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn report(place: &Place, text: &str) -> Value {
    serde_json::from_str(&place.succeed(&words(&format!("infer model --json --output out.csv {text}")))).unwrap()
}

#[test]
fn a_byte_order_mark_in_any_file_changes_nothing() {
    let place = Place::new(30);
    place.succeed(&words("profile model --input rows.csv --output profile.json"));
    place.succeed(&words("plan model --ranks 2 --profile profile.json --output plan.json"));
    place.succeed(&words("infer model --input rows.csv --output expected.csv --plan plan.json"));
    for name in ["rows.csv", "plan.json", "profile.json", "config.json", "model/config.json"] {
        fs::write(place.path(name), [b"\xef\xbb\xbf", &fs::read(place.path(name)).unwrap()[..]].concat()).unwrap();
    }
    fs::write(place.path("model/model.safetensors.index.json"), {
        let index = fs::read(place.path("model/model.safetensors.index.json")).unwrap();
        [b"\xef\xbb\xbf", &index[..]].concat()
    })
    .unwrap();
    place.succeed(&words("init --config config.json --seed 3 --output again"));
    place.succeed(&words("plan model --ranks 2 --profile profile.json --output plan.json"));
    place.succeed(&words("infer model --input rows.csv --output out.csv --plan plan.json"));
    assert_eq!(place.read("out.csv"), place.read("expected.csv"));
    for (name, command) in [
        ("plan.json", "infer model --input rows.csv --plan plan.json"),
        ("profile.json", "plan model --ranks 2 --profile profile.json"),
        ("config.json", "init --config config.json --output new"),
        ("rows.csv", "profile model --input rows.csv --output new.json"),
        ("rows.csv", "infer model --input rows.csv --format criteo-csv"),
    ] {
        let text = fs::read_to_string(place.path(name)).unwrap();
        let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(place.path(name), utf_16).unwrap();
        let line = place.fail(&words(command));
        assert!(line.contains(name) && line.contains("UTF-16"), "{line}");
        fs::write(place.path(name), text).unwrap();
    }
}

#[test]
fn what_a_model_was_trained_with_is_recorded_done_and_said() {
    let place = Place::new(40);
    fs::rename(place.path("model"), place.path("plain")).unwrap();
    place.succeed(&words("init --config config.json --seed 3 --output model --preprocessing torchrec"));
    let plain = |more: &str| {
        let text = place.succeed(&words(&format!("infer plain --input rows.csv --output plain.csv {more}")));
        (text, place.read("plain.csv"))
    };
    let (text, predictions) = plain("");
    assert!(text.contains("dense features: ln1p, ln(max(x, 0) + 1); categories: modulo, number modulo rows"), "{text}");
    assert!(text.contains("the model directory records no preprocessing"), "{text}");
    let said = report(&place, "--input rows.csv");
    assert_eq!((&said["dense_transform"], &said["sparse_transform"]), (&"ln3".into(), &"modulo-int32".into()));
    assert_eq!(said["preprocessing"], "ln3,modulo-int32");
    assert_ne!(place.read("out.csv"), predictions);
    let asked = plain("--dense-transform ln3 --sparse-transform modulo-int32").1;
    assert_eq!(place.read("out.csv"), asked);
    report(&place, "--input rows.csv --ranks 3 --transport shm");
    assert_eq!(place.read("out.csv"), asked);

    let contradicting =
        "infer model --input rows.csv --output out.csv --dense-transform ln1p --sparse-transform modulo";
    for ranks in ["", " --ranks 2", " --ranks 2 --transport shm"] {
        let line = place.fail(&words(&format!("{contradicting}{ranks}")));
        assert!(line.contains("--dense-transform ln1p") && line.contains("ln3,modulo-int32"), "{line}");
        place.succeed(&words(&format!("{contradicting} --override-preprocessing{ranks}")));
        assert_eq!(place.read("out.csv"), predictions);
    }
    let text = place.succeed(&words("inspect model"));
    assert!(text.contains("preprocessing ln3,modulo-int32"), "{text}");
    place.succeed(&words("convert model --output narrow --rows f16"));
    assert!(place.succeed(&words("inspect narrow")).contains("preprocessing ln3,modulo-int32"));
    let line = place.fail(&words("profile model --input rows.csv --dense-transform none --output profile.json"));
    assert!(line.contains("--override-preprocessing"), "{line}");
    let line = place.fail(&words("init --config narrow/config.json --preprocessing dlrm --output new"));
    assert!(line.contains("narrow/config.json") && line.contains("ln1p,dictionary was asked for"), "{line}");

    place.succeed(&words("init --config config.json --seed 3 --output mapped --preprocessing dlrm"));
    let line = place.fail(&words("infer mapped --input rows.csv"));
    assert!(line.contains("dictionary:PREFIX"), "{line}");
}

#[test]
fn help_names_formats_members_and_transforms() {
    let place = Place::empty();
    for command in ["infer", "profile", "convert-input"] {
        for help in ["--help", "-h"] {
            let text = place.succeed(&[command, help]);
            let words = "criteo-tsv criteo-csv npz multi-hot npy dlrm-npz dlrm-bin offsets_i indices_i weights_i X_int X_cat \
                         ln1p ln3 modulo modulo-int32 dictionary:PREFIX";
            for word in words.split(' ') {
                assert!(text.contains(word), "{word} in {command} {help}:\n{text}");
            }
        }
    }
}

/// A `.npy` array of this type.
fn npy(descr: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), bytes].concat()
}

fn archive(place: &Place, name: &str, members: &[(String, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(File::create(place.path(name)).unwrap());
    for (name, bytes) in members {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// Multi-hot members for the tables of the model, of two lookups each.
fn multi_hot(samples: usize, index: impl Fn(usize, usize) -> i32) -> Vec<(String, Vec<u8>)> {
    let member = |table: usize| {
        let numbers = (0..samples).flat_map(|sample| [index(table, sample), 0]);
        (
            table.to_string(),
            npy("<i4", &format!("{samples}, 2"), &numbers.flat_map(i32::to_le_bytes).collect::<Vec<_>>()),
        )
    };
    (0..5).map(member).collect()
}

#[test]
fn a_sample_is_counted_from_the_beginning_of_the_file_whatever_the_batch_the_command_and_the_rank() {
    let place = Place::new(60);
    let samples = 50;
    let dense = npy("<f4", &format!("{samples}, 4"), &vec![0; samples * 16]);
    // Sample 37 has an index too large in table 2: of bags, as the tables find it, and of a matrix, as the reader finds it.
    let bad = |table: usize, sample: usize| if (table, sample) == (2, 37) { 50 } else { 0 };
    archive(&place, "day_sparse_multi_hot.npz", &multi_hot(samples, bad));
    fs::write(place.path("day_dense.npy"), &dense).unwrap();
    let longs = |values: Vec<i64>| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        npy("<i8", &format!("{},", values.len()), &bytes)
    };
    let mut members = vec![("dense".to_owned(), dense)];
    for table in 0..5 {
        members.push((format!("offsets_{table}"), longs((0..samples as i64).map(|sample| 2 * sample).collect())));
        let indices = (0..samples).flat_map(|sample| [0, i64::from(bad(table, sample))]);
        members.push((format!("indices_{table}"), longs(indices.collect())));
    }
    archive(&place, "bags.npz", &members);
    // A label that is none, in row 37.
    let mut rows: Vec<String> = place.read("rows.csv").lines().map(str::to_owned).collect();
    rows[38] = rows[38].replacen(",0,", ",5,", 1).replacen(",1,", ",5,", 1);
    fs::write(place.path("labels.csv"), rows.join("\r\n")).unwrap();
    for (input, expected) in [
        (
            "bags.npz",
            "table emb_l.2.weight, sample 37: index 50 (number 1 of its bag) is outside of the table's 50 rows",
        ),
        ("day_sparse_multi_hot.npz", "day_sparse_multi_hot.npz: member 2: sample 37: 50 is not a row of its table"),
        ("labels.csv", "labels.csv:39: column Label: \"5\""),
    ] {
        let mut said = Vec::new();
        for batch in [1, 7, 64] {
            for ranks in [1, 3] {
                let command = format!("infer model --input {input} --batch {batch} --ranks {ranks} --output out.csv");
                said.push(place.fail(&words(&command)));
            }
            said.push(place.fail(&words(&format!("profile model --input {input} --batch {batch} --output p.json"))));
        }
        for line in &said {
            assert!(line.contains(expected), "{line}");
        }
        assert!(!place.path("out.csv").exists() && !place.path("p.json").exists());
    }
}

#[test]
fn a_multi_hot_day_is_read_with_the_files_beside_it_and_none_of_them_is_written_to() {
    let place = Place::new(1);
    archive(
        &place,
        "day_sparse_multi_hot.npz",
        &multi_hot(20, |table, sample| (sample % [300, 7, 50, 1, 120][table]) as i32),
    );
    let line = place.fail(&words("infer model --input day_sparse_multi_hot.npz"));
    assert!(line.contains("multi-hot") && line.contains("day_dense.npy") && line.contains("--dense-file"), "{line}");
    let numbers: Vec<u8> = (0..80).flat_map(|at| (at as f32 / 80.0).to_le_bytes()).collect();
    fs::write(place.path("day_dense.npy"), npy("<f4", "20, 4", &numbers)).unwrap();
    fs::write(place.path("day_labels.npy"), npy("<i4", "20, 1", &[1, 0, 0, 0].repeat(20))).unwrap();
    let said = report(&place, "--input day_sparse_multi_hot.npz --batch 7");
    assert_eq!((&said["format"], &said["rows"]), (&"multi-hot".into(), &20.into()));
    assert_eq!((&said["dense_transform"], &said["labelled"]), (&"none".into(), &true.into()));
    let predictions = place.read("out.csv");
    for more in ["--ranks 3", "--ranks 2 --transport shm"] {
        report(&place, &format!("--input day_sparse_multi_hot.npz {more}"));
        assert_eq!(place.read("out.csv"), predictions);
    }
    for output in ["day_sparse_multi_hot.npz", "day_dense.npy", "day_labels.npy"] {
        let before = fs::read(place.path(output)).unwrap();
        let run = place.run(&words(&format!("infer model --input day_sparse_multi_hot.npz --output {output}")));
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.contains(output) && run.stderr.contains("the same file"), "{}", run.stderr);
        assert!(fs::read(place.path(output)).unwrap() == before);
    }
    archive(&place, "odd.npz", &[("arr_0".to_owned(), npy("<i4", "1,", &[0; 4]))]);
    let line = place.fail(&words("infer model --input odd.npz"));
    assert!(line.contains("holds arr_0") && line.contains("offsets_0") && line.contains("multi-hot"), "{line}");
}

#[test]
fn predictions_of_a_converted_input_are_the_same_bits() {
    let place = Place::new(70);
    place.succeed(&words("infer model --input rows.csv --output expected.csv"));
    let expected = place.read("expected.csv");
    let mut from = "rows.csv";
    for (to, output) in
        [("npy", "day_sparse.npy"), ("multi-hot", "hot_sparse.npz"), ("npz", "bags.npz"), ("npy", "b_sparse.npy")]
    {
        let text = place.succeed(&words(&format!("convert-input model --input {from} --to {to} --output {output}")));
        assert!(text.starts_with(&format!("70 samples of {from}")) && text.contains(output), "{text}");
        let said = report(&place, &format!("--input {output} --batch 9 --ranks 2"));
        assert_eq!((&said["format"], &said["labelled"]), (&to.into(), &true.into()));
        assert_eq!(place.read("out.csv"), expected, "{to}");
        from = output;
    }
    for (command, words_said) in [
        ("--input rows.csv --to dlrm-bin --output day.bin", "dlrm-bin is read only; expected npz, multi-hot or npy"),
        ("--input rows.csv --to npy --output day.npy", "must have `sparse` in it"),
        (
            "--input day_sparse.npy --to multi-hot --output day_sparse.npz",
            "day_dense.npy: input and output are the same",
        ),
    ] {
        let line = place.fail(&words(&format!("convert-input model {command}")));
        assert!(line.contains(words_said), "{line}");
    }
    assert!(!place.names().iter().any(|name| name.contains("partial")), "{:?}", place.names());
}
