//! A model as the program sees it that gives it batches.

use std::time::Duration;

use slackline_data::Batch;

use crate::{ModelConfig, Result};

/// A model that takes batches and gives predictions, now or later, in the order of the batches.
///
/// The loop is the same for every model: [`submit`](Self::submit) a batch, then [`take`](Self::take) until it returns `None`; at
/// the end [`drain`](Self::drain) until it returns `None`. Models differ in when an answer is there, and in which samples of a
/// batch they answer: a rank of a distributed model answers its own.
///
/// Implementations: [`Local`](crate::Local), a whole model in one process, and with the feature `distributed` `Distributed`,
/// one rank's part over any collective. The trait can be made into an object.
///
/// # Examples
///
/// ```
/// use slackline_dlrm::{Batch, DlrmError, Model};
///
/// /// Predicts batches, and gives each answer with the number of its first sample to `answer`.
/// fn run(model: &mut dyn Model, batches: &[Batch], mut answer: impl FnMut(u64, &[f32])) -> Result<(), DlrmError> {
///     let mut predictions = Vec::new();
///     for batch in batches {
///         model.submit(batch)?;
///         while let Some(answered) = model.take(&mut predictions)? {
///             answer(answered.first_sample, &predictions);
///         }
///     }
///     while let Some(answered) = model.drain(&mut predictions)? {
///         answer(answered.first_sample, &predictions);
///     }
///     model.intact()
/// }
/// ```
pub trait Model {
    /// The model's shape.
    fn config(&self) -> &ModelConfig;

    /// Looks up rows of every table that is held here, and runs the dense part once, so that the first batch is as fast as
    /// those after it. Returns the number of lookups. It needs no other rank and is not counted in [`work`](Self::work).
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`](crate::DlrmError::Pool) if a table cannot be looked up.
    fn warm_up(&mut self) -> Result<usize>;

    /// Does all work on a batch that needs nobody else. The batch may be reused as soon as this returns.
    ///
    /// # Errors
    ///
    /// Those of a batch that does not fit the model, or of a table that cannot be looked up. The next batch may be submitted all
    /// the same in one process. The other ranks of a distributed model wait for this batch, so they have to be told.
    fn submit(&mut self, batch: &Batch) -> Result<()>;

    /// The next answer, if it may be given; `None` when another batch may be submitted. `out` is replaced by the predictions,
    /// in the order of the samples.
    ///
    /// # Errors
    ///
    /// A fault of the ranks of a distributed model.
    fn take(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>>;

    /// The next answer, waiting for it; `None` when every batch that was submitted has been answered. More batches may follow.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    fn flush(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>>;

    /// As [`flush`](Self::flush), but no batch may be submitted after it.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    fn drain(&mut self, out: &mut Vec<f32>) -> Result<Option<Answered>>;

    /// Fails if a mapped file was cut short while rows were looked up, so that the predictions cannot be trusted. Call this
    /// before releasing predictions; see [`EmbeddingTable::intact`](crate::EmbeddingTable::intact).
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`](crate::DlrmError::Pool) with the file that was cut short.
    fn intact(&self) -> Result<()>;

    /// What was done so far: time spent on lookups, and bytes sent.
    fn work(&self) -> RankWork;
}

/// Which batch an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The number of the batch, from 0; of a distributed model the round.
    pub round: u64,
    /// The number, in the whole input, of the first sample of the batch that is answered.
    pub first_sample: u64,
    /// The samples of the batch that are answered; a rank may have none.
    pub samples: usize,
}

/// What a rank has done so far. A whole model in one process sends nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankWork {
    /// Time spent on checking and pooling lookups. CPU time of this thread, so that ranks that share a core are not charged
    /// for each other; wall time if the rank pools on threads.
    pub lookups: Duration,
    /// Bytes of pooled vectors sent to other ranks.
    pub sent: u64,
    /// Bytes not sent because other ranks have copies of hot rows.
    pub saved: u64,
}
