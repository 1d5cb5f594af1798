//! Parts of tables and compressed tables, each compared with a plain table that holds every value.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::compressed::{Combine, ProjectedTable, QuotientRemainderTable, RemappedTable, RowMap};
use slackline_embedding::{
    BagBuffer, Bags, EmbeddingTable, HeapTable, Load, Output, Pooling, RowFormat, Shard, ShardError, ShardWriter,
    TableSpec, Verify,
};

/// Bags of up to four lookups, with or without weights.
#[derive(Clone, Debug)]
struct Lookups {
    indices: Vec<i64>,
    offsets: Vec<i64>,
    weights: Option<Vec<f32>>,
}

impl Lookups {
    fn bags(&self, rows: u64) -> Bags<'_> {
        Bags::new("t", rows, &self.indices, &self.offsets, self.weights.as_deref()).unwrap()
    }

    fn poolings(&self) -> &'static [Pooling] {
        if self.weights.is_some() { &[Pooling::Sum] } else { &[Pooling::Sum, Pooling::Mean] }
    }
}

fn lookups(rows: u64) -> impl Strategy<Value = Lookups> {
    (vec(vec(0..rows as i64, 0..5), 0..150), any::<bool>()).prop_map(|(bags, weighted)| {
        let mut offsets = vec![0];
        offsets.extend(bags.iter().scan(0, |end, bag| {
            *end += bag.len() as i64;
            Some(*end)
        }));
        let indices = bags.concat();
        let weights = weighted.then(|| (0..indices.len()).map(|at| (at % 7) as f32 / 2.0 - 1.0).collect());
        Lookups { indices, offsets, weights }
    })
}

fn pooled(table: &dyn EmbeddingTable, lookups: &Lookups, pooling: Pooling) -> Vec<f32> {
    let bags = lookups.bags(table.rows());
    let mut out = vec![f32::NAN; bags.len() * table.dim()];
    table.pool(&bags, pooling, &mut out).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn format() -> impl Strategy<Value = RowFormat> {
    (0..RowFormat::ALL.len()).prop_map(|at| RowFormat::ALL[at])
}

/// The values of all rows, as they are read.
fn values(table: &HeapTable) -> Vec<Vec<f32>> {
    let row = |row| {
        let mut values = vec![0.0; table.dim()];
        table.stored().decode(row, &mut values);
        values
    };
    (0..table.rows()).map(row).collect()
}

/// A table that holds these rows, so that compressed ones can be compared with it.
fn plain(rows: &[Vec<f32>], dim: usize) -> HeapTable {
    HeapTable::from_fn("t", rows.len() as u64, dim, |row, column| rows[row as usize][column])
}

proptest! {
    #[test]
    fn parts_are_the_table_cut(
        (format, rows, dim) in (format(), 1u64..40, 1usize..40),
        cuts in any::<(u8, u8, u8, u8)>(),
        seed: u64,
    ) {
        let table = HeapTable::random("t", rows, dim, seed).to_format(format).unwrap();
        let range = |one: u8, other: u8, all: usize| {
            let (one, other) = (one as usize % (all + 1), other as usize % (all + 1));
            one.min(other)..one.max(other)
        };
        let run = range(cuts.0, cuts.1, rows as usize);
        let run = run.start as u64..run.end as u64;
        let mut columns = range(cuts.2, cuts.3, dim);
        // Half bytes are not cut, and nothing is no part.
        columns.start = columns.start / 2 * 2;
        columns.end = if columns.end <= columns.start { dim.min(columns.start + 2) } else { columns.end };
        columns.end = columns.end.next_multiple_of(2).min(dim);
        prop_assume!(columns.start < columns.end);
        let cut: Vec<Vec<f32>> = values(&table)[run.start as usize..run.end as usize]
            .iter().map(|row| row[columns.clone()].to_vec()).collect();
        prop_assert_eq!(values(&table.part(run.clone(), columns.clone())), cut.clone());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let mut writer = ShardWriter::create(&path, &[TableSpec::new("t", rows, dim, format)]).unwrap();
        writer.write_rows(0, table.stored().bytes()).unwrap();
        writer.finish().unwrap();
        let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
        for how in Load::ALL {
            for verify in [Verify::HeaderOnly, Verify::Checksums] {
                let part = shard.load_part("t", run.clone(), columns.clone(), how, verify, &mut |_| ()).unwrap();
                prop_assert_eq!((part.rows(), part.dim()), (run.end - run.start, columns.len()));
                let one_each = Lookups {
                    indices: (0..part.rows() as i64).collect(),
                    offsets: (0..=part.rows() as i64).collect(),
                    weights: None,
                };
                let found = pooled(part.as_ref(), &one_each, Pooling::Sum);
                // Zero has two signs, and a sum begins with the positive one.
                let expected: Vec<f32> = cut.concat().iter().map(|value| 0.0 + value).collect();
                prop_assert_eq!(bits(&found), bits(&expected), "{}", how);
            }
        }
    }

    #[test]
    fn columns_pool_to_the_bits_of_the_whole(
        (format, lookups) in (format(), lookups(50)), seed: u64, halves in 1usize..9,
    ) {
        let table = HeapTable::random("t", 50, 16, seed).to_format(format).unwrap();
        let (left, right) = (table.part(0..50, 0..2 * halves.min(7)), table.part(0..50, 2 * halves.min(7)..16));
        for &pooling in lookups.poolings() {
            let (one, other) = (pooled(&left, &lookups, pooling), pooled(&right, &lookups, pooling));
            let rows = one.chunks(left.dim()).zip(other.chunks(right.dim()));
            let together: Vec<f32> = rows.flat_map(|(one, other)| [one, other].concat()).collect();
            prop_assert_eq!(bits(&together), bits(&pooled(&table, &lookups, pooling)));
        }
    }

    #[test]
    fn bags_of_some_rows_and_samples_are_those_of_a_loop(lookups in lookups(50), from in 0u64..50, every in 1usize..4) {
        let bags = lookups.bags(50);
        let mut buffer = BagBuffer::default();
        let wanted = |sample: usize| sample.is_multiple_of(every);
        let some = buffer.select(&bags, 50 - from, wanted, |row| row.checked_sub(from));
        let mut other = BagBuffer::default();
        let to = from + (50 - from) / 2;
        let mut mapped = BagBuffer::default();
        let mapped = mapped.map(&bags, to - from, |row| row.checked_sub(from).filter(|row| *row < to - from));
        prop_assert_eq!(format!("{:?}", other.run(&bags, from..to)), format!("{:?}", mapped));
        let samples: Vec<usize> = (0..bags.len()).filter(|sample| wanted(*sample)).collect();
        prop_assert_eq!(some.len(), samples.len());
        for (at, sample) in samples.into_iter().enumerate() {
            let kept: Vec<usize> = bags.bag(sample).filter(|at| bags.indices().value(*at) >= from as i64).collect();
            let rows: Vec<i64> = some.bag(at).map(|at| some.indices().value(at)).collect();
            prop_assert_eq!(rows, kept.iter().map(|&at| bags.indices().value(at) - from as i64).collect::<Vec<_>>());
            if let Some(weights) = some.weights() {
                let expected: Vec<f32> = kept.iter().map(|&at| bags.weights().unwrap()[at]).collect();
                prop_assert_eq!(&weights[some.bag(at)], &expected[..]);
            }
        }
    }

    #[test]
    fn hashed_and_pruned_tables_are_plain_ones_with_those_rows(
        (format, held, lookups) in (format(), 1u64..20, lookups(60)),
        entries in vec(-3i32..20, 60),
        seed: u64,
    ) {
        let small = HeapTable::random("t", held, 9, seed).to_format(format).unwrap();
        let rows = values(&small);
        let entries: Vec<i32> = entries.into_iter().map(|entry| entry.min(held as i32 - 1)).collect();
        let hashed: Vec<_> = (0..60).map(|row| rows[row % held as usize].clone()).collect();
        let pruned: Vec<_> = entries.iter()
            .map(|&entry| if entry < 0 { vec![0.0; 9] } else { rows[entry as usize].clone() }).collect();
        for (map, expected) in [(RowMap::Modulo, hashed), (RowMap::Remap(entries.into()), pruned)] {
            let table = RemappedTable::new(Arc::new(small.clone()), 60, map).unwrap();
            for &pooling in lookups.poolings() {
                let (found, plain) = (pooled(&table, &lookups, pooling), pooled(&plain(&expected, 9), &lookups, pooling));
                // Quantised rows are summed by another formula than the values that they stand for.
                let close = found.iter().zip(&plain).all(|(one, other)| (one - other).abs() <= 1e-5);
                prop_assert!(close, "{:?} {:?}", found, plain);
                if format == RowFormat::F32 {
                    prop_assert_eq!(found, plain);
                }
            }
        }
    }

    #[test]
    fn quotient_remainder_tables_combine_two_pooled_vectors(
        (collisions, lookups) in (1u64..9, lookups(60)), combine in 0..3usize, seed: u64,
    ) {
        let combine = Combine::ALL[combine];
        let quotient = HeapTable::random("q", 60u64.div_ceil(collisions), 6, seed);
        let remainder = HeapTable::random("r", collisions, 6, seed ^ 1);
        let table = QuotientRemainderTable::new(
            Arc::new(quotient.clone()), Arc::new(remainder.clone()), 60, combine,
        ).unwrap();
        let of = |table: &HeapTable, row: fn(u64, u64) -> u64| {
            let rows = values(table);
            plain(&(0..60).map(|at| rows[row(at, collisions) as usize].clone()).collect::<Vec<_>>(), 6)
        };
        let (quotients, remainders) = (of(&quotient, |row, c| row / c), of(&remainder, |row, c| row % c));
        for &pooling in lookups.poolings() {
            let (one, other) = (pooled(&quotients, &lookups, pooling), pooled(&remainders, &lookups, pooling));
            let pairs = || one.iter().zip(&other);
            let expected: Vec<f32> = match combine {
                Combine::Multiply => pairs().map(|(one, other)| one * other).collect(),
                Combine::Add => pairs().map(|(one, other)| one + other).collect(),
                Combine::Concatenate => {
                    one.chunks(6).zip(other.chunks(6)).flat_map(|(one, other)| [one, other].concat()).collect()
                }
            };
            prop_assert_eq!(bits(&pooled(&table, &lookups, pooling)), bits(&expected), "{}", combine);
        }
        // Narrow outputs are the rounded ones, and a run of samples its part of the whole.
        let bags = lookups.bags(60);
        let mut narrow = vec![half::f16::ZERO; bags.len() * table.dim()];
        table.pool_to(&bags, Pooling::Sum, Output::F16(&mut narrow)).unwrap();
        let wide = pooled(&table, &lookups, Pooling::Sum);
        prop_assert!(narrow.iter().zip(&wide).all(|(narrow, wide)| *narrow == half::f16::from_f32(*wide)));
        let from = bags.len() / 2;
        let mut half = vec![0.0; (bags.len() - from) * table.dim()];
        table.pool(&bags.samples(from..bags.len()), Pooling::Sum, &mut half).unwrap();
        prop_assert_eq!(bits(&half), bits(&wide[from * table.dim()..]));
    }

    #[test]
    fn projected_tables_multiply_pooled_vectors(lookups in lookups(30), narrow in 1usize..6, dim in 1usize..20, seed: u64) {
        let small = HeapTable::random("t", 30, narrow, seed);
        let matrix = HeapTable::random("m", dim as u64, narrow, seed ^ 2);
        let table = ProjectedTable::new(Arc::new(small.clone()), matrix.data()).unwrap();
        prop_assert_eq!(table.dim(), dim);
        for &pooling in lookups.poolings() {
            let expected: Vec<f32> = pooled(&small, &lookups, pooling).chunks(narrow).flat_map(|pooled| {
                let row = |row: &[f32]| row.iter().zip(pooled).fold(0.0, |sum, (a, b)| sum + a * b);
                matrix.data().chunks(narrow).map(row).collect::<Vec<f32>>()
            }).collect();
            prop_assert_eq!(bits(&pooled(&table, &lookups, pooling)), bits(&expected));
        }
    }
}

#[test]
fn tables_that_do_not_belong_together_are_refused_by_name() {
    let table = |name: &str, rows, dim| Arc::new(HeapTable::random(name, rows, dim, 1)) as Arc<dyn EmbeddingTable>;
    let refused = |map| RemappedTable::new(table("t", 3, 2), 5, map).unwrap_err().to_string();
    assert_eq!(refused(RowMap::Quotient { divisor: 0 }), "table t: a division of rows by 0");
    assert_eq!(refused(RowMap::Quotient { divisor: 1 }), "table t: 5 rows by 1 are 5, but there are 3");
    assert_eq!(refused(RowMap::Remap([0, 1].into())), "table t: 2 entries for 5 rows");
    assert_eq!(refused(RowMap::Remap([0, 1, 2, 3, -1].into())), "table t: row 3 is row 3 of 3");
    let error = RemappedTable::new(table("t", 0, 2), 5, RowMap::Modulo).unwrap_err();
    assert_eq!(error.to_string(), "table t: 5 rows of none");
    let refused = |q, r, combine| QuotientRemainderTable::new(q, r, 10, combine).unwrap_err().to_string();
    let both = refused(table("q", 4, 2), table("r", 4, 2), Combine::Add);
    assert_eq!(both, "table q: 10 rows with 4 collisions do not make 4 quotients");
    let widths = refused(table("q", 3, 2), table("r", 4, 3), Combine::Multiply);
    assert_eq!(widths, "table q: vectors of 2 and 3 columns cannot be combined by mult");
    let error = ProjectedTable::new(table("t", 3, 2), &[1.0; 5]).unwrap_err().to_string();
    assert_eq!(error, "table t: a projection of 5 values from 2 columns");
}

#[test]
fn parts_that_a_shard_does_not_have_are_refused_by_file_and_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let table = HeapTable::random("t", 4, 5, 1).to_format(RowFormat::Int4).unwrap();
    let mut writer = ShardWriter::create(&path, &[TableSpec::new("t", 4, 5, RowFormat::Int4)]).unwrap();
    writer.write_rows(0, table.stored().bytes()).unwrap();
    writer.finish().unwrap();
    let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "that is the mistake")]
    let wrong = [(0..5, 0..5), (3..2, 0..5), (0..4, 0..6), (0..4, 2..2), (0..4, 1..5), (0..4, 0..3)];
    for (rows, columns) in wrong {
        let error = shard.load_part("t", rows, columns, Load::Mapped, Verify::HeaderOnly, &mut |_| ()).unwrap_err();
        assert!(matches!(&error, ShardError::NoPart { table, .. } if table == "t"), "{error}");
        assert!(error.to_string().contains("t.safetensors"), "{error}");
    }
}
