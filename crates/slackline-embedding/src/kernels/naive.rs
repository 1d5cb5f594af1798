//! The oracle: one element at a time, as the definition reads. It is kept for ever, and never made fast.

use crate::{Bags, Pooling};

/// Pools `bags` over the rows `data`, `[bags.rows(), dim]`, into `out`, `[bags.len(), dim]`; see
/// [`EmbeddingTable::pool`](crate::EmbeddingTable::pool) for what is computed.
///
/// # Panics
///
/// If a length does not fit the others, `dim` is 0, or a mean of weighted bags is asked for.
pub fn pool(data: &[f32], dim: usize, bags: &Bags<'_>, pooling: Pooling, out: &mut [f32]) {
    super::check(data, dim, bags, pooling, out);
    for sample in 0..bags.len() {
        let bag = bags.bag(sample);
        for column in 0..dim {
            let mut sum = 0.0;
            for position in bag.clone() {
                let value = data[bags.indices().value(position) as usize * dim + column];
                sum += match bags.weights() {
                    Some(weights) => weights[position] * value,
                    None => value,
                };
            }
            if pooling == Pooling::Mean && !bag.is_empty() {
                sum /= bag.len() as f32;
            }
            out[sample * dim + column] = sum;
        }
    }
}
