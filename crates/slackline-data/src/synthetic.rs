//! Synthetic batches, without a file.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::random::{Ranks, Scatter, mix_pair, stream};
use crate::{Batch, DataError};

/// A specification of synthetic requests.
///
/// # Examples
///
/// ```
/// use slackline_data::{Access, Batch, PoolingFactor, Synthetic, SyntheticSpec, SyntheticTable};
///
/// let hot = SyntheticTable { rows: 1 << 20, pooling: PoolingFactor::Uniform { low: 1, high: 8 }, access: Access::Zipf(1.05) };
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
    /// Samples in a batch, at least 1.
    pub samples_per_batch: usize,
    /// Dense features of a sample, uniform in `0.0 .. 1.0`.
    pub dense_features: usize,
    /// One entry for each table.
    pub tables: Vec<SyntheticTable>,
    /// Different seeds give independent requests.
    #[serde(default)]
    pub seed: u64,
}

/// One table of a [`SyntheticSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticTable {
    /// Rows, 1 to 2^40.
    pub rows: u64,
    /// Indices in a bag. Default: 1.
    #[serde(default)]
    pub pooling: PoolingFactor,
    /// How often each row is looked up. Default: equally often.
    #[serde(default)]
    pub access: Access,
}

/// The pooling factor of a table: how many indices a bag has. In a file: `{ fixed = 4 }` or `{ uniform = { low = 1, high = 8 } }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PoolingFactor {
    /// Always this many.
    Fixed(u32),
    /// From `low` to `high` inclusive, each equally often.
    Uniform {
        /// The fewest.
        low: u32,
        /// The most.
        high: u32,
    },
}

/// How often each row is looked up. In a file: `"uniform"` or `{ zipf = 1.05 }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Every row equally often.
    #[default]
    Uniform,
    /// The `r`-th most popular row in proportion to `1 / r^s`, with `s` finite and not negative. Popular rows are scattered
    /// over the table and never next to each other.
    Zipf(f64),
}

/// A generator of synthetic batches by number: batch `n` does not depend on which batches were made before it, so ranks can
/// make the same or different batches without communicating.
///
/// Each table of each batch has its own generator (Xoshiro256++, seeded with the seed of the specification, the number of the
/// batch and the number of the table), so the indices of a table do not depend on other tables. Zipf's law uses `pow` of the
/// platform: on a machine with another math library, an index may differ, rarely.
///
/// Indices may repeat within a bag, as in real requests. There are no labels and no weights. Cost: proportional to the
/// numbers written; an index by Zipf's law takes a few hundred nanoseconds, so make batches before a timed part. Memory does
/// not depend on the number of rows.
pub struct Synthetic {
    spec: SyntheticSpec,
    tables: Vec<(Ranks, Scatter)>,
}

impl Synthetic {
    /// A generator of the batches of a specification.
    ///
    /// # Errors
    ///
    /// [`DataError::Request`] if a number is out of range.
    pub fn new(spec: &SyntheticSpec) -> Result<Synthetic, DataError> {
        let refuse = |problem: String| DataError::Request { problem: format!("synthetic input: {problem}") };
        if spec.samples_per_batch == 0 {
            return Err(refuse("samples_per_batch is 0".to_owned()));
        }
        let prepare = |(number, table): (usize, &SyntheticTable)| {
            if table.rows == 0 || table.rows > 1 << 40 {
                return Err(refuse(format!("table {number} has {} rows, expected 1 to 2^40", table.rows)));
            }
            if let PoolingFactor::Uniform { low, high } = table.pooling
                && low > high
            {
                return Err(refuse(format!("table {number}: pooling factor from {low} to {high}")));
            }
            let exponent = match table.access {
                Access::Uniform => 0.0,
                Access::Zipf(exponent) => exponent,
            };
            let ranks = Ranks::new(table.rows, exponent);
            let ranks = ranks.ok_or_else(|| {
                refuse(format!("table {number}: zipf exponent {exponent}, expected a finite number, at least 0"))
            })?;
            Ok((ranks, Scatter::new(table.rows, mix_pair(spec.seed, number as u64))))
        };
        let tables = spec.tables.iter().enumerate().map(prepare).collect::<Result<_, _>>()?;
        Ok(Synthetic { spec: spec.clone(), tables })
    }

    /// Replaces the content of `batch` by batch `number`, and reuses its buffers. Batch `n` starts with sample
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
                    PoolingFactor::Fixed(count) => count,
                    PoolingFactor::Uniform { low, high } => random.random_range(low..=high),
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

impl Default for PoolingFactor {
    fn default() -> Self {
        PoolingFactor::Fixed(1)
    }
}
