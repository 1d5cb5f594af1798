//! Feature interaction: from a sample's vectors to the input of the top MLP.

use crate::{InteractionOp, ModelConfig};

/// The number of dot products that are computed side by side.
const LANES: usize = 8;

/// Combines the bottom output and the pooled vectors of each sample.
///
/// Vector 0 of a sample is its bottom output, vector `t + 1` the pooled vector of table `t`. With
/// [`InteractionOp::Dot`] the output is the bottom output followed by the dot products of the pairs `(i, j)`, `i > j`, in
/// the order (1,0), (2,0), (2,1), (3,0), …; with `itself`, `i >= j`: (0,0), (1,0), (1,1), …. With [`InteractionOp::Cat`]
/// it is all vectors side by side.
///
/// Every product is summed from the first value to the last, so a sample's result has the same bits in any batch.
#[derive(Clone, Debug)]
pub struct Interaction {
    op: InteractionOp,
    itself: bool,
    dim: usize,
    tables: usize,
    width: usize,
}

/// A buffer for one sample's vectors, reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct InteractionScratch {
    /// `[dim][vectors, padded to LANES]`.
    transposed: Vec<f32>,
}

impl Interaction {
    /// The interaction of a model.
    pub fn new(config: &ModelConfig) -> Self {
        Self {
            op: config.interaction_op(),
            itself: config.interaction_itself(),
            dim: config.dim(),
            tables: config.tables(),
            width: config.interaction_width(),
        }
    }

    /// Values of one sample's output.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Combines `samples` samples: `bottom` is `[samples, dim]`, `tables[t]` the pooled vectors `[samples, dim]` of table
    /// `t`, and `out` becomes `[samples, width]`, all row after row.
    ///
    /// Cost of a dot sample: `vectors^2 / 2` products of `dim` multiplications (rounded up to 8 products), and one
    /// transposed copy of its vectors.
    ///
    /// # Panics
    ///
    /// If a slice does not have the stated length, or there is not one block for each table.
    pub fn interact(
        &self,
        bottom: &[f32],
        tables: &[&[f32]],
        samples: usize,
        scratch: &mut InteractionScratch,
        out: &mut [f32],
    ) {
        assert_eq!(bottom.len(), samples * self.dim, "values of the bottom output");
        assert_eq!(tables.len(), self.tables, "blocks of pooled vectors");
        for (table, block) in tables.iter().enumerate() {
            assert_eq!(block.len(), samples * self.dim, "pooled values of table {table}");
        }
        assert_eq!(out.len(), samples * self.width, "values of the interaction");
        match self.op {
            InteractionOp::Cat => self.cat(bottom, tables, out),
            InteractionOp::Dot => self.dot(bottom, tables, scratch, out),
        }
    }

    fn cat(&self, bottom: &[f32], tables: &[&[f32]], out: &mut [f32]) {
        for (sample, out) in out.chunks_exact_mut(self.width).enumerate() {
            let place = sample * self.dim..(sample + 1) * self.dim;
            let vectors = std::iter::once(&bottom).chain(tables);
            for (block, out) in vectors.zip(out.chunks_exact_mut(self.dim)) {
                out.copy_from_slice(&block[place.clone()]);
            }
        }
    }

    /// Computes one row of the triangle at a time: [`LANES`] products in as many accumulators, from a transposed copy of the
    /// sample. No sum crosses a vector register, and each product is summed in order.
    fn dot(&self, bottom: &[f32], tables: &[&[f32]], scratch: &mut InteractionScratch, out: &mut [f32]) {
        let vectors = self.tables + 1;
        let padded = vectors.next_multiple_of(LANES);
        let transposed = &mut scratch.transposed;
        transposed.clear();
        transposed.resize(self.dim * padded, 0.0);
        for (sample, out) in out.chunks_exact_mut(self.width).enumerate() {
            let place = sample * self.dim..(sample + 1) * self.dim;
            let vector = |i: usize| if i == 0 { &bottom[place.clone()] } else { &tables[i - 1][place.clone()] };
            for i in 0..vectors {
                for (column, &value) in transposed.chunks_exact_mut(padded).zip(vector(i)) {
                    column[i] = value;
                }
            }
            let (dense, mut products) = out.split_at_mut(self.dim);
            dense.copy_from_slice(vector(0));
            for i in 0..vectors {
                let count = if self.itself { i + 1 } else { i };
                let (row, rest) = products.split_at_mut(count);
                products = rest;
                let left = vector(i);
                for (block, out) in row.chunks_mut(LANES).enumerate() {
                    let sums = eight_products(left, &transposed[block * LANES..], padded);
                    out.copy_from_slice(&sums[..out.len()]);
                }
            }
        }
    }
}

/// The dot products of `left` with eight adjacent columns of a `[dim][padded]` matrix; `columns` starts at the first one.
#[inline]
fn eight_products(left: &[f32], columns: &[f32], padded: usize) -> [f32; LANES] {
    let mut sums = [0f32; LANES];
    for (&value, column) in left.iter().zip(columns.chunks(padded)) {
        let column: &[f32; LANES] = column[..LANES].try_into().expect("padded to whole lanes");
        for (sum, &other) in sums.iter_mut().zip(column) {
            *sum += value * other;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Arguments;

    fn interaction(op: InteractionOp, itself: bool, dim: usize, tables: usize) -> Interaction {
        let arguments = Arguments {
            sparse_feature_size: dim,
            embedding_size: vec![1; tables],
            mlp_bot: vec![1, dim],
            mlp_top: vec![1],
            interaction_op: op,
            interaction_itself: itself,
            ..Arguments::default()
        };
        Interaction::new(&ModelConfig::new(arguments).unwrap())
    }

    /// The definition, in the plainest words: every pair in order, summed from the first value to the last.
    fn naive(op: InteractionOp, itself: bool, vectors: &[&[f32]]) -> Vec<f32> {
        if op == InteractionOp::Cat {
            return vectors.concat();
        }
        let mut out = vectors[0].to_vec();
        for i in 0..vectors.len() {
            for j in 0..if itself { i + 1 } else { i } {
                out.push(vectors[i].iter().zip(vectors[j]).fold(0.0, |sum, (a, b)| sum + a * b));
            }
        }
        out
    }

    #[test]
    fn pairs_stand_in_the_order_of_the_reference() {
        let mut out = vec![0.0; 2 + 3];
        let mut scratch = InteractionScratch::default();
        let (bottom, first, second) = ([1.0, 2.0], [10.0, 0.0], [0.0, 100.0]);
        let dot = interaction(InteractionOp::Dot, false, 2, 2);
        dot.interact(&bottom, &[&first, &second], 1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 10.0, 200.0, 0.0]);
        let mut out = vec![0.0; 2 + 6];
        let itself = interaction(InteractionOp::Dot, true, 2, 2);
        itself.interact(&bottom, &[&first, &second], 1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 5.0, 10.0, 100.0, 200.0, 0.0, 10000.0]);
        let mut out = vec![0.0; 6];
        let cat = interaction(InteractionOp::Cat, false, 2, 2);
        cat.interact(&bottom, &[&first, &second], 1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 10.0, 0.0, 0.0, 100.0]);
    }

    #[test]
    fn no_samples_give_no_output() {
        let dot = interaction(InteractionOp::Dot, false, 4, 2);
        dot.interact(&[], &[&[], &[]], 0, &mut InteractionScratch::default(), &mut []);
    }

    #[test]
    #[should_panic(expected = "pooled values of table 1")]
    fn a_short_block_is_refused() {
        let dot = interaction(InteractionOp::Dot, false, 2, 2);
        dot.interact(&[0.0; 2], &[&[0.0; 2], &[0.0]], 1, &mut InteractionScratch::default(), &mut [0.0; 5]);
    }

    proptest! {
        #[test]
        fn agrees_bit_for_bit_with_the_definition(
            (dim, tables, samples) in (1usize..20, 1usize..30, 0usize..6),
            op in prop_oneof![Just(InteractionOp::Dot), Just(InteractionOp::Cat)],
            itself: bool,
            seed: u64,
        ) {
            let value = |i: usize| {
                let bits = (i as u64 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                (bits >> 40) as f32 / 1e6 - 8.0
            };
            let blocks: Vec<Vec<f32>> =
                (0..=tables).map(|t| (0..samples * dim).map(|i| value(t * 1000 + i)).collect()).collect();
            let interaction = interaction(op, itself, dim, tables);
            let refs: Vec<&[f32]> = blocks[1..].iter().map(Vec::as_slice).collect();
            let mut out = vec![f32::NAN; samples * interaction.width()];
            interaction.interact(&blocks[0], &refs, samples, &mut InteractionScratch::default(), &mut out);
            for (sample, out) in out.chunks(interaction.width()).enumerate() {
                let vectors: Vec<&[f32]> = blocks.iter().map(|b| &b[sample * dim..(sample + 1) * dim]).collect();
                prop_assert_eq!(out, &naive(op, itself, &vectors)[..]);
            }
        }
    }
}
