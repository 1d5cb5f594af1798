//! One suite over every kernel, and every kind of table: all give the bits of the naive kernel, and that one gives what
//! can be worked out by hand.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::kernels::{self, Cache, Isa, LookAhead};
use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Indices, Output, PoolError, Pooling, RowFormat, Rows, Shard, ShardWriter,
    TableSpec, Verify,
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
fn tables(rows: Rows<'_>) -> Vec<Box<dyn EmbeddingTable>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let before = TableSpec::new("before", 3, 1, RowFormat::F32);
    let spec = TableSpec::new("t", rows.len(), rows.dim(), rows.format());
    let mut writer = ShardWriter::create(&path, &[before, spec]).unwrap();
    writer.write_rows(0, &[0xab; 12]).unwrap();
    writer.write_rows(1, rows.bytes()).unwrap();
    writer.finish().unwrap();
    let mapped = Shard::open(&path, Verify::Checksums).unwrap().table("t").unwrap();
    vec![Box::new(HeapTable::from_rows("t", rows)), Box::new(mapped)]
}

fn f32_rows(dim: usize, data: &[f32]) -> Rows<'_> {
    Rows::new(RowFormat::F32, dim, bytemuck::cast_slice(data))
}

/// The bits of each value; which NaN comes out is not promised, so all NaNs are one.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn naive(rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling) -> Vec<f32> {
    let mut out = vec![f32::NAN; bags.len() * rows.dim()];
    kernels::naive::pool(rows, bags, pooling, Output::F32(&mut out));
    out
}

/// A kernel's output in each of the three precisions, as bits.
fn in_all_precisions(length: usize, mut pool: impl FnMut(Output<'_>)) -> [Vec<u32>; 3] {
    // What is in the output before must not matter.
    let mut single = vec![7.0f32; length];
    pool(Output::F32(&mut single));
    let mut half = vec![half::f16::from_f32(7.0); length];
    pool(Output::F16(&mut half));
    let mut upper = vec![half::bf16::from_f32(7.0); length];
    pool(Output::Bf16(&mut upper));
    let half: Vec<f32> = half.into_iter().map(f32::from).collect();
    let upper: Vec<f32> = upper.into_iter().map(f32::from).collect();
    [bits(&single), bits(&half), bits(&upper)]
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

fn lookups(rows: usize) -> impl Strategy<Value = Lookups> {
    (vec(vec(0..rows as i64, 0..6), 0..9), any::<bool>()).prop_flat_map(move |(bags, weighted)| {
        let lookups = bags.iter().map(Vec::len).sum::<usize>();
        let weights = if weighted { vec(value(), lookups).prop_map(Some).boxed() } else { Just(None).boxed() };
        weights.prop_map(move |weights| Lookups::new(rows as u64, &bags, weights))
    })
}

fn case() -> impl Strategy<Value = (usize, Vec<f32>, Lookups)> {
    (dim(), 1..12usize).prop_flat_map(|(dim, rows)| (Just(dim), vec(value(), dim * rows), lookups(rows)))
}

/// Rows of any format: any bytes are rows of every format.
fn stored_case() -> impl Strategy<Value = (RowFormat, usize, Vec<u8>, Lookups)> {
    (prop::sample::select(RowFormat::ALL), dim(), 1..12usize).prop_flat_map(|(format, dim, rows)| {
        let bytes = vec(any::<u8>(), rows * format.row_bytes(dim));
        (Just(format), Just(dim), bytes, lookups(rows))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_kernel_and_every_table_gives_the_bits_of_the_naive_kernel((dim, data, lookups) in case()) {
        all_agree(f32_rows(dim, &data), &lookups);
    }

    #[test]
    fn so_they_do_in_every_row_format((format, dim, bytes, lookups) in stored_case()) {
        all_agree(Rows::new(format, dim, &bytes), &lookups);
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
            let whole = naive(f32_rows(dim, &data), &bags, Pooling::Sum);
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

/// Ways of requesting rows, on every machine those of every machine, and some that nobody would choose.
const WAYS: [LookAhead; 6] = [
    LookAhead::NEVER,
    LookAhead::once(32),
    LookAhead::twice(64),
    LookAhead { first: Some(0), all: Some(5), cache: Cache::Second },
    LookAhead { first: Some(3), all: Some(usize::MAX), cache: Cache::First },
    LookAhead { first: Some(1000), all: None, cache: Cache::Second },
];

fn all_agree(rows: Rows<'_>, lookups: &Lookups) {
    let tables = tables(rows);
    for &pooling in lookups.poolings() {
        lookups.each_width(|bags| {
            let length = bags.len() * rows.dim();
            let expected = in_all_precisions(length, |out| kernels::naive::pool(rows, &bags, pooling, out));
            for &isa in Isa::available() {
                let out = in_all_precisions(length, |out| kernels::pool(isa, rows, &bags, pooling, out));
                assert_eq!(out, expected, "{isa}, {pooling:?}");
                for ahead in WAYS {
                    let out =
                        in_all_precisions(length, |out| kernels::pool_with(isa, ahead, rows, &bags, pooling, out));
                    assert_eq!(out, expected, "{isa}, {pooling:?}, {ahead:?}");
                }
            }
            for table in &tables {
                let out = in_all_precisions(length, |out| table.pool_to(&bags, pooling, out).unwrap());
                assert_eq!(out, expected, "{table:?}, {pooling:?}");
            }
        });
    }
}

#[test]
fn large_outputs_which_are_streamed_have_the_bits_of_the_naive_kernel_and_nothing_else_is_written() {
    let bags: Vec<Vec<i64>> = (0..1100).map(|sample| (0..40).map(|at| (sample * 7 + at * at) % 50).collect()).collect();
    let lookups = Lookups::new(50, &bags, None);
    let bags = Bags::new("t", 50, &lookups.indices, &lookups.offsets, None).unwrap();
    for &format in RowFormat::ALL {
        let table = HeapTable::random("t", 50, 64, 3).to_format(format).unwrap();
        let expected = bits(&naive(table.stored(), &bags, Pooling::Sum));
        let (length, line) = (expected.len(), 64 / size_of::<f32>());
        let mut room = vec![0.0; length + 3 * line];
        let aligned = room.as_ptr().align_offset(64) + line;
        // Whole lines, which are streamed where the machine can, and parts of lines, which are not.
        for begin in [aligned, aligned + 1, aligned + line / 2] {
            for &isa in Isa::available() {
                room.fill(7.0);
                let out = Output::F32(&mut room[begin..begin + length]);
                kernels::pool(isa, table.stored(), &bags, Pooling::Sum, out);
                assert_eq!(bits(&room[begin..begin + length]), expected, "{isa}, {format}");
                assert!(room[..begin].iter().chain(&room[begin + length..]).all(|value| *value == 7.0));
            }
        }
    }
}

#[cfg(feature = "threads")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn several_threads_give_the_bits_of_one(
        threads in 1usize..5,
        is_member: bool,
        shapes in vec((1usize..80, 0usize..400, 0usize..80), 1..6),
        seed in any::<u32>(),
    ) {
        use slackline_embedding::{PoolJob, pool_all, rayon};

        let tables: Vec<_> = shapes.iter().map(|(dim, ..)| HeapTable::random("t", 50, *dim, seed.into())).collect();
        let inputs: Vec<_> = shapes
            .iter()
            .map(|(_, samples, longest)| {
                let bag = |sample: usize| 0..(sample * 7 + seed as usize % 13) % (longest + 1);
                let bags: Vec<Vec<i64>> =
                    (0..*samples).map(|sample| bag(sample).map(|at| ((at + sample) % 50) as i64).collect()).collect();
                Lookups::new(50, &bags, None)
            })
            .collect();
        let mut outs: Vec<Vec<f32>> =
            shapes.iter().map(|(dim, samples, _)| vec![f32::NAN; dim * samples]).collect();
        let bags: Vec<_> =
            inputs.iter().map(|input| Bags::new("t", 50, &input.indices, &input.offsets, None).unwrap()).collect();
        let job = |((table, bags), out)| {
            let (pooling, out) = (Pooling::Sum, Output::F32(out));
            PoolJob { table, bags, first_sample: 0, first_column: 0, pooling, out }
        };
        let tables_of = tables.iter().map(|table| table as &dyn EmbeddingTable);
        let outs_of = outs.iter_mut().map(Vec::as_mut_slice);
        let jobs: Vec<_> = tables_of.zip(bags.iter().copied()).zip(outs_of).map(job).collect();
        let work = || {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let builder = if is_member { builder.use_current_thread() } else { builder };
            pool_all(&builder.build().unwrap(), jobs)
        };
        // A thread belongs to one pool for good.
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap().unwrap();
        for ((table, bags), out) in tables.iter().zip(bags).zip(&outs) {
            prop_assert_eq!(bits(out), bits(&naive(table.stored(), &bags, Pooling::Sum)));
        }
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
        for table in tables(f32_rows(dim, &vec![1.0; 2 * dim])) {
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
    for table in tables(f32_rows(4, &[])) {
        assert_eq!((table.rows(), table.bytes()), (0, 0));
        let bags = Bags::new("t", 0, &[] as &[i32; 0], &[0i32, 0], None).unwrap();
        let mut out = [1.0; 4];
        table.pool(&bags, Pooling::Sum, &mut out).unwrap();
        assert_eq!(out, [0.0; 4]);
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused_and_leave_the_output_alone() {
    for table in tables(f32_rows(4, &[1.0; 12])) {
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
