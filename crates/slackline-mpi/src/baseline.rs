//! MPI's own alltoallv, as a baseline without bounded lag.
//!
//! Sizes are fixed, as they are between the ranks of a DLRM. With a depth of 1, [`Alltoallv::block`] is the plain exchange,
//! and [`begin`](Alltoallv::begin) with [`finish`](Alltoallv::finish) is the overlapped one of the DLRM reference
//! (`MPI_Ialltoallv`, bottom MLP, wait). A depth of `k + 1` allows that many rounds in flight, which bounds the ranks as lag
//! `k` does.

use std::collections::VecDeque;

use crate::ffi::alltoallv::Call;
use crate::world::{World, WorldError};

/// Alltoallv rounds of fixed sizes, a fixed number of which (the depth) may be in flight at once.
pub struct Alltoallv {
    /// Next to begin first; those under way stand in `busy`, oldest first.
    idle: VecDeque<Call>,
    busy: VecDeque<Call>,
}

impl Alltoallv {
    /// Rounds in which this rank sends `send[to]` bytes to every rank and receives `receive[from]` bytes from every rank. All
    /// ranks have to call it, with sizes that match, equally often. It makes a communicator of its own.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`], also if the sizes add up to 2 GiB or more, for which MPI's counts are too small.
    ///
    /// # Panics
    ///
    /// With a depth of 0, or if there is not one size for each rank.
    pub fn new(world: &World, send: &[usize], receive: &[usize], depth: usize) -> Result<Self, WorldError> {
        assert!(depth > 0, "at least one round");
        let comm = world.duplicate()?;
        let idle = (0..depth).map(|_| Call::new(comm, send, receive)).collect::<Result<_, _>>()?;
        Ok(Alltoallv { idle, busy: VecDeque::new() })
    }

    /// Room for the next round's message to a rank.
    ///
    /// # Panics
    ///
    /// If as many rounds as the depth allows are under way.
    pub fn room(&mut self, to: usize) -> &mut [u8] {
        self.idle.front_mut().expect("rounds under way up to the depth").room(to)
    }

    /// Begins the next round. Returns at once.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    ///
    /// # Panics
    ///
    /// As [`room`](Self::room).
    pub fn begin(&mut self) -> Result<(), WorldError> {
        let mut call = self.idle.pop_front().expect("rounds under way up to the depth");
        call.begin()?;
        self.busy.push_back(call);
        Ok(())
    }

    /// Does the next round from beginning to end.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    ///
    /// # Panics
    ///
    /// If rounds are under way.
    pub fn block(&mut self) -> Result<(), WorldError> {
        assert!(self.busy.is_empty(), "rounds are under way");
        let mut call = self.idle.pop_front().expect("at least one round");
        call.block()?;
        self.idle.push_back(call);
        Ok(())
    }

    /// Rounds under way.
    pub fn under_way(&self) -> usize {
        self.busy.len()
    }

    /// Whether the oldest round under way is done; lets MPI move messages.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    pub fn is_done(&mut self) -> Result<bool, WorldError> {
        Ok(match self.busy.front_mut() {
            Some(call) => call.is_done()?,
            None => false,
        })
    }

    /// Waits for the oldest round under way.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    ///
    /// # Panics
    ///
    /// If none is.
    pub fn finish(&mut self) -> Result<(), WorldError> {
        let mut call = self.busy.pop_front().expect("a round under way");
        call.wait()?;
        self.idle.push_back(call);
        Ok(())
    }

    /// What a rank sent in the round that ended last; good until the next one begins.
    pub fn message(&self, from: usize) -> &[u8] {
        self.idle.back().expect("a round that has ended").message(from)
    }
}
