//! Generates a small model and a click log, and predicts the log.
//!
//! `cargo run -p slackline --example click_log`

use std::error::Error;

use slackline::data::{Batch, Input, generate_criteo};
use slackline::dlrm::{LocalModel, ModelConfig, ModelDirectory, write_synthetic};
use slackline::embedding::{Load, Verify};

/// Arguments of the reference DLRM: 13 dense features and 3 tables.
const CONFIG: &str = r#"{
    "arch_sparse_feature_size": 16, "arch_embedding_size": "10000-500-3",
    "arch_mlp_bot": "13-64-16", "arch_mlp_top": "64-1"
}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("click_log.{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let done = generate_and_predict(&folder);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn generate_and_predict(folder: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let config = ModelConfig::from_json(CONFIG)?.config;
    let shape = config.input_shape();
    let (path, clicks) = (folder.join("model"), folder.join("clicks.tsv"));
    write_synthetic(&config, 1, &path, 1, &mut |_| ())?;
    generate_criteo(&shape, 1000, 1, &clicks, |_| ())?;

    let directory = ModelDirectory::open(&path)?;
    println!("{}\n", directory.summary());
    // Copied into memory, so that nothing that happens to the files can stop the program.
    let tables = directory.load_tables(&[0, 1, 2], Load::Copied, Verify::Checksums)?;
    let mut model = LocalModel::new(directory.load_dense()?, tables)?;

    let mut input = Input::open(&clicks, None, &shape)?;
    let (mut batch, mut predictions) = (Batch::default(), Vec::new());
    let (mut rows, mut sum) = (0, 0.0);
    while input.next_batch(128, &mut batch)? {
        model.predict(&batch, &mut predictions)?;
        if rows == 0 {
            println!("first predictions: {:.4?}", &predictions[..4]);
        }
        rows += batch.samples;
        sum += predictions.iter().map(|&p| f64::from(p)).sum::<f64>();
    }
    println!("{rows} rows, mean prediction {:.4}", sum / rows as f64);
    Ok(())
}
