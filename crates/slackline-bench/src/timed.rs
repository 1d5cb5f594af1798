//! Time spent in publishing, where publishing waits for other ranks.

use std::cell::Cell;
use std::time::Instant;

use slackline_collective::{Collective, CollectiveError, Messages, OpenRound};
use slackline_transport::Rank;

/// A collective that adds the nanoseconds of every publish to a count: a synchronous one waits there, and waiting is no work.
pub(crate) struct Timed<'c, C> {
    pub(crate) collective: &'c mut C,
    pub(crate) publishing: &'c Cell<u64>,
}

/// A round of [`Timed`].
pub(crate) struct Round<'a, R> {
    round: R,
    publishing: &'a Cell<u64>,
}

impl<C: Collective> Collective for Timed<'_, C> {
    type Round<'a>
        = Round<'a, C::Round<'a>>
    where
        Self: 'a;

    type Complete<'a>
        = C::Complete<'a>
    where
        Self: 'a;

    fn rank(&self) -> Rank {
        self.collective.rank()
    }

    fn ranks(&self) -> usize {
        self.collective.ranks()
    }

    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Self::Round<'_>, CollectiveError> {
        Ok(Round { round: self.collective.begin(send, receive)?, publishing: self.publishing })
    }

    fn take(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError> {
        self.collective.take()
    }

    fn flush(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError> {
        self.collective.flush()
    }

    fn drain(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError> {
        self.collective.drain()
    }

    fn give_up(&mut self, why: &str) -> CollectiveError {
        self.collective.give_up(why)
    }
}

impl<R: OpenRound> OpenRound for Round<'_, R> {
    fn number(&self) -> u64 {
        self.round.number()
    }

    fn messages_mut(&mut self) -> Messages<'_> {
        self.round.messages_mut()
    }

    fn needs_progress(&self) -> bool {
        self.round.needs_progress()
    }

    fn progress(&mut self) -> Result<(), CollectiveError> {
        self.round.progress()
    }

    fn publish(self) -> Result<(), CollectiveError> {
        let begin = Instant::now();
        let done = self.round.publish();
        self.publishing.set(self.publishing.get() + begin.elapsed().as_nanos() as u64);
        done
    }
}
