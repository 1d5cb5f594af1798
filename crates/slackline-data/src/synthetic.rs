//! Batches without a file.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::random::{Ranks, Scatter, mix_pair, stream};
use crate::{Batch, DataError};

/// What synthetic requests look like.
///
/// # Examples
///
/// ```
/// use slackline_data::{Access, Batch, Pooling, Synthetic, SyntheticSpec, TableSpec};
///
/// let hot = TableSpec { rows: 1 << 20, pooling: Pooling::Uniform { low: 1, high: 8 }, access: Access::Zipf(1.05) };
/// let spec = SyntheticSpec { samples_per_batch: 128, dense_features: 13, tables: vec![hot; 4], seed: 7 };
/// let synthetic = Synthetic::new(&spec)?;
/// let mut batch = Batch::default();
/// synthetic.fill(1000, &mut batch);
/// assert_eq!((batch.samples, batch.first_sample), (128, 128_000));
/// # Ok::<(), slackline_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSpec {
    /// Samples of every batch, at least 1.
    pub samples_per_batch: usize,
    /// Dense features of a sample, uniform in `0.0 .. 1.0`.
    pub dense_features: usize,
    /// One entry a table.
    pub tables: Vec<TableSpec>,
    /// Different seeds give unrelated requests.
    #[serde(default)]
    pub seed: u64,
}

/// One table of a [`SyntheticSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Rows, 1 to 2^40.
    pub rows: u64,
    /// Indices of a bag; one if left out.
    #[serde(default)]
    pub pooling: Pooling,
    /// Which rows are hot; none if left out.
    #[serde(default)]
    pub access: Access,
}

/// How many indices a bag has. In a file: `{ fixed = 4 }` or `{ uniform = { low = 1, high = 8 } }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pooling {
    /// Always so many.
    Fixed(u32),
    /// From `low` to `high`, both included, each equally often.
    Uniform {
        /// The fewest.
        low: u32,
        /// The most.
        high: u32,
    },
}

/// How often each row is drawn. In a file: `"uniform"` or `{ zipf = 1.05 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Every row equally often.
    #[default]
    Uniform,
    /// The `r`-th most popular row in proportion to `1 / r^s`; `s` finite and not negative. Popular rows are scattered
    /// over the table, never neighbours.
    Zipf(f64),
}

/// A source of synthetic batches with random access: batch `n` is always the same, whatever was asked for before, so
/// ranks can make the same or different batches without talking.
///
/// Each batch and table has a generator of its own (Xoshiro256++, seeded from the specification's seed, the batch's
/// number and the table), so a table's indices do not depend on the other tables. Zipf's law goes through the platform's
/// `pow`: machines with another math library may, once in very many draws, differ in an index.
///
/// Indices may repeat within a bag, as they do in the field. There are no labels and no weights. Cost: proportional to the
/// numbers written; a Zipf index takes three powers a try, a few hundred nanoseconds, so make batches before a timed part.
/// Memory does not depend on the rows.
pub struct Synthetic {
    spec: SyntheticSpec,
    tables: Vec<(Ranks, Scatter)>,
}

impl Synthetic {
    /// Prepares a specification.
    ///
    /// # Errors
    ///
    /// [`DataError::Request`] if a number is out of its range.
    pub fn new(spec: &SyntheticSpec) -> Result<Synthetic, DataError> {
        let refuse = |problem: String| DataError::Request { problem: format!("synthetic input: {problem}") };
        if spec.samples_per_batch == 0 {
            return Err(refuse("samples_per_batch is 0".to_owned()));
        }
        let prepare = |(number, table): (usize, &TableSpec)| {
            if table.rows == 0 || table.rows > 1 << 40 {
                return Err(refuse(format!("table {number} has {} rows, expected 1 to 2^40", table.rows)));
            }
            if let Pooling::Uniform { low, high } = table.pooling
                && low > high
            {
                return Err(refuse(format!("table {number}: pooling from {low} to {high}")));
            }
            let exponent = match table.access {
                Access::Uniform => 0.0,
                Access::Zipf(exponent) => exponent,
            };
            let ranks = Ranks::new(table.rows, exponent);
            let ranks = ranks.ok_or_else(|| refuse(format!("table {number}: zipf({exponent})")))?;
            Ok((ranks, Scatter::new(table.rows, mix_pair(spec.seed, number as u64))))
        };
        let tables = spec.tables.iter().enumerate().map(prepare).collect::<Result<_, _>>()?;
        Ok(Synthetic { spec: spec.clone(), tables })
    }

    /// Replaces the batch by batch `number`, reusing its buffers. Batch `n` starts with sample
    /// `n * samples_per_batch`.
    pub fn fill(&self, number: u64, batch: &mut Batch) {
        let samples = self.spec.samples_per_batch;
        batch.reset(number.wrapping_mul(samples as u64), self.tables.len());
        batch.samples = samples;
        let mut random = stream(self.spec.seed, number, 0);
        batch.dense.extend((0..samples * self.spec.dense_features).map(|_| random.random::<f32>()));
        for (at, table) in batch.tables.iter_mut().enumerate() {
            let (ranks, scatter) = &self.tables[at];
            let mut random = stream(self.spec.seed, number, at as u64 + 1);
            table.offsets.push(0);
            for _ in 0..samples {
                let pooling = match self.spec.tables[at].pooling {
                    Pooling::Fixed(count) => count,
                    Pooling::Uniform { low, high } => random.random_range(low..=high),
                };
                table.indices.extend((0..pooling).map(|_| scatter.apply(ranks.draw(&mut random)) as i64));
                table.offsets.push(table.indices.len() as i64);
            }
        }
    }

    /// The specification.
    pub fn spec(&self) -> &SyntheticSpec {
        &self.spec
    }
}

impl Default for Pooling {
    fn default() -> Self {
        Pooling::Fixed(1)
    }
}
