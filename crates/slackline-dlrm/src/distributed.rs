//! The forward pass over many ranks, each with some of the tables.
//!
//! The input is replicated: every rank sees the whole batch. Rank `p` pools its own tables for all samples, straight into
//! the messages to the ranks that own the samples, and runs the dense part for its own samples when all ranks' pooled
//! vectors have come. The message from `p` to `q` holds, for each part of `p` in the plan's order, the pooled vectors
//! `[samples of q, columns]`, and nothing else: those of a run of rows are sums of fewer rows, and where every rank has
//! copies of a table's hot rows, samples that need no others are left out, since `q` pools them by itself. So it does with
//! tables that every rank holds.
//!
//! Nothing here waits but the collective, and predictions stay on the rank that made them. The dense part and the pooling
//! are those of the [local pass](crate::LocalModel), so predictions are the same to the bit whatever the number of ranks,
//! the plan, the lag, the delivery and the transport. Only a table that is cut by rows has its sums made in another order:
//! within the runs, then over them, the same for any lag, delivery and transport.

mod assemble;
mod layout;
mod watch;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use slackline_collective::{Complete, Endpoint, Exchange};
use slackline_data::Batch;
use slackline_embedding::{BagBuffer, Bags, EmbeddingTable, HotRows, Part, Plan, PoolJob, Pooling, pool_all};

use crate::pooled::{bags, check_batch, check_part, output_in, pool_rounded, write_pooled};
use crate::{DenseModel, DenseScratch, DlrmError, ModelConfig, Result, Wire, warm};
use assemble::Assembly;
use layout::{Counts, message_bytes};
pub use layout::{largest_message, samples_of};
use watch::Watch;

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

/// What a rank did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RankWork {
    /// The time in which it checked and looked up its tables' lookups, and did nothing else: of its processor, so that a core
    /// which several ranks share does not count twice, or by the clock if it has threads for it.
    pub lookups: Duration,
    /// Bytes of pooled vectors that went to other ranks.
    pub sent: u64,
    /// Bytes that would have gone as well, if other ranks had no copies of hot rows.
    pub saved: u64,
}

/// One rank's part of a model that is spread over many ranks.
///
/// For each batch, in the same order on every rank: [`submit`](Self::submit), then [`complete`](Self::complete) for every
/// round that the exchange's `take` hands out; after the last batch the same for `drain` (or `flush`). `submit` is
/// [`pool`](Self::pool) and [`bottom`](Self::bottom), which may be called by themselves to be timed.
///
/// # Examples
///
/// ```
/// use slackline_collective::{Endpoint, Exchange};
/// use slackline_data::Batch;
/// use slackline_dlrm::{DistributedModel, DlrmError};
///
/// /// Predicts a stream of batches and gives each answer to `answer`, with the number of its first sample.
/// fn run<E: Endpoint>(
///     model: &mut DistributedModel,
///     exchange: &mut Exchange<'_, E>,
///     batches: &[Batch],
///     mut answer: impl FnMut(u64, &[f32]),
/// ) -> Result<(), DlrmError> {
///     let mut predictions = Vec::new();
///     for batch in batches {
///         model.submit(exchange, batch)?;
///         while let Some(complete) = exchange.take()? {
///             let answered = model.complete(complete, &mut predictions)?;
///             answer(answered.first_sample, &predictions);
///         }
///     }
///     while let Some(complete) = exchange.drain()? {
///         let answered = model.complete(complete, &mut predictions)?;
///         answer(answered.first_sample, &predictions);
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct DistributedModel {
    dense: DenseModel,
    /// The parts of this rank, in the plan's order.
    parts: Vec<(Part, Arc<dyn EmbeddingTable>)>,
    replicated: Vec<(usize, Arc<dyn EmbeddingTable>)>,
    hot: Vec<(usize, Arc<HotRows>)>,
    plan: Plan,
    rank: usize,
    wire: Wire,
    /// What pools the tables beside this thread.
    threads: Option<Arc<rayon::ThreadPool>>,
    /// Lookups that are not a table's as they came, one a part.
    buffers: Vec<BagBuffer>,
    work: RankWork,
    /// Batches that are pooled and not answered, oldest first.
    pending: VecDeque<Pending>,
    /// Entries that are answered, for their buffers.
    spare: Vec<Pending>,
    assembly: Assembly,
    scratch: DenseScratch,
    send_sizes: Vec<usize>,
    receive_sizes: Vec<usize>,
}

/// What a completed round answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The round.
    pub round: u64,
    /// The number, in the whole input, of this rank's first sample of the batch.
    pub first_sample: u64,
    /// This rank's samples of the batch; 0 is possible.
    pub samples: usize,
}

#[derive(Debug, Default)]
struct Pending {
    round: u64,
    first_sample: u64,
    samples: usize,
    /// The dense features of this rank's samples.
    dense: Vec<f32>,
    /// The bottom output, once it is computed.
    bottom: Vec<f32>,
    has_bottom: bool,
    /// Vectors of this rank's samples from replicated tables, in order.
    replicated: Vec<Vec<f32>>,
    /// The same from hot rows: which samples, and their vectors.
    hot: Vec<(Vec<bool>, Vec<f32>)>,
    /// Which samples of the batch come from elsewhere.
    counts: Counts,
}

impl DistributedModel {
    /// This rank's part: `tables` are what the plan says for this rank.
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
        count("replicated", plan.replicated().len(), tables.replicated.len())?;
        let hot: Vec<usize> = (0..config.tables()).filter(|table| !plan.hot_rows(*table).is_empty()).collect();
        count("hot rows", hot.len(), tables.hot.len())?;
        for (part, table) in plan.parts_of(rank).iter().zip(&tables.parts) {
            check_part(config, part, table.as_ref())?;
        }
        for (&number, table) in plan.replicated().iter().zip(&tables.replicated) {
            crate::pooled::check_table(config, number, table.as_ref())?;
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
        let parts: Vec<_> = plan.parts_of(rank).iter().cloned().zip(tables.parts).collect();
        Ok(Self {
            buffers: Vec::new(),
            parts,
            replicated: plan.replicated().iter().copied().zip(tables.replicated).collect(),
            hot: hot.into_iter().zip(tables.hot).collect(),
            assembly: Assembly::new(&plan),
            dense,
            plan,
            rank,
            wire: Wire::F32,
            threads: None,
            work: RankWork::default(),
            pending: VecDeque::new(),
            spare: Vec::new(),
            scratch: DenseScratch::default(),
            send_sizes: Vec::new(),
            receive_sizes: Vec::new(),
        })
    }

    /// The same with pooled vectors sent in this precision, which has to be the same on every rank. Other than single
    /// precision is not exact, but gives the same bits for any number of ranks, lag and transport.
    #[must_use]
    pub fn with_wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// The same with its tables pooled on these threads, which are this rank's own; see
    /// [`pool_all`](slackline_embedding::pool_all) for why the rank's thread had better be one of them. The bits stay the same.
    #[must_use]
    pub fn with_threads(self, threads: Arc<rayon::ThreadPool>) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Looks up some rows of every table that this rank holds, spread evenly over all of it and on the threads that will
    /// do so later, runs the dense part once, and throws both away: what [`LocalModel::warm_up`](crate::LocalModel::warm_up)
    /// does for all tables. Needs no other rank, and counts in no [`work`](Self::work). A rank enters the barrier before the
    /// first batch when this is done. Returns the number of lookups.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] if a table cannot be looked up.
    pub fn warm_up(&mut self) -> Result<usize> {
        let parts = self.parts.iter().map(|(_, table)| table.as_ref());
        let replicated = self.replicated.iter().map(|(_, table)| table.as_ref());
        let hot = self.hot.iter().map(|(_, hot)| hot.table() as &dyn EmbeddingTable);
        let tables: Vec<&dyn EmbeddingTable> = parts.chain(replicated).chain(hot).collect();
        warm::dense(&self.dense, &mut self.scratch);
        warm::tables(&tables, self.threads.as_deref())
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.dense.config()
    }

    /// Which rank holds which parts.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Batches that were submitted and are not answered yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What this rank did so far: time in its tables, and bytes sent.
    pub fn work(&self) -> RankWork {
        self.work
    }

    /// [`pool`](Self::pool), then [`bottom`](Self::bottom): all of this rank's work on a batch that needs no other rank.
    /// The batch may be reused as soon as this returns.
    ///
    /// # Errors
    ///
    /// Those of [`pool`](Self::pool).
    pub fn submit<E: Endpoint>(&mut self, exchange: &mut Exchange<'_, E>, batch: &Batch) -> Result<()> {
        self.pool(exchange, batch)?;
        self.bottom();
        Ok(())
    }

    /// Begins a round, pools this rank's parts for all samples into the messages, declares the sizes that are expected in
    /// turn, and publishes. Keeps the dense features of this rank's samples, so that the batch may be reused.
    ///
    /// Cost: each row that is looked up is read once, each pooled vector written once, to where the transport sends it
    /// from (the receiver's memory, if they share it). Lookups of a table that is cut by rows, or has hot rows, are copied
    /// first, those of this rank's part.
    ///
    /// # Errors
    ///
    /// Before anything is sent: [`DlrmError::BatchShape`], or [`DlrmError::Bags`] for this rank's own tables (the rank that
    /// holds a table checks its lookups); then the group should be told with `give_up`, since the others wait for this
    /// rank's vectors. And [`DlrmError::Collective`].
    pub fn pool<E: Endpoint>(&mut self, exchange: &mut Exchange<'_, E>, batch: &Batch) -> Result<()> {
        let config = self.dense.config();
        check_batch(config, batch)?;
        let mut watch = Watch::start(self.threads.is_some());
        let whole = |number: usize| (number, self.plan.tables()[number].name.as_str());
        let of_parts = bags(config, batch, self.parts.iter().map(|(part, _)| whole(part.table)))?;
        let of_replicated = bags(config, batch, self.replicated.iter().map(|(number, _)| whole(*number)))?;
        let of_hot = bags(config, batch, self.hot.iter().map(|(number, _)| whole(*number)))?;
        let ranks = self.plan.ranks();
        let own = samples_of(batch.samples, self.rank, ranks);

        let mut pending = self.spare.pop().unwrap_or_default();
        pending.counts.count(batch.samples, ranks, &self.hot, &of_hot);
        let counts = &pending.counts;
        self.send_sizes.clear();
        self.receive_sizes.clear();
        for peer in 0..ranks {
            self.send_sizes.push(message_bytes(&self.plan, self.rank, peer, counts, self.wire));
            self.receive_sizes.push(message_bytes(&self.plan, peer, self.rank, counts, self.wire));
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        // After a round that failed there are none.
        buffers.resize_with(self.parts.len(), BagBuffer::default);
        let looked_up: Vec<Bags<'_>> = self
            .parts
            .iter()
            .zip(of_parts)
            .zip(&mut buffers)
            .map(|(((part, _), bags), buffer)| match counts.cold(part.table) {
                Some(cold) => buffer.select(&bags, bags.rows(), |sample| cold[sample], Some),
                None if part.rows == (0..bags.rows()) => bags,
                None => buffer.run(&bags, part.rows.clone()),
            })
            .collect();

        let mut lookups = watch.elapsed();
        let mut round = exchange.begin(&self.send_sizes)?;
        round.expect(&self.receive_sizes)?;
        let polls = round.needs_progress();
        let mut messages = round.messages_mut();
        watch = watch.restarted();
        let pooled = match &self.threads {
            Some(threads) => {
                let jobs = self.jobs(&looked_up, counts, messages.iter_mut().map(|message| &mut **message));
                jobs.map(|jobs| pool_all(threads, jobs)).transpose()?.is_some()
            }
            None => false,
        };
        // Table after table, so that the rows of one stay in the cache while it serves all ranks.
        let mut places = vec![0; ranks];
        for ((part, table), bags) in self.parts.iter().zip(&looked_up).filter(|_| !pooled) {
            for (peer, message) in messages.iter_mut().enumerate() {
                let samples = counts.samples(part.table, peer, ranks);
                let room = places[peer]..places[peer] + samples.len() * part.columns.len() * self.wire.bytes();
                places[peer] = room.end;
                write_pooled(&mut message[room], self.wire, |room| {
                    Ok(table.pool_to(&bags.samples(samples), Pooling::Sum, room)?)
                })?;
            }
            if polls {
                // Other ranks' messages of earlier rounds move on meanwhile.
                drop(messages);
                lookups += watch.elapsed();
                round.progress()?;
                watch = watch.restarted();
                messages = round.messages_mut();
            }
        }
        drop(messages);
        lookups += watch.elapsed();
        let number = round.number();
        round.publish()?;
        drop(looked_up);
        self.buffers = buffers;
        let sent = self.send_sizes.iter().enumerate().filter(|(peer, _)| *peer != self.rank).map(|(_, size)| *size);
        self.work.sent += sent.sum::<usize>() as u64;
        self.work.saved += counts.saved(&self.plan, self.rank, self.wire);

        let features = self.dense.config().dense_features();
        pending.round = number;
        pending.first_sample = batch.first_sample + own.start as u64;
        pending.samples = own.len();
        pending.dense.clear();
        pending.dense.extend_from_slice(&batch.dense[own.start * features..own.end * features]);
        pending.has_bottom = false;
        watch = watch.restarted();
        self.pool_here(&mut pending, &own, &of_replicated, &of_hot)?;
        self.work.lookups += lookups + watch.elapsed();
        self.pending.push_back(pending);
        Ok(())
    }

    /// What other ranks need not send, since every rank has the rows.
    fn pool_here(
        &self,
        pending: &mut Pending,
        own: &Range<usize>,
        replicated: &[Bags<'_>],
        hot: &[Bags<'_>],
    ) -> Result<()> {
        pending.replicated.resize_with(self.replicated.len(), Vec::new);
        for (((_, table), bags), out) in self.replicated.iter().zip(replicated).zip(&mut pending.replicated) {
            pool_rounded(table.as_ref(), &bags.samples(own.clone()), self.wire, out)?;
        }
        pending.hot.resize_with(self.hot.len(), Default::default);
        let mut buffer = BagBuffer::default();
        for (((number, hot), bags), (is_here, out)) in self.hot.iter().zip(hot).zip(&mut pending.hot) {
            let cold = &pending.counts.cold(*number).expect("counted for every table with hot rows")[own.clone()];
            is_here.clear();
            is_here.extend(cold.iter().map(|cold| !cold));
            let bags = bags.samples(own.clone());
            let here = buffer.select(&bags, hot.table().rows(), |sample| is_here[sample], |row| hot.position(row));
            pool_rounded(hot.table(), &here, self.wire, out)?;
        }
        Ok(())
    }

    /// What is to be pooled into the messages, table after table; `None` if some room lies where values cannot.
    fn jobs<'a>(
        &'a self,
        bags: &[Bags<'a>],
        counts: &Counts,
        messages: impl Iterator<Item = &'a mut [u8]>,
    ) -> Option<Vec<PoolJob<'a>>> {
        let ranks = self.plan.ranks();
        let mut jobs = Vec::new();
        for (peer, mut message) in messages.enumerate() {
            for (place, ((part, table), bags)) in self.parts.iter().zip(bags).enumerate() {
                let samples = counts.samples(part.table, peer, ranks);
                let bytes = samples.len() * part.columns.len() * self.wire.bytes();
                let (room, rest) = message.split_at_mut(bytes);
                message = rest;
                let (table, bags, out) = (table.as_ref(), bags.samples(samples), output_in(room, self.wire)?);
                jobs.push((place, PoolJob { table, bags, pooling: Pooling::Sum, out }));
            }
        }
        jobs.sort_by_key(|(place, _)| *place);
        Some(jobs.into_iter().map(|(_, job)| job).collect())
    }

    /// Whether all that this rank looked up so far was its tables', to be asked before predictions are given away; see
    /// [`EmbeddingTable::intact`].
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] with the file that was cut short.
    pub fn intact(&self) -> Result<()> {
        let parts = self.parts.iter().map(|(_, table)| table);
        let mut tables = parts.chain(self.replicated.iter().map(|(_, table)| table));
        Ok(tables.try_for_each(|table| table.intact())?)
    }

    /// Runs the bottom MLP for this rank's samples of every batch that was pooled and has not been through it. A round
    /// that is completed earlier does it then.
    pub fn bottom(&mut self) {
        // The newest ones: whatever stands before them has been through it already.
        for pending in self.pending.iter_mut().rev().take_while(|pending| !pending.has_bottom) {
            pending.run_bottom(&self.dense, &mut self.scratch);
        }
    }

    /// Answers a round: interaction and top MLP for this rank's samples, reading the pooled vectors where they landed (those
    /// of whole tables; parts are put together first). `out` is replaced by the predictions, in order. Gives the round
    /// back before it returns.
    ///
    /// # Errors
    ///
    /// [`DlrmError::UnexpectedRound`] for a round that this rank did not submit (the ranks were given different numbers of
    /// batches), [`DlrmError::MessageSize`] if a message does not fit the plan.
    pub fn complete<E: Endpoint>(&mut self, complete: Complete<'_, E>, out: &mut Vec<f32>) -> Result<Answered> {
        let round = complete.number();
        let expected = self.pending.front().map(|pending| pending.round);
        if expected != Some(round) {
            return Err(DlrmError::UnexpectedRound { rank: self.rank, round, expected });
        }
        let mut pending = self.pending.pop_front().expect("looked at just now");
        pending.run_bottom(&self.dense, &mut self.scratch);
        let samples = pending.samples;
        let mut messages = Vec::with_capacity(self.plan.ranks());
        for from in 0..self.plan.ranks() {
            let message = complete.message(from);
            let expected = message_bytes(&self.plan, from, self.rank, &pending.counts, self.wire);
            if message.len() != expected {
                let (rank, found) = (self.rank, message.len());
                return Err(DlrmError::MessageSize { round, rank, from, expected, found });
            }
            messages.push(message);
        }
        let here: Vec<&[f32]> = pending.replicated.iter().map(Vec::as_slice).collect();
        let received = assemble::Received {
            plan: &self.plan,
            rank: self.rank,
            wire: self.wire,
            samples,
            counts: &pending.counts,
            messages: &messages,
            replicated: &here,
            hot: &pending.hot,
        };
        let blocks = self.assembly.blocks(&received);
        self.dense.predict(&pending.bottom, &blocks, samples, &mut self.scratch, out);
        drop(blocks);
        let answered = Answered { round, first_sample: pending.first_sample, samples };
        self.spare.push(pending);
        Ok(answered)
    }
}

impl Pending {
    fn run_bottom(&mut self, model: &DenseModel, scratch: &mut DenseScratch) {
        if !self.has_bottom {
            model.bottom(&self.dense, self.samples, scratch, &mut self.bottom);
            self.has_bottom = true;
        }
    }
}
