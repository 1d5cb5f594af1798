//! The one place where matrices are multiplied. The kernels are those of the crate `matrixmultiply`, which takes pointers.

use matrixmultiply::sgemm;

/// `out = input * weight^T` with `input` `[samples, inputs]`, `weight` `[outputs, inputs]` and `out`
/// `[samples, outputs]`, all row after row.
///
/// One output depends on its own input row and weight row alone, to the bit: every kernel pads the edges of a matrix to
/// its own tile and sums the inputs from first to last, in blocks whose bounds follow from `inputs` only.
///
/// # Panics
///
/// If a slice does not have the stated length.
pub fn product(input: &[f32], weight: &[f32], samples: usize, inputs: usize, outputs: usize, out: &mut [f32]) {
    assert_eq!(Some(input.len()), samples.checked_mul(inputs), "samples * inputs values");
    assert_eq!(Some(weight.len()), outputs.checked_mul(inputs), "outputs * inputs weights");
    assert_eq!(Some(out.len()), samples.checked_mul(outputs), "samples * outputs values");
    let (a, b, c) = (input.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
    // Lengths of slices of `f32` fit `isize`, and where the other factor is 0 no row is reached.
    let (row, out_row) = (inputs as isize, outputs as isize);
    // SAFETY: `sgemm` reads A[i, j] at `a + i * rsa + j * csa` for i < m, j < k, likewise B[k, n], and reads and writes
    // C[m, n]. With m = samples, k = inputs, n = outputs and the strides given, A is `input`, B is `weight` transposed, and
    // C is `out`: by the lengths asserted above, every element that is reached lies in its slice. `out` is borrowed
    // mutably, so it overlaps neither of the others, and its strides (outputs, 1) give each element an address of its own.
    unsafe { sgemm(samples, inputs, outputs, 1.0, a, row, 1, b, 1, row, 0.0, c, out_row, 1) }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::product;

    proptest! {
        #[test]
        fn a_product_has_the_bits_of_ndarrays(samples in 0usize..70, inputs in 0usize..600, outputs in 0usize..70, seed: u32) {
            let value = |at: usize| (at as f32 + seed as f32).sin();
            let input = Array2::from_shape_fn((samples, inputs), |(row, column)| value(row * inputs + column));
            let weight = Array2::from_shape_fn((outputs, inputs), |(row, column)| value(7 * row * inputs + column));
            let mut out = vec![f32::NAN; samples * outputs];
            product(input.as_slice().unwrap(), weight.as_slice().unwrap(), samples, inputs, outputs, &mut out);
            let expected: Vec<f32> = input.dot(&weight.t()).iter().copied().collect();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
            // ndarray multiplies small matrices, and vectors, in loops of its own, in another order.
            if samples * outputs * inputs > 8 * 8 * 8 && samples > 1 && outputs > 1 {
                prop_assert_eq!(bits(&out), bits(&expected));
            }
            for (found, expected) in out.iter().zip(&expected) {
                prop_assert!((found - expected).abs() <= 1e-4 * inputs as f32 / 100.0 + 1e-4, "{} {}", found, expected);
            }
        }
    }
}
