//! Reads a click log in Criteo's format in batches.
//!
//! `cargo run -p slackline-data --example criteo [FILE]`, a log of 13 dense features and 26 categories; without a file it
//! writes a log of two rows and reads it.

use std::path::PathBuf;

use slackline_data::{Batch, DataError, Input, InputShape};

fn main() -> Result<(), DataError> {
    let path = std::env::args().nth(1).map_or_else(two_rows, PathBuf::from);
    // Categories become rows of tables: their number modulo the rows of the table.
    let shape = InputShape { dense_features: 13, table_rows: vec![1000; 26] };
    let mut input = Input::open(&path, None, &shape)?;
    println!("{}: {}, {shape}", path.display(), input.format());

    let (mut batch, mut samples, mut clicks) = (Batch::default(), 0, 0.0);
    while input.next_batch(4096, &mut batch)? {
        if samples == 0 {
            println!("sample 0: dense features {:?}", &batch.dense[..3]);
            println!(
                "sample 0: row {} of table 0, row {} of table 1",
                batch.tables[0].indices[0], batch.tables[1].indices[0]
            );
        }
        samples += batch.samples;
        clicks += batch.labels.iter().sum::<f32>();
    }
    println!("{samples} samples, {clicks} clicks");
    Ok(())
}

/// A log in the folder for temporary files.
fn two_rows() -> PathBuf {
    let row = |label: u8| format!("{label}{}{}\n", "\t7".repeat(13), "\t68fd1e64".repeat(26));
    let path = std::env::temp_dir().join("two_rows.tsv");
    std::fs::write(&path, row(1) + &row(0)).expect("the folder for temporary files can be written to");
    path
}
