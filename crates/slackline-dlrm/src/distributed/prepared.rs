//! A batch on its way into the messages.

use std::ops::Range;
use std::time::Duration;

use slackline_data::Batch;
use slackline_embedding::{BagBuffer, Bags, EmbeddingTable, PoolJob, Pooling, pool_all};

use super::pending::{Pending, Queue};
use super::watch::Watch;
use super::{Member, RankWork};
use crate::Result;
use crate::wire::{output_in, pool_rounded, write_pooled};

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
    pub(super) send_sizes: &'m [usize],
    pub(super) receive_sizes: &'m [usize],
    pub(super) queue: &'m mut Queue,
    pub(super) work: &'m mut RankWork,
    pub(super) batch: &'m Batch,
    /// This rank's samples.
    pub(super) own: Range<usize>,
    pub(super) pending: Pending,
    /// The lookups of this rank's parts, without those that other ranks need not be sent.
    pub(super) of_parts: Vec<Bags<'m>>,
    pub(super) of_replicated: Vec<Bags<'m>>,
    pub(super) of_hot: Vec<Bags<'m>>,
    /// The next part to be pooled.
    pub(super) next: usize,
    /// For each message, the bytes that are filled.
    pub(super) places: Vec<usize>,
    pub(super) watch: Watch,
    /// Time spent on lookups of this batch.
    pub(super) lookups: Duration,
}

impl Prepared<'_> {
    /// The bytes of this rank's message to each rank, itself included.
    pub fn send_sizes(&self) -> &[usize] {
        self.send_sizes
    }

    /// The bytes of each rank's message to this one.
    pub fn receive_sizes(&self) -> &[usize] {
        self.receive_sizes
    }

    /// Pools this rank's parts for all samples into `rooms`, one for each rank, in rank order, each of the size in
    /// [`send_sizes`](Self::send_sizes).
    ///
    /// Cost: each row that is looked up is read once, and each pooled vector written once, in place if the room is aligned
    /// to the size of a value.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`](crate::DlrmError::Pool) if a table cannot be looked up.
    ///
    /// # Panics
    ///
    /// If there is not one room of the right size for each rank.
    pub fn pool_into(&mut self, rooms: &mut [&mut [u8]]) -> Result<()> {
        let sizes = rooms.iter().map(|room| room.len());
        assert!(sizes.eq(self.send_sizes.iter().copied()), "one room for each rank, of the size of its message");
        if !self.pool_on_threads(rooms)? {
            self.watch = self.watch.restarted();
            while self.next < self.of_parts.len() {
                self.pool_part(rooms)?;
            }
            self.lookups += self.watch.elapsed();
        }
        Ok(())
    }

    /// Pools the next part; `false` if there is none left.
    #[cfg(feature = "distributed")]
    pub(super) fn pool_next(&mut self, rooms: &mut [&mut [u8]]) -> Result<bool> {
        if self.next == self.of_parts.len() {
            return Ok(false);
        }
        self.watch = self.watch.restarted();
        self.pool_part(rooms)?;
        self.lookups += self.watch.elapsed();
        Ok(true)
    }

    /// Pools the next part for all ranks, so that its rows stay in the cache meanwhile.
    fn pool_part(&mut self, rooms: &mut [&mut [u8]]) -> Result<()> {
        let (part, table) = &self.member.parts[self.next];
        let bags = &self.of_parts[self.next];
        let (ranks, wire) = (self.member.plan.ranks(), self.member.wire);
        for (peer, (room, place)) in rooms.iter_mut().zip(&mut self.places).enumerate() {
            let samples = self.pending.counts.samples(part.table, peer, ranks);
            let bytes = *place..*place + samples.len() * part.columns.len() * wire.bytes();
            *place = bytes.end;
            write_pooled(&mut room[bytes], wire, |out| {
                Ok(table.pool_to(&bags.samples(samples), Pooling::Sum, out)?)
            })?;
        }
        self.next += 1;
        Ok(())
    }

    /// Pools all parts on this rank's threads; `false` if it has none, or if values don't fit the addresses of the rooms.
    pub(super) fn pool_on_threads(&mut self, rooms: &mut [&mut [u8]]) -> Result<bool> {
        let Some(threads) = &self.member.threads else { return Ok(false) };
        let watch = self.watch.restarted();
        let Some(jobs) = self.jobs(rooms) else { return Ok(false) };
        pool_all(threads, jobs)?;
        self.lookups += watch.elapsed();
        self.next = self.of_parts.len();
        Ok(true)
    }

    /// What is to be pooled, part after part; `None` if values don't fit the address of a room.
    fn jobs<'a>(&'a self, rooms: &'a mut [&mut [u8]]) -> Option<Vec<PoolJob<'a>>> {
        let (ranks, wire) = (self.member.plan.ranks(), self.member.wire);
        let mut jobs = Vec::new();
        for (peer, room) in rooms.iter_mut().enumerate() {
            let mut room = &mut **room;
            for (place, ((part, table), bags)) in self.member.parts.iter().zip(&self.of_parts).enumerate() {
                let samples = self.pending.counts.samples(part.table, peer, ranks);
                let bytes = samples.len() * part.columns.len() * wire.bytes();
                let (out, rest) = room.split_at_mut(bytes);
                room = rest;
                let (table, bags, out) = (table.as_ref(), bags.samples(samples), output_in(out, wire)?);
                jobs.push((place, PoolJob { table, bags, pooling: Pooling::Sum, out }));
            }
        }
        jobs.sort_by_key(|(place, _)| *place);
        Some(jobs.into_iter().map(|(_, job)| job).collect())
    }

    /// Pools what this rank's own samples need from replicated tables and hot rows, and keeps the batch, as round `round`,
    /// until it is [answered](super::DistributedModel::answer). Call it after the messages are on their way. Dense features
    /// are copied, so the caller may reuse the batch.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Pool`](crate::DlrmError::Pool) if a table cannot be looked up.
    ///
    /// # Panics
    ///
    /// If the messages were not [filled](Self::pool_into).
    pub fn finish(mut self, round: u64) -> Result<()> {
        assert_eq!(self.next, self.of_parts.len(), "parts that are pooled into the messages");
        let Member { dense, plan, rank, wire, .. } = self.member;
        let sent = self.send_sizes.iter().enumerate().filter(|(peer, _)| peer != rank).map(|(_, size)| *size);
        self.work.sent += sent.sum::<usize>() as u64;
        self.work.saved += self.pending.counts.saved(plan, *rank, *wire);

        let features = dense.config().dense_features();
        let pending = &mut self.pending;
        pending.round = round;
        pending.first_sample = self.batch.first_sample + self.own.start as u64;
        pending.samples = self.own.len();
        pending.dense.clear();
        pending.dense.extend_from_slice(&self.batch.dense[self.own.start * features..self.own.end * features]);
        pending.has_bottom = false;
        self.watch = self.watch.restarted();
        self.pool_here()?;
        self.work.lookups += self.lookups + self.watch.elapsed();
        self.queue.pending.push_back(self.pending);
        Ok(())
    }

    /// Pools what no other rank sends, since every rank has the rows.
    fn pool_here(&mut self) -> Result<()> {
        let Prepared { member, pending, own, .. } = self;
        pending.replicated.resize_with(member.replicated.len(), Vec::new);
        let replicated = member.replicated.iter().zip(&self.of_replicated);
        for (((_, table), bags), out) in replicated.zip(&mut pending.replicated) {
            pool_rounded(table.as_ref(), &bags.samples(own.clone()), member.wire, out)?;
        }
        pending.hot.resize_with(member.hot.len(), Default::default);
        let mut buffer = BagBuffer::default();
        for (((number, hot), bags), (is_here, out)) in member.hot.iter().zip(&self.of_hot).zip(&mut pending.hot) {
            let cold = &pending.counts.cold(*number).expect("counted for every table with hot rows")[own.clone()];
            is_here.clear();
            is_here.extend(cold.iter().map(|cold| !cold));
            let bags = bags.samples(own.clone());
            let here = buffer.select(&bags, hot.table().rows(), |sample| is_here[sample], |row| hot.position(row));
            pool_rounded(hot.table(), &here, member.wire, out)?;
        }
        Ok(())
    }
}
