//! Random click logs in Criteo's format.

use std::path::Path;

use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::random::{Ranks, mix_pair, stream};
use crate::{CriteoRow, CriteoWriter, DataError, InputShape};

/// The fraction of rows that are clicks.
const CLICKS: f64 = 0.25;

/// Writes a random click log of `rows` rows in Criteo's format, tab-separated, CSV or gzipped by its name as
/// [`CriteoWriter`] describes. The same arguments give the same file.
///
/// Integer features are log-normal; some have missing values, some a few negative ones. Categories follow Zipf's law over as
/// many categories as the table has rows, and are hashed to 8 hexadecimal digits (16 for tables of more than 2^32 rows), so
/// that they collide as with the hashing trick; some tables have missing values. A quarter of the labels are clicks, drawn
/// from a logistic function of the features that depends on the seed: a model can learn it, so that its AUC is meaningful.
///
/// `on_progress` is called with the number of rows written, every 4096 rows and at the end.
///
/// # Errors
///
/// [`DataError::Io`], which leaves no file behind, and [`DataError::Request`] for a shape that [`Input`](crate::Input) cannot
/// read.
pub fn generate_criteo(
    shape: &InputShape,
    rows: u64,
    seed: u64,
    path: impl AsRef<Path>,
    mut on_progress: impl FnMut(u64),
) -> Result<(), DataError> {
    const PROGRESS: u64 = 4096;
    let mut writer = CriteoWriter::create(path, shape)?;
    let mut clicks = Clicks::new(shape, seed);
    let mut row = CriteoRow::default();
    for number in 1..=rows {
        clicks.draw(&mut row);
        writer.write(&row)?;
        if number % PROGRESS == 0 && number < rows {
            on_progress(number);
        }
    }
    writer.finish()?;
    on_progress(rows);
    Ok(())
}

/// The features and the function of the clicks, and the generator of rows.
struct Clicks {
    dense: Vec<Integer>,
    sparse: Vec<Categories>,
    intercept: f64,
    random: Xoshiro256PlusPlus,
}

/// One integer feature.
struct Integer {
    /// Of the logarithm.
    mean: f64,
    spread: f64,
    lowest: i64,
    missing: f64,
    weight: f64,
}

/// The categories of one table.
struct Categories {
    ranks: Ranks,
    /// Hashes a rank to a category.
    salt: u64,
    wide: bool,
    missing: f64,
    weight: f64,
}

impl Clicks {
    /// The shape must have been checked.
    fn new(shape: &InputShape, seed: u64) -> Self {
        // Numbers of the streams: traits of the features, the sample for the intercept, the rows.
        let [mut traits, mut sample, random] = [0, 1, 2].map(|number| stream(seed, number, 0));
        // The logits have a standard deviation of about 1.3, so that the best AUC is about 0.8.
        let scale = |count: usize| 0.9 / (count.max(1) as f64).sqrt();
        let dense = (0..shape.dense_features).map(|_| Integer::new(&mut traits, scale(shape.dense_features))).collect();
        let tables = shape.table_rows.iter();
        let sparse =
            tables.map(|&rows| Categories::new(rows as u64, &mut traits, scale(shape.table_rows.len()))).collect();
        let mut clicks = Clicks { dense, sparse, intercept: 0.0, random };
        let mut row = CriteoRow::default();
        let scores: Vec<f64> = (0..4096).map(|_| clicks.features(&mut row, &mut sample)).collect();
        clicks.intercept = intercept_for(&scores, CLICKS);
        clicks
    }

    /// Replaces the row by the next one, and returns the logit of its click.
    fn draw(&mut self, row: &mut CriteoRow) -> f64 {
        let mut random = self.random.clone();
        let logit = self.features(row, &mut random) + self.intercept;
        row.label = random.random::<f64>() < logistic(logit);
        self.random = random;
        logit
    }

    /// Fills the features of a row and returns their score.
    fn features(&self, row: &mut CriteoRow, random: &mut Xoshiro256PlusPlus) -> f64 {
        let mut score = 0.0;
        row.dense.clear();
        row.dense.extend(self.dense.iter().map(|integer| {
            let value = integer.draw(random)?;
            score += integer.weight * (((value.max(0) + 1) as f64).ln() - integer.mean) / integer.spread;
            Some(value)
        }));
        row.sparse.clear();
        row.sparse.extend(self.sparse.iter().map(|categories| {
            let name = categories.draw(random)?;
            score += categories.weight * effect(mix_pair(categories.salt, name));
            Some(name)
        }));
        score
    }
}

impl Integer {
    fn new(traits: &mut Xoshiro256PlusPlus, scale: f64) -> Self {
        Integer {
            mean: traits.random_range(0.5..6.0),
            spread: traits.random_range(0.6..1.6),
            lowest: if traits.random_bool(0.25) { -2 } else { 0 },
            missing: if traits.random_bool(0.5) { traits.random_range(0.02..0.45) } else { 0.0 },
            weight: weight(traits, scale),
        }
    }

    fn draw(&self, random: &mut Xoshiro256PlusPlus) -> Option<i64> {
        let normal: f64 = StandardNormal.sample(random);
        let value = (self.mean + self.spread * normal).exp() as i64 + self.lowest;
        (!random.random_bool(self.missing)).then_some(value)
    }
}

impl Categories {
    fn new(rows: u64, traits: &mut Xoshiro256PlusPlus, scale: f64) -> Self {
        let exponent = traits.random_range(1.02..1.3);
        // Above 2^53 a rank is not exact in f64, and the difference cannot be seen.
        let ranks = Ranks::new(rows.min(1 << 53), exponent).expect("the shape has been checked");
        Categories {
            ranks,
            salt: traits.random(),
            wide: rows > 1 << 32,
            missing: if traits.random_bool(0.3) { traits.random_range(0.02..0.5) } else { 0.0 },
            weight: weight(traits, scale),
        }
    }

    fn draw(&self, random: &mut Xoshiro256PlusPlus) -> Option<u64> {
        let name = mix_pair(self.salt, self.ranks.draw(random));
        let name = if self.wide { name } else { name >> 32 };
        (!random.random_bool(self.missing)).then_some(name)
    }
}

/// A weight that is not near 0, so that every feature matters.
fn weight(traits: &mut Xoshiro256PlusPlus, scale: f64) -> f64 {
    let size = scale * traits.random_range(0.5..1.5);
    if traits.random() { size } else { -size }
}

/// A number with mean 0 and variance 1, almost normal, from 64 random bits.
fn effect(bits: u64) -> f64 {
    let sum: f64 = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as f64 / 65_536.0).sum();
    (sum - 2.0) * 3f64.sqrt()
}

fn logistic(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// The number to add to all scores so that the mean probability is `wanted`.
fn intercept_for(scores: &[f64], wanted: f64) -> f64 {
    let (mut low, mut high) = (-50.0, 50.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let mean = scores.iter().map(|score| logistic(score + middle)).sum::<f64>() / scores.len() as f64;
        if mean < wanted { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auc(mut scored: Vec<(f64, bool)>) -> f64 {
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        let clicks = scored.iter().filter(|row| row.1).count() as f64;
        let ranks: f64 = (1..).zip(&scored).filter(|(_, row)| row.1).map(|(rank, _)| f64::from(rank)).sum();
        (ranks - clicks * (clicks + 1.0) / 2.0) / (clicks * (scored.len() as f64 - clicks))
    }

    #[test]
    fn labels_are_clicks_in_a_quarter_and_follow_the_hidden_function() {
        for (seed, dense_features, tables) in [(1, 13, 26), (2, 13, 26), (3, 2, 0), (4, 0, 2)] {
            let shape = InputShape { dense_features, table_rows: vec![10_000; tables] };
            let mut clicks = Clicks::new(&shape, seed);
            let mut row = CriteoRow::default();
            let rows: Vec<_> = (0..20_000).map(|_| (clicks.draw(&mut row), row.label)).collect();
            let rate = rows.iter().filter(|row| row.1).count() as f64 / rows.len() as f64;
            assert!((0.22..0.28).contains(&rate), "seed {seed}: {rate}");
            let auc = auc(rows);
            assert!((0.65..0.9).contains(&auc), "seed {seed}: {auc}");
        }
    }

    #[test]
    fn values_are_skewed_with_gaps_and_a_few_negatives() {
        let shape = InputShape { dense_features: 13, table_rows: vec![1000; 26] };
        let mut clicks = Clicks::new(&shape, 9);
        let mut row = CriteoRow::default();
        let (mut missing, mut negative, mut integers) = (0, 0, Vec::new());
        let mut first_table = std::collections::HashMap::<_, usize>::new();
        for _ in 0..2000 {
            clicks.draw(&mut row);
            missing += row.dense.iter().filter(|value| value.is_none()).count();
            negative += row.dense.iter().filter(|value| value.is_some_and(|value| value < 0)).count();
            integers.extend(row.dense.iter().flatten().map(|&value| value as f64));
            *first_table.entry(row.sparse[0]).or_default() += 1;
        }
        assert!(missing > 0 && negative > 0 && negative < integers.len() / 20, "{missing} {negative}");
        let mean = integers.iter().sum::<f64>() / integers.len() as f64;
        let median = *integers.select_nth_unstable_by(13_000 / 2, f64::total_cmp).1;
        assert!(mean > 2.0 * median, "{mean} {median}");
        assert!(*first_table.values().max().unwrap() > 2000 / 20 && first_table.len() > 100);
    }
}
