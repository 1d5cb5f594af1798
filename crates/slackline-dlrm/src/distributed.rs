//! The forward pass over many ranks, each with some of the tables.
//!
//! The input is replicated: every rank sees the whole batch. Rank `p` pools its own tables for all samples, straight into
//! the messages to the ranks that own the samples, and runs the dense part for its own samples when all ranks' pooled
//! vectors have come. The message from `p` to `q` holds, for each table of `p` in ascending order, the pooled vectors
//! `[samples of q, dim]`, and nothing else.
//!
//! Nothing here waits but the collective, and predictions stay on the rank that made them. The dense part and the pooling
//! are those of the [local pass](crate::LocalModel), so predictions are the same to the bit whatever the number of ranks,
//! the plan, the lag, the delivery and the transport.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use slackline_collective::{Complete, Endpoint, Exchange};
use slackline_data::Batch;
use slackline_embedding::{Bags, EmbeddingTable, Plan, PoolJob, Pooling, pool_all};

use crate::pooled::{bags, check_batch, check_table, output_in, read_pooled, write_pooled};
use crate::{DenseModel, DenseScratch, DlrmError, ModelConfig, Result, Wire};

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
    /// The tables of this rank with their numbers, ascending.
    tables: Vec<(usize, Arc<dyn EmbeddingTable>)>,
    plan: Plan,
    rank: usize,
    wire: Wire,
    /// What pools the tables beside this thread.
    threads: Option<Arc<rayon::ThreadPool>>,
    /// Batches that are pooled and not answered, oldest first.
    pending: VecDeque<Pending>,
    /// Entries that are answered, for their buffers.
    spare: Vec<Pending>,
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
}

impl DistributedModel {
    /// This rank's part: `tables` are the tables `plan.tables_of(rank)`, in that order.
    ///
    /// # Errors
    ///
    /// [`DlrmError::NoSuchRank`], [`DlrmError::Tables`] or [`DlrmError::TableShape`] if plan, tables and configuration don't
    /// belong together.
    pub fn new(dense: DenseModel, tables: Vec<Arc<dyn EmbeddingTable>>, plan: Plan, rank: usize) -> Result<Self> {
        let config = dense.config();
        if rank >= plan.ranks() {
            return Err(DlrmError::NoSuchRank { rank, ranks: plan.ranks() });
        }
        let (expected, found) = (config.tables(), plan.tables().len());
        if found != expected {
            return Err(DlrmError::Tables { what: "the plan", expected, found });
        }
        let numbers = plan.tables_of(rank);
        if tables.len() != numbers.len() {
            return Err(DlrmError::Tables { what: "this rank", expected: numbers.len(), found: tables.len() });
        }
        for (&number, table) in numbers.iter().zip(&tables) {
            check_table(config, number, table.as_ref())?;
        }
        let tables = numbers.iter().copied().zip(tables).collect();
        Ok(Self {
            dense,
            tables,
            plan,
            rank,
            wire: Wire::F32,
            threads: None,
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

    /// The same with its tables pooled on these threads, which are this rank's own. The bits stay the same.
    #[must_use]
    pub fn with_threads(self, threads: Arc<rayon::ThreadPool>) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.dense.config()
    }

    /// Which rank holds which table.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Batches that were submitted and are not answered yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
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

    /// Begins a round, pools this rank's tables for all samples into the messages, declares the sizes that are expected in
    /// turn, and publishes. Keeps the dense features of this rank's samples, so that the batch may be reused.
    ///
    /// Cost: each row that is looked up is read once, each pooled vector written once, to where the transport sends it
    /// from (the receiver's memory, if they share it).
    ///
    /// # Errors
    ///
    /// Before anything is sent: [`DlrmError::BatchShape`], or [`DlrmError::Bags`] for this rank's own tables (the rank that
    /// holds a table checks its lookups); then the group should be told with `give_up`, since the others wait for this
    /// rank's vectors. And [`DlrmError::Collective`].
    pub fn pool<E: Endpoint>(&mut self, exchange: &mut Exchange<'_, E>, batch: &Batch) -> Result<()> {
        let config = self.dense.config();
        check_batch(config, batch)?;
        let bags = bags(config, batch, self.tables.iter().map(|(number, table)| (*number, table.as_ref())))?;
        let (ranks, dim) = (self.plan.ranks(), config.dim());
        let own = samples_of(batch.samples, self.rank, ranks);
        self.send_sizes.clear();
        self.receive_sizes.clear();
        for peer in 0..ranks {
            let samples = samples_of(batch.samples, peer, ranks).len();
            self.send_sizes.push(message_bytes(self.tables.len(), samples, dim, self.wire));
            self.receive_sizes.push(message_bytes(self.plan.tables_of(peer).len(), own.len(), dim, self.wire));
        }
        let mut round = exchange.begin(&self.send_sizes)?;
        round.expect(&self.receive_sizes)?;
        let polls = round.needs_progress();
        let mut messages = round.messages_mut();
        let pooled = match &self.threads {
            Some(threads) => {
                let jobs = self.jobs(&bags, batch.samples, messages.iter_mut().map(|message| &mut **message));
                jobs.map(|jobs| pool_all(threads, jobs)).transpose()?.is_some()
            }
            None => false,
        };
        // Table after table, so that the rows of one stay in the cache while it serves all ranks.
        for (place, ((_, table), bags)) in self.tables.iter().zip(&bags).enumerate().filter(|_| !pooled) {
            for (peer, message) in messages.iter_mut().enumerate() {
                let samples = samples_of(batch.samples, peer, ranks);
                let bytes = message_bytes(1, samples.len(), dim, self.wire);
                write_pooled(&mut message[place * bytes..(place + 1) * bytes], self.wire, |room| {
                    Ok(table.pool_to(&bags.samples(samples), Pooling::Sum, room)?)
                })?;
            }
            if polls {
                // Other ranks' messages of earlier rounds move on meanwhile.
                drop(messages);
                round.progress()?;
                messages = round.messages_mut();
            }
        }
        drop(messages);
        let number = round.number();
        round.publish()?;
        let mut pending = self.spare.pop().unwrap_or_default();
        let features = config.dense_features();
        pending.round = number;
        pending.first_sample = batch.first_sample + own.start as u64;
        pending.samples = own.len();
        pending.dense.clear();
        pending.dense.extend_from_slice(&batch.dense[own.start * features..own.end * features]);
        pending.has_bottom = false;
        self.pending.push_back(pending);
        Ok(())
    }

    /// What is to be pooled into the messages, table after table; `None` if some room lies where values cannot.
    fn jobs<'a>(
        &'a self,
        bags: &[Bags<'a>],
        samples: usize,
        messages: impl Iterator<Item = &'a mut [u8]>,
    ) -> Option<Vec<PoolJob<'a>>> {
        let (ranks, dim) = (self.plan.ranks(), self.dense.config().dim());
        let mut jobs = Vec::new();
        for (peer, message) in messages.enumerate() {
            let samples = samples_of(samples, peer, ranks);
            // Rooms of no bytes are no rooms.
            let bytes = message_bytes(1, samples.len(), dim, self.wire).max(1);
            for (place, room) in message.chunks_exact_mut(bytes).enumerate() {
                let (table, bags) = (self.tables[place].1.as_ref(), bags[place].samples(samples.clone()));
                let out = output_in(room, self.wire)?;
                jobs.push((place, PoolJob { table, bags, pooling: Pooling::Sum, out }));
            }
        }
        jobs.sort_by_key(|(place, _)| *place);
        Some(jobs.into_iter().map(|(_, job)| job).collect())
    }

    /// Runs the bottom MLP for this rank's samples of every batch that was pooled and has not been through it. A round
    /// that is completed earlier does it then.
    pub fn bottom(&mut self) {
        // The newest ones: whatever stands before them has been through it already.
        for pending in self.pending.iter_mut().rev().take_while(|pending| !pending.has_bottom) {
            pending.run_bottom(&self.dense, &mut self.scratch);
        }
    }

    /// Answers a round: interaction and top MLP for this rank's samples, reading the pooled vectors where they landed.
    /// `out` is replaced by the predictions, in order. Gives the round back before it returns.
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
        let (samples, dim) = (pending.samples, self.dense.config().dim());
        let mut copies = vec![Vec::new(); self.plan.ranks()];
        let mut blocks: Vec<&[f32]> = vec![&[]; self.dense.config().tables()];
        for (from, copy) in copies.iter_mut().enumerate() {
            let message = complete.message(from);
            let tables = self.plan.tables_of(from);
            let expected = message_bytes(tables.len(), samples, dim, self.wire);
            if message.len() != expected {
                let (rank, found) = (self.rank, message.len());
                return Err(DlrmError::MessageSize { round, rank, from, expected, found });
            }
            if expected == 0 {
                continue;
            }
            for (&table, block) in tables.iter().zip(read_pooled(message, self.wire, copy).chunks_exact(samples * dim))
            {
                blocks[table] = block;
            }
        }
        self.dense.predict(&pending.bottom, &blocks, samples, &mut self.scratch, out);
        let answered = Answered { round, first_sample: pending.first_sample, samples };
        self.spare.push(pending);
        Ok(answered)
    }
}

/// The samples of a batch of `samples` that `rank` of `ranks` makes the predictions of: `rank * samples / ranks` up to
/// the next rank's first. Runs differ in length by at most 1, and may be empty.
pub fn samples_of(samples: usize, rank: usize, ranks: usize) -> Range<usize> {
    let bound = |rank: usize| (rank as u128 * samples as u128 / ranks as u128) as usize;
    bound(rank)..bound(rank + 1)
}

/// The bytes of the largest message between two ranks of this plan for batches of up to `samples` samples: what a lane's
/// slots should have room for, in single precision.
pub fn largest_message(config: &ModelConfig, plan: &Plan, samples: usize) -> usize {
    let tables = (0..plan.ranks()).map(|rank| plan.tables_of(rank).len()).max().unwrap_or(0);
    message_bytes(tables, samples.div_ceil(plan.ranks()), config.dim(), Wire::F32)
}

fn message_bytes(tables: usize, samples: usize, dim: usize, wire: Wire) -> usize {
    tables * samples * dim * wire.bytes()
}

impl Pending {
    fn run_bottom(&mut self, model: &DenseModel, scratch: &mut DenseScratch) {
        if !self.has_bottom {
            model.bottom(&self.dense, self.samples, scratch, &mut self.bottom);
            self.has_bottom = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_split_without_gaps_and_evenly() {
        for ranks in 1..9 {
            for samples in 0..40 {
                let mut next = 0;
                for rank in 0..ranks {
                    let own = samples_of(samples, rank, ranks);
                    assert_eq!(own.start, next);
                    assert!(own.len() == samples / ranks || own.len() == samples.div_ceil(ranks));
                    next = own.end;
                }
                assert_eq!(next, samples);
            }
        }
    }
}
