//! Shard files, and lookups in the tables of those that open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_embedding::{Bags, Load, Pooling, RowFormat, Shard, ShardWriter, TableSpec, Verify};
use slackline_fuzz::{file, folder, mend_shard, seed};

fn seeds() -> Vec<Vec<u8>> {
    let specs: Vec<TableSpec> =
        RowFormat::ALL.iter().map(|&format| TableSpec::new(format!("{format}"), 3, 4, format)).collect();
    let one = |specs: &[TableSpec], formats: &[RowFormat]| {
        let path = folder().join("seed");
        let _ = std::fs::remove_file(&path);
        let mut writer = ShardWriter::create(&path, specs).expect("a new file");
        for (number, format) in formats.iter().enumerate() {
            writer.write_rows(number, &vec![7; 3 * format.row_bytes(4)]).expect("three rows");
        }
        writer.finish().expect("all rows are there");
        std::fs::read(&path).expect("it was written")
    };
    vec![one(&specs, RowFormat::ALL), one(&specs[..1], &RowFormat::ALL[..1])]
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let mut bytes = data.to_vec();
        mend_shard(&mut bytes);
        let Ok(shard) = Shard::open(file("shard", &bytes), Verify::HeaderOnly) else { return };
        for table in shard.tables() {
            let _ = shard.verify(&table.tensor);
            if table.dim > 1 << 12 || table.rows == 0 {
                continue;
            }
            let last = [table.rows as i64 - 1, 0];
            let mut out = vec![0.0; 2 * table.dim];
            for load in Load::ALL {
                let ready = shard.load(&table.tensor, load, Verify::HeaderOnly).expect("its header was checked");
                let bags = Bags::new(ready.name(), ready.rows(), &last, &[0i64, 2, 2], None).expect("rows of the table");
                ready.pool(&bags, Pooling::Sum, &mut out).expect("room for two vectors");
            }
            let _ = shard.load_part(&table.tensor, 0..1, 0..table.dim / 2, Load::Mapped, Verify::Checksums, &mut |_| ());
        }
    }
);
