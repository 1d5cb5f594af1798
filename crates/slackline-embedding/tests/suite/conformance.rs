//! The conformance suite over every kind of table, and over tables that are wrong in one way each.

use std::sync::Arc;

use slackline_embedding::compressed::{Combine, ProjectedTable, QuotientRemainderTable, RemappedTable, RowMap};
use slackline_embedding::conformance::{self, Sums};
use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Load, Output, PoolError, Pooling, RowFormat, Shard, ShardWriter, TableSpec, Verify,
};

const SHAPES: [(u64, usize); 5] = [(0, 3), (1, 1), (7, 4), (90, 16), (300, 65)];

fn sums(format: RowFormat) -> Sums {
    match format {
        RowFormat::F32 | RowFormat::F16 | RowFormat::Bf16 => Sums::Exact,
        _ => Sums::Near,
    }
}

fn heap(rows: u64, dim: usize, format: RowFormat) -> HeapTable {
    HeapTable::random("t", rows, dim, rows).to_format(format).unwrap()
}

fn floats(rows: u64, dim: usize) -> Arc<HeapTable> {
    Arc::new(heap(rows, dim, RowFormat::F32))
}

#[test]
fn heap_tables_of_every_format_conform() {
    for &format in RowFormat::ALL {
        for (rows, dim) in SHAPES {
            conformance::check(&heap(rows, dim, format), sums(format)).unwrap();
        }
    }
}

#[test]
fn mapped_and_copied_tables_of_every_format_conform() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard");
    for &format in RowFormat::ALL {
        let tables = SHAPES.map(|(rows, dim)| heap(rows, dim, format));
        let names = [0, 1, 2, 3, 4].map(|number| format!("t{number}"));
        let specs =
            names.iter().zip(&tables).map(|(name, table)| TableSpec::new(name, table.rows(), table.dim(), format));
        let mut writer = ShardWriter::create(&path, &specs.collect::<Vec<_>>()).unwrap();
        for (number, table) in tables.iter().enumerate() {
            writer.write_rows(number, table.stored().bytes()).unwrap();
        }
        writer.finish().unwrap();
        let shard = Shard::open(&path, Verify::Checksums).unwrap();
        for name in &names {
            conformance::check(&shard.table(name).unwrap(), sums(format)).unwrap();
            let copied = shard.load(name, Load::Copied, Verify::HeaderOnly).unwrap();
            conformance::check(&*copied, sums(format)).unwrap();
        }
    }
}

#[test]
fn compressed_tables_conform() {
    let gone = (0..50).map(|row| if row % 3 == 0 { -1 } else { row / 3 }).collect();
    for (rows, map) in [(1 << 40, RowMap::Modulo), (60, RowMap::Quotient { divisor: 3 }), (50, RowMap::Remap(gone))] {
        conformance::check(&RemappedTable::new(floats(20, 5), rows, map).unwrap(), Sums::Exact).unwrap();
    }
    for (combine, sums) in
        [(Combine::Multiply, Sums::Other), (Combine::Add, Sums::Near), (Combine::Concatenate, Sums::Exact)]
    {
        let table = QuotientRemainderTable::new(floats(20, 6), floats(7, 6), 137, combine).unwrap();
        conformance::check(&table, sums).unwrap();
    }
    let matrix: Vec<f32> = (0..9 * 4).map(|at| (at % 11) as f32 / 7.0 - 0.6).collect();
    conformance::check(&ProjectedTable::new(floats(30, 4), &matrix).unwrap(), Sums::Near).unwrap();
}

/// What a table gets wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    TakesOtherBags,
    TakesWeightedMeans,
    TakesOtherLengths,
    WritesBeforeItRefuses,
    AddsToTheOutput,
    LeavesEmptyBags,
    ForgetsWeights,
    CountsRowsOnce,
    SumsForAMean,
    OtherOrder,
    RoundsHalvesDown,
    KnowsItsPlace,
    Fails,
}

#[derive(Debug)]
struct Faulty {
    table: HeapTable,
    fault: Fault,
}

impl EmbeddingTable for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn rows(&self) -> u64 {
        self.table.rows()
    }

    fn dim(&self) -> usize {
        self.table.dim()
    }

    fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        let (fault, dim) = (self.fault, self.dim());
        match PoolError::check(self, bags, pooling, &out) {
            Err(PoolError::Rows { .. }) if matches!(fault, Fault::TakesOtherBags) => return Ok(()),
            Err(PoolError::WeightedMean { .. }) if matches!(fault, Fault::TakesWeightedMeans) => return Ok(()),
            Err(PoolError::OutputLength { .. }) if matches!(fault, Fault::TakesOtherLengths) => return Ok(()),
            Err(_) if matches!(fault, Fault::WritesBeforeItRefuses) && !out.is_empty() => out.set(0, 0.0),
            _ => {}
        }
        PoolError::check(self, bags, pooling, &out)?;
        if matches!(fault, Fault::Fails) && bags.lookups() > 0 {
            return Err(PoolError::other(self.name(), "the line is down"));
        }
        let (mut row, before) = (vec![0.0; dim], if let Output::F32(out) = &out { out.to_vec() } else { Vec::new() });
        for sample in 0..bags.len() {
            let mut positions: Vec<usize> = bags.bag(sample).collect();
            match fault {
                Fault::LeavesEmptyBags if positions.is_empty() => continue,
                Fault::OtherOrder => positions.reverse(),
                Fault::CountsRowsOnce => positions.dedup_by_key(|at| bags.indices().value(*at)),
                _ => {}
            }
            let mut sum = vec![0.0; dim];
            if let (Fault::AddsToTheOutput, Some(before)) = (fault, before.get(sample * dim..)) {
                sum.iter_mut().zip(before).for_each(|(sum, before)| *sum += before);
            }
            for at in positions {
                self.table.stored().decode(bags.indices().value(at) as u64, &mut row);
                let weights = bags.weights().filter(|_| !matches!(fault, Fault::ForgetsWeights));
                let weight = weights.map_or(1.0, |weights| weights[at]);
                sum.iter_mut().zip(&row).for_each(|(sum, value)| *sum += weight * value);
            }
            let halves = !matches!(out, Output::F32(_));
            for (column, mut sum) in sum.into_iter().enumerate() {
                if pooling == Pooling::Mean && !matches!(fault, Fault::SumsForAMean) {
                    sum /= bags.bag(sample).len().max(1) as f32;
                }
                match fault {
                    Fault::RoundsHalvesDown if halves => sum -= sum.abs() / 128.0,
                    Fault::KnowsItsPlace if sample == 7 => sum += 1.0,
                    _ => {}
                }
                out.set(sample * dim + column, sum);
            }
        }
        Ok(())
    }
}

#[test]
fn each_fault_is_found_and_named() {
    let cases = [
        (Fault::TakesOtherBags, "bags checked against 91 rows for a table of 90: PoolError::Rows expected"),
        (Fault::TakesWeightedMeans, "a mean of weighted bags: PoolError::WeightedMean expected"),
        (Fault::TakesOtherLengths, "values for 2 samples of dimension 4: PoolError::OutputLength expected"),
        (Fault::WritesBeforeItRefuses, "refused, but the output was written to"),
        (Fault::AddsToTheOutput, "over an output of NaN, and of 7.5"),
        (Fault::LeavesEmptyBags, "over an output of NaN, and of 7.5"),
        (Fault::ForgetsWeights, "Sum with weights, column 0"),
        (Fault::CountsRowsOnce, "Sum, column 0"),
        (Fault::SumsForAMean, "Mean, column 0"),
        (Fault::OtherOrder, "Sum, column"),
        (Fault::RoundsHalvesDown, "an f16 output, and f32 rounded"),
        (Fault::KnowsItsPlace, "sample 7 alone, and in its batch"),
        (Fault::Fails, "lookups fail: table faulty: the line is down"),
    ];
    for (fault, message) in cases {
        let faulty = Faulty { table: heap(90, 4, RowFormat::F32), fault };
        let found = conformance::check(&faulty, Sums::Exact).expect_err(&format!("{fault:?} is not found"));
        assert!(found.to_string().starts_with("table faulty: "), "{found}");
        assert!(found.to_string().contains(message), "{fault:?}: {found}");
    }
}
