//! Making rows and reading them back: bounds on the error, PyTorch's bytes, and what does not fit.

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{HeapTable, RowFormat, Rows};

fn encoded(format: RowFormat, row: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xaa; format.row_bytes(row.len())];
    format.encode(row, &mut bytes).unwrap();
    bytes
}

fn back(format: RowFormat, dim: usize, bytes: &[u8]) -> Vec<f32> {
    let mut row = vec![f32::NAN; dim];
    Rows::new(format, dim, bytes).decode(0, &mut row);
    row
}

proptest! {
    #[test]
    fn values_come_back_within_the_format_s_step(row in vec(-1000.0f32..1000.0, 1..70)) {
        let lowest = row.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (largest, range) = (lowest.abs().max(highest.abs()), highest - lowest);
        for &format in RowFormat::ALL {
            // Half a step of the codes, and what scale and bias lose themselves.
            let error = match format {
                RowFormat::F32 => 0.0,
                RowFormat::F16 => largest / 2048.0,
                RowFormat::Bf16 => largest / 256.0,
                RowFormat::Int8 => range / 255.0 * 0.501 + largest * 1e-6,
                RowFormat::Int8Fbgemm => range / 255.0 * 0.501 + largest / 2048.0 + range / 2048.0,
                RowFormat::Int4 | RowFormat::Int4Fbgemm => range / 15.0 * 0.501 + largest / 1024.0 + range / 1024.0,
                _ => unreachable!("a format without a bound"),
            };
            let values = back(format, row.len(), &encoded(format, &row));
            for (column, (value, came)) in row.iter().zip(&values).enumerate() {
                prop_assert!((value - came).abs() <= error, "{format}, column {column}: {value} came back as {came}");
            }
        }
    }

    #[test]
    fn a_row_of_equal_values_keeps_them(value in -60000.0f32..60000.0, dim in 1usize..40) {
        for format in [RowFormat::F32, RowFormat::Int8] {
            prop_assert_eq!(back(format, dim, &encoded(format, &vec![value; dim])), vec![value; dim]);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(at in 0..RowFormat::ALL.len(), dim in 1usize..40, seed in any::<u64>()) {
        let format = RowFormat::ALL[at];
        let bytes: Vec<u8> = (0..format.row_bytes(dim)).map(|at| (seed >> (at % 57)) as u8).collect();
        back(format, dim, &bytes);
    }

    #[test]
    fn any_values_are_taken_or_refused_by_column(row in vec(any::<f32>(), 1..20), at in 0..RowFormat::ALL.len()) {
        let format = RowFormat::ALL[at];
        let mut bytes = vec![0; format.row_bytes(row.len())];
        if let Err(error) = format.encode(&row, &mut bytes) {
            prop_assert!(format != RowFormat::F32 && format != RowFormat::Bf16);
            prop_assert!(error.column < row.len());
        }
    }
}

#[test]
fn a_value_that_does_not_fit_is_named() {
    let table = HeapTable::new("colour", 2, vec![0.0, 1.0, 2.0, f32::INFINITY]);
    for format in [RowFormat::Int8, RowFormat::Int4, RowFormat::Int8Fbgemm, RowFormat::Int4Fbgemm] {
        let error = table.to_format(format).unwrap_err();
        assert_eq!(error.to_string(), format!("table colour, row 1, column 1: inf does not fit into {format} rows"));
    }
    let table = HeapTable::new("colour", 1, vec![0.0, -70000.0]);
    for format in [RowFormat::F16, RowFormat::Int4, RowFormat::Int8Fbgemm] {
        let error = table.to_format(format).unwrap_err();
        assert_eq!(error.to_string(), format!("table colour, row 1, column 0: -70000 does not fit into {format} rows"));
    }
    assert!(table.to_format(RowFormat::Int8).is_ok());
    let extremes = HeapTable::new("colour", 2, vec![f32::MAX, f32::MIN]);
    assert!(extremes.to_format(RowFormat::Int8).is_err(), "its range is infinite");
}

/// Worked out by hand from the definition: scale 1/15 in half precision, codes 0 to 15 by the column's place.
#[test]
fn bytes_stand_where_the_formats_say() {
    let row = [-1.0, 0.0, 1.0];
    let f16 = |value: f32| half::f16::from_f32(value).to_le_bytes().to_vec();
    let (scale8, scale4) = (2.0f32 / 255.0, 2.0f32 / 15.0);
    let scales = [scale8.to_le_bytes(), (-1.0f32).to_le_bytes()].concat();
    assert_eq!(encoded(RowFormat::Int8, &row), [&[0, 128, 255][..], &scales].concat());
    assert_eq!(encoded(RowFormat::Int8Fbgemm, &row), [f16(scale8), f16(-1.0), vec![0, 128, 255]].concat());
    // 7.5 in units of a scale that was rounded down comes out as 8.
    let halves = encoded(RowFormat::Int4, &row);
    assert_eq!(halves[..2], [0x80 | halves[0] & 0x7f, 0x0f]);
    assert_eq!(halves[2..], [f16(scale4), f16(-1.0)].concat());
    assert_eq!(encoded(RowFormat::Int4Fbgemm, &row), [&halves[2..], &halves[..2]].concat());
    assert_eq!(encoded(RowFormat::F16, &row), [f16(-1.0), f16(0.0), f16(1.0)].concat());
    assert_eq!(encoded(RowFormat::Bf16, &row), [0x80, 0xbf, 0, 0, 0x80, 0x3f]);
}

#[test]
fn finite_values_never_become_infinite() {
    let largest = f32::MAX;
    for (format, row, column) in [
        (RowFormat::Bf16, vec![0.0, 1.0, 3.4e38], 2),
        (RowFormat::Bf16, vec![-largest], 0),
        (RowFormat::F16, vec![0.0, 65520.0], 1),
        (RowFormat::Int4, vec![0.0, 65520.0], 1),
        (RowFormat::Int8, vec![-largest, largest], 0),
    ] {
        let unfit = format.encode(&row, &mut vec![0; format.row_bytes(row.len())]).unwrap_err();
        assert_eq!((unfit.column, unfit.value, unfit.format), (column, row[column], format));
    }
    // Whatever the format accepts reads back finite, also where scales are rounded up.
    for &format in RowFormat::ALL {
        for exponent in [15, 16, 64, 126, 127] {
            for step in 0..200u32 {
                let high = f32::from_bits((exponent + 127) << 23 | step << 15 | 0x7fff);
                for row in [[0.0, high], [-high, 0.0], [high / 3.0, high], [-high / 2.0, high / 2.0]] {
                    let mut bytes = vec![0; format.row_bytes(2)];
                    if format.encode(&row, &mut bytes).is_ok() {
                        let values = back(format, 2, &bytes);
                        assert!(
                            values.iter().all(|value| value.is_finite()),
                            "{format}: {row:?} came back as {values:?}"
                        );
                    }
                }
            }
        }
    }
    // What is infinite already is kept where the format can.
    assert_eq!(back(RowFormat::Bf16, 1, &encoded(RowFormat::Bf16, &[f32::INFINITY])), [f32::INFINITY]);
}
