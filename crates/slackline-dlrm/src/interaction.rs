//! Feature interaction: from a sample's vectors to the input of the top MLP.

use std::ops::Range;

use slackline_embedding::kernels::Isa;

use crate::simd::{LANES, Line, Pairs, all_pairs};
use crate::{InteractionOp, ModelConfig};

/// Combines the bottom output and the pooled vectors of each sample.
///
/// Vector 0 of a sample is its bottom output, vector `t + 1` the pooled vector of table `t`. With
/// [`InteractionOp::Dot`] the output is the bottom output followed by the dot products of the pairs `(i, j)`, `i > j`, in
/// the order (1,0), (2,0), (2,1), (3,0), …; with `itself`, `i >= j`: (0,0), (1,0), (1,1), …. With [`InteractionOp::Cat`]
/// it is all vectors side by side.
///
/// Every product is summed from the first value to the last, each term rounded once with its sum, so a sample's result has the
/// same bits in any batch.
#[derive(Clone, Debug)]
pub struct Interaction {
    op: InteractionOp,
    itself: bool,
    dim: usize,
    tables: usize,
    width: usize,
    isa: Isa,
}

/// A buffer for one sample's vectors, reused from call to call.
#[derive(Clone, Debug, Default)]
pub struct InteractionScratch {
    panels: Vec<Line>,
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
            isa: Isa::best(),
        }
    }

    /// Values of one sample's output.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Combines some samples of a batch: `bottom` is `[batch, dim]`, `tables[t]` the pooled vectors `[batch, dim]` of table
    /// `t`, and `out` becomes `[samples, width]`, all row after row.
    ///
    /// Cost of a dot sample: `vectors^2 / 2` products of `dim` multiplications (a row's rounded up to 16 products), and one
    /// transposed copy of its vectors.
    ///
    /// # Panics
    ///
    /// If a block does not reach to the last sample, `out` does not have the stated length, or there is not one block for each
    /// table.
    pub fn interact(
        &self,
        bottom: &[f32],
        tables: &[&[f32]],
        samples: Range<usize>,
        scratch: &mut InteractionScratch,
        out: &mut [f32],
    ) {
        assert!(bottom.len() >= samples.end * self.dim, "values of the bottom output");
        assert_eq!(tables.len(), self.tables, "blocks of pooled vectors");
        for (table, block) in tables.iter().enumerate() {
            assert!(block.len() >= samples.end * self.dim, "pooled values of table {table}");
        }
        assert_eq!(out.len(), samples.len() * self.width, "values of the interaction");
        scratch.panels.resize((self.tables + 1).div_ceil(LANES) * self.dim, Line::default());
        for (sample, out) in samples.zip(out.chunks_exact_mut(self.width)) {
            let vectors = Pairs { bottom, tables, dim: self.dim, sample, itself: self.itself };
            match self.op {
                InteractionOp::Cat => {
                    for (number, out) in out.chunks_exact_mut(self.dim).enumerate() {
                        out.copy_from_slice(vectors.vector(number));
                    }
                }
                InteractionOp::Dot => {
                    let (dense, products) = out.split_at_mut(self.dim);
                    dense.copy_from_slice(vectors.vector(0));
                    all_pairs(self.isa, &vectors, &mut scratch.panels, products);
                }
            }
        }
    }
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
                out.push(vectors[i].iter().zip(vectors[j]).fold(0.0, |sum: f32, (a, b)| a.mul_add(*b, sum)));
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
        dot.interact(&bottom, &[&first, &second], 0..1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 10.0, 200.0, 0.0]);
        let mut out = vec![0.0; 2 + 6];
        let itself = interaction(InteractionOp::Dot, true, 2, 2);
        itself.interact(&bottom, &[&first, &second], 0..1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 5.0, 10.0, 100.0, 200.0, 0.0, 10000.0]);
        let mut out = vec![0.0; 6];
        let cat = interaction(InteractionOp::Cat, false, 2, 2);
        cat.interact(&bottom, &[&first, &second], 0..1, &mut scratch, &mut out);
        assert_eq!(out, [1.0, 2.0, 10.0, 0.0, 0.0, 100.0]);
    }

    #[test]
    fn no_samples_give_no_output() {
        let dot = interaction(InteractionOp::Dot, false, 4, 2);
        dot.interact(&[], &[&[], &[]], 0..0, &mut InteractionScratch::default(), &mut []);
    }

    #[test]
    #[should_panic(expected = "pooled values of table 1")]
    fn a_short_block_is_refused() {
        let dot = interaction(InteractionOp::Dot, false, 2, 2);
        dot.interact(&[0.0; 2], &[&[0.0; 2], &[0.0]], 0..1, &mut InteractionScratch::default(), &mut [0.0; 5]);
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
            interaction.interact(&blocks[0], &refs, 0..samples, &mut InteractionScratch::default(), &mut out);
            for (sample, out) in out.chunks(interaction.width()).enumerate() {
                let vectors: Vec<&[f32]> = blocks.iter().map(|b| &b[sample * dim..(sample + 1) * dim]).collect();
                prop_assert_eq!(out, &naive(op, itself, &vectors)[..]);
            }
        }
    }
}
