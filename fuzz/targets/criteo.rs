//! Criteo rows in every text format, plain and compressed.
#![no_main]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use slackline_data::{Batch, Input, InputOptions, InputShape, ids};
use slackline_fuzz::{file, seed};

fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 4] = [
        b"1\t5\t-3\tdeadbeef\t\n0\t\t\t\t68fd1e64\n",
        b"id,label,I1,I2,C1,C2\n7,1,5,-3,deadbeef,\n8,0,,,,68fd1e64\r\n",
        b"5\t-3\tdeadbeef\t0\n",
        b"id,I1,I2,C1,C2\n7,5,-3,deadbeef,1\n",
    ];
    texts.iter().flat_map(|text| (0..3).map(|mode| [&[mode][..], *text].concat())).collect()
}

fn compressed(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let Some((mode, data)) = data.split_first() else { return };
        // Plain; compressed; and a compressed file that was damaged.
        let path = match mode % 3 {
            0 => file("input", data),
            1 => file("input", &compressed(data)),
            _ => {
                let mut whole = compressed(data);
                let at = usize::from(mode / 3) % whole.len();
                whole[at] ^= 1 << (data.len() % 8);
                file("input", &whole)
            }
        };
        let shape = InputShape { dense_features: 2, table_rows: vec![1000, 3] };
        if let Ok(ids) = ids(&path, &InputOptions::default(), &shape) {
            let _ = ids.take(1000).count();
        }
        let Ok(mut input) = Input::open(&path, None, &shape) else { return };
        let mut batch = Batch::default();
        while let Ok(true) = input.next_batch(3, &mut batch) {
            assert!((1..=3).contains(&batch.samples) && batch.dense.len() == 2 * batch.samples);
            for (table, rows) in batch.tables.iter().zip([1000, 3]) {
                assert!(table.indices.iter().all(|index| (0..rows).contains(index)));
            }
        }
    }
);
