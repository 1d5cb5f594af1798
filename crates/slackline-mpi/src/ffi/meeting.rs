//! Collectives that set a group up, without a call that blocks: whoever waits can stop waiting, and can tell for whom it did.

use std::cell::Cell;
use std::mem::{self, MaybeUninit};

use mpi::ffi;

use super::comm::{Comm, byte};
use super::rings::{Peer, null, nulls, test};
use super::{MpiError, check, count};

/// An all-gather of messages from each to each, so that every rank knows who is missing.
pub(crate) struct Meeting {
    comm: Comm,
    tag: i32,
    own: Box<[u8]>,
    sends: Box<[Cell<ffi::MPI_Request>]>,
    /// What has begun to come: its sender, its bytes, its request.
    coming: Vec<(usize, Box<[u8]>, Cell<ffi::MPI_Request>)>,
    here: Vec<Option<Vec<u8>>>,
}

impl Meeting {
    /// Sends `own` to all. The tag is the same on every rank and for no other meeting at the same time.
    pub(crate) fn begin(comm: Comm, tag: i32, own: &[u8]) -> Result<Self, MpiError> {
        let (rank, ranks) = (comm.rank()?, comm.size()?);
        let bytes = count("MPI_Isend", own.len())?;
        let mut here = vec![None; ranks];
        here[rank] = Some(own.to_vec());
        let meeting = Meeting { comm, tag, own: own.into(), sends: nulls(ranks), coming: Vec::new(), here };
        // The next one first, so that not all begin with the same.
        for to in (1..ranks).map(|apart| (rank + apart) % ranks) {
            let request = meeting.sends[to].as_ptr();
            let (from, to) = (meeting.own.as_ptr().cast(), Peer::Rank(to).number());
            // SAFETY: `own` stays as it is until the request is done: dropping a meeting with requests forgets it.
            check("MPI_Isend", unsafe { ffi::MPI_Isend(from, bytes, byte(), to, tag, comm.0, request) })?;
        }
        Ok(meeting)
    }

    /// Moves messages; whether all are here and this rank's own are sent.
    pub(crate) fn advance(&mut self) -> Result<bool, MpiError> {
        while let Some((from, bytes)) = self.probe()? {
            let mut room = vec![0u8; bytes].into_boxed_slice();
            let (to, bytes) = (room.as_mut_ptr().cast(), count("MPI_Irecv", bytes)?);
            let request = Cell::new(null());
            let sender = Peer::Rank(from).number();
            // SAFETY: the room is as large as the message that was probed, and stays until the request is done, as above.
            let code = unsafe { ffi::MPI_Irecv(to, bytes, byte(), sender, self.tag, self.comm.0, request.as_ptr()) };
            check("MPI_Irecv", code)?;
            self.coming.push((from, room, request));
        }
        let mut at = 0;
        while at < self.coming.len() {
            if test(&self.coming[at].2)? {
                let (from, room, _) = self.coming.swap_remove(at);
                self.here[from] = Some(room.into());
            } else {
                at += 1;
            }
        }
        let mut sent = true;
        for request in &self.sends {
            sent &= test(request)?;
        }
        Ok(sent && self.here.iter().all(Option::is_some))
    }

    /// The sender and the length of a message that has come and that nobody has begun to receive.
    fn probe(&self) -> Result<Option<(usize, usize)>, MpiError> {
        let (mut flag, mut bytes) = (0, 0);
        let mut status = MaybeUninit::<ffi::MPI_Status>::uninit();
        // SAFETY: `flag` is written, and the status where it is set.
        let code =
            unsafe { ffi::MPI_Iprobe(Peer::Any.number(), self.tag, self.comm.0, &raw mut flag, status.as_mut_ptr()) };
        check("MPI_Iprobe", code)?;
        if flag == 0 {
            return Ok(None);
        }
        // SAFETY: the call wrote the status.
        check("MPI_Get_count", unsafe { ffi::MPI_Get_count(status.as_ptr(), byte(), &raw mut bytes) })?;
        // SAFETY: as above.
        let from = unsafe { status.assume_init() }.MPI_SOURCE;
        Ok(Some((from.max(0) as usize, bytes.max(0) as usize)))
    }

    /// Those whose message is not here, or who do not take this rank's.
    pub(crate) fn missing(&self) -> Vec<usize> {
        let sent = |rank: &usize| self.sends[*rank].get() == null();
        (0..self.here.len()).filter(|rank| self.here[*rank].is_none() || !sent(rank)).collect()
    }

    /// What every rank has brought, in rank order; nothing from one that is missing.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        mem::take(&mut self.here).into_iter().map(Option::unwrap_or_default).collect()
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        // What MPI may still read or write stays.
        if self.sends.iter().any(|request| request.get() != null()) {
            mem::forget(mem::take(&mut self.own));
        }
        for (_, room, request) in self.coming.drain(..) {
            if request.get() != null() {
                mem::forget(room);
            }
        }
    }
}

/// A copy of a communicator that is on its way.
pub(crate) struct Copying {
    request: Cell<ffi::MPI_Request>,
    new: Option<Box<Cell<ffi::MPI_Comm>>>,
}

impl Copying {
    pub(crate) fn begin(comm: Comm) -> Result<Self, MpiError> {
        let copying = Copying { request: Cell::new(null()), new: Some(Box::new(Cell::new(comm.0))) };
        let new = copying.new.as_ref().map_or(std::ptr::null_mut(), |new| new.as_ptr());
        // SAFETY: a live communicator; `new` is on the heap until the request is done: dropping it before forgets it.
        check("MPI_Comm_idup", unsafe { ffi::MPI_Comm_idup(comm.0, new, copying.request.as_ptr()) })?;
        Ok(copying)
    }

    /// The copy, once all ranks have begun to make it.
    pub(crate) fn advance(&mut self) -> Result<Option<Comm>, MpiError> {
        if !test(&self.request)? {
            return Ok(None);
        }
        let new = self.new.as_ref().map(|new| Comm(new.get()));
        new.map(|new| new.return_errors().map(|()| new)).transpose()
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if self.request.get() != null() {
            mem::forget(self.new.take());
        }
    }
}
