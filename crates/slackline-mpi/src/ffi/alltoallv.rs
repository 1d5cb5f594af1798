//! MPI's own alltoallv, blocking or not, on buffers that nobody else can touch meanwhile.

use std::ffi::c_int;
use std::mem;

use mpi::ffi;
use slackline_transport::SLOT_ALIGN;

use super::comm::{Comm, byte};
use super::{MpiError, check, count};

/// So many bytes of a buffer, on a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; SLOT_ALIGN]);

/// The bytes that go to, or come from, each rank, in one buffer: each message begins on a line. What C sees of it has been
/// checked against the buffer.
struct Side {
    counts: Vec<c_int>,
    places: Vec<c_int>,
    /// At least one, since MPI does not like a buffer of nothing.
    lines: Vec<Line>,
}

impl Side {
    fn new(ranks: usize) -> Self {
        Side { counts: vec![0; ranks], places: vec![0; ranks], lines: vec![Line([0; SLOT_ALIGN])] }
    }

    /// After an error it is as it was.
    fn lay_out(&mut self, sizes: &[usize]) -> Result<(), MpiError> {
        if self.counts.iter().zip(sizes).all(|(count, size)| *count as usize == *size) {
            // The usual case: a model's messages keep their sizes.
            return Ok(());
        }
        let (mut counts, mut places) = (Vec::with_capacity(sizes.len()), Vec::with_capacity(sizes.len()));
        let mut end = 0usize;
        for &size in sizes {
            counts.push(count("MPI_Alltoallv", size)?);
            places.push(count("MPI_Alltoallv", end)?);
            end = end.saturating_add(size.next_multiple_of(SLOT_ALIGN));
        }
        if end > self.lines.len() * SLOT_ALIGN {
            self.lines.resize(end / SLOT_ALIGN, Line([0; SLOT_ALIGN]));
        }
        (self.counts, self.places) = (counts, places);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: lines lie without gaps, are bytes throughout, and are initialised.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * SLOT_ALIGN) }
    }

    fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
        // SAFETY: as in `bytes`; any bytes are good lines, and the borrow of the lines goes on.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * SLOT_ALIGN) }
    }

    fn message(&self, rank: usize) -> &[u8] {
        &self.bytes()[self.places[rank] as usize..][..self.counts[rank] as usize]
    }

    fn messages_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = Self::bytes_mut(&mut self.lines);
        self.counts.iter().map(move |&count| {
            let whole = (count as usize).next_multiple_of(SLOT_ALIGN);
            let (message, behind) = mem::take(&mut rest).split_at_mut(whole);
            rest = behind;
            &mut message[..count as usize]
        })
    }
}

/// One alltoallv after another, in the same buffers.
pub(crate) struct Call {
    comm: Comm,
    sending: Side,
    receiving: Side,
    /// Null while the buffers are ours.
    request: ffi::MPI_Request,
}

fn null() -> ffi::MPI_Request {
    // SAFETY: a constant that the shim of the bindings holds.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

impl Call {
    /// Without any messages yet.
    pub(crate) fn new(comm: Comm) -> Result<Self, MpiError> {
        let ranks = comm.size()?;
        Ok(Call { comm, sending: Side::new(ranks), receiving: Side::new(ranks), request: null() })
    }

    /// Makes room for messages of these sizes. What was there is lost.
    ///
    /// # Panics
    ///
    /// If there is not one size for each rank, or the exchange is under way.
    pub(crate) fn lay_out(&mut self, send: &[usize], receive: &[usize]) -> Result<(), MpiError> {
        self.assert_ours();
        let ranks = self.sending.counts.len();
        assert!(send.len() == ranks && receive.len() == ranks, "one size for each of {ranks} ranks");
        self.sending.lay_out(send)?;
        self.receiving.lay_out(receive)
    }

    /// Room for the message to each rank, in rank order.
    ///
    /// # Panics
    ///
    /// If the exchange is under way.
    pub(crate) fn rooms(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.assert_ours();
        self.sending.messages_mut()
    }

    /// # Panics
    ///
    /// If the exchange is under way.
    pub(crate) fn message(&self, from: usize) -> &[u8] {
        self.assert_ours();
        self.receiving.message(from)
    }

    fn assert_ours(&self) {
        assert!(self.request == null(), "the exchange is under way");
    }

    pub(crate) fn block(&mut self) -> Result<(), MpiError> {
        self.assert_ours();
        // SAFETY: one count and one displacement for each rank, all inside of the buffers.
        let code = unsafe {
            ffi::MPI_Alltoallv(
                self.sending.lines.as_ptr().cast(),
                self.sending.counts.as_ptr(),
                self.sending.places.as_ptr(),
                byte(),
                self.receiving.lines.as_mut_ptr().cast(),
                self.receiving.counts.as_ptr(),
                self.receiving.places.as_ptr(),
                byte(),
                self.comm.0,
            )
        };
        check("MPI_Alltoallv", code)
    }

    pub(crate) fn begin(&mut self) -> Result<(), MpiError> {
        self.assert_ours();
        // SAFETY: as in `block`; buffers and counts are on the heap and stay as they are until the request is done: `lay_out`,
        // `rooms` and `message` refuse, and dropping a call under way forgets them.
        let code = unsafe {
            ffi::MPI_Ialltoallv(
                self.sending.lines.as_ptr().cast(),
                self.sending.counts.as_ptr(),
                self.sending.places.as_ptr(),
                byte(),
                self.receiving.lines.as_mut_ptr().cast(),
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
            for side in [&mut self.sending, &mut self.receiving] {
                mem::forget(mem::take(&mut side.counts));
                mem::forget(mem::take(&mut side.places));
                mem::forget(mem::take(&mut side.lines));
            }
        }
    }
}
