//! The oracle: a plain synchronous alltoallv, written independently of the bounded-lag one and as simply as can be.
//!
//! It copies everything, waits for everything, and knows neither rounds nor lag. It stays, to compare with.

use std::time::Duration;

use slackline_transport::{Endpoint, Lane, PeerState, TransportError};

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
    pub fn endpoint(&mut self) -> &mut E {
        &mut self.endpoint
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

impl<E: Endpoint> Drop for Synchronous<E> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.endpoint.detach();
        }
    }
}
