//! Generates a click log in Criteo's format, and synthetic batches without a file.
//!
//! `cargo run -p slackline-data --features generate --example generate`

use std::error::Error;

use slackline_data::{
    Access, Batch, InputOptions, InputShape, PoolingFactor, Synthetic, SyntheticSpec, SyntheticTable, generate_criteo,
    ids,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("clicks.csv");
    let shape = InputShape { dense_features: 3, table_rows: vec![1000, 20] };
    generate_criteo(&shape, 10_000, 7, &path, |_| ())?;
    println!("{} rows of {shape}, of which the first are:", ids(&path, &InputOptions::default(), &shape)?.count());
    std::fs::read_to_string(&path)?.lines().take(4).for_each(|line| println!("  {line}"));

    // A table with popular rows and bags of 1 to 8 indices.
    let pooling = PoolingFactor::Uniform { low: 1, high: 8 };
    let table = SyntheticTable { rows: 1 << 20, pooling, access: Access::Zipf(1.05) };
    let synthetic =
        Synthetic::new(&SyntheticSpec { samples_per_batch: 128, dense_features: 3, tables: vec![table; 4], seed: 7 })?;
    let mut batch = Batch::default();
    // Batches are made by number, in any order.
    for number in [1000, 3] {
        synthetic.fill(number, &mut batch);
        let lookups: usize = batch.tables.iter().map(|table| table.indices.len()).sum();
        println!("batch {number}: samples from {} on, {lookups} lookups in 4 tables", batch.first_sample);
    }
    Ok(())
}
