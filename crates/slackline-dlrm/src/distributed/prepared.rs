//! A batch on its way into the messages.

use std::time::Duration;

use slackline_data::Batch;
use slackline_embedding::{BagBuffer, Bags, EmbeddingTable, PoolError, PoolJob, Pooling, pool_all};

use super::pending::{Pending, Queue};
use super::{Member, RankWork};
use crate::watch::Watch;
use crate::wire::{output_in, pool_rounded, write_pooled};
use crate::{DlrmError, Result};

/// Lookups that are worth handing to one thread at a time, where messages move on after every turn: enough for
/// [`pool_all`] to cut into pieces that even out, and a fraction of a millisecond of work.
#[cfg(feature = "distributed")]
const TURN: usize = 8192;

/// A batch that is checked and whose message sizes are known, from [`DistributedModel::prepare`].
///
/// [`pool_into`](Self::pool_into) fills the messages; once they are on their way, [`finish`](Self::finish) pools what needs
/// no other rank and leaves the batch to be [answered](super::DistributedModel::answer).
///
/// [`DistributedModel::prepare`]: super::DistributedModel::prepare
#[derive(Debug)]
#[must_use = "the other ranks wait for the vectors of this batch"]
pub struct Prepared<'m> {
    pub(super) member: &'m Member,
    pub(super) queue: &'m mut Queue,
    pub(super) work: &'m mut RankWork,
    pub(super) batch: &'m Batch,
    pub(super) pending: Pending,
    /// The lookups of this rank's parts, without those that other ranks need not be sent.
    pub(super) of_parts: Vec<Bags<'m>>,
    pub(super) of_replicated: Vec<Bags<'m>>,
    pub(super) of_hot: Vec<Bags<'m>>,
    /// The next part to be pooled.
    pub(super) next: usize,
    pub(super) watch: Watch,
    /// Time spent on lookups of this batch.
    pub(super) lookups: Duration,
}

impl Prepared<'_> {
    /// The bytes of this rank's message to each rank, itself included.
    pub fn send_sizes(&self) -> &[usize] {
        self.pending.layout.send_sizes()
    }

    /// The bytes of each rank's message to this one.
    pub fn receive_sizes(&self) -> &[usize] {
        self.pending.layout.receive_sizes()
    }

    /// Pools this rank's parts for all samples into `rooms`, one for each rank, in rank order, each of the size in
    /// [`send_sizes`](Self::send_sizes).
    ///
    /// Cost: each row that is looked up is read once, and each pooled vector written once, in place if the room is aligned
    /// to the size of a value.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] if a table cannot be looked up, or a sum is too large for the precision of the messages.
    ///
    /// # Panics
    ///
    /// If there is not one room of the right size for each rank.
    pub fn pool_into(&mut self, rooms: &mut [&mut [u8]]) -> Result<()> {
        let sizes = rooms.iter().map(|room| room.len());
        assert!(sizes.eq(self.send_sizes().iter().copied()), "one room for each rank, of the size of its message");
        self.pool_until(rooms, self.of_parts.len())
    }

    /// Pools the next parts: one, or as many as keep this rank's threads busy. `false` if there are none left.
    #[cfg(feature = "distributed")]
    pub(super) fn pool_turn(&mut self, rooms: &mut [&mut [u8]]) -> Result<bool> {
        if self.next == self.of_parts.len() {
            return Ok(false);
        }
        let enough = self.member.threads.as_ref().map_or(0, |threads| threads.current_num_threads() * TURN);
        let mut end = self.next + 1;
        let mut lookups = self.of_parts[self.next].lookups();
        while lookups < enough && end < self.of_parts.len() {
            lookups += self.of_parts[end].lookups();
            end += 1;
        }
        self.pool_until(rooms, end)?;
        Ok(true)
    }

    /// Pools the parts before `end` that are not pooled yet.
    fn pool_until(&mut self, rooms: &mut [&mut [u8]], end: usize) -> Result<()> {
        self.watch = self.watch.restarted();
        let pooled = self.pool_on_threads(rooms, end).and_then(|pooled| {
            while !pooled && self.next < end {
                self.pool_part(rooms)?;
            }
            Ok(())
        });
        pooled.map_err(|error| self.counted(error))?;
        self.lookups += self.watch.elapsed();
        Ok(())
    }

    /// Pools the next part for all ranks, so that its rows stay in the cache meanwhile.
    fn pool_part(&mut self, rooms: &mut [&mut [u8]]) -> Result<()> {
        let (part, table) = &self.member.parts[self.next];
        let (bags, layout) = (&self.of_parts[self.next], &self.pending.layout);
        for (room, segment) in rooms.iter_mut().zip(layout.sent(self.next)) {
            write_pooled(&mut room[segment.bytes(layout.wire)], layout.wire, |out| {
                let (bags, first_sample) = (bags.samples(segment.samples.clone()), segment.samples.start);
                let (table, first_column) = (table.as_ref(), part.columns.start);
                Ok(PoolJob { table, bags, first_sample, first_column, pooling: Pooling::Sum, out }.run()?)
            })?;
        }
        self.next += 1;
        Ok(())
    }

    /// The error of pooling a part, with the sample counted from the begin of the input.
    fn counted(&self, error: DlrmError) -> DlrmError {
        let hot = match &error {
            DlrmError::Pool(PoolError::Narrow { table, .. }) => {
                let part = self.member.parts.iter().find(|(_, held)| held.name() == table);
                part.and_then(|(part, _)| self.member.placement.hot(part.table))
            }
            _ => None,
        };
        counted_from(self.batch.first_sample, error, &|sample| match hot {
            Some(hot) => nth(self.pending.layout.samples.cold(hot), true, sample),
            None => sample,
        })
    }

    /// Pools the parts before `end` on this rank's threads; `false` if it has none, or if values don't fit the addresses of
    /// the rooms.
    fn pool_on_threads(&mut self, rooms: &mut [&mut [u8]], end: usize) -> Result<bool> {
        let Some(threads) = &self.member.threads else { return Ok(false) };
        let Some(jobs) = self.jobs(rooms, end) else { return Ok(false) };
        pool_all(threads, jobs)?;
        self.next = end;
        Ok(true)
    }

    /// What is to be pooled up to `end`, part after part; `None` if values don't fit the address of a room.
    fn jobs<'a>(&'a self, rooms: &'a mut [&mut [u8]], end: usize) -> Option<Vec<PoolJob<'a>>> {
        let layout = &self.pending.layout;
        let mut jobs = Vec::with_capacity((end - self.next) * rooms.len());
        // Each room from where it is cut next, and where that is.
        let mut rests: Vec<(usize, &mut [u8])> = rooms.iter_mut().map(|room| (0, &mut **room)).collect();
        for place in self.next..end {
            let (part, table) = &self.member.parts[place];
            for (segment, (cut, rest)) in layout.sent(place).iter().zip(&mut rests) {
                let bytes = segment.bytes(layout.wire);
                let (out, after) = std::mem::take(rest)[bytes.start - *cut..].split_at_mut(bytes.len());
                (*cut, *rest) = (bytes.end, after);
                let (bags, out) = (self.of_parts[place].samples(segment.samples.clone()), output_in(out, layout.wire)?);
                let first_sample = segment.samples.start;
                let (table, first_column) = (table.as_ref(), part.columns.start);
                jobs.push(PoolJob { table, bags, first_sample, first_column, pooling: Pooling::Sum, out });
            }
        }
        Some(jobs)
    }

    /// Pools what this rank's own samples need from replicated tables and hot rows, and keeps the batch, as round `round`,
    /// until it is [answered](super::DistributedModel::answer). Call it after the messages are on their way. Dense features
    /// are copied, so the caller may reuse the batch.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`] if a table cannot be looked up, or a sum is too large for the precision of the messages.
    ///
    /// # Panics
    ///
    /// If the messages were not [filled](Self::pool_into).
    pub fn finish(mut self, round: u64) -> Result<()> {
        assert_eq!(self.next, self.of_parts.len(), "parts that are pooled into the messages");
        let Member { dense, placement, .. } = self.member;
        let (features, layout) = (dense.config().dense_features(), &self.pending.layout);
        self.work.sent += layout.sent_bytes(placement.rank);
        self.work.saved += layout.saved_bytes(placement);

        let own = layout.samples.of(placement.rank);
        let pending = &mut self.pending;
        pending.round = round;
        pending.first_sample = self.batch.first_sample + own.start as u64;
        pending.samples = own.len();
        pending.dense.clear();
        pending.dense.extend_from_slice(&self.batch.dense[own.start * features..own.end * features]);
        pending.has_bottom = false;
        self.watch = self.watch.restarted();
        self.pool_here()?;
        self.work.lookups += self.lookups + self.watch.elapsed();
        self.queue.pending.push_back(self.pending);
        Ok(())
    }

    /// Pools what no other rank sends, since every rank has the rows.
    fn pool_here(&mut self) -> Result<()> {
        let Prepared { member, pending, .. } = self;
        let Pending { layout, replicated, hot, first_sample, .. } = pending;
        let counted = |error: DlrmError, place: &dyn Fn(usize) -> usize| counted_from(*first_sample, error, place);
        let own = layout.samples.of(member.placement.rank);
        replicated.resize_with(member.replicated.len(), Vec::new);
        for (((_, table), bags), out) in member.replicated.iter().zip(&self.of_replicated).zip(replicated) {
            pool_rounded(table.as_ref(), &bags.samples(own.clone()), layout.wire, out)
                .map_err(|error| counted(error, &|sample| sample))?;
        }
        hot.resize_with(member.hot.len(), Vec::new);
        let mut buffer = BagBuffer::default();
        for (place, (((_, hot), bags), out)) in member.hot.iter().zip(&self.of_hot).zip(hot).enumerate() {
            let cold = &layout.samples.cold(place)[own.clone()];
            let bags = bags.samples(own.clone());
            let here = buffer.select(&bags, hot.table().rows(), |sample| !cold[sample], |row| hot.position(row));
            pool_rounded(hot.table(), &here, layout.wire, out)
                .map_err(|error| counted(error, &|sample| nth(cold, false, sample)))?;
        }
        Ok(())
    }
}

/// The error with its sample, which `place` finds among all, counted from the begin of the input.
fn counted_from(first_sample: u64, mut error: DlrmError, place: &dyn Fn(usize) -> usize) -> DlrmError {
    if let DlrmError::Pool(PoolError::Narrow { sample, .. }) = &mut error {
        *sample = place(*sample).saturating_add(first_sample as usize);
    }
    error
}

/// The position of the `nth` entry of that value.
fn nth(list: &[bool], value: bool, nth: usize) -> usize {
    list.iter().enumerate().filter(|(_, entry)| **entry == value).nth(nth).map_or(nth, |(at, _)| at)
}
