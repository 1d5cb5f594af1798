//! The reference for tests: one element at a time, exactly as defined. It is kept, and never optimised.

use crate::rows::float;
use crate::{Bags, Output, Pooling, Rows};

/// Pools `bags` over `rows` into `out`, `[bags.len(), dim]`; see
/// [`EmbeddingTable::pool_to`](crate::EmbeddingTable::pool_to) for what is computed.
///
/// # Panics
///
/// If the lengths do not match, or for a mean of weighted bags.
pub fn pool(rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) {
    super::check(rows, bags, pooling, &out);
    let dim = rows.dim();
    for sample in 0..bags.len() {
        let bag = bags.bag(sample);
        for column in 0..dim {
            let mut sum = 0.0;
            for position in bag.clone() {
                let row = rows.row(bags.indices().value(position) as u64);
                let weight = bags.weights().map(|weights| weights[position]);
                sum = add(sum, rows, row, column, weight);
            }
            if pooling == Pooling::Mean && !bag.is_empty() {
                sum /= bag.len() as f32;
            }
            out.set(sample * dim + column, sum);
        }
    }
}

/// Adds one value of one row to a sum.
fn add(sum: f32, rows: Rows<'_>, row: &[u8], column: usize, weight: Option<f32>) -> f32 {
    let Some(parts) = rows.format().quantised(rows.dim()) else {
        let value = float(rows.format(), row, column);
        return sum + weight.map_or(value, |weight| weight * value);
    };
    let (mut scale, mut bias) = parts.scale_and_bias(row);
    if let Some(weight) = weight {
        (scale, bias) = (scale * weight, bias * weight);
    }
    f32::from(parts.code(row, column)).mul_add(scale, sum + bias)
}
