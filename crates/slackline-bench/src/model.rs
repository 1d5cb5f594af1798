//! Work `model`: a synthetic model in the shape of the reference's Kaggle model, with smaller tables.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slackline_collective::{Collective, CompleteRound};
use slackline_data::{Access, Batch, PoolingFactor, Synthetic, SyntheticSpec, SyntheticTable};
use slackline_dlrm::{
    Arguments, DistributedModel, LocalModel, ModelConfig, ModelDirectory, largest_message, samples_of, write_synthetic,
};
use slackline_embedding::{Load, Plan, Verify};
use xxhash_rust::xxh3::xxh3_64;

use crate::BenchError;
use crate::measure::Work;

/// Rows of the tables of the Criteo Kaggle model.
const KAGGLE_ROWS: [usize; 26] = [
    1460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5683, 8_351_593, 3194, 27, 14_992, 5_461_306,
    10, 5652, 2173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
];

/// Number of different batches; round `i` predicts batch `i` modulo this.
const BATCHES: u64 = 16;

/// The model and its batches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelTask {
    directory: PathBuf,
    ranks: usize,
    batch: usize,
    seed: u64,
}

impl ModelTask {
    /// Writes the model directory into `folder`, with tables of at most `table_rows` rows. All ranks map its tables.
    pub(crate) fn create(
        folder: &Path,
        ranks: usize,
        batch: usize,
        table_rows: usize,
        seed: u64,
    ) -> Result<Self, BenchError> {
        let arguments = Arguments {
            sparse_feature_size: 16,
            embedding_size: KAGGLE_ROWS.iter().map(|&rows| rows.min(table_rows.max(1))).collect(),
            mlp_bot: vec![13, 512, 256, 64, 16],
            mlp_top: vec![512, 256, 1],
            ..Arguments::default()
        };
        let config = ModelConfig::new(arguments).map_err(failed)?;
        let directory = folder.join("model");
        write_synthetic(&config, seed, &directory, 1, &mut |_| ()).map_err(failed)?;
        Ok(ModelTask { directory, ranks, batch, seed })
    }

    /// The bytes of the largest message between two ranks.
    pub(crate) fn largest_message(&self) -> Result<usize, BenchError> {
        let directory = self.open()?;
        Ok(largest_message(&self.plan(&directory)?, self.batch))
    }

    /// The digest of every rank's output for every batch, `[batch][rank]`, computed in this process alone.
    pub(crate) fn reference(&self) -> Result<Vec<Vec<u64>>, BenchError> {
        let directory = self.open()?;
        let all: Vec<usize> = (0..directory.config().tables()).collect();
        let tables = directory.load_tables(&all, Load::Mapped, Verify::Checksums).map_err(failed)?;
        let mut model = LocalModel::new(directory.load_dense().map_err(failed)?, tables).map_err(failed)?;
        let mut predictions = Vec::new();
        let mut digests = |batch: &Batch| -> Result<Vec<u64>, BenchError> {
            model.predict(batch, &mut predictions).map_err(failed)?;
            let part = |rank| &predictions[samples_of(batch.samples, rank, self.ranks)];
            Ok((0..self.ranks).map(|rank| xxh3_64(&bytes(part(rank)))).collect())
        };
        self.batches(directory.config())?.iter().map(&mut digests).collect()
    }

    fn open(&self) -> Result<ModelDirectory, BenchError> {
        ModelDirectory::open(&self.directory).map_err(failed)
    }

    fn plan(&self, directory: &ModelDirectory) -> Result<Plan, BenchError> {
        Plan::table_wise(&directory.tables(), self.ranks).map_err(failed)
    }

    fn batches(&self, config: &ModelConfig) -> Result<Vec<Batch>, BenchError> {
        let table = |&rows: &usize| SyntheticTable {
            rows: rows as u64,
            pooling: PoolingFactor::Fixed(1),
            access: Access::Zipf(1.05),
        };
        let spec = SyntheticSpec {
            samples_per_batch: self.batch,
            dense_features: config.dense_features(),
            tables: config.rows().iter().map(table).collect(),
            seed: self.seed,
        };
        let synthetic = Synthetic::new(&spec).map_err(failed)?;
        let batch = |number| {
            let mut batch = Batch::default();
            synthetic.fill(number, &mut batch);
            batch
        };
        Ok((0..BATCHES).map(batch).collect())
    }
}

/// One rank's part of the model.
pub(crate) struct ModelWork {
    model: DistributedModel,
    batches: Vec<Batch>,
    predictions: Vec<f32>,
}

impl ModelWork {
    pub(crate) fn open(task: &ModelTask, rank: usize) -> Result<Self, BenchError> {
        let directory = task.open()?;
        let plan = task.plan(&directory)?;
        // The launcher verifies the checksums.
        let tables = directory.load_rank(&plan, rank, Load::Mapped, Verify::HeaderOnly, &mut |_| ()).map_err(failed)?;
        let dense = directory.load_dense().map_err(failed)?;
        let model = DistributedModel::new(dense, tables, plan, rank).map_err(failed)?;
        Ok(ModelWork { batches: task.batches(directory.config())?, model, predictions: Vec::new() })
    }
}

impl Work for ModelWork {
    fn send(&mut self, round: u64, collective: &mut impl Collective) -> Result<(), BenchError> {
        self.model.pool(collective, &self.batches[(round % BATCHES) as usize]).map_err(failed)
    }

    fn own(&mut self, _round: u64) -> Result<(), BenchError> {
        self.model.bottom();
        Ok(())
    }

    fn finish(&mut self, _round: u64, complete: impl CompleteRound, out: &mut Vec<u8>) -> Result<(), BenchError> {
        self.model.complete(complete, &mut self.predictions).map_err(failed)?;
        out.clear();
        out.extend_from_slice(&bytes(&self.predictions));
        Ok(())
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Model(error.to_string())
}
