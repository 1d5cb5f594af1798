//! Every file of a model directory, damaged in every way: an error that names the file, before any weight is used.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Map, Value, json};
use slackline_dlrm::{Arguments, DirectoryDefect, DlrmError, ModelConfig, ModelDirectory, write_synthetic};
use slackline_embedding::{Load, ShardDefect, ShardError, Verify};

use crate::common::golden;

const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const DENSE: &str = "dense.safetensors";
const SHARD: &str = "tables-00002-of-00002.safetensors";
const FILES: [&str; 4] = [CONFIG, INDEX, DENSE, SHARD];

/// What is done to header and data of the dense file.
type Change<'a> = dyn Fn(&mut Map<String, Value>, &mut Vec<u8>) + 'a;

/// A sound model directory in a folder of its own.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let model = Model { folder: tempfile::tempdir().unwrap() };
        let config = ModelConfig::from_json(&fs::read_to_string(golden("dot.json")).unwrap()).unwrap().config;
        write_synthetic(&config, 1, &model.path(), 2, &mut |_| ()).unwrap();
        model
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    fn change_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value: Value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.file(name), value.to_string()).unwrap();
    }

    /// Header and data of the dense file.
    fn dense(&self) -> (Map<String, Value>, Vec<u8>) {
        let bytes = fs::read(self.file(DENSE)).unwrap();
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        (serde_json::from_slice(header).unwrap(), data.to_vec())
    }

    fn write_dense(&self, header: &str, data: &[u8]) {
        let length = (header.len() as u64).to_le_bytes();
        fs::write(self.file(DENSE), [&length[..], header.as_bytes(), data].concat()).unwrap();
    }

    /// All that comes before the first prediction; the error must name the file.
    #[track_caller]
    fn refused(&self, name: &str) -> DlrmError {
        let error = open(&self.path()).expect_err("the damage was not seen");
        let path = self.file(name);
        assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{name} is not named: {error}");
        error
    }

    /// The same for damage that is told as a defect of the directory.
    #[track_caller]
    fn defect(&self, name: &str) -> DirectoryDefect {
        match self.refused(name) {
            DlrmError::Corrupt { defect, .. } => defect,
            error => panic!("not seen as damage of the file: {error}"),
        }
    }
}

fn open(path: &Path) -> Result<(), DlrmError> {
    let directory = ModelDirectory::open(path)?;
    directory.load_dense()?;
    let tables: Vec<usize> = (0..directory.config().tables()).collect();
    for way in Load::ALL {
        directory.load_tables(&tables, way, Verify::Checksums)?;
    }
    Ok(())
}

#[test]
fn the_model_is_sound_before_it_is_damaged() {
    let model = Model::new();
    open(&model.path()).unwrap();
    let (header, data) = model.dense();
    model.write_dense(&Value::Object(header).to_string(), &data);
    open(&model.path()).expect("the header is sound in another order and without padding, too");
}

#[test]
fn missing_files_links_out_pipes_and_folders_are_told_whatever_file_it_is() {
    for name in FILES {
        let model = Model::new();
        let (path, outside) = (model.file(name), model.outside());
        fs::rename(&path, &outside).unwrap();
        if [CONFIG, INDEX].contains(&name) {
            let error = open(&model.path()).unwrap_err();
            assert!(matches!(error, DlrmError::NotAModel { .. }), "{error}");
            assert!(error.to_string().contains(name) && error.to_string().contains("slackline import"), "{error}");
        } else {
            assert_eq!(model.defect(name), DirectoryDefect::Missing);
        }

        for target in [Path::new("../outside"), &outside] {
            symlink(target, &path).unwrap();
            let target = fs::canonicalize(&outside).unwrap();
            assert_eq!(model.defect(name), DirectoryDefect::Escapes { target });
            fs::remove_file(&path).unwrap();
        }
        // A file without end, which must not be read at all.
        symlink("/dev/zero", &path).unwrap();
        assert_eq!(model.defect(name), DirectoryDefect::Escapes { target: "/dev/zero".into() });
        fs::remove_file(&path).unwrap();

        symlink("nowhere", &path).unwrap();
        assert_eq!(model.defect(name), DirectoryDefect::Missing);
        fs::remove_file(&path).unwrap();
        symlink(name, &path).unwrap();
        assert!(matches!(model.refused(name), DlrmError::Io { .. }), "a link to itself");
        fs::remove_file(&path).unwrap();

        // Nobody writes into it: who opened it to read would wait for ever.
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(model.defect(name), DirectoryDefect::NotAFile);
        fs::rename(&path, model.file("pipe")).unwrap();
        symlink("pipe", &path).unwrap();
        assert_eq!(model.defect(name), DirectoryDefect::NotAFile);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(model.defect(name), DirectoryDefect::NotAFile);
        fs::remove_dir(&path).unwrap();

        fs::rename(&outside, model.file("moved")).unwrap();
        symlink("moved", &path).unwrap();
        open(&model.path()).expect("a link within the directory");
    }
}

#[test]
fn empty_short_and_long_files_are_told_whatever_file_it_is() {
    for name in FILES {
        let model = Model::new();
        let file = OpenOptions::new().write(true).open(model.file(name)).unwrap();
        let whole = file.metadata().unwrap().len();
        for length in [whole + (1 << 40), whole + 4, whole - 2, whole / 2, 9, 8, 7, 1, 0] {
            file.set_len(length).unwrap();
            model.refused(name);
        }
    }
}

#[test]
fn a_huge_json_file_is_refused_before_it_is_read() {
    for name in [CONFIG, INDEX] {
        let model = Model::new();
        for found in [(64 << 20) + 1, 1 << 40] {
            OpenOptions::new().write(true).open(model.file(name)).unwrap().set_len(found).unwrap();
            assert_eq!(model.defect(name), DirectoryDefect::TooLarge { found, most: 64 << 20 });
        }
    }
}

#[test]
fn json_that_is_none_or_says_other_things_is_told() {
    for name in [CONFIG, INDEX] {
        let model = Model::new();
        let nested = "[".repeat(1 << 20);
        for text in ["", "null", "[]", "7", "{", "{}}", "\u{feff}{", "{\"a\":\"\\ud800\"}", &nested] {
            fs::write(model.file(name), text).unwrap();
            assert!(matches!(model.defect(name), DirectoryDefect::Syntax { .. }), "{name}: {text:.20}");
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"\xff\xfe{\0}\0"] {
            fs::write(model.file(name), bytes).unwrap();
            assert!(matches!(model.defect(name), DirectoryDefect::Syntax { .. }));
        }
    }
    for map in [Value::Null, json!([]), json!("x"), json!({ "bot_l.0.bias": 7 }), json!({ "bot_l.0.bias": null })] {
        let model = Model::new();
        model.change_json(INDEX, |index| index["weight_map"] = map.clone());
        assert!(matches!(model.defect(INDEX), DirectoryDefect::Syntax { .. }), "{map}");
    }
    let model = Model::new();
    model.change_json(INDEX, |index| index["weight_map"] = json!({}));
    assert!(matches!(model.refused(INDEX), DlrmError::TensorMissing { .. }));
    let numbers =
        [json!("x"), json!(-1), json!(1.5), json!([1e300]), json!([]), json!([0]), json!([u64::MAX, u64::MAX])];
    for argument in ["arch_sparse_feature_size", "arch_embedding_size", "arch_mlp_bot", "arch_mlp_top"] {
        for number in &numbers {
            let model = Model::new();
            model.change_json(CONFIG, |config| config[argument] = number.clone());
            assert!(matches!(model.refused(CONFIG), DlrmError::ConfigFile { .. }), "{argument} {number}");
        }
    }
}

#[test]
fn the_right_files_under_each_others_names_are_told() {
    let swap = |one: &str, other: &str| {
        let model = Model::new();
        let (a, b) = (fs::read(model.file(one)).unwrap(), fs::read(model.file(other)).unwrap());
        fs::write(model.file(one), b).unwrap();
        fs::write(model.file(other), a).unwrap();
        let error = open(&model.path()).expect_err("swapped").to_string();
        assert!(error.contains(one) || error.contains(other), "{error}");
    };
    for (number, one) in FILES.into_iter().enumerate() {
        FILES[number + 1..].iter().for_each(|other| swap(one, other));
    }
    swap(SHARD, "tables-00001-of-00002.safetensors");
}

#[test]
fn a_shard_of_another_model_is_told() {
    let other = tempfile::tempdir().unwrap();
    let arguments = |rows: Vec<usize>, dim: usize| Arguments {
        sparse_feature_size: dim,
        embedding_size: rows,
        mlp_bot: vec![3, dim],
        mlp_top: vec![dim + 15, 1],
        ..Arguments::default()
    };
    for (number, (rows, dim)) in [(vec![7, 3, 1, 11, 30], 4), (vec![7, 3, 1, 11, 29], 8)].into_iter().enumerate() {
        let path = other.path().join(number.to_string());
        write_synthetic(&ModelConfig::new(arguments(rows, dim)).unwrap(), 1, &path, 1, &mut |_| ()).unwrap();
        let model = Model::new();
        fs::copy(path.join("tables-00001-of-00001.safetensors"), model.file(SHARD)).unwrap();
        model.change_json(INDEX, |index| {
            for table in 0..5 {
                index["weight_map"][format!("emb_l.{table}.weight")] = json!(SHARD);
            }
        });
        assert!(matches!(model.refused(SHARD), DlrmError::TensorShape { .. }));
    }
}

#[test]
fn shards_of_another_version_with_holes_or_bombs_are_told_through_the_directory() {
    let text = |from: &str, to: &str| {
        let model = Model::new();
        let mut bytes = fs::read(model.file(SHARD)).unwrap();
        let at = bytes.windows(from.len()).position(|bytes| bytes == from.as_bytes()).expect("it is in the header");
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        fs::write(model.file(SHARD), bytes).unwrap();
        match model.refused(SHARD) {
            DlrmError::Shard(ShardError::Corrupt { defect, .. }) => *defect,
            error => panic!("{error}"),
        }
    };
    assert!(matches!(text("\"version\":\"1\"", "\"version\":\"2\""), ShardDefect::Version { .. }));
    assert!(matches!(text("slackline.shard", "slackline.shart"), ShardDefect::Format { .. }));
    assert!(matches!(text("\"data_offsets\":[0,", "\"data_offsets\":[8,"), ShardDefect::HeaderChecksum { .. }));
    for found in [100_000_001, u64::MAX] {
        let model = Model::new();
        let mut bytes = fs::read(model.file(SHARD)).unwrap();
        bytes[..8].copy_from_slice(&found.to_le_bytes());
        fs::write(model.file(SHARD), bytes).unwrap();
        let error = model.refused(SHARD);
        let DlrmError::Shard(ShardError::Corrupt { defect, .. }) = error else { panic!("{error}") };
        assert_eq!(*defect, ShardDefect::HeaderTooLarge { found });
    }
}

#[test]
fn dense_weights_of_another_shape_or_type_are_told() {
    let change = |tensor: &str, key: &str, value: Value| {
        let model = Model::new();
        let (mut header, data) = model.dense();
        assert_ne!(header[tensor][key], value, "that is no damage");
        header[tensor][key] = value;
        model.write_dense(&Value::Object(header).to_string(), &data);
        model.refused(DENSE)
    };
    for shape in [json!([5, 8]), json!([40]), json!([8, 5, 1]), json!([1, 40])] {
        let error = change("bot_l.0.weight", "shape", shape);
        assert!(matches!(&error, DlrmError::TensorShape { tensor, .. } if tensor == "bot_l.0.weight"), "{error}");
    }
    let error = change("bot_l.0.weight", "dtype", json!("I32"));
    let DlrmError::Corrupt { defect: DirectoryDefect::Type { tensor, found }, .. } = error else { panic!("{error}") };
    assert_eq!((&*tensor, &*found), ("bot_l.0.weight", "I32"));
    // More or fewer values than bytes, numbers that overflow, types that nobody knows.
    let (huge, most) = (1u64 << 40, u64::MAX);
    let shapes =
        [json!([8, 4]), json!([8, 6]), json!([]), json!([0]), json!([huge, huge]), json!([most]), json!([-8, -5])];
    let odd = shapes.into_iter().map(|shape| ("shape", shape));
    let types = ["F16", "F64", "F4", "f32", "", "X"].map(|dtype| ("dtype", json!(dtype)));
    for (key, value) in odd.chain(types).chain([("shape", Value::Null), ("dtype", json!(1))]) {
        let error = change("bot_l.0.weight", key, value.clone());
        let syntax = matches!(error, DlrmError::Corrupt { defect: DirectoryDefect::Syntax { .. }, .. });
        assert!(syntax, "{key} {value}: {error}");
    }
}

#[test]
fn dense_weights_that_share_bytes_or_leave_some_out_are_told() {
    let syntax = |change: &Change<'_>| {
        let model = Model::new();
        let (mut header, mut data) = model.dense();
        change(&mut header, &mut data);
        model.write_dense(&Value::Object(header).to_string(), &data);
        let defect = model.defect(DENSE);
        let DirectoryDefect::Syntax { why } = defect else { panic!("{defect}") };
        why
    };
    // The tensors in the order of their bytes.
    let offsets = |value: &Value| -> [u64; 2] { serde_json::from_value(value["data_offsets"].clone()).unwrap() };
    let ordered = |header: &Map<String, Value>| {
        let mut names: Vec<String> = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
        names.sort_by_key(|name| offsets(&header[name]));
        names
    };
    let count = ordered(&Model::new().dense().0).len();
    assert!(count >= 8);
    for place in 0..count {
        // A hole before it: all that follows is shifted, in the file too.
        let why = syntax(&|header, data| {
            let names = ordered(header);
            let [at, _] = offsets(&header[&names[place]]);
            for name in &names[place..] {
                let [begin, end] = offsets(&header[name]);
                header[name]["data_offsets"] = json!([begin + 4, end + 4]);
            }
            data.splice(at as usize..at as usize, [0; 4]);
        });
        assert!(why.contains(&ordered(&Model::new().dense().0)[place]), "the tensor is not named: {why}");
        // It begins, and ends, within another, or backwards, or past the end of the file, or nowhere.
        for (begin, end) in [(4, 4), (-4, -4), (0, 4), (0, -4), (4, 0), (1 << 62, 1 << 62), (i64::MAX, 0)] {
            if place == 0 && begin < 0 {
                continue;
            }
            syntax(&|header, _| {
                let name = &ordered(header)[place];
                let [first, last] = offsets(&header[name]).map(|offset| offset as i64);
                let moved = [first.saturating_add(begin), last.saturating_add(end)];
                header[name]["data_offsets"] = json!(moved);
            });
        }
    }
    // A whole tensor's bytes that no tensor has, in the middle and at the end; and one that another has as well.
    for place in [1, count - 1] {
        syntax(&|header, _| drop(header.remove(&ordered(header)[place])));
    }
    syntax(&|header, _| drop(header.insert("twice".to_owned(), header["bot_l.0.weight"].clone())));
    for offsets in [json!([-8, 0]), json!([0]), json!([0, 160, 0]), json!("0"), json!([0.5, 160]), json!([u64::MAX, 8])]
    {
        syntax(&|header, _| header["bot_l.0.weight"]["data_offsets"] = offsets.clone());
    }
}

#[test]
fn dense_weights_without_their_checksum_or_their_tensor_are_told() {
    for value in [None, Some(""), Some("0123456789abcdef"), Some("0123456789ABCDEF0")] {
        let model = Model::new();
        let (mut header, data) = model.dense();
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        metadata.remove("xxh3:top_l.2.bias").unwrap();
        metadata.extend(value.map(|value| ("xxh3:top_l.2.bias".to_owned(), json!(value))));
        model.write_dense(&Value::Object(header).to_string(), &data);
        let defect = model.defect(DENSE);
        assert!(matches!(&defect, DirectoryDefect::Checksum { tensor, .. } if tensor == "top_l.2.bias"), "{defect}");
    }
    let model = Model::new();
    let (mut header, data) = model.dense();
    let tensor = header.remove("top_l.2.bias").unwrap();
    header.insert("top_l.4.bias".to_owned(), tensor);
    model.write_dense(&Value::Object(header).to_string(), &data);
    let error = model.refused(DENSE);
    assert!(matches!(&error, DlrmError::TensorMissing { tensor, .. } if tensor == "top_l.2.bias"), "{error}");
}

#[test]
fn header_bombs_of_dense_weights_are_refused_before_they_go_off() {
    const MOST: u64 = 16 << 20;
    let model = Model::new();
    for found in [MOST + 1, 1 << 40, 1 << 63, u64::MAX] {
        // Also where the file has all the bytes that it claims, or claims that it has.
        for length in [8, 100, 1 << 30, (1 << 40) + 8] {
            fs::write(model.file(DENSE), found.to_le_bytes()).unwrap();
            File::options().write(true).open(model.file(DENSE)).unwrap().set_len(length).unwrap();
            assert_eq!(model.defect(DENSE), DirectoryDefect::TooLarge { found, most: MOST });
        }
    }
    fs::write(model.file(DENSE), [&MOST.to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert!(matches!(model.defect(DENSE), DirectoryDefect::Syntax { .. }));
    let deep = |open: &str| open.repeat(MOST as usize / open.len());
    for header in [deep("["), deep("{\"a\":"), deep(" "), "[]".to_owned(), "null".to_owned(), String::new()] {
        model.write_dense(&header, &[]);
        let defect = model.defect(DENSE);
        assert!(matches!(defect, DirectoryDefect::Syntax { .. }), "{header:.20}: {defect}");
    }
    // As many tensors as a header of that length can hold, all of no bytes, and none of them the model's.
    let entries: Vec<String> =
        (0..100_000).map(|n| format!(r#""t{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    model.write_dense(&format!("{{{}}}", entries.join(",")), &[]);
    assert!(matches!(model.refused(DENSE), DlrmError::TensorMissing { .. }));
}
