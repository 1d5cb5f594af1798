//! A rank's part over a collective as a model that is given batches.

use slackline_collective::Collective;
use slackline_data::Batch;

use super::DistributedModel;
use crate::{Answered, DlrmError, Model, ModelConfig, RankWork, Result};

/// One rank's part of a distributed model, with the collective that carries its messages, as a [`Model`].
///
/// Every rank submits the same batches in the same order and gets the predictions of its own samples.
///
/// # Examples
///
/// Two ranks as threads, over rounds with lag 1:
///
/// ```
/// use slackline_dlrm::{
///     Batch, Distributed, DistributedModel, Group, GroupOptions, Lane, LaneOptions, Load, Model, ModelConfig, ModelDirectory,
///     Plan, TableInput, Verify, largest_message, threads, write_synthetic,
/// };
///
/// let config = ModelConfig::from_json(
///     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10-20", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
/// )?.config;
/// let folder = tempfile::tempdir()?;
/// write_synthetic(&config, 7, &folder.path().join("model"), 1, &mut |_| ())?;
/// let directory = ModelDirectory::open(folder.path().join("model"))?;
/// let plan = Plan::table_wise(&directory.tables(), 2)?;
/// let row = |row| TableInput { indices: vec![row, row], offsets: vec![0, 1, 2], ..TableInput::default() };
/// let batch = Batch { samples: 2, dense: vec![0.5; 6], tables: vec![row(3), row(19)], ..Batch::default() };
///
/// let options = GroupOptions::new([LaneOptions::lag(1)]);
/// let endpoints = threads::group(&options.shape(2, largest_message(&plan, 2)))?;
/// let ranks = endpoints.into_iter().enumerate().map(|(rank, endpoint)| {
///     let tables = directory.load_rank(&plan, rank, Load::Mapped, Verify::Checksums, &mut |_| ()).unwrap();
///     let model = DistributedModel::new(directory.load_dense().unwrap(), tables, plan.clone(), rank).unwrap();
///     let (options, batch) = (options.clone(), batch.clone());
///     std::thread::spawn(move || {
///         let group = Group::new(endpoint, options).unwrap();
///         let mut model = Distributed::new(model, group.lane(Lane(0))).unwrap();
///         let (mut predictions, mut answered) = (Vec::new(), 0);
///         model.submit(&batch).unwrap();
///         while let Some(answer) = model.drain(&mut predictions).unwrap() {
///             answered += answer.samples;
///         }
///         answered
///     })
/// });
/// let answered: Vec<usize> = ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect();
/// assert_eq!(answered, [1, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Distributed<C> {
    model: DistributedModel,
    collective: C,
}

impl<C: Collective> Distributed<C> {
    /// The part of this rank of the collective.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Member`] if the model was made for another rank, or for another number of ranks.
    pub fn new(model: DistributedModel, collective: C) -> Result<Self> {
        let (rank, ranks) = (model.rank(), model.plan().ranks());
        if (collective.rank(), collective.ranks()) != (rank, ranks) {
            return Err(DlrmError::Member { rank, ranks, found: collective.rank(), of: collective.ranks() });
        }
        Ok(Distributed { model, collective })
    }

    /// The model.
    pub fn model(&self) -> &DistributedModel {
        &self.model
    }

    /// The collective, for example to [give up](Collective::give_up) if a batch was refused.
    pub fn collective_mut(&mut self) -> &mut C {
        &mut self.collective
    }

    /// Gives both back.
    pub fn into_parts(self) -> (DistributedModel, C) {
        (self.model, self.collective)
    }
}

impl<C: Collective> Model for Distributed<C> {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn warm_up(&mut self) -> Result<usize> {
        self.model.warm_up()
    }

    fn submit(&mut self, batch: &Batch) -> Result<()> {
        self.model.submit(&mut self.collective, batch)
    }

    fn take(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        self.collective.take()?.map(|round| self.model.complete(round, out)).transpose()
    }

    fn flush(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        self.collective.flush()?.map(|round| self.model.complete(round, out)).transpose()
    }

    fn drain(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>> {
        self.collective.drain()?.map(|round| self.model.complete(round, out)).transpose()
    }

    fn intact(&self) -> Result<()> {
        self.model.intact()
    }

    fn work(&self) -> RankWork {
        self.model.work()
    }
}
