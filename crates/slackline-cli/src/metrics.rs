//! The quality of predictions: AUC and log loss.

use serde::Serialize;

/// Predictions are clamped to this distance from 0 and 1 before the logarithm.
pub(crate) const CLAMP: f64 = 1e-7;

/// Quality measures of predictions with labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quality {
    /// Area under the ROC curve; `None` as documented at [`auc`].
    pub(crate) auc: Option<f64>,
    /// Mean binary cross-entropy in nats; see [`log_loss`].
    pub(crate) log_loss: Option<f64>,
}

impl Quality {
    /// `predictions` and `labels` have the same length.
    pub(crate) fn of(predictions: &[f32], labels: &[f32]) -> Self {
        Quality { auc: auc(predictions, labels), log_loss: log_loss(predictions, labels) }
    }
}

/// The area under the ROC curve: the share of pairs of a positive and a negative sample in which the positive one has the
/// larger prediction; ties count half. Exact up to the last division.
///
/// `None` if a prediction is not a number, a label is neither 0 nor 1, or all labels are equal.
///
/// Cost: a sort of all predictions.
fn auc(predictions: &[f32], labels: &[f32]) -> Option<f64> {
    assert_eq!(predictions.len(), labels.len(), "one label per prediction");
    if predictions.iter().any(|p| p.is_nan()) || labels.iter().any(|&label| label != 0.0 && label != 1.0) {
        return None;
    }
    // Adding zero turns -0 into 0.
    let mut sorted: Vec<(f32, bool)> = predictions.iter().zip(labels).map(|(&p, &l)| (p + 0.0, l == 1.0)).collect();
    sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    // In half pairs, so that ties are whole numbers.
    let mut halves = 0u128;
    let (mut positives, mut negatives) = (0u128, 0u128);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let tied_positives = tied.iter().filter(|(_, positive)| *positive).count() as u128;
        let tied_negatives = tied.len() as u128 - tied_positives;
        halves += tied_positives * (2 * negatives + tied_negatives);
        positives += tied_positives;
        negatives += tied_negatives;
    }
    let pairs = positives * negatives;
    (pairs > 0).then(|| halves as f64 / (2 * pairs) as f64)
}

/// The mean of `-(y ln p + (1 - y) ln(1 - p))` with `p` clamped to `[1e-7, 1 - 1e-7]`, in `f64`.
///
/// `None` without samples, or if a prediction is not a number.
fn log_loss(predictions: &[f32], labels: &[f32]) -> Option<f64> {
    assert_eq!(predictions.len(), labels.len(), "one label per prediction");
    let loss = |(&p, &y): (&f32, &f32)| {
        let (p, y) = (f64::from(p).clamp(CLAMP, 1.0 - CLAMP), f64::from(y));
        -(y * p.ln() + (1.0 - y) * (-p).ln_1p())
    };
    let sum: f64 = predictions.iter().zip(labels).map(loss).sum();
    let mean = sum / predictions.len() as f64;
    (!mean.is_nan()).then_some(mean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    }

    #[test]
    fn there_is_no_auc_of_one_class_of_soft_labels_or_of_nan() {
        assert_eq!(auc(&[], &[]), None);
        assert_eq!(auc(&[0.1, 0.2], &[1.0, 1.0]), None);
        assert_eq!(auc(&[0.1, 0.2], &[0.0, 0.0]), None);
        assert_eq!(auc(&[0.1, 0.2], &[0.0, 0.5]), None);
        assert_eq!(auc(&[0.1, f32::NAN], &[0.0, 1.0]), None);
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

    proptest! {
        #[test]
        fn auc_equals_its_definition(samples in prop::collection::vec((0u8..12, any::<bool>()), 0..60)) {
            let predictions: Vec<f32> = samples.iter().map(|(p, _)| f32::from(*p) / 11.0).collect();
            let labels: Vec<f32> = samples.iter().map(|(_, y)| f32::from(u8::from(*y))).collect();
            prop_assert_eq!(auc(&predictions, &labels), naive_auc(&predictions, &labels));
        }

        #[test]
        fn auc_of_distinct_predictions_equals_its_definition(
            samples in prop::collection::vec((0f32..1.0, any::<bool>()), 0..60),
        ) {
            let (predictions, positive): (Vec<f32>, Vec<bool>) = samples.into_iter().unzip();
            let labels: Vec<f32> = positive.iter().map(|&y| f32::from(u8::from(y))).collect();
            prop_assert_eq!(auc(&predictions, &labels), naive_auc(&predictions, &labels));
        }
    }
}
