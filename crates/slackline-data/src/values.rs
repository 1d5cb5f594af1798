//! Dense features and labels out of the rows of an array.

use std::ops::Range;

use crate::DataError;
use crate::array::Array;
use crate::preprocessing::DenseTransform;

/// Transforms the features that rows have in some columns. `rows` are the bytes of the rows from sample `first` on; `out` has
/// a value for each of their features, row-major.
pub(crate) fn read_dense(
    array: &Array,
    columns: Range<usize>,
    transform: DenseTransform,
    first: usize,
    rows: &[u8],
    out: &mut [f32],
) -> Result<(), DataError> {
    let element = array.element();
    let size = element.bytes();
    let features = columns.len();
    if features == 0 {
        return Ok(());
    }
    let cells = columns.start * size..columns.end * size;
    let (exact, number) = (element.f32_decoder(), element.f64_decoder());
    for (at, (row, out)) in rows.chunks_exact(array.columns() * size).zip(out.chunks_exact_mut(features)).enumerate() {
        for (bytes, out) in row[cells.clone()].chunks_exact(size).zip(out) {
            let value = match transform {
                DenseTransform::None => exact(bytes).filter(|value| value.is_finite()),
                _ => transform.apply(number(bytes)),
            };
            *out = value.ok_or_else(|| {
                let expected = match transform {
                    DenseTransform::None if element.is_float() => "a finite f32",
                    DenseTransform::None => "a number that float32 has",
                    _ => transform.domain(),
                };
                array.bad_value(first + at, element.text(bytes), expected)
            })?;
        }
    }
    Ok(())
}

/// Appends the label that each row has in a column.
pub(crate) fn read_labels(
    array: &Array,
    column: usize,
    first: usize,
    rows: &[u8],
    out: &mut Vec<f32>,
) -> Result<(), DataError> {
    let element = array.element();
    let size = element.bytes();
    let decode = element.f32_decoder();
    for (at, row) in rows.chunks_exact(array.columns() * size).enumerate() {
        let bytes = &row[column * size..(column + 1) * size];
        let label = decode(bytes).filter(|label| (0.0..=1.0).contains(label));
        let wrong = || array.bad_value(first + at, element.text(bytes), "a label from 0 to 1");
        out.push(label.ok_or_else(wrong)?);
    }
    Ok(())
}
