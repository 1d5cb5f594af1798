//! The local pass as a model that is given batches.

use std::collections::VecDeque;

use slackline_data::Batch;

use super::{LocalModel, LocalScratch};
use crate::watch::Watch;
use crate::{Answered, DlrmError, Model, ModelConfig, RankWork, Result};

/// A whole model in one process as a [`Model`]: `submit` predicts all samples of the batch, and the answer is there at once.
///
/// # Examples
///
/// ```
/// use slackline_dlrm::{Batch, Load, Local, LocalModel, Model, ModelConfig, ModelDirectory, TableInput, Verify, write_synthetic};
///
/// let config = ModelConfig::from_json(
///     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
/// )?.config;
/// let folder = tempfile::tempdir()?;
/// write_synthetic(&config, 7, &folder.path().join("model"), 1, &mut |_| ())?;
/// let directory = ModelDirectory::open(folder.path().join("model"))?;
/// let tables = directory.load_tables(&[0], Load::Copied, Verify::Checksums)?;
/// let mut model = Local::new(LocalModel::new(directory.load_dense()?, tables)?);
///
/// let row = TableInput { indices: vec![7], offsets: vec![0, 1], ..TableInput::default() };
/// let batch = Batch { samples: 1, dense: vec![0.1, 0.2, 0.3], tables: vec![row], ..Batch::default() };
/// let mut predictions = Vec::new();
/// model.submit(&batch)?;
/// let answered = model.take(&mut predictions)?.expect("it is there at once");
/// assert_eq!((answered.round, answered.samples, predictions.len()), (0, 1, 1));
/// assert_eq!(model.take(&mut predictions)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Local {
    model: LocalModel,
    scratch: LocalScratch,
    /// Answers that are not taken yet, oldest first.
    ready: VecDeque<(Answered, Vec<f32>)>,
    /// Memory of answers that were taken.
    spare: Vec<Vec<f32>>,
    submitted: u64,
    ended: bool,
    work: RankWork,
}

impl Local {
    /// Answers batches with this model.
    pub fn new(model: LocalModel) -> Self {
        Local {
            model,
            scratch: LocalScratch::default(),
            ready: VecDeque::new(),
            spare: Vec::new(),
            submitted: 0,
            ended: false,
            work: RankWork::default(),
        }
    }

    /// The model.
    pub fn model(&self) -> &LocalModel {
        &self.model
    }

    /// Gives the model back.
    pub fn into_inner(self) -> LocalModel {
        self.model
    }
}

impl Model for Local {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn warm_up(&mut self) -> Result<usize> {
        self.model.warm_up()
    }

    fn submit(&mut self, batch: &Batch) -> Result<()> {
        if self.ended {
            return Err(DlrmError::Drained);
        }
        let watch = Watch::start(false);
        self.model.pool(batch, &mut self.scratch)?;
        self.work.lookups += watch.elapsed();
        let mut out = self.spare.pop().unwrap_or_default();
        self.model.answer(batch, &mut self.scratch, &mut out);
        let Batch { first_sample, samples, .. } = *batch;
        self.ready.push_back((Answered { round: self.submitted, first_sample, samples }, out));
        self.submitted += 1;
        Ok(())
    }

    fn take(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        let Some((answered, mut predictions)) = self.ready.pop_front() else { return Ok(None) };
        std::mem::swap(out, &mut predictions);
        self.spare.push(predictions);
        Ok(Some(answered))
    }

    fn flush(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        self.take(out)
    }

    fn drain(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        self.ended = true;
        self.take(out)
    }

    fn intact(&self) -> Result<()> {
        self.model.intact()
    }

    fn work(&self) -> RankWork {
        self.work
    }
}
