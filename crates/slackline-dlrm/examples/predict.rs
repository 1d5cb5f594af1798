//! Writes a model directory with random weights, opens it, and predicts a batch of three requests.
//!
//! `cargo run -p slackline-dlrm --example predict`

use slackline_dlrm::{Batch, Load, LocalModel, ModelConfig, ModelDirectory, TableInput, Verify, write_synthetic};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Arguments of the reference DLRM: 3 dense features, and tables of 1000 and 20 rows of 4 columns.
    let config = ModelConfig::from_json(
        r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "1000-20", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
    )?
    .config;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    write_synthetic(&config, 7, &path, 1, &mut |_| ())?;

    let directory = ModelDirectory::open(&path)?;
    println!("{}\n", directory.summary());
    let tables = directory.load_tables(&[0, 1], Load::Copied, Verify::Checksums)?;
    let mut model = LocalModel::new(directory.load_dense()?, tables)?;
    model.warm_up()?;

    // Lookups as in `EmbeddingBag`: those of sample `s` are `indices[offsets[s]..offsets[s + 1]]`.
    let clicks = TableInput { indices: vec![3, 999, 3, 41], offsets: vec![0, 2, 3, 4], ..TableInput::default() };
    let device = TableInput { indices: vec![19, 0], offsets: vec![0, 1, 1, 2], ..TableInput::default() };
    let dense = vec![0.1, 0.2, 0.3, 0.0, 1.0, 2.0, 5.0, 0.5, 0.0];
    let mut batch = Batch { samples: 3, dense, tables: vec![clicks, device], ..Batch::default() };
    let mut predictions = Vec::new();
    model.predict(&batch, &mut predictions)?;
    for (sample, p) in predictions.iter().enumerate() {
        println!("sample {sample}: {p:.4}");
    }

    // Inputs are untrusted: an error names table, sample and value.
    batch.tables[1].indices[1] = 20;
    println!("error: {}", model.predict(&batch, &mut predictions).expect_err("the table has 20 rows"));
    Ok(())
}
