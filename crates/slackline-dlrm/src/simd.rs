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
