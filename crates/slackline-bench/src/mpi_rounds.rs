//! MPI's own alltoallv as a [`Collective`], in the three ways in which programs use it.

use serde::{Deserialize, Serialize};
use slackline_collective::{Collective, CollectiveError, CompleteRound, Messages, OpenRound};
use slackline_mpi::baseline::{self, Alltoallv};
use slackline_mpi::{World, WorldError};
use slackline_transport::{Lane, Rank};

/// A way to use MPI's own alltoallv.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// `MPI_Alltoallv` between filling the messages and the other work.
    Blocking,
    /// `MPI_Ialltoallv`, the work that needs no other rank, wait: the schedule of the reference DLRM.
    Overlapped,
    /// So many rounds of `MPI_Ialltoallv` under way beside the newest.
    Deep(usize),
}

impl Way {
    /// Rounds under way beside the newest.
    pub(crate) fn lag(self) -> usize {
        if let Way::Deep(lag) = self { lag } else { 0 }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Blocking => "MPI_Alltoallv",
            Way::Overlapped => "MPI_Ialltoallv, overlapped",
            Way::Deep(_) => "MPI_Ialltoallv, lag + 1 at once",
        }
    }
}

/// Rounds of MPI's own alltoallv. MPI has neither leaving nor one fault for all: every rank begins equally many rounds, whoever
/// fails ends the job, and that two ranks differ in a size is noticed only if the message is longer than its room.
pub(crate) struct MpiRounds {
    alltoallv: Alltoallv,
    way: Way,
    /// Whether rounds that are not due are handed out when they are complete.
    elastic: bool,
    rank: Rank,
    ranks: usize,
    begun: u64,
    taken: u64,
    left: bool,
}

/// A round that has begun.
pub(crate) struct Open<'a> {
    round: baseline::Open<'a>,
    way: Way,
    begun: &'a mut u64,
}

/// A complete round.
pub(crate) struct Exchanged<'a> {
    number: u64,
    alltoallv: &'a Alltoallv,
}

/// There are no lanes; errors name this one.
const LANE: Lane = Lane(0);

impl MpiRounds {
    /// All ranks have to call it, with the same arguments.
    pub(crate) fn new(world: &World, way: Way, elastic: bool) -> Result<Self, WorldError> {
        let alltoallv = Alltoallv::new(world, way.lag() + 1)?;
        let (rank, ranks) = (world.rank(), world.ranks());
        Ok(MpiRounds { alltoallv, way, elastic, rank, ranks, begun: 0, taken: 0, left: false })
    }

    fn is_due(&self) -> bool {
        self.taken + (self.way.lag() as u64) < self.begun
    }

    /// The next round, waiting for it.
    fn hand_out(&mut self) -> Result<Exchanged<'_>, CollectiveError> {
        if self.way != Way::Blocking {
            self.alltoallv.finish().map_err(other)?;
        }
        let number = self.taken;
        self.taken += 1;
        Ok(Exchanged { number, alltoallv: &self.alltoallv })
    }
}

impl Collective for MpiRounds {
    type Round<'a> = Open<'a>;
    type Complete<'a> = Exchanged<'a>;

    fn rank(&self) -> Rank {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Open<'_>, CollectiveError> {
        for given in [send.len(), receive.len()] {
            if given != self.ranks {
                return Err(CollectiveError::Count { lane: LANE, given, ranks: self.ranks });
            }
        }
        if self.left {
            return Err(CollectiveError::AfterLeave { lane: LANE });
        }
        if self.is_due() {
            let (begun, due, lag) = (self.begun, self.taken, self.way.lag());
            return Err(CollectiveError::TakeFirst { lane: LANE, begun, due, lag });
        }
        let round = self.alltoallv.open(send, receive).map_err(other)?;
        Ok(Open { round, way: self.way, begun: &mut self.begun })
    }

    fn take(&mut self) -> Result<Option<Exchanged<'_>>, CollectiveError> {
        // To ask also moves messages.
        if self.is_due() || self.elastic && self.alltoallv.is_done().map_err(other)? {
            return self.hand_out().map(Some);
        }
        Ok(None)
    }

    fn flush(&mut self) -> Result<Option<Exchanged<'_>>, CollectiveError> {
        if self.taken < self.begun { self.hand_out().map(Some) } else { Ok(None) }
    }

    fn drain(&mut self) -> Result<Option<Exchanged<'_>>, CollectiveError> {
        self.left = true;
        self.flush()
    }

    fn give_up(&mut self, why: &str) -> CollectiveError {
        CollectiveError::Other(format!("rank {} gave up: {why}", self.rank).into())
    }
}

impl OpenRound for Open<'_> {
    fn number(&self) -> u64 {
        *self.begun
    }

    fn messages_mut(&mut self) -> Messages<'_> {
        self.round.rooms().collect()
    }

    fn needs_progress(&self) -> bool {
        true
    }

    fn progress(&mut self) -> Result<(), CollectiveError> {
        self.round.progress().map_err(other)
    }

    fn publish(self) -> Result<(), CollectiveError> {
        let done = if self.way == Way::Blocking { self.round.block() } else { self.round.begin() };
        done.map_err(other)?;
        *self.begun += 1;
        Ok(())
    }
}

impl CompleteRound for Exchanged<'_> {
    fn number(&self) -> u64 {
        self.number
    }

    fn message(&self, from: Rank) -> &[u8] {
        self.alltoallv.message(from)
    }
}

fn other(error: WorldError) -> CollectiveError {
    CollectiveError::Other(Box::new(error))
}
