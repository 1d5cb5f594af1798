//! Percentiles of latencies in bounded memory.

use std::collections::BTreeMap;

/// Latencies whose first 10 bits after the leading one are equal are counted together: they differ by less than 0.1 %.
const SAME_BITS: u32 = 23 - 10;

/// Latencies in milliseconds, counted.
#[derive(Default)]
pub(super) struct Latencies {
    count: u64,
    /// By their first bits: how many, and the largest of them.
    bins: BTreeMap<u32, (u64, f32)>,
}

impl Latencies {
    /// Adds one, which is not negative.
    pub(super) fn add(&mut self, milliseconds: f32) {
        self.count += 1;
        let (count, largest) = self.bins.entry(milliseconds.to_bits() >> SAME_BITS).or_default();
        *count += 1;
        *largest = largest.max(milliseconds);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Percentile by nearest rank: the smallest measured value that at least that share of all values does not exceed, or one
    /// that is larger by less than 0.1 %. The 100th is exact. `None` if there are no values.
    pub(super) fn percentile(&self, percent: u64) -> Option<f32> {
        let wanted = (u128::from(self.count) * u128::from(percent)).div_ceil(100).max(1) as u64;
        let mut seen = 0;
        let reached = |(count, largest): &(u64, f32)| {
            seen += count;
            (seen >= wanted).then_some(*largest)
        };
        self.bins.values().find_map(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentiles(values: impl IntoIterator<Item = f32>) -> Vec<Option<f32>> {
        let mut latencies = Latencies::default();
        values.into_iter().for_each(|value| latencies.add(value));
        [50, 95, 99, 100].map(|percent| latencies.percentile(percent)).into()
    }

    #[test]
    fn percentiles_are_measured_values() {
        let hundred = percentiles((1..=100).rev().map(|n| n as f32));
        assert_eq!(hundred, [50.0, 95.0, 99.0, 100.0].map(Some));
        assert_eq!(percentiles([3.0]), [Some(3.0); 4]);
        assert_eq!(percentiles([1.0, 3.0, 2.0]), [2.0, 3.0, 3.0, 3.0].map(Some));
        assert_eq!(percentiles([0.0, 0.0]), [Some(0.0); 4]);
        assert_eq!(percentiles([]), [None; 4]);
    }

    #[test]
    fn close_values_are_counted_together_and_no_further_than_a_thousandth() {
        let mut values: Vec<f32> = (0..50_000u32).map(|n| 0.01 + (n * 7919 % 50_000) as f32 * 1e-3).collect();
        let found = percentiles(values.iter().copied());
        values.sort_unstable_by(f32::total_cmp);
        for (found, percent) in found.into_iter().zip([50, 95, 99, 100]) {
            let (found, exact) = (found.unwrap(), values[values.len() * percent / 100 - 1]);
            assert!(found >= exact && found <= exact * 1.001 && values.contains(&found), "{found}, {exact}");
        }
    }
}
