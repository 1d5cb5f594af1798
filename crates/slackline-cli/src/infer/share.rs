//! The way of predictions to rank 0: one message for each batch, on a lane of streams, also of a rank that has none of its samples:
//! what it has read and looked up matters for all.
//!
//! Sending never waits while batches are under way: what finds no room is kept until there is, and the lag bounds how much that
//! can be.

use std::collections::VecDeque;

use anyhow::{Context, Result, bail};
use slackline_collective::{Endpoint, LaneOptions, LaneShape, Rank, Streams};
use slackline_data::Batch;

use super::collect::Collector;
use super::stream::{Sink, Stamp};

/// The stamp of the batch, before the predictions.
const HEADER: usize = 8 + 8 + 4;

/// Larger messages are sent in fragments.
const LARGEST_SLOT: usize = 1 << 20;

/// The rings of the lane, for batches of so many samples. They have as many slots as there can be rounds under way: rank 0 takes
/// what has come once a round, and nobody waits for that.
pub(super) fn lane_shape(options: LaneOptions, batch: usize, ranks: usize) -> LaneShape {
    // Rank 0 sends itself nothing.
    let share = if ranks == 1 { 0 } else { batch.div_ceil(ranks) };
    options.shape((HEADER + share * size_of::<f32>()).min(LARGEST_SLOT))
}

/// Sends this rank's share to rank 0.
pub(super) struct Sender<'g, E: Endpoint> {
    streams: Streams<'g, E>,
    /// Messages without room, oldest first.
    waiting: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

impl<'g, E: Endpoint> Sender<'g, E> {
    pub(super) fn new(streams: Streams<'g, E>) -> Self {
        Sender { streams, waiting: VecDeque::new(), spare: Vec::new() }
    }
}

impl<E: Endpoint> Sink for Sender<'_, E> {
    fn submitted(&mut self, _: &mut Batch, _: u64) {}

    fn answered(&mut self, stamp: Stamp, predictions: &[f32]) -> Result<()> {
        let mut message = self.spare.pop().unwrap_or_default();
        message.clear();
        message.extend(stamp.number.to_le_bytes());
        message.extend(stamp.read.to_le_bytes());
        message.extend(stamp.milliseconds.to_le_bytes());
        message.extend(predictions.iter().flat_map(|prediction| prediction.to_le_bytes()));
        self.waiting.push_back(message);
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        while let Some(message) = self.waiting.front() {
            let Some(mut room) = self.streams.room(0, message.len())? else { break };
            room.copy_from_slice(message);
            room.publish();
            self.spare.extend(self.waiting.pop_front());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for message in self.waiting.drain(..) {
            let mut room = self.streams.send(0, message.len())?;
            room.copy_from_slice(&message);
            room.publish();
        }
        Ok(())
    }
}

/// Rank 0: takes what the others have sent.
pub(super) struct Receiver<'g, E: Endpoint> {
    streams: Streams<'g, E>,
    pub(super) collector: Collector,
}

impl<'g, E: Endpoint> Receiver<'g, E> {
    pub(super) fn new(streams: Streams<'g, E>, collector: Collector) -> Self {
        Receiver { streams, collector }
    }

    fn take(&mut self, from: Rank, message: &[u8]) -> Result<()> {
        let (number, rest) = message.split_first_chunk().context("a message without a number")?;
        let (read, rest) = rest.split_first_chunk().context("a message without a digest")?;
        let (milliseconds, rest) = rest.split_first_chunk().context("a message without a latency")?;
        if !rest.len().is_multiple_of(size_of::<f32>()) {
            bail!("rank {from} sent predictions of {} bytes", rest.len());
        }
        let predictions = rest.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")));
        let (number, read) = (u64::from_le_bytes(*number), u64::from_le_bytes(*read));
        self.collector.put(from, Stamp { number, read, milliseconds: f32::from_le_bytes(*milliseconds) }, predictions)
    }
}

impl<E: Endpoint> Sink for Receiver<'_, E> {
    fn submitted(&mut self, batch: &mut Batch, read: u64) {
        self.collector.submitted(batch, read);
    }

    fn answered(&mut self, stamp: Stamp, predictions: &[f32]) -> Result<()> {
        self.collector.answered(stamp, predictions)
    }

    fn turn(&mut self) -> Result<()> {
        while let Some(message) = self.streams.next()? {
            self.take(message.from(), &message)?;
        }
        self.collector.turn()
    }

    fn end(&mut self) -> Result<()> {
        while let Some(from) = self.collector.awaited() {
            let message = self.streams.receive(from)?;
            let message = message.with_context(|| format!("rank {from} has left without all of its predictions"))?;
            self.take(from, &message)?;
        }
        self.collector.turn()
    }
}
