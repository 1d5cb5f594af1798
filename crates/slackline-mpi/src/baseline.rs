//! MPI's own alltoallv, as a baseline without bounded lag.
//!
//! With a depth of 1, [`Open::block`] is the plain exchange, and [`Open::begin`] with [`Alltoallv::finish`] is the overlapped
//! one of the DLRM reference (`MPI_Ialltoallv`, bottom MLP, wait). A depth of `k + 1` allows that many rounds in flight, which
//! bounds the ranks as lag `k` does.

use std::collections::VecDeque;

use crate::ffi::alltoallv::Call;
use crate::world::{World, WorldError};

/// Alltoallv rounds, a fixed number of which (the depth) may be in flight at once.
pub struct Alltoallv {
    /// Next to begin first; those under way stand in `busy`, oldest first.
    idle: VecDeque<Call>,
    busy: VecDeque<Call>,
    /// MPI is not ended while this is used.
    _world: World,
}

/// A round with its rooms, which has not begun. If it is dropped, it never happened.
#[must_use = "a round that is neither begun nor blocked on never happened"]
pub struct Open<'a> {
    alltoallv: &'a mut Alltoallv,
}

impl Alltoallv {
    /// All ranks have to call it equally often. It makes a communicator of its own.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    ///
    /// # Panics
    ///
    /// With a depth of 0.
    pub fn new(world: &World, depth: usize) -> Result<Self, WorldError> {
        assert!(depth > 0, "at least one round");
        let comm = world.duplicate()?;
        let idle = (0..depth).map(|_| Call::new(comm)).collect::<Result<_, _>>()?;
        Ok(Alltoallv { idle, busy: VecDeque::new(), _world: world.clone() })
    }

    /// The next round, in which this rank sends `send[to]` bytes to every rank and receives `receive[from]` bytes from every
    /// rank. The sizes have to match on the two ranks of each pair: MPI does not promise to notice.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`] if the sizes add up to 2 GiB or more, for which MPI's counts are too small.
    ///
    /// # Panics
    ///
    /// If as many rounds as the depth allows are under way, or if there is not one size for each rank.
    pub fn open(&mut self, send: &[usize], receive: &[usize]) -> Result<Open<'_>, WorldError> {
        self.next().lay_out(send, receive)?;
        Ok(Open { alltoallv: self })
    }

    fn next(&mut self) -> &mut Call {
        self.idle.front_mut().expect("rounds under way up to the depth")
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

    /// What a rank sent in the round that ended last, beginning on a multiple of 64 bytes; good until the next one is opened.
    pub fn message(&self, from: usize) -> &[u8] {
        self.idle.back().expect("a round that has ended").message(from)
    }
}

impl Open<'_> {
    /// Room for the message to each rank, in rank order, each beginning on a multiple of 64 bytes, with unspecified contents.
    pub fn rooms(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.alltoallv.next().rooms()
    }

    /// Lets MPI move earlier messages. Never waits.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    pub fn progress(&mut self) -> Result<(), WorldError> {
        self.alltoallv.is_done().map(drop)
    }

    /// Begins the round. Returns at once.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    pub fn begin(self) -> Result<(), WorldError> {
        let Alltoallv { idle, busy, .. } = self.alltoallv;
        let mut call = idle.pop_front().expect("it was opened");
        call.begin()?;
        busy.push_back(call);
        Ok(())
    }

    /// Does the round from beginning to end.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    ///
    /// # Panics
    ///
    /// If rounds are under way.
    pub fn block(self) -> Result<(), WorldError> {
        let Alltoallv { idle, busy, .. } = self.alltoallv;
        assert!(busy.is_empty(), "rounds are under way");
        let mut call = idle.pop_front().expect("it was opened");
        call.block()?;
        idle.push_back(call);
        Ok(())
    }
}
