//! Row formats: any bytes are rows, which every kernel pools to the bits of the naive one; any values are encoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_embedding::kernels::{self, Isa};
use slackline_embedding::{Bags, Output, Pooling, RowFormat, Rows};
use slackline_fuzz::{Bytes, seed};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    (0..RowFormat::ALL.len() as u8).map(|format| [&[format, 15, 3, 1][..], &[0x3c; 600]].concat()).collect()
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let mut data = Bytes(data);
        let format = RowFormat::ALL[data.byte() as usize % RowFormat::ALL.len()];
        let dim = 1 + data.byte() as usize;
        let (lookups, weighted) = (data.byte() as usize % 64, data.byte() % 2 == 1);
        let picks: Vec<u8> = data.take(lookups).to_vec();
        let weights: Vec<f32> = picks.iter().map(|_| f32::from_bits(u32::from_le_bytes([
            data.byte(), data.byte(), data.byte(), data.byte(),
        ]))).collect();

        let values: Vec<f32> = data.0.as_chunks().0.iter().take(dim).map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if !values.is_empty() {
            let mut row = vec![0; format.row_bytes(values.len())];
            if format.encode(&values, &mut row).is_ok() {
                let mut back = vec![0.0; values.len()];
                Rows::new(format, values.len(), &row).decode(0, &mut back);
                if format == RowFormat::F32 {
                    assert_eq!(bits(&back), bits(&values));
                }
            }
        }

        let row_bytes = format.row_bytes(dim);
        let whole = data.0.len() / row_bytes * row_bytes;
        let rows = Rows::new(format, dim, &data.0[..whole]);
        if rows.is_empty() {
            return;
        }
        let indices: Vec<i64> = picks.iter().map(|&pick| i64::from(pick) % rows.len() as i64).collect();
        let offsets = [0, indices.len() as i64 / 3, indices.len() as i64];
        let bags = Bags::new("t", rows.len(), &indices, &offsets, weighted.then_some(&weights[..])).expect("rows of the table");
        let mut expected = vec![0.0; 2 * dim];
        for pooling in [Pooling::Sum, Pooling::Mean] {
            if weighted && pooling == Pooling::Mean {
                continue;
            }
            kernels::naive::pool(rows, &bags, pooling, Output::F32(&mut expected));
            for &isa in Isa::available() {
                let mut found = vec![f32::NAN; 2 * dim];
                kernels::pool(isa, rows, &bags, pooling, Output::F32(&mut found));
                assert_eq!(bits(&found), bits(&expected), "{format} {isa} dim {dim}");
            }
        }
    }
);
