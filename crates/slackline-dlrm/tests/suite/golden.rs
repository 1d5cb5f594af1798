//! Predictions and every stage before them against what PyTorch computed.

use std::path::Path;

use slackline_data::{Batch, NpzFile};
use slackline_dlrm::{
    DenseScratch, ImportOptions, InteractionScratch, LocalModel, ModelConfig, ModelDirectory, import, write_synthetic,
};
use slackline_embedding::{Bags, Load, Pooling, Verify};

use crate::common::{bits, golden, input, load_all, shared_data, whole};

fn imported(checkpoint: &Path, config: &Path, folder: &Path) -> ModelDirectory {
    let out = folder.join("model");
    import(checkpoint, config, &out, &ImportOptions::new(3), &mut |_| ()).unwrap();
    ModelDirectory::open(&out).unwrap()
}

/// The largest difference, which must not be above `tolerance`.
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "{what}[{at}] is {x}, PyTorch has {y}");
    }
}

fn every_stage_agrees(directory: &ModelDirectory, io: &Path) {
    let config = directory.config();
    let batch = whole(io, config);
    let n = batch.samples;
    let mut expected = NpzFile::open(io).unwrap();
    let mut expected = |name: &str| expected.f32(name).unwrap().1;
    let dense = directory.load_dense().unwrap();
    let mut scratch = DenseScratch::default();

    let mut bottom = Vec::new();
    dense.bottom(&batch.dense, n, &mut scratch, &mut bottom);
    close("bottom", &bottom, &expected("bottom"), 1e-5);

    let all: Vec<usize> = (0..config.tables()).collect();
    let tables = directory.load_tables(&all, Load::Mapped, Verify::Checksums).unwrap();
    let mut pooled = vec![vec![0f32; n * config.dim()]; tables.len()];
    for ((table, input), out) in tables.iter().zip(&batch.tables).zip(&mut pooled) {
        let weights = (!input.weights.is_empty()).then_some(&input.weights[..]);
        let bags = Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, weights).unwrap();
        table.pool(&bags, Pooling::Sum, out).unwrap();
    }
    for (number, pooled) in pooled.iter().enumerate() {
        close("pooled", pooled, &expected(&format!("pooled_{number}")), 1e-6);
    }

    let blocks: Vec<&[f32]> = pooled.iter().map(Vec::as_slice).collect();
    let mut interacted = vec![0f32; n * config.interaction_width()];
    dense.interaction().interact(&bottom, &blocks, 0..n, &mut InteractionScratch::default(), &mut interacted);
    close("interaction", &interacted, &expected("interaction"), 1e-5);

    let mut out = Vec::new();
    dense.predict(&bottom, &blocks, n, &mut scratch, &mut out);
    close("prob", &out, &expected("prob"), 1e-6);
    let mut whole_pass = Vec::new();
    LocalModel::new(dense, tables).unwrap().predict(&batch, &mut whole_pass).unwrap();
    assert_eq!(bits(&whole_pass), bits(&out), "the whole pass is its stages one after another");
    batches_do_not_matter(directory, io, &whole_pass);
}

/// Any cut of the input into batches gives the same bits.
fn batches_do_not_matter(directory: &ModelDirectory, path: &Path, expected: &[f32]) {
    let mut model = load_all(directory);
    for size in [1, 2, 7, 300] {
        let mut input = input(path, directory.config());
        let (mut batch, mut out, mut all) = (Batch::default(), Vec::new(), Vec::new());
        while input.next_batch(size, &mut batch).unwrap() {
            model.predict(&batch, &mut out).unwrap();
            all.extend_from_slice(&out);
        }
        assert_eq!(bits(&all), bits(expected), "batches of {size}");
    }
}

#[test]
fn all_interactions_agree_with_pytorch() {
    let compressed = ["qr_mult", "qr_add", "qr_concat", "md", "hashed"];
    for name in ["dot", "dot_itself", "cat", "one_hot_clamped"].into_iter().chain(compressed) {
        let folder = tempfile::tempdir().unwrap();
        let [checkpoint, config, io] = ["pt", "json", "npz"].map(|kind| golden(&format!("{name}.{kind}")));
        every_stage_agrees(&imported(&checkpoint, &config, folder.path()), &io);
    }
}

#[test]
fn the_golden_inputs_have_empty_bags_duplicates_and_clamped_predictions() {
    let config = std::fs::read_to_string(golden("dot.json")).unwrap();
    let batch = whole(&golden("dot.npz"), &ModelConfig::from_json(&config).unwrap().config);
    let bags = batch.tables.iter().flat_map(|t| t.offsets.windows(2).map(|w| &t.indices[w[0] as usize..w[1] as usize]));
    let bags: Vec<&[i64]> = bags.collect();
    assert!(bags.iter().any(|bag| bag.is_empty()));
    assert!(bags.iter().any(|bag| bag.iter().any(|row| bag.iter().filter(|other| *other == row).count() > 1)));
    let (_, clamped) = NpzFile::open(golden("one_hot_clamped.npz")).unwrap().f32("prob").unwrap();
    assert!(clamped.contains(&0.4) && clamped.contains(&0.6) && clamped.iter().any(|p| (0.41..0.59).contains(p)));
}

#[test]
fn the_tiny_model_of_the_shared_data_agrees() {
    let Some(data) = shared_data() else { return };
    let golden = data.join("golden");
    let shape: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden.join("dlrm_tiny.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("arguments.json");
    let arguments = serde_json::json!({
        "arch_sparse_feature_size": shape["dim"], "arch_embedding_size": shape["ln_emb"],
        "arch_mlp_bot": shape["ln_bot"], "arch_mlp_top": shape["ln_top"],
        "arch_interaction_op": shape["interaction"], "arch_interaction_itself": shape["interaction_itself"],
    });
    std::fs::write(&config, arguments.to_string()).unwrap();
    for name in ["dlrm_tiny.pt", "dlrm_tiny_legacy.pt", "dlrm_tiny.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        let directory = imported(&golden.join(name), &config, folder.path());
        every_stage_agrees(&directory, &golden.join("dlrm_tiny_io.npz"));
    }
}

#[test]
fn the_model_trained_on_criteo_agrees_on_held_out_rows() {
    let Some(data) = shared_data() else { return };
    let trained = data.join("criteo-trained");
    let folder = tempfile::tempdir().unwrap();
    let directory = imported(&trained.join("kaggle16.pt"), &trained.join("kaggle16.json"), folder.path());
    let batch = whole(&trained.join("heldout.csv"), directory.config());
    let mut out = Vec::new();
    load_all(&directory).predict(&batch, &mut out).unwrap();
    let table = std::fs::read_to_string(trained.join("kaggle16_predictions.csv")).unwrap();
    let expected: Vec<f32> =
        table.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(expected.len(), 400);
    let worst = out.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    println!("largest difference to PyTorch: {worst:e}");
    assert_eq!(out.len(), expected.len());
    assert!(worst <= 1e-6, "largest difference {worst}");
    batches_do_not_matter(&directory, &trained.join("heldout.csv"), &out);
}

#[test]
fn a_synthetic_model_predicts_the_same_from_memory_and_from_its_directory() {
    let text = std::fs::read_to_string(golden("dot.json")).unwrap();
    let config = ModelConfig::from_json(&text).unwrap().config;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    write_synthetic(&config, 9, &out, 2, &mut |_| ()).unwrap();
    let directory = ModelDirectory::open(&out).unwrap();
    let batch = whole(&golden("dot.npz"), &config);
    let (mut loaded, mut random) = (Vec::new(), Vec::new());
    load_all(&directory).predict(&batch, &mut loaded).unwrap();
    let tables = directory.load_tables(&[0, 1, 2, 3, 4], Load::Mapped, Verify::HeaderOnly).unwrap();
    let dense = slackline_dlrm::DenseModel::random(config, 9);
    LocalModel::new(dense, tables).unwrap().predict(&batch, &mut random).unwrap();
    assert_eq!(bits(&loaded), bits(&random));
    assert!(loaded.windows(2).any(|pair| pair[0] != pair[1]), "predictions depend on their samples");
}
