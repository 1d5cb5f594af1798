//! Checkpoints as people have them: names in wrappers, learned pooling weights, tensors that nobody knows, and paths that are no
//! model directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use slackline_checkpoint::Checkpoint;
use slackline_dlrm::{
    DlrmError, ImportOptions, ImportReport, ModelConfig, ModelDirectory, Result, convert, import, write_synthetic,
};

use crate::common::golden;

/// Tensors of single precision by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The tensors of a golden checkpoint.
fn tensors(file: &str) -> Tensors {
    let checkpoint = Checkpoint::open(golden(file)).unwrap();
    let tensor = |(name, info): (&String, &slackline_checkpoint::TensorInfo)| {
        (name.clone(), (info.shape.clone(), checkpoint.read_f32(name).unwrap()))
    };
    checkpoint.tensors().iter().map(tensor).collect()
}

fn save(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let from = data.len();
        values.iter().for_each(|value| data.extend_from_slice(&value.to_le_bytes()));
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]}));
    }
    let header = serde_json::to_string(&header).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn import(&self, tensors: &Tensors, out: &str, options: &ImportOptions) -> Result<ImportReport> {
        self.import_as(tensors, "dot.json", out, options)
    }

    fn import_as(&self, tensors: &Tensors, config: &str, out: &str, options: &ImportOptions) -> Result<ImportReport> {
        save(&self.path("file"), tensors);
        import(&self.path("file"), &golden(config), &self.path(out), options, &mut |_| ())
    }

    fn refused(&self, tensors: &Tensors, config: &str) -> String {
        let refused = self.import_as(tensors, config, "refused", &ImportOptions::default()).unwrap_err().to_string();
        assert!(!self.path("refused").exists());
        refused
    }

    fn same(&self, one: &str, other: &str) {
        for name in ["dense.safetensors", "tables-00001-of-00001.safetensors"] {
            let read = |model: &str| fs::read(self.path(model).join(name)).unwrap();
            assert!(read(one) == read(other), "{name} of {one} and {other}");
        }
    }
}

fn renamed(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect()
}

#[test]
fn wrapped_models_are_the_same_models() {
    let (place, plain) = (Place::new(), tensors("dot.pt"));
    place.import(&plain, "plain", &ImportOptions::default()).unwrap();
    let forms: [&dyn Fn(&str) -> String; 5] = [
        &|name| format!("module._orig_mod.{name}"),
        &|name| format!("_forward_module.model.{name}"),
        &|name| name.replacen('.', "._orig_mod.", 1),
        &|name| format!("_fsdp_wrapped_module.{}", name.replacen('.', "._checkpoint_wrapped_module.", 2)),
        &|name| format!("recommender.dlrm.{name}"),
    ];
    for (number, form) in forms.into_iter().enumerate() {
        let out = format!("wrapped{number}");
        place.import(&renamed(&plain, form), &out, &ImportOptions::default()).unwrap();
        place.same("plain", &out);
    }
    let mut twice = plain.clone();
    twice.insert("_orig_mod.emb_l.0.weight".to_owned(), plain["emb_l.0.weight"].clone());
    let refused = place.refused(&twice, "dot.json");
    assert!(refused.contains("_orig_mod.emb_l.0.weight and emb_l.0.weight are the same"), "{refused}");
}

/// A weight for each row, with zero, negative and large ones among them.
fn weight(table: usize, row: usize) -> f32 {
    [0.0, -1.5, 3.0, 0.25, 1e4][(table + row) % 5]
}

fn weigh(tensors: &mut Tensors, tables: usize, rows_of: impl Fn(&Tensors, usize) -> usize) {
    for table in 0..tables {
        let rows = rows_of(tensors, table);
        let weights = (0..rows).map(|row| weight(table, row)).collect();
        tensors.insert(format!("v_W_l.{table}"), (vec![rows], weights));
    }
}

#[test]
fn learned_pooling_weights_are_multiplied_into_the_rows() {
    let (place, plain) = (Place::new(), tensors("dot.pt"));
    let mut by_hand = plain.clone();
    for table in 0..5 {
        let (shape, values) = by_hand.get_mut(&format!("emb_l.{table}.weight")).unwrap();
        for (row, values) in values.chunks_exact_mut(shape[1]).enumerate() {
            values.iter_mut().for_each(|value| *value *= weight(table, row));
        }
    }
    let mut weighted = plain.clone();
    weigh(&mut weighted, 5, |tensors, table| tensors[&format!("emb_l.{table}.weight")].0[0]);
    for rows in ["f32", "bf16", "int8"] {
        let mut options = ImportOptions::default();
        options.rows = vec![rows.parse().unwrap()];
        let report = place.import(&weighted, &format!("import-{rows}"), &options).unwrap();
        assert_eq!(report.pooling_weights.len(), 5);
        assert!(report.unused_tensors.is_empty());
        place.import(&by_hand, &format!("by-hand-{rows}"), &options).unwrap();
        place.same(&format!("import-{rows}"), &format!("by-hand-{rows}"));
    }

    let mut fewer = weighted.clone();
    fewer.remove("v_W_l.3");
    let refused = place.refused(&fewer, "dot.json");
    assert!(refused.contains("tensor v_W_l.3 is missing; weighted_pooling"), "{refused}");
    let mut longer = weighted.clone();
    longer.get_mut("v_W_l.2").unwrap().0 = vec![1, 1];
    let refused = place.refused(&longer, "dot.json");
    assert!(refused.contains("tensor v_W_l.2 has shape [1, 1]"), "{refused}");
    let mut huge = weighted;
    huge.get_mut("emb_l.4.weight").unwrap().1[4 * 20 + 1] = 3e38;
    huge.get_mut("v_W_l.4").unwrap().1[20] = -2.0;
    let refused = place.refused(&huge, "dot.json");
    assert_eq!(
        refused,
        format!("table emb_l.4.weight, row 20: column 1: {} times the pooling weight -2 is too large for f32", 3e38f32)
    );
    let mut quotients = tensors("qr_mult.pt");
    let tables = ModelConfig::from_json(&fs::read_to_string(golden("qr_mult.json")).unwrap()).unwrap().config.tables();
    weigh(&mut quotients, tables, |_, _| 1);
    let refused = place.refused(&quotients, "qr_mult.json");
    assert!(refused.contains("v_W_l.") && refused.contains("quotient-remainder"), "{refused}");
}

#[test]
fn a_tensor_that_nobody_knows_is_refused_unless_it_is_said_to_be_harmless() {
    let (place, plain) = (Place::new(), tensors("dot.pt"));
    place.import(&plain, "plain", &ImportOptions::default()).unwrap();
    let with = |name: &str| {
        let mut more = plain.clone();
        more.insert(name.to_owned(), (vec![2], vec![0.5, 0.25]));
        more
    };
    for unknown in ["calibration.temperature", "cross.0.weight", "attention.in_proj_weight"] {
        let refused = place.refused(&with(unknown), "dot.json");
        assert!(refused.contains(unknown) && refused.contains("--ignore"), "{refused}");
    }
    let mut options = ImportOptions::default();
    options.ignore = vec!["calib*".parse().unwrap()];
    let report = place.import(&with("calibration.temperature"), "ignored", &options).unwrap();
    assert_eq!(report.unused_tensors, ["calibration.temperature"]);
    place.same("plain", "ignored");
    let state = place.import(&with("optimizer.state.0.exp_avg"), "state", &ImportOptions::default()).unwrap();
    assert_eq!(state.unused_tensors, ["optimizer.state.0.exp_avg"]);
}

#[test]
fn what_a_narrow_format_makes_infinite_is_refused_with_its_place() {
    let (place, mut large) = (Place::new(), tensors("dot.pt"));
    // Above the largest bf16, 3.3895e38, and finite.
    large.get_mut("emb_l.1.weight").unwrap().1[4 * 2 + 3] = -3.4e38;
    let place_of = "table emb_l.1.weight, row 2";
    for rows in ["bf16", "f16", "int4", "int8-fbgemm", "int4-fbgemm"] {
        let mut options = ImportOptions::default();
        options.rows = vec![rows.parse().unwrap()];
        let refused = place.import(&large, "refused", &options).unwrap_err().to_string();
        assert!(refused.starts_with(place_of) && refused.contains("column 3") && refused.contains(rows), "{refused}");
    }
    place.import(&large, "wide", &ImportOptions::default()).unwrap();
    let refused = convert(&place.path("wide"), &place.path("refused"), &["bf16".parse().unwrap()], 1, &mut |_| ());
    assert!(refused.unwrap_err().to_string().starts_with(place_of));
    assert!(!place.path("refused").exists());
}

#[test]
fn what_is_no_model_directory_is_named_and_import_recommended() {
    let place = Place::new();
    let config = ModelConfig::from_json(&fs::read_to_string(golden("dot.json")).unwrap()).unwrap().config;
    write_synthetic(&config, 1, &place.path("model"), 1, &mut |_| ()).unwrap();
    for folder in ["empty", "config", "snapshot", "files"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    fs::copy(golden("dot.json"), place.path("config/config.json")).unwrap();
    fs::write(place.path("snapshot/.snapshot_metadata"), "manifest: {}").unwrap();
    fs::copy(golden("dot.pt"), place.path("files/dot.pt")).unwrap();
    let cases = [
        (golden("dot.pt"), "a checkpoint (PyTorch (zip))", "`slackline import"),
        (golden("dot.npz"), "NumPy arrays", "`slackline import`"),
        (place.path("empty"), "an empty directory", "`slackline import`"),
        (place.path("config"), "/model.safetensors.index.json", "`slackline import`"),
        (place.path("snapshot"), "a checkpoint (torchsnapshot)", "`slackline import"),
        (place.path("files"), "files that may be checkpoints", "`slackline import`"),
        (place.path("model/config.json"), "a file", "name the directory"),
    ];
    for (path, what, advice) in cases {
        let error = ModelDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DlrmError::NotAModel { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains(advice), "{text}");
    }
}
