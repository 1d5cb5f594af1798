//! The oracle: a plain synchronous alltoallv, written independently of the bounded-lag one and as simply as can be.
//!
//! It copies everything, waits for everything, and knows neither rounds nor lag. It stays, to compare with.

use std::time::Duration;

use slackline_transport::{Endpoint, Lane, PeerState, Rank, TransportError};

use crate::stream::AlignedBytes;
use crate::{Collective, CollectiveError, CompleteRound, Fault, FaultKind, Messages, OpenRound};

/// Why a synchronous exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynchronousError {
    /// A rank ended before it had sent its message.
    #[error("rank {rank} ended during a synchronous exchange")]
    Dead {
        /// The rank.
        rank: usize,
    },
    /// Nothing came for longer than the deadline.
    #[error("a synchronous exchange waited {waited:?}, longer than its deadline")]
    Late {
        /// How long.
        waited: Duration,
    },
    /// The group has failed: another rank gave up, or the transport found out.
    #[error("{0}")]
    Failed(Fault),
    /// The transport itself is broken.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// A lane of an endpoint, used for synchronous exchanges and nothing else.
pub struct Synchronous<E: Endpoint> {
    endpoint: E,
    lane: Lane,
    deadline: Duration,
    /// Pieces read from each rank so far.
    read: Vec<u64>,
}

impl<E: Endpoint> Synchronous<E> {
    /// Takes the endpoint; no exchange may take longer than `deadline`.
    pub fn new(endpoint: E, lane: Lane, deadline: Duration) -> Self {
        let read = vec![0; endpoint.shape().ranks];
        Synchronous { endpoint, lane, deadline, read }
    }

    /// The endpoint's clock, and its way to sleep.
    pub fn endpoint(&self) -> &E {
        &self.endpoint
    }

    /// Sends `messages[to]` to every rank `to` and returns what every rank sent here, in rank order.
    ///
    /// Each message goes as its length (8 bytes) and then in pieces of at most a slot. All ranks have to call this equally
    /// often.
    ///
    /// # Errors
    ///
    /// See [`SynchronousError`]; the lane cannot be used after one.
    ///
    /// # Panics
    ///
    /// If there is not one message for each rank, or a slot is smaller than 8 bytes.
    pub fn alltoallv(&mut self, messages: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, SynchronousError> {
        let Synchronous { endpoint, lane, read, .. } = self;
        let (lane, ranks) = (*lane, endpoint.shape().ranks);
        let slot = endpoint.shape().lanes[lane.index()].slot_bytes;
        assert_eq!(messages.len(), ranks, "one message for each rank");
        assert!(slot >= 8, "a slot holds at least a length");
        // What goes to each rank and how much of it is out; what has come from each.
        let streams: Vec<Vec<u8>> =
            messages.iter().map(|m| [&(m.len() as u64).to_le_bytes()[..], m].concat()).collect();
        let mut sent = vec![0; ranks];
        let mut came: Vec<Vec<u8>> = vec![Vec::new(); ranks];
        let begin = endpoint.now();
        loop {
            for to in 0..ranks {
                while sent[to] < streams[to].len() && endpoint.free_slots(lane, to) > 0 {
                    let piece = (streams[to].len() - sent[to]).min(slot);
                    endpoint.room(lane, to).expect("a free slot")[..piece]
                        .copy_from_slice(&streams[to][sent[to]..sent[to] + piece]);
                    endpoint.publish(lane, to, piece);
                    sent[to] += piece;
                }
            }
            let ended = (0..ranks).find(|&rank| endpoint.peer_state(rank) != PeerState::Alive);
            for from in 0..ranks {
                while !is_whole(&came[from]) && read[from] < endpoint.landed(lane, from) {
                    came[from].extend_from_slice(&endpoint.message(lane, from, read[from]));
                    read[from] += 1;
                    endpoint.release(lane, from, read[from]);
                }
            }
            endpoint.notify();
            if came.iter().all(|stream| is_whole(stream)) && (0..ranks).all(|to| sent[to] == streams[to].len()) {
                return Ok(came.into_iter().map(|stream| stream[8..].to_vec()).collect());
            }
            // A rank that fails the group ends: the reason comes first.
            if let Some(reason) = endpoint.poisoned() {
                return Err(SynchronousError::Failed(Fault::read(reason, endpoint.rank())));
            }
            if let Some(rank) = ended.filter(|&rank| !is_whole(&came[rank]) || sent[rank] < streams[rank].len()) {
                return Err(SynchronousError::Dead { rank });
            }
            let waited = endpoint.now().saturating_sub(begin);
            if waited >= self.deadline {
                return Err(SynchronousError::Late { waited });
            }
            endpoint.wait(begin.saturating_add(self.deadline))?;
        }
    }
}

fn is_whole(stream: &[u8]) -> bool {
    stream.len() >= 8
        && stream.len() as u64 - 8 >= u64::from_le_bytes(stream[..8].try_into().expect("eight bytes of length"))
}

/// The oracle as a [`Collective`]: publishing a round exchanges it, and the round is there to be taken.
pub struct Rounds<E: Endpoint> {
    oracle: Synchronous<E>,
    published: u64,
    /// The rounds that were published and not handed out: at most one, since it has to be taken before the next begins.
    ready: Option<Vec<AlignedBytes>>,
    left: bool,
}

/// A round of the oracle that has begun.
pub struct Open<'a, E: Endpoint> {
    rounds: &'a mut Rounds<E>,
    messages: Vec<AlignedBytes>,
    receive: Vec<usize>,
}

/// A complete round of the oracle.
pub struct Exchanged {
    number: u64,
    messages: Vec<AlignedBytes>,
}

impl<E: Endpoint> Rounds<E> {
    /// Rounds on this lane of the oracle.
    pub fn new(oracle: Synchronous<E>) -> Self {
        Rounds { oracle, published: 0, ready: None, left: false }
    }

    /// Poisons the group with `fault`, unless another was first, and returns the one that all ranks get.
    fn fail(&self, fault: Fault) -> CollectiveError {
        let endpoint = &self.oracle.endpoint;
        endpoint.poison(&fault.encode());
        endpoint.poisoned().map_or(fault, |reason| Fault::read(reason, endpoint.rank())).into()
    }
}

impl<E: Endpoint> Collective for Rounds<E> {
    type Round<'a>
        = Open<'a, E>
    where
        Self: 'a;

    type Complete<'a>
        = Exchanged
    where
        Self: 'a;

    fn rank(&self) -> Rank {
        self.oracle.endpoint.rank()
    }

    fn ranks(&self) -> usize {
        self.oracle.endpoint.shape().ranks
    }

    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Open<'_, E>, CollectiveError> {
        let (lane, ranks) = (self.oracle.lane, self.ranks());
        for given in [send.len(), receive.len()] {
            if given != ranks {
                return Err(CollectiveError::Count { lane, given, ranks });
            }
        }
        if self.left {
            return Err(CollectiveError::AfterLeave { lane });
        }
        if self.ready.is_some() {
            let begun = self.published;
            return Err(CollectiveError::TakeFirst { lane, begun, due: begun - 1, lag: 0 });
        }
        let room = |&size: &usize| {
            let mut room = AlignedBytes::default();
            room.resize(size);
            room
        };
        let messages = send.iter().map(room).collect();
        Ok(Open { rounds: self, messages, receive: receive.to_vec() })
    }

    fn take(&mut self) -> Result<Option<Exchanged>, CollectiveError> {
        let number = self.published.saturating_sub(1);
        Ok(self.ready.take().map(|messages| Exchanged { number, messages }))
    }

    fn flush(&mut self) -> Result<Option<Exchanged>, CollectiveError> {
        self.take()
    }

    fn drain(&mut self) -> Result<Option<Exchanged>, CollectiveError> {
        self.left = true;
        self.take()
    }

    fn give_up(&mut self, why: &str) -> CollectiveError {
        let (rank, lane) = (self.rank(), self.oracle.lane);
        let mut fault = Fault::new(FaultKind::GaveUp, vec![rank], rank, lane, self.published);
        fault.note = why.to_owned();
        self.fail(fault)
    }
}

impl<E: Endpoint> OpenRound for Open<'_, E> {
    fn number(&self) -> u64 {
        self.rounds.published
    }

    fn messages_mut(&mut self) -> Messages<'_> {
        self.messages.iter_mut().map(|message| &mut **message).collect()
    }

    fn publish(self) -> Result<(), CollectiveError> {
        let messages: Vec<Vec<u8>> = self.messages.iter().map(|message| message.to_vec()).collect();
        let Open { rounds, receive, .. } = self;
        let (own, lane, number) = (rounds.rank(), rounds.oracle.lane, rounds.published);
        let came = match rounds.oracle.alltoallv(&messages) {
            Ok(came) => came,
            Err(SynchronousError::Dead { rank }) => {
                return Err(rounds.fail(Fault::new(FaultKind::Dead, vec![rank], own, lane, number)));
            }
            Err(late @ SynchronousError::Late { .. }) => return Err(rounds.give_up(&late.to_string())),
            Err(error) => return Err(error.into()),
        };
        for (from, (message, &expected)) in came.iter().zip(&receive).enumerate() {
            if message.len() != expected {
                let mut fault = Fault::new(FaultKind::Sizes, vec![from], own, lane, number);
                (fault.bytes, fault.expected) = (message.len() as u64, Some(expected as u64));
                return Err(rounds.fail(fault));
            }
        }
        rounds.published += 1;
        rounds.ready = Some(came.iter().map(|message| AlignedBytes::from(&message[..])).collect());
        Ok(())
    }
}

impl CompleteRound for Exchanged {
    fn number(&self) -> u64 {
        self.number
    }

    fn message(&self, from: Rank) -> &[u8] {
        &self.messages[from]
    }
}

impl From<SynchronousError> for CollectiveError {
    fn from(error: SynchronousError) -> Self {
        match error {
            SynchronousError::Transport(error) => CollectiveError::Transport(error),
            SynchronousError::Failed(fault) => fault.into(),
            other => CollectiveError::Other(Box::new(other)),
        }
    }
}

impl<E: Endpoint> Drop for Synchronous<E> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.endpoint.detach();
        }
    }
}
