//! Rounds: which one is complete, due, ready. Arithmetic on the counts of a lane's streams, and nothing else.
//!
//! Call `i` publishes round `i` and then takes every round up to `i - lag`, waiting if it must, and whatever later rounds are
//! complete already. Round `n` is complete on a rank when the message `n` of every peer has come, or the peer has left before.

use crate::Delivery;

#[cfg(test)]
mod exploration;

/// Where one rank stands on a lane of rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rounds {
    lag: u64,
    delivery: Delivery,
    /// Ranks, this one included.
    ranks: usize,
    /// Rounds published by this rank; the number of the next one.
    begun: u64,
    /// Rounds handed out; the number of the next one.
    taken: u64,
    /// This rank will begin no more rounds.
    left: bool,
    /// Peers without which the next round is not complete.
    missing: usize,
    /// Peers that have left; their later rounds count as empty.
    gone: usize,
    /// Rounds that some rank has published, in fact.
    any: u64,
}

/// How far one stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reached {
    /// Whole messages.
    pub(crate) arrived: u64,
    /// No message follows.
    pub(crate) left: bool,
}

impl Reached {
    /// Whether the message of `round` is here, or will never be.
    #[inline(always)]
    fn has(self, round: u64) -> bool {
        self.arrived > round || self.left
    }
}

impl Rounds {
    pub(crate) fn new(lag: usize, delivery: Delivery, ranks: usize) -> Self {
        let lag = lag as u64;
        Rounds { lag, delivery, ranks, begun: 0, taken: 0, left: false, missing: ranks, gone: 0, any: 0 }
    }

    /// One stream has come from `before` to `now`.
    #[inline(always)]
    pub(crate) fn note(&mut self, before: Reached, now: Reached) {
        self.missing -= usize::from(!before.has(self.taken) && now.has(self.taken));
        self.gone += usize::from(now.left && !before.left);
        self.any = self.any.max(now.arrived);
    }

    /// This rank has published a round.
    #[inline(always)]
    pub(crate) fn publish(&mut self) {
        self.begun += 1;
    }

    /// This rank begins no more rounds.
    pub(crate) fn leave(&mut self) {
        self.left = true;
    }

    /// This rank has left.
    #[inline(always)]
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// The next round has been handed out; the round after it lacks the messages of `missing` peers.
    #[inline(always)]
    pub(crate) fn take(&mut self, missing: usize) {
        self.taken += 1;
        self.missing = missing;
    }

    /// Rounds published; the number of the next one.
    #[inline(always)]
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Rounds handed out; the number of the next one.
    #[inline(always)]
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// A rank has published a round that this one has not.
    pub(crate) fn is_behind(&self) -> bool {
        self.any > self.begun
    }

    /// All messages of the next round are here; a peer that has left counts as having sent nothing.
    #[inline(always)]
    pub(crate) fn complete(&self) -> bool {
        self.missing == 0
    }

    /// The next round, which was `round`, is complete or has been handed out since.
    #[inline(always)]
    pub(crate) fn has_come(&self, round: u64) -> bool {
        self.complete() || self.taken != round
    }

    /// Every rank has left, and every round has been handed out.
    #[inline(always)]
    pub(crate) fn finished(&self) -> bool {
        self.left && self.gone == self.ranks && self.any <= self.taken
    }

    /// Rounds that this rank has published are not handed out yet.
    #[inline(always)]
    pub(crate) fn outstanding(&self) -> bool {
        self.taken < self.begun
    }

    /// The next round has to be handed out before this rank may go on.
    #[inline(always)]
    pub(crate) fn due(&self) -> bool {
        if self.left { !self.finished() } else { self.taken + self.lag < self.begun }
    }

    /// The next round may be handed out now.
    #[inline(always)]
    pub(crate) fn ready(&self) -> bool {
        let wanted = match self.delivery {
            Delivery::Elastic => self.left || self.outstanding(),
            Delivery::Fixed => self.due(),
        };
        wanted && self.complete() && !self.finished()
    }

    /// Only the newest round is not handed out yet, and elastic delivery may hand it out as soon as it is complete.
    #[inline(always)]
    pub(crate) fn may_linger(&self) -> bool {
        self.delivery == Delivery::Elastic && !self.left && self.begun == self.taken + 1
    }

    /// Whether the next round lacks this stream's message.
    pub(crate) fn lacks(&self, stream: Reached) -> bool {
        !stream.has(self.taken)
    }
}
