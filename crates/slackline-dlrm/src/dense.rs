//! Dense layers: linear maps with bias and activation.
//!
//! A sample's result has the same bits whatever the number of samples in the call, its place among them, and the processor:
//! the kernels sum over the inputs in one order for every output (see [`crate::simd`]), and everything after it works on
//! single values.

use crate::packed::Packed;
use crate::{DlrmError, Result};

/// What a layer applies to each of its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`; NaN stays NaN.
    Relu,
    /// `1 / (1 + exp(-x))`, in single precision.
    Sigmoid,
}

/// One linear layer with bias and activation, its weights packed for the kernels.
#[derive(Clone, Debug)]
pub struct Linear {
    packed: Packed,
    activation: Activation,
}

impl Linear {
    /// A layer from its weight `[outputs, inputs]`, row after row as PyTorch stores it, and its bias `[outputs]`.
    ///
    /// # Errors
    ///
    /// [`DlrmError::LayerShape`] if a slice does not have the stated length.
    pub fn new(
        inputs: usize,
        outputs: usize,
        weight: Vec<f32>,
        bias: Vec<f32>,
        activation: Activation,
    ) -> Result<Self> {
        let refuse = |what, expected, found| Err(DlrmError::LayerShape { inputs, outputs, what, expected, found });
        if inputs.checked_mul(outputs) != Some(weight.len()) {
            return refuse("weights", inputs.saturating_mul(outputs), weight.len());
        }
        if bias.len() != outputs {
            return refuse("biases", outputs, bias.len());
        }
        Ok(Self { packed: Packed::new(inputs, outputs, &weight, &bias), activation })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.packed.inputs()
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.packed.outputs()
    }

    /// `out[s] = activation(weight * input[s] + bias)` for each sample: `input` is `[samples, inputs]`, `out`
    /// `[samples, outputs]`. Previous values of `out` are overwritten.
    ///
    /// # Panics
    ///
    /// If a slice does not have the stated length.
    pub fn forward(&self, input: &[f32], samples: usize, out: &mut [f32]) {
        self.packed.forward(input, samples, self.activation == Activation::Relu, out);
        if self.activation == Activation::Sigmoid {
            for value in out {
                *value = sigmoid(*value);
            }
        }
    }
}

/// A multi-layer perceptron.
#[derive(Clone, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

/// Buffers for the outputs of hidden layers, reused from call to call: two, each as large as the largest output.
#[derive(Clone, Debug, Default)]
pub struct MlpScratch {
    even: Vec<f32>,
    odd: Vec<f32>,
}

impl Mlp {
    /// Chains layers.
    ///
    /// # Panics
    ///
    /// If there is no layer, or a layer's input is not as wide as the output before it.
    pub fn new(layers: Vec<Linear>) -> Self {
        assert!(!layers.is_empty(), "an MLP without layers");
        for (i, pair) in layers.windows(2).enumerate() {
            assert_eq!(pair[0].outputs(), pair[1].inputs(), "output of layer {i} and input of layer {}", i + 1);
        }
        Self { layers }
    }

    /// Width of the first layer's input.
    pub fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// Width of the last layer's output.
    pub fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs()
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[Linear] {
        &self.layers
    }

    /// Runs `samples` samples through all layers: `input` is `[samples, inputs]`, `out` `[samples, outputs]`. The scratch
    /// may be reused at once, also for another MLP. Cost: `2 * samples` floating-point operations a weight.
    ///
    /// # Panics
    ///
    /// If a slice does not have the stated length.
    pub fn forward(&self, input: &[f32], samples: usize, scratch: &mut MlpScratch, out: &mut [f32]) {
        let (last, hidden) = self.layers.split_last().expect("at least one layer");
        let MlpScratch { even, odd } = scratch;
        let mut current = input;
        let (mut next, mut spare) = (even, odd);
        for layer in hidden {
            next.resize(samples * layer.outputs(), 0.0);
            layer.forward(current, samples, next);
            (next, spare) = (spare, next);
            current = spare;
        }
        last.forward(current, samples, out);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values in about `-scale .. scale`, the same for the same seed.
    fn values(count: usize, seed: u64, scale: f32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
            })
            .collect()
    }

    /// Weights, bias and activation of a layer.
    type Plain = (Vec<f32>, Vec<f32>, Activation);

    fn plain(widths: &[usize], seed: u64) -> Vec<Plain> {
        let last = widths.len() - 2;
        let layers = widths.windows(2).enumerate().map(|(i, pair)| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let activation = if i == last { Activation::Sigmoid } else { Activation::Relu };
            let weight = values(inputs * outputs, seed + i as u64, (2.0 / inputs as f32).sqrt());
            (weight, values(outputs, seed ^ 7, 0.1), activation)
        });
        layers.collect()
    }

    fn mlp(widths: &[usize], seed: u64) -> Mlp {
        let layers = plain(widths, seed)
            .into_iter()
            .zip(widths.windows(2))
            .map(|((weight, bias, activation), pair)| Linear::new(pair[0], pair[1], weight, bias, activation).unwrap());
        Mlp::new(layers.collect())
    }

    /// The same in double precision, term by term.
    fn naive(layers: &[Plain], input: &[f32]) -> Vec<f64> {
        let mut current: Vec<f64> = input.iter().map(|&x| f64::from(x)).collect();
        for (weight, bias, activation) in layers {
            let outputs = weight.chunks(current.len()).zip(bias).map(|(weights, &bias)| {
                let sum: f64 = weights.iter().zip(&current).map(|(&w, x)| f64::from(w) * x).sum();
                let x = sum + f64::from(bias);
                match activation {
                    Activation::Relu => x.max(0.0),
                    Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                }
            });
            current = outputs.collect();
        }
        current
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    /// Each row of a batch against the same row alone.
    fn rows_do_not_depend_on_their_batch(widths: &[usize], weights: u64, samples: usize, seed: u64) {
        let (mlp, layers) = (mlp(widths, weights), plain(widths, weights));
        let (inputs, outputs) = (mlp.inputs(), mlp.outputs());
        let input = values(samples * inputs, seed, 2.0);
        let mut scratch = MlpScratch::default();
        let mut out = vec![f32::NAN; samples * outputs];
        mlp.forward(&input, samples, &mut scratch, &mut out);
        for (row, out) in input.chunks(inputs).zip(out.chunks(outputs)) {
            let mut alone = vec![f32::NAN; outputs];
            mlp.forward(row, 1, &mut scratch, &mut alone);
            assert_eq!(bits(out), bits(&alone));
            for (&x, y) in out.iter().zip(naive(&layers, row)) {
                assert!((f64::from(x) - y).abs() < 1e-5, "{x} instead of {y}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_bottom_of_the_kaggle_model_is_exact_by_row(samples in 1usize..130, seed: u32) {
            rows_do_not_depend_on_their_batch(&[13, 512, 256, 64, 16], 1, samples, u64::from(seed));
        }

        #[test]
        fn the_top_of_the_kaggle_model_is_exact_by_row(samples in 1usize..130, seed: u32) {
            rows_do_not_depend_on_their_batch(&[367, 512, 256, 1], 2, samples, u64::from(seed));
        }
    }

    proptest! {
        #[test]
        fn layers_of_any_shape_are_exact_by_row(
            widths in proptest::collection::vec(1usize..40, 2..5),
            samples in 1usize..40,
            seed: u32,
        ) {
            rows_do_not_depend_on_their_batch(&widths, 3, samples, u64::from(seed));
        }
    }

    #[test]
    fn long_sums_are_exact_by_row() {
        rows_do_not_depend_on_their_batch(&[1031, 33, 1], 4, 67, 5);
    }

    #[test]
    fn one_layer_by_hand() {
        let relu = Linear::new(2, 2, vec![1.0, 2.0, -1.0, 0.5], vec![0.5, 0.0], Activation::Relu).unwrap();
        let mut out = [9.0; 4];
        relu.forward(&[1.0, 1.0, 2.0, 0.0], 2, &mut out);
        assert_eq!(out, [3.5, 0.0, 2.5, 0.0]);
        let sigmoid = Linear::new(1, 1, vec![0.0], vec![0.0], Activation::Sigmoid).unwrap();
        sigmoid.forward(&[3.0], 1, &mut out[..1]);
        assert_eq!(out[0], 0.5);
    }

    #[test]
    fn the_ends_of_the_sigmoid_are_zero_and_one() {
        assert_eq!(sigmoid(-200.0), 0.0);
        assert_eq!(sigmoid(200.0), 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn no_samples_are_no_work() {
        mlp(&[3, 4, 1], 0).forward(&[], 0, &mut MlpScratch::default(), &mut []);
    }

    #[test]
    fn weights_of_another_shape_are_refused_with_both_numbers() {
        let text = Linear::new(3, 2, vec![0.0; 5], vec![0.0; 2], Activation::Relu).unwrap_err().to_string();
        assert_eq!(text, "a layer of 3 inputs and 2 outputs needs 6 weights, not 5");
        let text = Linear::new(3, 2, vec![0.0; 6], vec![0.0; 3], Activation::Relu).unwrap_err().to_string();
        assert!(text.contains("2 biases, not 3"), "{text}");
    }
}
