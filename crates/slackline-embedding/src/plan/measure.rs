//! Measuring what pooling costs on this machine.

use std::hint::black_box;
use std::time::Instant;

use super::{CostModel, Level};
use crate::{BagBuffer, Bags, EmbeddingTable, HeapTable, PoolError, Pooling};

/// Bytes of the tables that stand for a level, and how large a table may be to cost as much: those that one core's cache
/// holds, those that a processor's holds, and those that lie in memory.
const LEVELS: [(u64, u64); 3] = [(256 << 10, 1 << 20), (6 << 20, 16 << 20), (192 << 20, u64::MAX)];
const NARROW: usize = 16;
const WIDE: usize = 128;
const SAMPLES: usize = 256;
const LOOKUPS: usize = 20;
/// The number of passes; the fastest counts.
const PASSES: usize = 7;
/// Values in an output buffer too large for a core's own cache: messages are not cached when written, either.
const ROOM: usize = 4 << 20;

impl CostModel {
    /// Measures one core of this machine: tables of `f32` rows of 64 and 512 bytes that lie in the caches or in memory, with
    /// 1 and 20 lookups a bag. The time to check the lookups is part of what they cost.
    ///
    /// Cost: about a second, and 400 MiB for that time.
    pub fn measure() -> Self {
        let mut model = CostModel { levels: Vec::new(), vector_ns: 0.0, value_ns: 0.0, pick_ns: pick_ns() };
        let mut room = vec![1.0; ROOM];
        for (place, (table_bytes, bytes)) in LEVELS.into_iter().enumerate() {
            let narrow = HeapTable::from_fn("narrow", table_bytes / (4 * NARROW as u64), NARROW, |row, _| row as f32);
            let wide = HeapTable::from_fn("wide", table_bytes / (4 * WIDE as u64), WIDE, |row, _| row as f32);
            // ns for one sample: vector + lookups * row.
            let [few_narrow, few_wide] = [&narrow, &wide].map(|table| sample_ns(table, 1, &mut room));
            let [many_narrow, many_wide] = [&narrow, &wide].map(|table| sample_ns(table, LOOKUPS, &mut room));
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

fn sample_ns(table: &HeapTable, lookups: usize, room: &mut [f32]) -> f64 {
    let offsets = offsets(lookups);
    let mut rooms = room.chunks_exact_mut(ROOM / PASSES);
    let mut fastest = f64::INFINITY;
    for pass in 0..PASSES {
        // Different rows in every pass, so that a pass does not find the last one's rows in a cache.
        let indices = indices(pass, lookups, table.rows());
        let out = &mut rooms.next().expect("room for every pass")[..SAMPLES * table.dim()];
        let begin = Instant::now();
        let bags = Bags::new(table.name(), table.rows(), &indices, &offsets, None).expect("rows of the table");
        let pooled: Result<(), PoolError> = table.pool(&bags, Pooling::Sum, out);
        let elapsed = begin.elapsed().as_secs_f64();
        pooled.expect("bags and room fit");
        black_box(&out);
        fastest = fastest.min(elapsed * 1e9 / SAMPLES as f64);
    }
    fastest
}

/// The time to pick one lookup of a table.
fn pick_ns() -> f64 {
    const ROWS: u64 = 1 << 20;
    let offsets = offsets(LOOKUPS);
    let mut buffer = BagBuffer::default();
    let mut fastest = f64::INFINITY;
    for pass in 0..PASSES {
        let indices = indices(pass, LOOKUPS, ROWS);
        let bags = Bags::new("picked", ROWS, &indices, &offsets, None).expect("rows of the table");
        let begin = Instant::now();
        black_box(buffer.run(&bags, ROWS / 4..ROWS / 2));
        fastest = fastest.min(begin.elapsed().as_secs_f64() * 1e9 / bags.lookups() as f64);
    }
    fastest
}

fn offsets(lookups: usize) -> Vec<i64> {
    (0..=SAMPLES).map(|sample| (sample * lookups) as i64).collect()
}

/// Evenly spread rows, different in every pass.
fn indices(pass: usize, lookups: usize, rows: u64) -> Vec<i64> {
    let row = |at: usize| {
        let hash = ((at + pass * SAMPLES * lookups) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(hash) * u128::from(rows)) >> 64) as i64
    };
    (0..SAMPLES * lookups).map(row).collect()
}
