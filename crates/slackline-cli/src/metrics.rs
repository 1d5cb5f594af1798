//! The quality of predictions, AUC and log loss, row by row in bounded memory.

use serde::Serialize;

/// Predictions are clamped to this distance from 0 and 1 before the logarithm.
pub(crate) const CLAMP: f64 = 1e-7;

/// The AUC of so many rows is exact. It takes 4 bytes a row; beyond them rows are counted in [`BINS`], which takes less.
const EXACT: usize = 1 << 22;

/// As many bins, each with as many of the first rows as any other, so that they are fine where predictions are close together.
const BINS: usize = 1 << 18;

/// Quality measures of predictions with labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quality {
    /// Area under the ROC curve: the share of pairs of a positive and a negative row in which the positive one has the larger
    /// prediction; ties count half. `None` if a prediction is not a number, a label is neither 0 nor 1, or all labels are
    /// equal.
    pub(crate) auc: Option<f64>,
    /// By how much [`auc`](Self::auc) may differ from that at most, both ways. 0 if it is exact up to the last division.
    pub(crate) auc_error: Option<f64>,
    /// Mean binary cross-entropy in nats: of `-(y ln p + (1 - y) ln(1 - p))` with `p` clamped to `[1e-7, 1 - 1e-7]`. `None`
    /// without rows, or if a prediction is not a number.
    pub(crate) log_loss: Option<f64>,
}

/// Takes rows one after the other. Equal rows in equal order give equal bits.
pub(crate) struct QualityMeter {
    rows: u64,
    loss: f64,
    /// `None` once there is no AUC.
    scores: Option<Scores>,
    /// [`EXACT`] and [`BINS`], but for tests.
    exact: usize,
    bins: usize,
}

/// The predictions of negative and of positive rows.
enum Scores {
    /// As numbers in the same order.
    All([Vec<u32>; 2]),
    /// How many there are in each bin.
    Counts(Bins),
}

/// Predictions, counted.
struct Bins {
    /// The largest number in each bin but the last.
    bounds: Vec<u32>,
    /// The negative and the positive rows in each bin.
    counts: Vec<[u64; 2]>,
}

impl QualityMeter {
    pub(crate) fn new() -> Self {
        Self::exact_up_to(EXACT, BINS)
    }

    fn exact_up_to(exact: usize, bins: usize) -> Self {
        QualityMeter { rows: 0, loss: 0.0, scores: Some(Scores::All([Vec::new(), Vec::new()])), exact, bins }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, prediction: f32, label: f32) {
        self.rows += 1;
        let (p, y) = (f64::from(prediction).clamp(CLAMP, 1.0 - CLAMP), f64::from(label));
        self.loss += -(y * p.ln() + (1.0 - y) * (-p).ln_1p());
        if prediction.is_nan() || label != 0.0 && label != 1.0 {
            self.scores = None;
        }
        let positive = usize::from(label == 1.0);
        match &mut self.scores {
            None => {}
            Some(Scores::Counts(bins)) => bins.add(ordered(prediction), positive),
            Some(Scores::All(all)) => {
                let scores = &mut all[positive];
                if scores.len() == scores.capacity() {
                    // Not by doubling: memory grows as rows come, and no more.
                    scores.reserve_exact(1 << 16);
                }
                scores.push(ordered(prediction));
                if all[0].len() + all[1].len() > self.exact {
                    self.scores = Some(Scores::Counts(Bins::of(std::mem::take(all), self.bins)));
                }
            }
        }
    }

    /// The measures of all rows so far.
    pub(crate) fn quality(self) -> Quality {
        let mean = self.loss / self.rows as f64;
        let log_loss = (!mean.is_nan()).then_some(mean);
        let (auc, auc_error) = self.scores.and_then(Scores::auc).unzip();
        Quality { auc, auc_error, log_loss }
    }
}

impl Scores {
    /// The AUC and the bound of its error.
    fn auc(self) -> Option<(f64, f64)> {
        // In half pairs, so that ties are whole numbers.
        let (mut halves, mut tied_pairs) = (0u128, 0u128);
        let (mut positives, mut negatives) = (0u128, 0u128);
        let mut tied = |tied_negatives: u64, tied_positives: u64| {
            let (tied_negatives, tied_positives) = (u128::from(tied_negatives), u128::from(tied_positives));
            halves += tied_positives * (2 * negatives + tied_negatives);
            tied_pairs += tied_positives * tied_negatives;
            positives += tied_positives;
            negatives += tied_negatives;
        };
        let is_exact = match self {
            Scores::Counts(bins) => {
                bins.counts.iter().for_each(|[negative, positive]| tied(*negative, *positive));
                false
            }
            Scores::All(mut all) => {
                all.iter_mut().for_each(|scores| scores.sort_unstable());
                let [mut negative, mut positive] = all.each_ref().map(|scores| scores.as_slice());
                while let Some(&least) = negative.first().into_iter().chain(positive.first()).min() {
                    let count = |scores: &mut &[u32]| {
                        let equal = scores.iter().take_while(|score| **score == least).count();
                        *scores = &scores[equal..];
                        equal as u64
                    };
                    let tied_negatives = count(&mut negative);
                    tied(tied_negatives, count(&mut positive));
                }
                true
            }
        };
        let pairs = 2.0 * (positives * negatives) as f64;
        // Pairs within a bin count half; each of them may count all or nothing.
        let error = if is_exact { 0.0 } else { tied_pairs as f64 / pairs };
        (pairs > 0.0).then(|| (halves as f64 / pairs, error))
    }
}

impl Bins {
    /// Bins that are fit for these predictions, and hold them.
    fn of(all: [Vec<u32>; 2], bins: usize) -> Self {
        let mut sorted = all.concat();
        sorted.sort_unstable();
        let most = sorted.len().div_ceil(bins).max(1);
        let mut bounds: Vec<u32> = sorted.into_iter().step_by(most).collect();
        bounds.dedup();
        let mut bins = Bins { counts: vec![[0; 2]; bounds.len() + 1], bounds };
        for (positive, scores) in all.iter().enumerate() {
            scores.iter().for_each(|score| bins.add(*score, positive));
        }
        bins
    }

    fn add(&mut self, score: u32, positive: usize) {
        self.counts[self.bounds.partition_point(|bound| *bound < score)][positive] += 1;
    }
}

/// A number that is larger for a larger prediction; the two zeros are equal.
fn ordered(prediction: f32) -> u32 {
    // Adding zero turns -0 into 0.
    let bits = (prediction + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quality(predictions: &[f32], labels: &[f32], exact: usize) -> Quality {
        assert_eq!(predictions.len(), labels.len());
        let mut meter = QualityMeter::exact_up_to(exact, 1000);
        predictions.iter().zip(labels).for_each(|(p, y)| meter.add(*p, *y));
        meter.quality()
    }

    fn auc(predictions: &[f32], labels: &[f32]) -> Option<f64> {
        let quality = quality(predictions, labels, EXACT);
        assert_eq!(quality.auc_error, quality.auc.map(|_| 0.0));
        quality.auc
    }

    fn log_loss(predictions: &[f32], labels: &[f32]) -> Option<f64> {
        quality(predictions, labels, EXACT).log_loss
    }

    /// The definition, pair by pair.
    fn naive_auc(predictions: &[f32], labels: &[f32]) -> Option<f64> {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (&p, &y) in predictions.iter().zip(labels) {
            for (&q, &z) in predictions.iter().zip(labels) {
                if y == 1.0 && z == 0.0 {
                    pairs += 1.0;
                    wins += if p > q {
                        1.0
                    } else if p == q {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
        }
        (pairs > 0.0).then_some(wins / pairs)
    }

    #[test]
    fn auc_by_hand() {
        let labels = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(auc(&[0.1, 0.4, 0.35, 0.8], &labels), Some(0.75));
        assert_eq!(auc(&[0.1, 0.2, 0.3, 0.4], &labels), Some(1.0));
        assert_eq!(auc(&[0.4, 0.3, 0.2, 0.1], &labels), Some(0.0));
        assert_eq!(auc(&[0.5; 4], &labels), Some(0.5));
        assert_eq!(auc(&[0.1, 0.5, 0.5, 0.9], &labels), Some(0.875), "one of four pairs is tied");
        assert_eq!(auc(&[0.0, 0.1, -0.0, 0.2], &labels), Some(0.625), "the two zeros are equal");
        assert_eq!(auc(&[-2.0, 3.0, -1.0, 4.0], &labels), Some(0.75), "a model may end without a sigmoid");
    }

    #[test]
    fn there_is_no_auc_of_one_class_of_soft_labels_or_of_nan() {
        for exact in [EXACT, 0] {
            let auc = |predictions: &[f32], labels: &[f32]| quality(predictions, labels, exact).auc;
            assert_eq!(auc(&[], &[]), None);
            assert_eq!(auc(&[0.1, 0.2], &[1.0, 1.0]), None);
            assert_eq!(auc(&[0.1, 0.2], &[0.0, 0.0]), None);
            assert_eq!(auc(&[0.1, 0.2], &[0.0, 0.5]), None);
            assert_eq!(auc(&[0.1, f32::NAN], &[0.0, 1.0]), None);
        }
    }

    #[test]
    fn log_loss_by_hand() {
        let close = |found: Option<f64>, expected: f64| {
            let found = found.unwrap();
            assert!((found - expected).abs() < 1e-12 * expected, "{found} is not {expected}");
        };
        close(log_loss(&[0.5, 0.5], &[0.0, 1.0]), std::f64::consts::LN_2);
        close(log_loss(&[0.25], &[1.0]), 4f64.ln());
        close(log_loss(&[0.75], &[0.0]), 4f64.ln());
        close(log_loss(&[0.5], &[0.3]), std::f64::consts::LN_2);
        close(log_loss(&[0.0], &[1.0]), 1e7f64.ln());
        close(log_loss(&[1.0], &[0.0]), -(1.0f64 - (1.0 - CLAMP)).ln());
        assert_eq!(log_loss(&[], &[]), None);
        assert_eq!(log_loss(&[f32::NAN], &[0.0]), None);
    }

    #[test]
    fn of_many_rows_the_bound_is_small_and_holds() {
        // Predictions that are spread out, and such as are close together.
        for (low, width) in [(0.0, 1.0), (0.2, 0.01)] {
            let unit = (0..20_000).map(|n| (n as f32 * 0.618_034).fract());
            let (predictions, labels): (Vec<f32>, Vec<f32>) =
                unit.map(|p| (low + width * p, f32::from(u8::from((p * 7919.0).fract() < p)))).unzip();
            let exact = quality(&predictions, &labels, EXACT);
            let binned = quality(&predictions, &labels, 5000);
            let (bound, differs) = (binned.auc_error.unwrap(), (binned.auc.unwrap() - exact.auc.unwrap()).abs());
            // Half of the pairs within a thousandth of all.
            assert!(differs <= bound && bound < 6e-4 && bound > 1e-4, "{differs} within {bound}");
            assert_eq!(binned.log_loss, exact.log_loss);
        }
    }

    proptest! {
        #[test]
        fn auc_equals_its_definition(samples in prop::collection::vec((0u8..12, any::<bool>()), 0..60)) {
            let predictions: Vec<f32> = samples.iter().map(|(p, _)| f32::from(*p) / 11.0).collect();
            let labels: Vec<f32> = samples.iter().map(|(_, y)| f32::from(u8::from(*y))).collect();
            prop_assert_eq!(auc(&predictions, &labels), naive_auc(&predictions, &labels));
        }

        #[test]
        fn auc_of_distinct_predictions_equals_its_definition_and_that_of_bins_is_within_its_bound(
            samples in prop::collection::vec((-0.5f32..1.5, any::<bool>()), 0..60),
            exact in 0usize..60,
        ) {
            let (predictions, positive): (Vec<f32>, Vec<bool>) = samples.into_iter().unzip();
            let labels: Vec<f32> = positive.iter().map(|&y| f32::from(u8::from(y))).collect();
            let expected = naive_auc(&predictions, &labels);
            prop_assert_eq!(auc(&predictions, &labels), expected);
            let binned = quality(&predictions, &labels, exact);
            prop_assert_eq!(binned.auc.is_some(), expected.is_some());
            if let (Some(auc), Some(error), Some(expected)) = (binned.auc, binned.auc_error, expected) {
                prop_assert!((auc - expected).abs() <= error + 1e-12, "{auc} is not within {error} of {expected}");
            }
        }
    }
}
