//! Measuring what pooling costs on this machine.

use std::hint::black_box;
use std::time::Instant;

use super::{CostModel, Level};
use crate::{Bags, EmbeddingTable, HeapTable, PoolError, Pooling};

/// Bytes of the tables that stand for a level, and how large a table may be to cost as much: those that one core's cache
/// holds, those that a processor's holds, and those that lie in memory.
const LEVELS: [(u64, u64); 3] = [(256 << 10, 1 << 20), (6 << 20, 16 << 20), (192 << 20, u64::MAX)];
const NARROW: usize = 16;
const WIDE: usize = 128;
const SAMPLES: usize = 256;
const LOOKUPS: usize = 20;
/// The fastest of so many passes counts.
const PASSES: usize = 7;

impl CostModel {
    /// Measures one core of this machine: tables of `f32` rows of 64 and 512 bytes that lie in the caches or in memory, with
    /// 1 and 20 lookups a bag.
    ///
    /// Cost: about a second, and 192 MiB for that time.
    pub fn measure() -> Self {
        let mut model = CostModel { levels: Vec::new(), vector_ns: 0.0, value_ns: 0.0 };
        for (place, (table_bytes, bytes)) in LEVELS.into_iter().enumerate() {
            let narrow = HeapTable::from_fn("narrow", table_bytes / (4 * NARROW as u64), NARROW, |row, _| row as f32);
            let wide = HeapTable::from_fn("wide", table_bytes / (4 * WIDE as u64), WIDE, |row, _| row as f32);
            // ns for one sample: vector + lookups * row.
            let [few_narrow, few_wide] = [&narrow, &wide].map(|table| sample_ns(table, 1));
            let [many_narrow, many_wide] = [&narrow, &wide].map(|table| sample_ns(table, LOOKUPS));
            let row = |few: f64, many: f64| ((many - few) / (LOOKUPS - 1) as f64).max(0.0);
            let (row_narrow, row_wide) = (row(few_narrow, many_narrow), row(few_wide, many_wide));
            let byte_ns = ((row_wide - row_narrow) / (4 * (WIDE - NARROW)) as f64).max(0.0);
            let lookup_ns = (row_narrow - byte_ns * (4 * NARROW) as f64).max(0.0);
            model.levels.push(Level { bytes, lookup_ns, byte_ns });
            if place == 0 {
                let (vector_narrow, vector_wide) = (few_narrow - row_narrow, few_wide - row_wide);
                model.value_ns = ((vector_wide - vector_narrow) / (WIDE - NARROW) as f64).max(0.0);
                model.vector_ns = (vector_narrow - model.value_ns * NARROW as f64).max(0.0);
            }
        }
        model
    }
}

fn sample_ns(table: &HeapTable, lookups: usize) -> f64 {
    let offsets: Vec<i64> = (0..=SAMPLES).map(|sample| (sample * lookups) as i64).collect();
    let mut out = vec![0.0; SAMPLES * table.dim()];
    let mut fastest = f64::INFINITY;
    for pass in 0..PASSES {
        // Other rows in every pass, so that a pass does not find those of the last one in a cache.
        let row = |at: usize| {
            let hash = ((at + pass * SAMPLES * lookups) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((u128::from(hash) * u128::from(table.rows())) >> 64) as i64
        };
        let indices: Vec<i64> = (0..SAMPLES * lookups).map(row).collect();
        let bags = Bags::new(table.name(), table.rows(), &indices, &offsets, None).expect("rows of the table");
        let begin = Instant::now();
        let pooled: Result<(), PoolError> = table.pool(&bags, Pooling::Sum, &mut out);
        let elapsed = begin.elapsed().as_secs_f64();
        pooled.expect("bags and room fit");
        black_box(&out);
        fastest = fastest.min(elapsed * 1e9 / SAMPLES as f64);
    }
    fastest
}
