//! The forward pass over many ranks, each with some of the tables.
//!
//! The input is replicated: every rank sees the whole batch. Rank `p` pools its own tables for all samples, straight into
//! the messages to the ranks that own the samples, and runs the dense part for its own samples when the pooled vectors of
//! all ranks have arrived. The message from `p` to `q` holds, for each part of `p` in the plan's order, the pooled vectors
//! `[samples of q, columns]`, and nothing else. A part that is a run of rows sends sums over those rows. Where every rank
//! has copies of a table's hot rows, samples that need no other rows are left out: `q` pools them itself. It also pools the
//! tables that every rank holds.
//!
//! Nothing here waits except the collective, and predictions stay on the rank that made them. The dense part and the pooling
//! are those of the [local pass](crate::LocalModel), so predictions are the same to the bit whatever the number of ranks,
//! the plan, the lag, the delivery and the transport. The exception is a table that is cut by rows: its sums are made within
//! the runs first and then over them, in the same order for any lag, delivery and transport.

#[cfg(feature = "distributed")]
mod answers;
mod assemble;
mod layout;
mod pending;
mod placement;
mod prepared;
#[cfg(feature = "distributed")]
mod rounds;
mod samples;

use std::sync::Arc;

use slackline_data::Batch;
use slackline_embedding::{BagBuffer, Bags, EmbeddingTable, HotRows, Part, Plan};

use crate::check::{bags, check_batch, check_part, check_table};
use crate::watch::Watch;
use crate::{Answered, DenseModel, DenseScratch, DlrmError, ModelConfig, RankWork, Result, Wire, warm};
#[cfg(feature = "distributed")]
pub use answers::Distributed;
use assemble::Assembly;
pub use layout::largest_message;
use pending::{Pending, Queue};
use placement::Placement;
pub use prepared::Prepared;
pub use samples::samples_of;

/// What one rank holds of a plan's tables.
#[derive(Clone, Debug, Default)]
pub struct RankTables {
    /// The rank's parts, in the order of [`Plan::parts_of`].
    pub parts: Vec<Arc<dyn EmbeddingTable>>,
    /// The replicated tables, in the order of [`Plan::replicated`].
    pub replicated: Vec<Arc<dyn EmbeddingTable>>,
    /// Copies of hot rows, of each table that has some in the plan, by ascending number.
    pub hot: Vec<Arc<HotRows>>,
}

impl From<Vec<Arc<dyn EmbeddingTable>>> for RankTables {
    /// Nothing but parts.
    fn from(parts: Vec<Arc<dyn EmbeddingTable>>) -> Self {
        RankTables { parts, ..RankTables::default() }
    }
}

/// One rank's part of a model that is spread over many ranks.
///
/// For each batch, in the same order on every rank: [`prepare`](Self::prepare) checks it and tells the sizes of the
/// messages, [`Prepared::pool_into`] fills them, [`bottom`](Self::bottom) runs the bottom MLP while they travel, and
/// [`answer`](Self::answer) makes the predictions when the messages of all ranks have arrived.
///
/// With the feature `distributed` and a `Collective` that is `submit` for every batch, and `complete` for every round that the
/// collective's `take`, `drain` or `flush` hands out. `Distributed` has both, and is used like a local model.
///
/// # Examples
///
/// With the feature `distributed`:
///
/// ```
/// # #[cfg(feature = "distributed")]
/// # mod example {
/// use slackline_dlrm::{Batch, Collective, DistributedModel, DlrmError};
///
/// /// Predicts a stream of batches and gives each answer to `answer`, with the number of its first sample.
/// fn run(
///     model: &mut DistributedModel,
///     collective: &mut impl Collective,
///     batches: &[Batch],
///     mut answer: impl FnMut(u64, &[f32]),
/// ) -> Result<(), DlrmError> {
///     let mut predictions = Vec::new();
///     for batch in batches {
///         model.submit(collective, batch)?;
///         while let Some(complete) = collective.take()? {
///             let answered = model.complete(complete, &mut predictions)?;
///             answer(answered.first_sample, &predictions);
///         }
///     }
///     while let Some(complete) = collective.drain()? {
///         let answered = model.complete(complete, &mut predictions)?;
///         answer(answered.first_sample, &predictions);
///     }
///     Ok(())
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct DistributedModel {
    member: Member,
    /// Lookups that are not used as they came, one buffer a part.
    buffers: Vec<BagBuffer>,
    queue: Queue,
    work: RankWork,
    assembly: Assembly,
    scratch: DenseScratch,
}

/// What stays the same from batch to batch.
#[derive(Debug)]
struct Member {
    dense: DenseModel,
    /// The parts of this rank, in the plan's order.
    parts: Vec<(Part, Arc<dyn EmbeddingTable>)>,
    replicated: Vec<(usize, Arc<dyn EmbeddingTable>)>,
    hot: Vec<(usize, Arc<HotRows>)>,
    placement: Placement,
    /// The threads that pool the tables and run the dense part.
    threads: Option<Arc<rayon::ThreadPool>>,
}

impl DistributedModel {
    /// The part of rank `rank`; `tables` are those that the plan gives it.
    ///
    /// # Errors
    ///
    /// [`DlrmError::NoSuchRank`], [`DlrmError::Tables`] or [`DlrmError::TableShape`] if plan, tables and configuration don't
    /// belong together.
    pub fn new(dense: DenseModel, tables: impl Into<RankTables>, plan: Plan, rank: usize) -> Result<Self> {
        let (config, tables) = (dense.config(), tables.into());
        if rank >= plan.ranks() {
            return Err(DlrmError::NoSuchRank { rank, ranks: plan.ranks() });
        }
        let count = |what, expected, found| {
            if found == expected { Ok(()) } else { Err(DlrmError::Tables { what, expected, found }) }
        };
        count("the plan", config.tables(), plan.tables().len())?;
        count("this rank", plan.parts_of(rank).len(), tables.parts.len())?;
        count("replicated tables", plan.replicated().len(), tables.replicated.len())?;
        let hot: Vec<usize> = (0..config.tables()).filter(|table| !plan.hot_rows(*table).is_empty()).collect();
        count("tables with hot rows", hot.len(), tables.hot.len())?;
        for (part, table) in plan.parts_of(rank).iter().zip(&tables.parts) {
            check_part(config, part, table.as_ref())?;
        }
        for (&number, table) in plan.replicated().iter().zip(&tables.replicated) {
            check_table(config, number, table.as_ref())?;
        }
        for (&number, hot) in hot.iter().zip(&tables.hot) {
            let copies = hot.table();
            if hot.rows() != config.rows()[number] as u64
                || copies.dim() != config.dim()
                || copies.rows() != plan.hot_rows(number).len() as u64
            {
                let (expected_rows, expected_dim) = (plan.hot_rows(number).len(), config.dim());
                let (name, rows, dim) = (copies.name().to_owned(), copies.rows(), copies.dim());
                return Err(DlrmError::TableShape { number, name, rows, dim, expected_rows, expected_dim });
            }
        }
        let parts = plan.parts_of(rank).iter().cloned().zip(tables.parts).collect();
        let replicated = plan.replicated().iter().copied().zip(tables.replicated).collect();
        let hot = hot.into_iter().zip(tables.hot).collect();
        let assembly = Assembly::new(&plan);
        Ok(Self {
            member: Member { dense, parts, replicated, hot, placement: Placement::new(plan, rank), threads: None },
            buffers: Vec::new(),
            queue: Queue::default(),
            work: RankWork::default(),
            assembly,
            scratch: DenseScratch::default(),
        })
    }

    /// Sends pooled vectors in this precision, which must be the same on every rank. Precisions other than single are not
    /// exact, but give the same bits for any number of ranks, lag and transport.
    #[must_use]
    pub fn with_wire(mut self, wire: Wire) -> Self {
        self.member.placement.wire = wire;
        self
    }

    /// Pools tables and runs the dense part on these threads, which must belong to this rank alone. The rank's own thread should be one of them:
    /// see [`pool_all`](slackline_embedding::pool_all). The bits stay the same.
    #[must_use]
    pub fn with_threads(mut self, threads: Arc<rayon::ThreadPool>) -> Self {
        self.member.dense = self.member.dense.with_threads(Arc::clone(&threads));
        self.member.threads = Some(threads);
        self
    }

    /// Looks up rows of every table that this rank holds, spread evenly, on the threads that will pool it later, and runs
    /// the dense part once. The results are thrown away. This is what [`LocalModel::warm_up`](crate::LocalModel::warm_up)
    /// does for all tables; it needs no other rank and is not counted in [`work`](Self::work). Call it before the barrier
    /// that precedes the first batch. Returns the number of lookups.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] if a table cannot be looked up.
    pub fn warm_up(&mut self) -> Result<usize> {
        let Member { dense, parts, replicated, hot, threads, .. } = &self.member;
        let parts = parts.iter().map(|(_, table)| table.as_ref());
        let replicated = replicated.iter().map(|(_, table)| table.as_ref());
        let hot = hot.iter().map(|(_, hot)| hot.table() as &dyn EmbeddingTable);
        let tables: Vec<&dyn EmbeddingTable> = parts.chain(replicated).chain(hot).collect();
        warm::dense(dense, &mut self.scratch);
        warm::tables(&tables, threads.as_deref())
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.member.dense.config()
    }

    /// Which rank this is.
    pub fn rank(&self) -> usize {
        self.member.placement.rank
    }

    /// Which rank holds which parts.
    pub fn plan(&self) -> &Plan {
        &self.member.placement.plan
    }

    /// The number of batches that are pooled and not yet answered.
    pub fn pending(&self) -> usize {
        self.queue.pending.len()
    }

    /// What this rank has done so far: time spent on lookups, and bytes sent.
    pub fn work(&self) -> RankWork {
        self.work
    }

    /// Checks a batch against the model and works out the sizes of its messages. Nothing is pooled yet, and a batch that is
    /// dropped in this state leaves no trace.
    ///
    /// Cost: one pass over the lookups of this rank's tables. Lookups of a table that is cut by rows, or has hot rows, are
    /// copied.
    ///
    /// # Errors
    ///
    /// [`DlrmError::BatchShape`]; [`DlrmError::Bags`] for bad lookups in the tables that this rank holds (each table is
    /// checked by the rank that holds it). The other ranks wait for this rank's vectors, so the group should be told, for
    /// example by `Group::give_up`.
    pub fn prepare<'m>(&'m mut self, batch: &'m Batch) -> Result<Prepared<'m>> {
        let DistributedModel { member, buffers, queue, work, .. } = self;
        let member: &'m Member = member;
        let Placement { plan, .. } = &member.placement;
        let config = member.dense.config();
        check_batch(config, batch)?;
        let watch = Watch::start(member.threads.is_some());
        let whole = |number: usize| (number, plan.tables()[number].name.as_str());
        let of_parts = bags(config, batch, member.parts.iter().map(|(part, _)| whole(part.table)))?;
        let of_replicated = bags(config, batch, member.replicated.iter().map(|(number, _)| whole(*number)))?;
        let of_hot = bags(config, batch, member.hot.iter().map(|(number, _)| whole(*number)))?;

        let mut pending = queue.spare.pop().unwrap_or_default();
        pending.layout.arrange(&member.placement, batch.samples, &member.hot, &of_hot);
        let samples = &pending.layout.samples;
        buffers.resize_with(member.parts.len(), BagBuffer::default);
        let select = |(((part, _), bags), buffer): ((&(Part, _), Bags<'m>), &'m mut BagBuffer)| {
            if let Some(hot) = member.placement.hot(part.table) {
                let cold = samples.cold(hot);
                return buffer.select(&bags, bags.rows(), |sample| cold[sample], Some);
            }
            if part.rows == (0..bags.rows()) { bags } else { buffer.run(&bags, part.rows.clone()) }
        };
        let of_parts: Vec<Bags<'m>> = member.parts.iter().zip(of_parts).zip(buffers).map(select).collect();
        let lookups = watch.elapsed();
        Ok(Prepared { member, queue, work, batch, pending, of_parts, of_replicated, of_hot, next: 0, watch, lookups })
    }

    /// Fails if a mapped file was cut short while this rank looked rows up, so that its predictions cannot be trusted. Call
    /// this before releasing predictions; see [`EmbeddingTable::intact`].
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] with the file that was cut short.
    pub fn intact(&self) -> Result<()> {
        let parts = self.member.parts.iter().map(|(_, table)| table);
        let mut tables = parts.chain(self.member.replicated.iter().map(|(_, table)| table));
        Ok(tables.try_for_each(|table| table.intact())?)
    }

    /// Runs the bottom MLP for this rank's samples of every pooled batch that has not been through it.
    /// [`answer`](Self::answer) does so for a batch that is answered before this is called.
    pub fn bottom(&mut self) {
        // Batches go through it in order, so the newest are those that are missing.
        for pending in self.queue.pending.iter_mut().rev().take_while(|pending| !pending.has_bottom) {
            pending.run_bottom(&self.member.dense, &mut self.scratch);
        }
    }

    /// Answers the oldest pooled batch: interaction and top MLP for this rank's samples. `messages` are the messages of all
    /// ranks for this round, in rank order, this rank's own included. `out` is replaced by the predictions, in order.
    ///
    /// Cost: pooled vectors of whole tables are read where they lie, provided that they are single precision and aligned to
    /// 4 bytes. Others are copied once.
    ///
    /// # Errors
    ///
    /// [`DlrmError::UnexpectedRound`] for a round that is not the oldest one pooled here (the ranks were given different
    /// numbers of batches); [`DlrmError::MessageSize`] for a message that does not fit the plan.
    ///
    /// # Panics
    ///
    /// If there is not one message for each rank.
    pub fn answer(&mut self, round: u64, messages: &[&[u8]], out: &mut Vec<f32>) -> Result<Answered> {
        let Member { dense, placement, .. } = &self.member;
        let (rank, ranks) = (placement.rank, placement.plan.ranks());
        let expected = self.queue.pending.front().map(|pending| pending.round);
        if expected != Some(round) {
            return Err(DlrmError::UnexpectedRound { rank, round, expected });
        }
        assert_eq!(messages.len(), ranks, "messages of a round");
        let mut pending = self.queue.pending.pop_front().expect("the queue has a front");
        pending.run_bottom(dense, &mut self.scratch);
        for ((from, message), &expected) in messages.iter().enumerate().zip(pending.layout.receive_sizes()) {
            let found = message.len();
            if found != expected {
                return Err(DlrmError::MessageSize { round, rank, from, expected, found });
            }
        }
        let Pending { samples, first_sample, .. } = pending;
        let blocks = self.assembly.blocks(placement, &pending, messages);
        dense.predict(&pending.bottom, &blocks, samples, &mut self.scratch, out);
        self.queue.spare.push(pending);
        Ok(Answered { round, first_sample, samples })
    }
}
