//! Randomly initialised models, for benchmarks and demonstrations.

use std::path::Path;

use slackline_embedding::RowFormat;

use super::tensors::{TensorSpec, Weights, all_table_tensors, assemble, dense_tensors};
use super::write::{Layout, Progress, write};
use crate::{DenseModel, DenseWeights, ModelConfig, Result};

/// Writes a model directory with random weights, its tables in `shards` files. Equal configurations and seeds give equal
/// files on every machine.
///
/// Values are uniformly distributed, with the variance of the reference before training: `1 / (3 rows)` in tables,
/// `2 / (inputs + outputs)` in weights, `1 / outputs` in biases. The directory is written under a temporary name and renamed
/// when it is whole. Memory: the weights of the MLPs and a few MiB.
///
/// # Errors
///
/// [`DlrmError::Exists`](crate::DlrmError::Exists) if there is anything at `out`;
/// [`DlrmError::NoShards`](crate::DlrmError::NoShards); [`DlrmError::Shard`](crate::DlrmError::Shard) or
/// [`DlrmError::Io`](crate::DlrmError::Io) if the disk is full or fails.
pub fn write_synthetic(
    config: &ModelConfig,
    seed: u64,
    out: &Path,
    shards: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let layout = Layout { shards, formats: vec![RowFormat::F32; all_table_tensors(config).len()] };
    write(config, &Random { seed }, out, &layout, progress)?;
    Ok(())
}

impl DenseModel {
    /// The dense part of the model that [`write_synthetic`] writes for this seed.
    pub fn random(config: ModelConfig, seed: u64) -> Self {
        let weights: DenseWeights = {
            let random = Random { seed };
            let tensors = dense_tensors(&config).into_iter().map(|tensor| {
                let mut values = Vec::new();
                let mut sink = |piece: &[f32]| {
                    values.extend_from_slice(piece);
                    Ok(())
                };
                random.stream(&tensor, 0, &mut sink).expect("the sink does not fail");
                values
            });
            assemble(&config, tensors)
        };
        DenseModel::new(config, weights).expect("the tensors follow from the configuration")
    }
}

/// Values that depend only on the seed, the name of the tensor and their place in it.
struct Random {
    seed: u64,
}

/// Values passed on at a time.
const PIECE: usize = 1 << 16;

impl Weights for Random {
    fn stream(&self, tensor: &TensorSpec, first: u64, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let shape = &tensor.shape;
        let variance = match shape[..] {
            [rows, _] if tensor.argument == "arch_embedding_size" => 1.0 / (3.0 * rows as f64),
            [outputs, inputs] => 2.0 / (inputs + outputs) as f64,
            _ => 1.0 / shape[0] as f64,
        };
        let bound = (3.0 * variance).sqrt() as f32;
        let seed = tensor.name.bytes().fold(self.seed, |hash, byte| split_mix(hash ^ u64::from(byte)));
        let count = shape.iter().product::<usize>() as u64;
        let mut piece = Vec::with_capacity(PIECE.min(count as usize));
        let row = shape[1..].iter().product::<usize>() as u64;
        for number in first * row..count {
            // A single-precision number holds 24 random bits exactly.
            let unit = (split_mix(seed.wrapping_add(number)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            piece.push(unit * bound);
            if piece.len() == PIECE || number + 1 == count {
                sink(&piece)?;
                piece.clear();
            }
        }
        Ok(())
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014): every bit
/// of the input moves every bit of the output, so that consecutive numbers give independent values.
fn split_mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, name: &str, shape: Vec<usize>) -> Vec<f32> {
        let mut out = Vec::new();
        let tensor = TensorSpec { name: name.to_owned(), shape, argument: "arch_mlp_bot" };
        let mut sink = |piece: &[f32]| {
            out.extend_from_slice(piece);
            Ok(())
        };
        Random { seed }.stream(&tensor, 0, &mut sink).unwrap();
        out
    }

    #[test]
    fn a_seed_and_a_name_always_give_the_same_values() {
        let first = values(7, "bot_l.0.weight", vec![300, 400]);
        assert_eq!(first.len(), 120_000);
        assert_eq!(first, values(7, "bot_l.0.weight", vec![300, 400]));
        assert_ne!(first, values(8, "bot_l.0.weight", vec![300, 400]));
        assert_ne!(first, values(7, "bot_l.2.weight", vec![300, 400]));
    }

    #[test]
    fn values_have_the_variance_of_the_reference() {
        let values = values(1, "bot_l.0.weight", vec![300, 400]);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 1e-3, "mean {mean}");
        assert!((variance * 350.0 - 1.0).abs() < 0.02, "variance {variance}");
    }
}
