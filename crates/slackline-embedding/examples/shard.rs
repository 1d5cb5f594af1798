//! Writes a shard of two tables, opens it, and pools three samples from each table.
//!
//!     cargo run -p slackline-embedding --example shard

use slackline_embedding::{Bags, HeapTable, Load, Pooling, RowFormat, Shard, ShardWriter, TableSpec, Verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shard-0.safetensors");

    // One table in single precision, one in bytes with a scale and a bias for each row.
    let country = HeapTable::from_fn("country", 5, 4, |row, column| row as f32 + column as f32 / 4.0);
    let item = HeapTable::random("item", 100_000, 64, 1).to_format(RowFormat::Int8)?;
    let specs = [TableSpec::new("country", 5, 4, RowFormat::F32), TableSpec::new("item", 100_000, 64, RowFormat::Int8)];
    let mut writer = ShardWriter::create(&path, &specs)?;
    writer.write_rows(0, country.stored().bytes())?;
    writer.write_rows(1, item.stored().bytes())?;
    writer.finish()?;

    // The checksums are compared once; then the first table is copied into memory, and the second one stays in the file.
    let shard = Shard::open(&path, Verify::Checksums)?;
    let country = shard.load("country", Load::Copied, Verify::HeaderOnly)?;
    let item = shard.load("item", Load::Mapped, Verify::HeaderOnly)?;

    // Sample 0 looks up two rows, sample 1 none, and sample 2 one row twice.
    let offsets = [0i32, 2, 2, 4];
    for (table, indices) in [(country, [4i64, 1, 2, 2]), (item, [99_999, 7, 8, 8])] {
        let bags = Bags::of(&*table, &indices, &offsets, None)?;
        let mut vectors = vec![0.0; bags.len() * table.dim()];
        table.pool(&bags, Pooling::Mean, &mut vectors)?;
        println!("{}: {} rows of {} columns, {} bytes", table.name(), table.rows(), table.dim(), table.bytes());
        for (sample, vector) in vectors.chunks_exact(table.dim()).enumerate() {
            println!("  sample {sample}: {:?}", &vector[..4]);
        }
    }

    // An index outside of its table is found before anything is looked up.
    println!("{}", Bags::new("country", 5, &[4i64, 5], &[0i32, 2], None).unwrap_err());
    Ok(())
}
