//! A layer's weights, packed once for the kernels of [`crate::simd`], and what these have to compute.

use std::sync::Arc;

use slackline_embedding::kernels::Isa;

use crate::simd::{self, LANES, Layer, Line};

/// Layers with fewer outputs are summed along their inputs: most of a panel's lanes would have no output.
const NARROW: usize = 4;

/// Weights and biases as the kernels read them: sixteen outputs side by side, or sixteen inputs in a layer with few outputs.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    inputs: usize,
    outputs: usize,
    /// Shared by all copies of a layer: ranks of one process have the same.
    weight: Arc<[Line]>,
    bias: Arc<[Line]>,
    isa: Isa,
}

impl Packed {
    /// Packs a weight `[outputs, inputs]` and a bias `[outputs]`, whose lengths were checked.
    pub(crate) fn new(inputs: usize, outputs: usize, weight: &[f32], bias: &[f32]) -> Self {
        let rows = weight.chunks_exact(inputs.max(1));
        let packed: Vec<Line> = if outputs < NARROW {
            rows.flat_map(lines).collect()
        } else {
            let mut panels = vec![Line::default(); outputs.div_ceil(LANES) * inputs];
            simd::fill_panels(inputs, rows, &mut panels);
            panels
        };
        Packed { inputs, outputs, weight: packed.into(), bias: lines(bias).into(), isa: Isa::best() }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// `out[s] = weight * input[s] + bias` for each sample, negative values as 0 with `relu`.
    pub(crate) fn forward(&self, input: &[f32], samples: usize, relu: bool, out: &mut [f32]) {
        self.forward_with(self.isa, input, samples, relu, out);
    }

    /// [`forward`](Self::forward) with the given instructions.
    pub(crate) fn forward_with(&self, isa: Isa, input: &[f32], samples: usize, relu: bool, out: &mut [f32]) {
        let Packed { inputs, outputs, .. } = *self;
        let layer = Layer { inputs, outputs, weight: &self.weight, bias: &self.bias, relu };
        if outputs < NARROW {
            simd::narrow(isa, &layer, input, samples, out);
        } else {
            simd::wide(isa, &layer, input, samples, out);
        }
    }
}

/// Values sixteen to a line; the last line is filled up with zeros.
fn lines(values: &[f32]) -> Vec<Line> {
    let line = |values: &[f32]| Line(std::array::from_fn(|lane| values.get(lane).copied().unwrap_or(0.0)));
    values.chunks(LANES).map(line).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};
    use proptest::prelude::*;

    use super::*;

    /// What a layer computes, in the plainest words; with `relu`, negative outputs are 0.
    fn naive(weight: &Array2<f32>, bias: &[f32], input: &Array2<f32>, relu: bool) -> Vec<f32> {
        let mut out = Vec::new();
        for row in input.axis_iter(Axis(0)) {
            for (weights, &bias) in weight.axis_iter(Axis(0)).zip(bias) {
                let products = row.iter().zip(&weights);
                let value = if bias_count(weight) < NARROW {
                    let mut sums = [0f32; LANES];
                    for (at, (x, w)) in products.enumerate() {
                        sums[at % LANES] = x.mul_add(*w, sums[at % LANES]);
                    }
                    for half in [8, 4, 2, 1] {
                        for lane in 0..half {
                            sums[lane] += sums[lane + half];
                        }
                    }
                    sums[0] + bias
                } else {
                    products.fold(bias, |sum, (x, w)| x.mul_add(*w, sum))
                };
                out.push(if relu && value < 0.0 { 0.0 } else { value });
            }
        }
        out
    }

    fn bias_count(weight: &Array2<f32>) -> usize {
        weight.nrows()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn compare(samples: usize, inputs: usize, outputs: usize, relu: bool, seed: u32) {
        let value = |at: usize| ((at as f32 + 1.0) * (1.0 + seed as f32 / 1e9)).sin();
        let input = Array2::from_shape_fn((samples, inputs), |(row, column)| value(row * inputs + column));
        let weight = Array2::from_shape_fn((outputs, inputs), |(row, column)| value(7 * row * inputs + column));
        let bias: Vec<f32> = (0..outputs).map(|output| value(output * 3)).collect();
        let expected = naive(&weight, &bias, &input, relu);
        let packed = Packed::new(inputs, outputs, weight.as_slice().unwrap(), &bias);
        for &isa in Isa::available() {
            let mut out = vec![f32::NAN; samples * outputs];
            packed.forward_with(isa, input.as_slice().unwrap(), samples, relu, &mut out);
            assert_eq!(bits(&out), bits(&expected), "{isa}");
        }
        // The definition itself, against the product of another library.
        if !relu {
            let product = input.dot(&weight.t());
            for (at, (found, product)) in expected.iter().zip(&product).enumerate() {
                let right = product + bias[at % outputs];
                assert!((found - right).abs() <= 1e-6 * (inputs as f32 + 10.0), "{found} instead of {right}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_kernel_has_the_bits_of_the_definition(
            samples in 0usize..30,
            inputs in 0usize..70,
            outputs in 0usize..70,
            relu: bool,
            seed: u32,
        ) {
            compare(samples, inputs, outputs, relu, seed);
        }

        #[test]
        fn few_outputs_have_the_bits_of_the_definition(samples in 0usize..11, inputs in 0usize..600, outputs in 0usize..5, relu: bool) {
            compare(samples, inputs, outputs, relu, 1);
        }
    }

    #[test]
    fn the_layers_of_the_kaggle_model_have_the_bits_of_the_definition() {
        for (inputs, outputs) in [(13, 512), (512, 256), (256, 64), (64, 16), (367, 512), (256, 1)] {
            for samples in [1, 2, 3, 7, 16, 61] {
                compare(samples, inputs, outputs, true, 5);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_touches_no_neighbour() {
        for outputs in [1, 20] {
            let mut weight = vec![1.0; 3 * outputs];
            weight[0] = f32::NAN;
            let packed = Packed::new(3, outputs, &weight, &vec![-10.0; outputs]);
            for &isa in Isa::available() {
                let mut out = vec![7.0; 2 * outputs];
                packed.forward_with(isa, &[1.0, 2.0, 3.0, f32::INFINITY, 1.0, 1.0], 2, true, &mut out);
                assert!(out[0].is_nan() && out[outputs].is_nan(), "{isa}");
                if outputs > 1 {
                    assert_eq!((out[1], out[outputs + 1]), (0.0, f32::INFINITY), "{isa}");
                }
            }
        }
    }
}
