//! Model directories: configuration, index, dense weights and a shard; and predictions of those that open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_data::{Batch, TableInput};
use slackline_dlrm::{LocalModel, ModelConfig, ModelDirectory, write_synthetic};
use slackline_embedding::{Load, Verify};
use slackline_fuzz::{file, folder, joined, mend_shard, parts, seed};

const FILES: [&str; 4] =
    ["config.json", "model.safetensors.index.json", "dense.safetensors", "tables-00001-of-00001.safetensors"];

fn seeds() -> Vec<Vec<u8>> {
    let plain = r#""arch_sparse_feature_size": 4, "arch_embedding_size": "10-20", "arch_mlp_bot": "3-4", "arch_mlp_top": "2-1""#;
    let one = |more: &str| {
        let config = ModelConfig::from_json(&format!("{{{plain}{more}}}")).expect("a configuration").config;
        let path = folder().join("seed");
        let _ = std::fs::remove_dir_all(&path);
        write_synthetic(&config, 1, &path, 1, &mut |_| ()).expect("a new directory");
        let files = FILES.map(|name| std::fs::read(path.join(name)).expect("it was written"));
        joined(&files.each_ref().map(Vec::as_slice))
    };
    vec![one(""), one(r#", "arch_interaction_op": "cat""#)]
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let [config, index, dense, tables] = parts::<4>(data);
        let mut tables = tables.to_vec();
        mend_shard(&mut tables);
        for (name, bytes) in FILES.into_iter().zip([config, index, dense, &tables]) {
            file(name, bytes);
        }
        let Ok(directory) = ModelDirectory::open(folder()) else { return };
        let _ = directory.verify(&mut |_| ());
        let _ = directory.summary().to_string();
        let config = directory.config().clone();
        let all: Vec<usize> = (0..config.tables()).collect();
        let Ok(dense) = directory.load_dense() else { return };
        let Ok(tables) = directory.load_tables(&all, Load::Mapped, Verify::HeaderOnly) else { return };
        let mut model = LocalModel::new(dense, tables).expect("what a directory holds fits together");
        let row = |rows: &usize| TableInput {
            indices: vec![*rows as i64 - 1, 0],
            offsets: vec![0, 2],
            ..TableInput::default()
        };
        let tables = config.rows().iter().map(row).collect();
        let batch = Batch { samples: 1, dense: vec![0.5; config.dense_features()], tables, ..Batch::default() };
        let mut out = Vec::new();
        model.predict(&batch, &mut out).expect("the batch has the model's shape");
        assert_eq!(out.len(), 1);
    }
);
