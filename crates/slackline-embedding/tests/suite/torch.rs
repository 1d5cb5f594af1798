//! Quantised rows and pooled vectors against what PyTorch and FBGEMM made of the same values:
//! `tests/golden/make.py` says how.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use slackline_embedding::kernels::{self, Isa};
use slackline_embedding::{Bags, Output, Pooling, RowFormat, Rows};

const DIMS: &[usize] =
    &[1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 130];
const QUANTISED: [RowFormat; 4] = [RowFormat::Int8, RowFormat::Int4, RowFormat::Int8Fbgemm, RowFormat::Int4Fbgemm];

fn golden() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantised.safetensors")).unwrap()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn i64s(file: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = file.tensor(name).unwrap();
    tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

/// The formats that PyTorch or FBGEMM has for rows of this width.
fn formats(dim: usize) -> impl Iterator<Item = RowFormat> {
    let takes = move |format: &RowFormat| match format {
        RowFormat::Int8 => true,
        RowFormat::Int4 => dim.is_multiple_of(2),
        _ => dim.is_multiple_of(4),
    };
    QUANTISED.into_iter().filter(takes)
}

#[test]
fn rows_have_the_bytes_of_pytorch_and_fbgemm() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for &dim in DIMS {
        let values = f32s(&file, &format!("{dim}.values"));
        for format in formats(dim) {
            let expected = file.tensor(&format!("{dim}.{format}")).unwrap();
            let row_bytes = format.row_bytes(dim);
            assert_eq!(expected.shape(), [values.len() / dim, row_bytes]);
            for (row, (values, expected)) in values.chunks(dim).zip(expected.data().chunks(row_bytes)).enumerate() {
                let mut found = vec![0; row_bytes];
                format.encode(values, &mut found).unwrap();
                assert_eq!(found, expected, "{format}, dim {dim}, row {row}");
            }
        }
    }
}

/// The distance from a number to the next larger one.
fn ulp(value: f64) -> f64 {
    let value = (value.abs() as f32).max(f32::MIN_POSITIVE);
    f64::from(value.next_up()) - f64::from(value)
}

/// One ulp of f32 accumulation, for every output value: the ulp of the largest number that occurs while the value is
/// summed, in exact arithmetic: a partial sum, or for quantised rows a partial sum with the next bias added.
fn one_ulp(rows: Rows<'_>, bags: &Bags<'_>) -> Vec<f64> {
    let (dim, mut row) = (rows.dim(), vec![0.0; rows.dim()]);
    let (mut sums, mut largest) = (vec![0.0f64; dim], vec![0.0f64; dim]);
    let mut all = Vec::new();
    for sample in 0..bags.len() {
        sums.fill(0.0);
        largest.fill(0.0);
        for position in bags.bag(sample) {
            let number = bags.indices().value(position) as u64;
            rows.decode(number, &mut row);
            let weight = bags.weights().map_or(1.0, |weights| f64::from(weights[position]));
            let bias = bias(rows, number);
            for ((sum, largest), &value) in sums.iter_mut().zip(&mut largest).zip(&row) {
                let with_bias = *sum + weight * bias;
                *sum += weight * f64::from(value);
                *largest = largest.max(sum.abs()).max(with_bias.abs());
            }
        }
        all.extend(largest.iter().map(|largest| ulp(*largest)));
    }
    all
}

fn bias(rows: Rows<'_>, number: u64) -> f64 {
    let row = rows.row(number);
    let half = |at: usize| f64::from(half::f16::from_le_bytes([row[at], row[at + 1]]));
    match rows.format() {
        RowFormat::Int8 => f64::from(f32::from_le_bytes(row[row.len() - 4..].try_into().unwrap())),
        RowFormat::Int4 => half(row.len() - 2),
        RowFormat::Int8Fbgemm | RowFormat::Int4Fbgemm => half(2),
        _ => 0.0,
    }
}

/// Every kernel's outputs beside the expected ones; the largest difference in units of [`one_ulp`], and how many values
/// have other bits.
fn difference(rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, expected: &[f32]) -> (f64, usize) {
    let unit = one_ulp(rows, bags);
    let mut found = vec![vec![f32::NAN; expected.len()]; Isa::available().len() + 1];
    kernels::naive::pool(rows, bags, pooling, Output::F32(&mut found[0]));
    for (isa, found) in Isa::available().iter().zip(&mut found[1..]) {
        kernels::pool(*isa, rows, bags, pooling, Output::F32(found));
    }
    let (mut worst, mut other) = (0.0f64, 0);
    for found in found {
        for ((found, expected), unit) in found.iter().zip(expected).zip(&unit) {
            worst = worst.max((f64::from(*found) - f64::from(*expected)).abs() / unit);
            other += usize::from(found.to_bits() != expected.to_bits());
        }
    }
    (worst, other)
}

#[test]
fn sums_agree_within_one_ulp_of_the_accumulation() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut worst = BTreeMap::<String, (f64, usize)>::new();
    for &dim in DIMS {
        let values = f32s(&file, &format!("{dim}.values"));
        let row_count = (values.len() / dim) as u64;
        let (indices, offsets) = (i64s(&file, &format!("{dim}.indices")), i64s(&file, &format!("{dim}.offsets")));
        let weights = f32s(&file, &format!("{dim}.weights"));
        let plain = Bags::new("t", row_count, &indices, &offsets, None).unwrap();
        let weighted = Bags::new("t", row_count, &indices, &offsets, Some(&weights)).unwrap();
        let mut compare = |format: RowFormat, stored: &[u8], what: &str, bags: &Bags<'_>, pooling: Pooling| {
            let expected = f32s(&file, &format!("{dim}.{format}.{what}"));
            let found = difference(Rows::new(format, dim, stored), bags, pooling, &expected);
            let entry = worst.entry(format!("{format} {what}")).or_default();
            *entry = (entry.0.max(found.0), entry.1 + found.1);
        };
        for format in formats(dim) {
            let stored = file.tensor(&format!("{dim}.{format}")).unwrap().data();
            compare(format, stored, "sum", &plain, Pooling::Sum);
            compare(format, stored, "weighted", &weighted, Pooling::Sum);
        }
        let stored: &[u8] = bytemuck::cast_slice(&values);
        compare(RowFormat::F32, stored, "sum", &plain, Pooling::Sum);
        compare(RowFormat::F32, stored, "mean", &plain, Pooling::Mean);
        compare(RowFormat::F32, stored, "weighted", &weighted, Pooling::Sum);
    }
    for (what, (ulps, other)) in &worst {
        println!("{what:24} {ulps:6.3} ulp at most, {other} values of other bits");
    }
    assert_eq!(worst.len(), 11);
    let (fused, _) = worst.remove("f32 weighted").unwrap();
    assert!(worst.values().all(|(ulps, _)| *ulps <= 1.0), "{worst:?}");
    // PyTorch multiplies and adds weighted f32 rows at once, we round the product first (see the next test): each of up to
    // 40 rows may then differ by half an ulp of its product, and so may what its addition is rounded to.
    assert!(fused <= 2.0 * 40.0, "{fused}");
}

/// Where PyTorch and we differ, and nothing else: with a fused multiply-add the bits are PyTorch's.
#[test]
fn weighted_f32_rows_differ_by_the_rounding_of_the_product_alone() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for &dim in DIMS {
        let values = f32s(&file, &format!("{dim}.values"));
        let (indices, offsets) = (i64s(&file, &format!("{dim}.indices")), i64s(&file, &format!("{dim}.offsets")));
        let weights = f32s(&file, &format!("{dim}.weights"));
        let mut found = Vec::new();
        for bag in offsets.windows(2) {
            let mut sums = vec![0.0f32; dim];
            for at in bag[0] as usize..bag[1] as usize {
                let row = &values[indices[at] as usize * dim..][..dim];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum = weights[at].mul_add(*value, *sum));
            }
            found.extend(sums.iter().map(|sum| sum.to_bits()));
        }
        let expected = f32s(&file, &format!("{dim}.f32.weighted"));
        assert_eq!(found, expected.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), "dim {dim}");
    }
}
