//! One suite over every kernel, and every kind of table: all give the bits of the naive kernel, and that one gives what
//! can be worked out by hand.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Indices, PoolError, Pooling, RowFormat, Shard, ShardWriter, TableSpec, Verify,
    kernels,
};

/// Lookups as a caller holds them, in both widths.
#[derive(Clone, Debug)]
struct Lookups {
    rows: u64,
    indices: Vec<i64>,
    offsets: Vec<i64>,
    weights: Option<Vec<f32>>,
}

impl Lookups {
    fn new(rows: u64, bags: &[Vec<i64>], weights: Option<Vec<f32>>) -> Self {
        let mut offsets = vec![0];
        offsets.extend(bags.iter().scan(0, |end, bag| {
            *end += bag.len() as i64;
            Some(*end)
        }));
        Lookups { rows, indices: bags.concat(), offsets, weights }
    }

    /// Calls `with` for all four combinations of widths.
    fn each_width(&self, mut with: impl FnMut(Bags<'_>)) {
        let indices: Vec<i32> = self.indices.iter().map(|&index| index as i32).collect();
        let offsets: Vec<i32> = self.offsets.iter().map(|&offset| offset as i32).collect();
        for indices in [Indices::from(&indices), Indices::from(&self.indices)] {
            for offsets in [Indices::from(&offsets), Indices::from(&self.offsets)] {
                with(Bags::new("t", self.rows, indices, offsets, self.weights.as_deref()).unwrap());
            }
        }
    }

    fn poolings(&self) -> &'static [Pooling] {
        if self.weights.is_some() { &[Pooling::Sum] } else { &[Pooling::Sum, Pooling::Mean] }
    }
}

/// Every kind of table there is, all with the same rows.
fn tables(dim: usize, data: &[f32]) -> Vec<Box<dyn EmbeddingTable>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let rows = (data.len() / dim) as u64;
    let before = TableSpec::new("before", 3, 1, RowFormat::F32);
    let mut writer = ShardWriter::create(&path, &[before, TableSpec::new("t", rows, dim, RowFormat::F32)]).unwrap();
    writer.write_rows(0, &[0xab; 12]).unwrap();
    writer.write_rows(1, bytemuck::cast_slice(data)).unwrap();
    writer.finish().unwrap();
    let mapped = Shard::open(&path, Verify::Checksums).unwrap().table("t").unwrap();
    vec![Box::new(HeapTable::new("t", dim, data.to_vec())), Box::new(mapped)]
}

/// The bits of each value; which NaN comes out is not promised, so all NaNs are one.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn naive(data: &[f32], dim: usize, bags: &Bags<'_>, pooling: Pooling) -> Vec<f32> {
    let mut out = vec![f32::NAN; bags.len() * dim];
    kernels::naive::pool(data, dim, bags, pooling, &mut out);
    out
}

/// Values of all magnitudes: most differ so much that another order of the additions would show.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -1000.0f32..1000.0,
        4 => any::<u32>().prop_map(f32::from_bits),
        1 => prop::sample::select(vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE]),
    ]
}

/// All dimensions that have code of their own, their neighbours, and odd ones.
fn dim() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![4usize, 8, 16, 32, 64, 128]),
        prop::sample::select(vec![1usize, 2, 3, 5, 7, 9, 12, 15, 17, 31, 33, 48, 63, 65, 100, 127, 129, 192, 256]),
    ]
}

fn case() -> impl Strategy<Value = (usize, Vec<f32>, Lookups)> {
    (dim(), 1..12usize).prop_flat_map(|(dim, rows)| {
        let bags = vec(vec(0..rows as i64, 0..6), 0..9);
        (vec(value(), dim * rows), bags, any::<bool>()).prop_flat_map(move |(data, bags, weighted)| {
            let lookups = bags.iter().map(Vec::len).sum::<usize>();
            let weights = if weighted { vec(value(), lookups).prop_map(Some).boxed() } else { Just(None).boxed() };
            let rows = rows as u64;
            weights.prop_map(move |weights| (dim, data.clone(), Lookups::new(rows, &bags, weights)))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_and_every_table_gives_the_bits_of_the_naive_kernel((dim, data, lookups) in case()) {
        let tables = tables(dim, &data);
        for &pooling in lookups.poolings() {
            lookups.each_width(|bags| {
                let expected = naive(&data, dim, &bags, pooling);
                // What is in the output before must not matter.
                let mut out = vec![f32::NAN; expected.len()];
                kernels::blocked::pool(&data, dim, &bags, pooling, &mut out);
                assert_eq!(bits(&out), bits(&expected), "blocked kernel, {pooling:?}");
                for table in &tables {
                    out.fill(7.0);
                    table.pool(&bags, pooling, &mut out).unwrap();
                    assert_eq!(bits(&out), bits(&expected), "{table:?}, {pooling:?}");
                }
            });
        }
    }

    #[test]
    fn a_run_of_samples_gives_its_part_of_the_whole((dim, data, lookups) in case(), cut in any::<(u8, u8)>()) {
        let table = HeapTable::new("t", dim, data.clone());
        lookups.each_width(|bags| {
            let mut ends = [cut.0, cut.1].map(|cut| usize::from(cut) % (bags.len() + 1));
            ends.sort();
            let run: Range<usize> = ends[0]..ends[1];
            let part = bags.samples(run.clone());
            assert_eq!(part.len(), run.len());
            let mut out = vec![f32::NAN; part.len() * dim];
            table.pool(&part, Pooling::Sum, &mut out).unwrap();
            let whole = naive(&data, dim, &bags, Pooling::Sum);
            assert_eq!(bits(&out), bits(&whole[run.start * dim..run.end * dim]));
            // A run of a run is a run as well.
            if !part.is_empty() {
                let last = part.samples(part.len() - 1..part.len());
                assert_eq!(last.lookups(), lookups.offsets[run.end] as usize - lookups.offsets[run.end - 1] as usize);
            }
        });
    }

    #[test]
    fn sums_of_small_integers_are_exact(dim in dim(), bags in vec(vec(0..9i64, 0..5), 0..9), weighted in any::<bool>()) {
        // Small integers are added without rounding in any order, so integer arithmetic is the reference here.
        let value = |row: i64, column: usize| (row * 31 + column as i64 * 7) % 23 - 11;
        let weight = |position: usize| position as i64 % 5 - 2;
        let table = HeapTable::from_fn("t", 9, dim, |row, column| value(row as i64, column) as f32);
        let lookups = bags.concat().len();
        let weights = weighted.then(|| (0..lookups).map(|position| weight(position) as f32).collect());
        Lookups::new(9, &bags, weights).each_width(|view| {
            let mut out = vec![f32::NAN; bags.len() * dim];
            table.pool(&view, Pooling::Sum, &mut out).unwrap();
            let mut position = 0;
            for (sample, bag) in bags.iter().enumerate() {
                for column in 0..dim {
                    let terms = bag.iter().enumerate().map(|(at, &row)| {
                        value(row, column) * if weighted { weight(position + at) } else { 1 }
                    });
                    assert_eq!(out[sample * dim + column], terms.sum::<i64>() as f32);
                }
                position += bag.len();
            }
        });
    }
}

#[test]
fn additions_go_in_the_order_of_the_indices() {
    let table = HeapTable::new("t", 1, vec![1.0e8, -1.0e8, 1.0]);
    let mut out = [0.0; 2];
    let bags = Bags::new("t", 3, &[0i64, 1, 2, 0, 2, 1], &[0i64, 3, 6], None).unwrap();
    table.pool(&bags, Pooling::Sum, &mut out).unwrap();
    assert_eq!(out, [1.0, 0.0], "1e8 swallows the 1 if it comes before -1e8");
}

#[test]
fn a_mean_is_the_sum_divided_by_the_number_of_rows() {
    let table = HeapTable::new("t", 2, vec![1.0, 10.0, 2.0, 20.0, 4.0, 40.0]);
    let bags = Bags::new("t", 3, &[0i32, 1, 2, 2, 0], &[0i32, 3, 3, 5], None).unwrap();
    let mut out = [f32::NAN; 6];
    table.pool(&bags, Pooling::Mean, &mut out).unwrap();
    assert_eq!(out, [7.0 / 3.0, 70.0 / 3.0, 0.0, 0.0, 2.5, 25.0]);
}

#[test]
fn a_weight_multiplies_its_row_and_a_row_may_come_twice() {
    let table = HeapTable::new("t", 2, vec![1.0, 10.0, 2.0, 20.0]);
    let bags = Bags::new("t", 2, &[1i32, 1, 0], &[0i32, 3], Some(&[0.5, 2.0, -1.0])).unwrap();
    let mut out = [f32::NAN; 2];
    table.pool(&bags, Pooling::Sum, &mut out).unwrap();
    assert_eq!(out, [4.0, 40.0]);
}

#[test]
fn empty_bags_are_positive_zeros_whatever_the_output_held() {
    for dim in [1, 3, 4, 16, 20, 64, 128, 200] {
        for table in tables(dim, &vec![1.0; 2 * dim]) {
            let bags = Bags::new("t", 2, &[] as &[i64; 0], &[0i64; 4], None).unwrap();
            for pooling in [Pooling::Sum, Pooling::Mean] {
                let mut out = vec![f32::NAN; 3 * dim];
                table.pool(&bags, pooling, &mut out).unwrap();
                assert!(out.iter().all(|value| value.to_bits() == 0));
            }
        }
    }
}

#[test]
fn a_table_without_rows_serves_empty_bags() {
    for table in tables(4, &[]) {
        assert_eq!((table.rows(), table.bytes()), (0, 0));
        let bags = Bags::new("t", 0, &[] as &[i32; 0], &[0i32, 0], None).unwrap();
        let mut out = [1.0; 4];
        table.pool(&bags, Pooling::Sum, &mut out).unwrap();
        assert_eq!(out, [0.0; 4]);
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused_and_leave_the_output_alone() {
    for table in tables(4, &[1.0; 12]) {
        let indices = [0i64, 1];
        let check = |rows, weights, pooling, length, message: &str| {
            let bags = Bags::new("t", rows, &indices, &[0i64, 2], weights).unwrap();
            let mut out = vec![5.0; length];
            let error: PoolError = table.pool(&bags, pooling, &mut out).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(out.iter().all(|value| *value == 5.0));
        };
        let weights = Some(&[1.0f32, 2.0][..]);
        check(2, None, Pooling::Sum, 4, "table t has 3 rows, but its bags were checked against 2");
        check(4, None, Pooling::Sum, 4, "table t has 3 rows, but its bags were checked against 4");
        let length = "table t: the output has 3 values, but 1 samples of dimension 4 need 4";
        check(3, None, Pooling::Sum, 3, length);
        check(3, None, Pooling::Mean, 8, &length.replace("3 values", "8 values"));
        check(3, weights, Pooling::Mean, 4, "table t: mean pooling takes no weights");
    }
}

#[test]
fn tables_can_be_shared_between_threads_behind_the_trait() {
    let table: std::sync::Arc<dyn EmbeddingTable> = std::sync::Arc::new(HeapTable::random("t", 50, 16, 3));
    let indices: Vec<i64> = (0..400).map(|at| at * 7 % 50).collect();
    let offsets: Vec<i64> = (0..=100).map(|sample| sample * 4).collect();
    let bags = Bags::new("t", 50, &indices, &offsets, None).unwrap();
    let mut whole = vec![0.0; 100 * 16];
    table.pool(&bags, Pooling::Sum, &mut whole).unwrap();
    let mut parts = vec![0.0; 100 * 16];
    std::thread::scope(|scope| {
        for (number, out) in parts.chunks_mut(25 * 16).enumerate() {
            let (table, part) = (&table, bags.samples(25 * number..25 * (number + 1)));
            scope.spawn(move || table.pool(&part, Pooling::Sum, out).unwrap());
        }
    });
    assert_eq!(bits(&parts), bits(&whole));
}
