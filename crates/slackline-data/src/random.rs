//! Random numbers by position: each seed, number and part has a generator of its own, the same in every run.

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that mixes every bit.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Mixes two numbers into one.
pub(crate) fn mix_pair(first: u64, second: u64) -> u64 {
    mix(mix(first).wrapping_add(second))
}

/// The generator of one part of one numbered object.
pub(crate) fn stream(seed: u64, number: u64, part: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(mix_pair(mix_pair(seed, number), part))
}

/// Popularity ranks, 0 the most popular: rank `r` is drawn in proportion to `1 / (r + 1)^exponent`.
pub(crate) struct Ranks {
    count: u64,
    /// `None` for uniform access.
    zipf: Option<Zipf<f64>>,
}

impl Ranks {
    /// `count` in `1 ..= 2^53`, `exponent` finite and not negative; 0 is uniform. `None` for others.
    pub(crate) fn new(count: u64, exponent: f64) -> Option<Self> {
        if count == 0 || count > 1 << 53 || !exponent.is_finite() {
            return None;
        }
        // Close to 1 the closed form of the distribution loses its precision.
        let exponent = if (exponent - 1.0).abs() < 1e-6 { 1.0 } else { exponent };
        let zipf = Zipf::new(count as f64, exponent).ok()?;
        Some(Ranks { count, zipf: (exponent != 0.0).then_some(zipf) })
    }

    pub(crate) fn draw(&self, random: &mut Xoshiro256PlusPlus) -> u64 {
        match &self.zipf {
            None => random.random_range(0..self.count),
            // Rounding can give one more than the last rank.
            Some(zipf) => (zipf.sample(random) as u64).clamp(1, self.count) - 1,
        }
    }
}

/// An affine permutation of `0 .. count` that puts neighbours far apart.
///
/// Its multiplier is next to `count` divided by the golden ratio, so that the images of any run of consecutive numbers are
/// spread almost evenly (the three-distance theorem).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter {
    count: u64,
    multiplier: u64,
    shift: u64,
}

impl Scatter {
    /// `count` from 1 to 2^53.
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        let near = (count as f64 * 0.618_033_988_749_894_9) as u64;
        let coprime = |multiplier: &u64| gcd(*multiplier, count) == 1;
        let multiplier = (near.max(1)..count).find(coprime).unwrap_or(1);
        Scatter { count, multiplier, shift: mix(seed) % count }
    }

    pub(crate) fn apply(&self, number: u64) -> u64 {
        if self.count <= 1 << 32 {
            return (number * self.multiplier + self.shift) % self.count;
        }
        let wide = u128::from(number) * u128::from(self.multiplier) + u128::from(self.shift);
        (wide % u128::from(self.count)) as u64
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scatter_is_a_permutation_that_separates_neighbours() {
        for count in (1..200).chain([1000, 1024, 3600, 65_536]) {
            let scatter = Scatter::new(count, count);
            let mut seen = vec![false; count as usize];
            for number in 0..count {
                assert!(!std::mem::replace(&mut seen[scatter.apply(number) as usize], true), "{count}");
            }
        }
        let count = 1 << 40;
        let scatter = Scatter::new(count, 3);
        let mut hot: Vec<u64> = (0..1000).map(|number| scatter.apply(number)).collect();
        hot.sort_unstable();
        assert!(hot.windows(2).all(|pair| pair[1] - pair[0] > count / 3000));
    }

    #[test]
    fn ranks_follow_their_law() {
        const DRAWS: u32 = 200_000;
        for exponent in [0.0, 0.8, 1.0, 1.05, 2.0] {
            let ranks = Ranks::new(50, exponent).unwrap();
            let mut random = stream(5, 0, 0);
            let mut counts = [0u32; 50];
            for _ in 0..DRAWS {
                counts[ranks.draw(&mut random) as usize] += 1;
            }
            let weights: Vec<f64> = (1..=50).map(|rank| f64::from(rank).powf(-exponent)).collect();
            let total: f64 = weights.iter().sum();
            let chi_squared: f64 = weights
                .iter()
                .zip(counts)
                .map(|(weight, count)| {
                    let expected = weight / total * f64::from(DRAWS);
                    (f64::from(count) - expected).powi(2) / expected
                })
                .sum();
            // 49 degrees of freedom: beyond 95 with a chance of 1 in 10 000; the seed is fixed.
            assert!(chi_squared < 95.0, "exponent {exponent}: {chi_squared}");
        }
    }

    #[test]
    fn impossible_ranks() {
        for (count, exponent) in [(0, 1.0), (1 << 54, 1.0), (5, -1.0), (5, f64::NAN), (5, f64::INFINITY)] {
            assert!(Ranks::new(count, exponent).is_none(), "{count} {exponent}");
        }
        assert_eq!(Ranks::new(1, 1.2).unwrap().draw(&mut stream(0, 0, 0)), 0);
    }
}
