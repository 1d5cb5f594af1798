//! Checkpoints of other sources than the reference: TorchRec's names, snapshots, rows that are quantised already. Golden
//! files are made by `golden/make_torchrec.py`.

use std::fs;
use std::path::{Path, PathBuf};

use slackline_data::NpzFile;
use slackline_dlrm::{DlrmError, ImportOptions, ImportReport, ModelDirectory, Naming, Result, RowChoice, import};
use slackline_embedding::RowFormat;

use crate::common::{golden, load_all, shared_data, whole};

fn import_as(checkpoint: &Path, config: &Path, out: &Path, from: &[&str], rows: &[&str]) -> Result<ImportReport> {
    let choices = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<RowChoice>>();
    let mut options = ImportOptions::new(2);
    (options.from_rows, options.rows) = (choices(from), choices(rows));
    import(checkpoint, config, out, &options, &mut |_| ())
}

/// The predictions for the inputs of `io`, which must not be further than `tolerance` from what PyTorch had.
fn predicts(model: &Path, io: &Path, expected: (&Path, &str), tolerance: f32) {
    let directory = ModelDirectory::open(model).unwrap();
    let mut found = Vec::new();
    load_all(&directory).predict(&whole(io, directory.config()), &mut found).unwrap();
    let (_, expected) = NpzFile::open(expected.0).unwrap().f32(expected.1).unwrap();
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    println!("{}: largest difference to PyTorch {worst:e}", io.display());
    assert!(worst <= tolerance, "largest difference {worst}");
    assert!(expected.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1e-3), "predictions differ from each other");
}

fn same_tables(one: &Path, other: &Path) {
    for number in 1..=2 {
        let file = format!("tables-{number:05}-of-00002.safetensors");
        assert!(fs::read(one.join(&file)).unwrap() == fs::read(other.join(&file)).unwrap(), "{file} differs");
    }
}

#[test]
fn torchrec_models_predict_as_pytorch_does_from_a_file_and_from_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let [file, snapshot] = ["file", "snapshot"].map(|name| folder.path().join(name));
    let report = import_as(&golden("torchrec.pt"), &golden("torchrec.json"), &file, &[], &[]).unwrap();
    assert_eq!((report.naming, report.tensors), (Naming::TorchRec, 3 + 4 + 6));
    assert_eq!(report.tables[1].table, "emb_l.1.weight");
    let theirs = "model.sparse_arch.embedding_bag_collection.embedding_bags.t_cat_1.weight";
    assert_eq!((report.tables[1].tensor.as_str(), report.tables[1].found.as_str()), (theirs, "f32"));
    predicts(&file, &golden("torchrec.npz"), (&golden("torchrec.npz"), "prob"), 1e-6);

    let report = import_as(&golden("torchrec_snapshot"), &golden("torchrec.json"), &snapshot, &[], &[]).unwrap();
    assert_eq!(report.skipped, ["step"]);
    same_tables(&file, &snapshot);
    assert_eq!(
        fs::read(file.join("dense.safetensors")).unwrap(),
        fs::read(snapshot.join("dense.safetensors")).unwrap()
    );
}

#[test]
fn what_torchrec_cannot_mean_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("arguments.json");
    let change = |key: &str, value: serde_json::Value| {
        let mut arguments: serde_json::Value =
            serde_json::from_slice(&fs::read(golden("torchrec.json")).unwrap()).unwrap();
        arguments[key] = value;
        fs::write(&config, arguments.to_string()).unwrap();
        let refused = import_as(&golden("torchrec.pt"), &config, &folder.path().join("model"), &[], &[]).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
        refused.to_string()
    };
    let fewer = change("arch_embedding_size", [9, 4].into());
    assert!(fewer.contains("3 tables") && fewer.contains("lists 2"), "{fewer}");
    let other = change("arch_embedding_size", [9, 5, 17].into());
    assert!(other.contains("t_cat_1.weight") && other.contains("[5, 4]"), "{other}");
    assert!(change("arch_interaction_itself", true.into()).contains("arch_"));
}

#[test]
fn the_models_of_torchrec_itself() {
    let Some(data) = shared_data() else { return };
    let golden = data.join("golden");
    let folder = tempfile::tempdir().unwrap();
    for name in ["torchrec_dlrm", "torchrec_dcn"] {
        let file = fs::read(golden.join(format!("{name}.json"))).unwrap();
        let shape: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let mut bottom = shape["dense_arch_layer_sizes"].as_array().unwrap().clone();
        bottom.insert(0, 13.into());
        let config = folder.path().join("arguments.json");
        let arguments = serde_json::json!({
            "arch_sparse_feature_size": shape["embedding_dim"],
            "arch_embedding_size": shape["num_embeddings_per_feature"],
            "arch_mlp_bot": bottom,
            "arch_mlp_top": shape["over_arch_layer_sizes"],
        });
        fs::write(&config, arguments.to_string()).unwrap();
        let out = folder.path().join(name);
        let imported = import_as(&golden.join(format!("{name}.pt")), &config, &out, &[], &[]);
        if name == "torchrec_dcn" {
            let refused = imported.unwrap_err();
            assert!(matches!(refused, DlrmError::UnsupportedModel { .. }), "{refused}");
            assert!(refused.to_string().contains("inter_arch.crossnet"), "{refused}");
        } else {
            imported.unwrap();
            let io = golden.join(format!("{name}_io.npz"));
            predicts(&out, &io, (&io, "prob"), 1e-6);
        }
    }
}

const FORMATS: [&str; 4] = ["int8", "int4", "int8-fbgemm", "int4-fbgemm"];

fn quantised(format: &str) -> PathBuf {
    golden(&format!("quantised_{}.pt", format.replace('-', "_")))
}

#[test]
fn rows_that_are_quantised_already_are_those_that_we_make_and_predict_as_pytorch_does() {
    for format in FORMATS {
        let folder = tempfile::tempdir().unwrap();
        let [kept, made] = ["kept", "made"].map(|name| folder.path().join(name));
        let report = import_as(&quantised(format), &golden("dot.json"), &kept, &[format], &[]).unwrap();
        assert!(report.written.losses.is_empty(), "nothing is lost by copying");
        assert!(report.tables.iter().all(|table| table.found == format && table.kept.to_string() == format));
        import_as(&golden("dot.pt"), &golden("dot.json"), &made, &[], &[format]).unwrap();
        same_tables(&kept, &made);
        if !format.ends_with("fbgemm") {
            let prob = format!("prob_{format}");
            predicts(&kept, &golden("dot.npz"), (&golden("quantised.npz"), &prob), 1e-6);
        }
    }
}

#[test]
fn rows_may_be_brought_from_one_format_into_another() {
    let folder = tempfile::tempdir().unwrap();
    let [wide, narrow] = ["wide", "narrow"].map(|name| folder.path().join(name));
    import_as(&quantised("int8-fbgemm"), &golden("dot.json"), &wide, &["int8-fbgemm"], &["f32"]).unwrap();
    let report =
        import_as(&quantised("int8-fbgemm"), &golden("dot.json"), &narrow, &["int8-fbgemm"], &["emb_l.0.*=int4"])
            .unwrap();
    let kept: Vec<RowFormat> = report.tables.iter().map(|table| table.kept).collect();
    assert_eq!(kept[..2], [RowFormat::Int4, RowFormat::Int8Fbgemm]);
    assert_eq!(report.written.losses.len(), 1);
    let converted = folder.path().join("converted");
    slackline_dlrm::convert(&wide, &converted, &["int8-fbgemm".parse().unwrap()], 2, &mut |_| ()).unwrap();
    let (wide, converted) = (ModelDirectory::open(&wide).unwrap(), ModelDirectory::open(&converted).unwrap());
    assert!(wide.summary().table_bytes > converted.summary().table_bytes);
}

#[test]
fn a_row_format_is_named_and_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let refused = |checkpoint: &Path, from: &[&str]| {
        let refused = import_as(checkpoint, &golden("dot.json"), &out, from, &[]).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        refused
    };
    let unnamed = refused(&quantised("int8"), &[]);
    assert!(
        matches!(&unnamed, DlrmError::RowsUnnamed { row_bytes: 12, dim: 4, fits, .. } if fits == "int8"),
        "{unnamed}"
    );
    let padded = refused(&quantised("int4-fbgemm"), &[]).to_string();
    assert!(padded.contains("--from-rows") && padded.contains("int8-fbgemm, int4-fbgemm"), "{padded}");
    let wrong = refused(&quantised("int8"), &["int4"]);
    assert!(matches!(wrong, DlrmError::RowBytes { expected: 6, found: 12, .. }), "{wrong}");
    let wrong = refused(&quantised("int8"), &["f32"]);
    assert!(matches!(wrong, DlrmError::RowBytes { .. }), "{wrong}");
    let numbers = refused(&golden("dot.pt"), &["emb_l.1.*=int8"]);
    assert!(matches!(&numbers, DlrmError::NotRows { tensor, .. } if tensor == "emb_l.1.weight"), "{numbers}");
    let idle = refused(&quantised("int8"), &["int8", "emb_l.9.*=int8"]);
    assert!(matches!(idle, DlrmError::IdleChoice { .. }), "{idle}");
}

#[test]
fn rows_of_pytorch_are_ours_in_the_tiny_model() {
    let Some(data) = shared_data() else { return };
    let golden = data.join("golden");
    let mut rows = NpzFile::open(golden.join("dlrm_tiny_quant_rows.npz")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("arguments.json");
    let shape: serde_json::Value = serde_json::from_slice(&fs::read(golden.join("dlrm_tiny.json")).unwrap()).unwrap();
    let arguments = serde_json::json!({
        "arch_sparse_feature_size": shape["dim"], "arch_embedding_size": shape["ln_emb"],
        "arch_mlp_bot": shape["ln_bot"], "arch_mlp_top": shape["ln_top"],
    });
    fs::write(&config, arguments.to_string()).unwrap();
    // The checkpoint with its tables replaced by PyTorch's rows, as safetensors.
    let original = slackline_checkpoint::Checkpoint::open(golden.join("dlrm_tiny.pt")).unwrap();
    for format in ["int8", "int4"] {
        let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
        for (name, info) in original.tensors() {
            let (dtype, shape, bytes) = match name.strip_prefix("emb_l.").and_then(|rest| rest.strip_suffix(".weight"))
            {
                Some(table) => {
                    let (shape, bytes) = rows.u8(&format!("{format}_{table}")).unwrap();
                    ("U8", shape, bytes)
                }
                None => ("F32", info.shape.clone(), original.read_bytes(name).unwrap()),
            };
            let offsets = [body.len(), body.len() + bytes.len()];
            header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            body.extend_from_slice(&bytes);
        }
        let header = serde_json::to_string(&header).unwrap();
        let file = folder.path().join(format!("{format}.safetensors"));
        fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &body].concat()).unwrap();

        let [kept, made] = ["kept", "made"].map(|name| folder.path().join(format!("{format}-{name}")));
        import_as(&file, &config, &kept, &[format], &[]).unwrap();
        import_as(&golden.join("dlrm_tiny.pt"), &config, &made, &[], &[format]).unwrap();
        same_tables(&kept, &made);
        let io = golden.join("dlrm_tiny_io.npz");
        predicts(&kept, &io, (&io, &format!("prob_{format}")), 1e-6);
    }
}
