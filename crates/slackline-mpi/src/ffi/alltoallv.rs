//! MPI's own alltoallv, blocking or not, on buffers that nobody else can touch meanwhile.

use std::ffi::c_int;
use std::mem;

use mpi::ffi;

use super::comm::{Comm, byte};
use super::{MpiError, check, count};

/// How many bytes go to, or come from, each rank, and where they lie: checked against their buffer once, for C.
struct Layout {
    counts: Vec<c_int>,
    places: Vec<c_int>,
    bytes: usize,
}

impl Layout {
    fn new(sizes: &[usize]) -> Result<Self, MpiError> {
        let mut layout = Layout { counts: Vec::new(), places: Vec::new(), bytes: 0 };
        for size in sizes {
            layout.counts.push(count("MPI_Alltoallv", *size)?);
            layout.places.push(count("MPI_Alltoallv", layout.bytes)?);
            layout.bytes = layout.bytes.saturating_add(*size);
        }
        Ok(layout)
    }

    fn range(&self, rank: usize) -> std::ops::Range<usize> {
        let begin = self.places[rank] as usize;
        begin..begin + self.counts[rank] as usize
    }
}

/// An alltoallv of fixed sizes with its buffers.
pub(crate) struct Call {
    comm: Comm,
    sending: Layout,
    receiving: Layout,
    send: Vec<u8>,
    receive: Vec<u8>,
    /// Null while the buffers are ours.
    request: ffi::MPI_Request,
}

fn null() -> ffi::MPI_Request {
    // SAFETY: a constant that the shim of the bindings holds.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

impl Call {
    /// # Panics
    ///
    /// If there is not one size for each rank.
    pub(crate) fn new(comm: Comm, send: &[usize], receive: &[usize]) -> Result<Self, MpiError> {
        let ranks = comm.size()?;
        assert!(send.len() == ranks && receive.len() == ranks, "one size for each of {ranks} ranks");
        let (sending, receiving) = (Layout::new(send)?, Layout::new(receive)?);
        // One byte more than nothing, since MPI does not like a buffer of nothing.
        let (send, receive) = (vec![0; sending.bytes.max(1)], vec![0; receiving.bytes.max(1)]);
        Ok(Call { comm, sending, receiving, send, receive, request: null() })
    }

    /// # Panics
    ///
    /// If the exchange is under way.
    pub(crate) fn room(&mut self, to: usize) -> &mut [u8] {
        assert!(self.request == null(), "the exchange is under way");
        &mut self.send[self.sending.range(to)]
    }

    /// # Panics
    ///
    /// If the exchange is under way.
    pub(crate) fn message(&self, from: usize) -> &[u8] {
        assert!(self.request == null(), "the exchange is under way");
        &self.receive[self.receiving.range(from)]
    }

    pub(crate) fn block(&mut self) -> Result<(), MpiError> {
        assert!(self.request == null(), "the exchange is under way");
        // SAFETY: one count and one displacement for each rank, all inside of the buffers.
        let code = unsafe {
            ffi::MPI_Alltoallv(
                self.send.as_ptr().cast(),
                self.sending.counts.as_ptr(),
                self.sending.places.as_ptr(),
                byte(),
                self.receive.as_mut_ptr().cast(),
                self.receiving.counts.as_ptr(),
                self.receiving.places.as_ptr(),
                byte(),
                self.comm.0,
            )
        };
        check("MPI_Alltoallv", code)
    }

    pub(crate) fn begin(&mut self) -> Result<(), MpiError> {
        assert!(self.request == null(), "the exchange is under way");
        // SAFETY: as in `block`; buffers and counts are on the heap and stay as they are until the request is done: `room`
        // and `message` refuse, and dropping a call under way forgets them.
        let code = unsafe {
            ffi::MPI_Ialltoallv(
                self.send.as_ptr().cast(),
                self.sending.counts.as_ptr(),
                self.sending.places.as_ptr(),
                byte(),
                self.receive.as_mut_ptr().cast(),
                self.receiving.counts.as_ptr(),
                self.receiving.places.as_ptr(),
                byte(),
                self.comm.0,
                &raw mut self.request,
            )
        };
        check("MPI_Ialltoallv", code)
    }

    /// Whether it is done; lets MPI move it on.
    pub(crate) fn is_done(&mut self) -> Result<bool, MpiError> {
        if self.request == null() {
            return Ok(true);
        }
        // SAFETY: a constant that the shim of the bindings holds.
        let ignore = unsafe { ffi::RSMPI_STATUS_IGNORE };
        let mut flag = 0;
        // SAFETY: a live request; the status may be ignored.
        check("MPI_Test", unsafe { ffi::MPI_Test(&raw mut self.request, &raw mut flag, ignore) })?;
        Ok(flag != 0)
    }

    pub(crate) fn wait(&mut self) -> Result<(), MpiError> {
        // SAFETY: a constant that the shim of the bindings holds.
        let ignore = unsafe { ffi::RSMPI_STATUS_IGNORE };
        // SAFETY: a live or a null request; the status may be ignored.
        check("MPI_Wait", unsafe { ffi::MPI_Wait(&raw mut self.request, ignore) })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.request != null() {
            // MPI may still use them.
            mem::forget(mem::take(&mut self.send));
            mem::forget(mem::take(&mut self.receive));
            for layout in [&mut self.sending, &mut self.receiving] {
                mem::forget(mem::take(&mut layout.counts));
                mem::forget(mem::take(&mut layout.places));
            }
        }
    }
}
