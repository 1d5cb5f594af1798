//! The collective as its users see it: rounds of messages between all ranks, whoever moves them.

use slackline_transport::{Endpoint, Rank};

use crate::{CollectiveError, Complete, Exchange, Messages, Round};

/// One rank's end of an alltoallv that is used round by round.
///
/// The loop of a rank is the same for every implementation: [`begin`](Self::begin) with the sizes, fill the
/// [rooms](OpenRound::messages_mut), [`publish`](OpenRound::publish), then [`take`](Self::take) until it returns `None`; at the
/// end [`drain`](Self::drain) until it returns `None`. Implementations differ in when `take` hands out a round, never in what
/// is in it: round `n` holds the messages that all ranks published in their round `n`, and rounds come in order.
///
/// Implementations: [`Exchange`] (bounded lag), [`synchronous::Rounds`](crate::synchronous::Rounds) (the oracle), and in the
/// benchmark MPI's own alltoallv. A test can have one of its own, without any transport.
pub trait Collective {
    /// Room for the messages of a round.
    type Round<'a>: OpenRound
    where
        Self: 'a;

    /// The messages of a round.
    type Complete<'a>: CompleteRound
    where
        Self: 'a;

    /// This member's number.
    fn rank(&self) -> Rank;

    /// Members of the group.
    fn ranks(&self) -> usize;

    /// Begins the next round, in which this rank sends `send[to]` bytes to each rank `to` and receives `receive[from]` bytes
    /// from each rank `from`. A message of another size than its receiver has declared is an error, on every rank.
    ///
    /// # Errors
    ///
    /// A list that does not have one size for each rank; rounds that have to be taken first; a fault of the group.
    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Self::Round<'_>, CollectiveError>;

    /// The next round, if it may be handed out; `None` when this rank may begin another.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    fn take(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError>;

    /// The next of the rounds that this rank has published, waiting for each; `None` when all have been handed out. The
    /// collective can still be used.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    fn flush(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError>;

    /// Begins no more rounds, and hands out the remaining ones; `None` when there are no more.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    fn drain(&mut self) -> Result<Option<Self::Complete<'_>>, CollectiveError>;

    /// Fails the whole group because this rank cannot go on, and returns the fault that all ranks get.
    fn give_up(&mut self, why: &str) -> CollectiveError;
}

/// A round that has begun. If it is dropped and not published, it never happened.
pub trait OpenRound {
    /// Its number, from 0.
    fn number(&self) -> u64;

    /// Room for the message to each rank, in rank order, each of the size given to [`begin`](Collective::begin), beginning on a
    /// multiple of 64 bytes, with unspecified contents until it is written. Borrowed again they are the same, with what was
    /// written.
    fn messages_mut(&mut self) -> Messages<'_>;

    /// Whether earlier messages move only inside calls, so that calling [`progress`](Self::progress) while messages take long to
    /// fill helps.
    fn needs_progress(&self) -> bool {
        false
    }

    /// Moves earlier messages, without waiting.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    fn progress(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    /// Sends the messages.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    fn publish(self) -> Result<(), CollectiveError>;
}

/// A complete round. Dropping it gives its memory back.
pub trait CompleteRound {
    /// Its number, from 0.
    fn number(&self) -> u64;

    /// What `from` sent to this rank, beginning on a multiple of 64 bytes unless it is empty.
    ///
    /// # Panics
    ///
    /// If the group has no such rank.
    fn message(&self, from: Rank) -> &[u8];
}

impl<'g, E: Endpoint> Collective for Exchange<'g, E> {
    type Round<'a>
        = Round<'g, E>
    where
        Self: 'a;

    type Complete<'a>
        = Complete<'g, E>
    where
        Self: 'a;

    fn rank(&self) -> Rank {
        Exchange::rank(self)
    }

    fn ranks(&self) -> usize {
        Exchange::ranks(self)
    }

    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Round<'g, E>, CollectiveError> {
        let mut round = Exchange::begin(self, send)?;
        round.expect(receive)?;
        Ok(round)
    }

    fn take(&mut self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        Exchange::take(self)
    }

    fn flush(&mut self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        Exchange::flush(self)
    }

    fn drain(&mut self) -> Result<Option<Complete<'g, E>>, CollectiveError> {
        Exchange::drain(self)
    }

    fn give_up(&mut self, why: &str) -> CollectiveError {
        Exchange::give_up(self, why)
    }
}

impl<E: Endpoint> OpenRound for Round<'_, E> {
    fn number(&self) -> u64 {
        Round::number(self)
    }

    fn messages_mut(&mut self) -> Messages<'_> {
        Round::messages_mut(self)
    }

    fn needs_progress(&self) -> bool {
        Round::needs_progress(self)
    }

    fn progress(&mut self) -> Result<(), CollectiveError> {
        Round::progress(self)
    }

    fn publish(self) -> Result<(), CollectiveError> {
        Round::publish(self)
    }
}

impl<E: Endpoint> CompleteRound for Complete<'_, E> {
    fn number(&self) -> u64 {
        Complete::number(self)
    }

    fn message(&self, from: Rank) -> &[u8] {
        Complete::message(self, from)
    }
}
