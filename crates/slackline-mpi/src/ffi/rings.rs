//! Slots with the requests that own them meanwhile. A slot is *free* (nobody's: ours to write), *in flight* (MPI's, until
//! the request is done) or *ready* (received: ours to read); no other module sees a request.

use std::ffi::c_int;
use std::mem::{self, MaybeUninit};
use std::time::Instant;

use mpi::ffi;

use super::comm::{Comm, byte};
use super::slots::{FRAME, HEADER, Slots};
use super::{MpiError, check, count};

/// Where a ring leads or comes from.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) comm: Comm,
    pub(crate) peer: Peer,
    pub(crate) tag: i32,
}

/// Who is at the other end.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    Rank(usize),
    /// Whoever sends; for receives only.
    Any,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Rank(rank) => write!(f, "rank {rank}"),
            Peer::Any => f.write_str("some rank"),
        }
    }
}

impl Peer {
    #[inline]
    fn number(self) -> c_int {
        match self {
            Peer::Rank(rank) => rank as c_int,
            // SAFETY: a constant that the shim of the bindings holds.
            Peer::Any => unsafe { ffi::RSMPI_ANY_SOURCE },
        }
    }
}

#[inline]
fn null() -> ffi::MPI_Request {
    // SAFETY: a constant that the shim of the bindings holds.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// Whether a request is done; a done one is null from then on, and a null one is done.
#[inline]
fn test(request: &mut ffi::MPI_Request) -> Result<bool, MpiError> {
    if *request == null() {
        return Ok(true);
    }
    let mut flag = 0;
    // SAFETY: a constant that the shim of the bindings holds.
    let ignore = unsafe { ffi::RSMPI_STATUS_IGNORE };
    // SAFETY: a live request; the status may be ignored.
    check("MPI_Test", unsafe { ffi::MPI_Test(request, &raw mut flag, ignore) })?;
    Ok(flag != 0)
}

/// The slots towards one peer.
pub(crate) struct SendRing {
    route: Route,
    slots: Slots,
    /// Null where the slot is free.
    requests: Vec<ffi::MPI_Request>,
}

impl SendRing {
    pub(crate) fn new(route: Route, slots: Slots) -> Self {
        let requests = vec![null(); slots.count()];
        SendRing { route, slots, requests }
    }

    /// A free slot's payload.
    ///
    /// # Panics
    ///
    /// If the slot is in flight.
    #[inline]
    pub(crate) fn room(&mut self, index: usize) -> &mut [u8] {
        assert!(self.requests[index] == null(), "slot {index} is in flight");
        let payload = self.slots.payload(index);
        // SAFETY: inside of the allocation; no request is on the slot, and `&mut self` keeps one from being put on it.
        unsafe { std::slice::from_raw_parts_mut(payload.as_ptr(), self.slots.slot_bytes()) }
    }

    /// A free slot's payload, to read.
    ///
    /// # Panics
    ///
    /// If the slot is in flight.
    #[inline]
    pub(crate) fn content(&self, index: usize) -> &[u8] {
        assert!(self.requests[index] == null(), "slot {index} is in flight");
        // SAFETY: as in `room`, and `&self` keeps the slot from being written.
        unsafe { std::slice::from_raw_parts(self.slots.payload(index).as_ptr(), self.slots.slot_bytes()) }
    }

    /// Sends the first `len` bytes of a free slot.
    ///
    /// # Panics
    ///
    /// If the slot is in flight, or shorter.
    #[inline]
    pub(crate) fn send(&mut self, index: usize, header: [u8; HEADER], len: usize) -> Result<(), MpiError> {
        assert!(self.requests[index] == null(), "slot {index} is in flight");
        assert!(len <= self.slots.slot_bytes(), "published {len} bytes in a slot of {}", self.slots.slot_bytes());
        let frame = self.slots.frame(index);
        // SAFETY: a header's room, which nobody else refers to.
        unsafe { frame.cast::<[u8; HEADER]>().write_unaligned(header) };
        let bytes = count("MPI_Isend", FRAME + len)?;
        let Route { comm, peer, tag } = self.route;
        let request = &mut self.requests[index];
        // SAFETY: header and payload are one stretch of the slot. They stay as they are until the request is done: `room`
        // and `send` refuse the slot, and dropping a ring with requests forgets its slots.
        let code = unsafe { ffi::MPI_Isend(frame.as_ptr().cast(), bytes, byte(), peer.number(), tag, comm.0, request) };
        check("MPI_Isend", code)
    }

    /// Whether a slot is free; lets MPI look.
    #[inline]
    pub(crate) fn is_free(&mut self, index: usize) -> Result<bool, MpiError> {
        test(&mut self.requests[index])
    }

    /// Waits until all slots are free; `false` if they are not by `until`.
    pub(crate) fn finish(&mut self, until: Instant) -> Result<bool, MpiError> {
        for request in &mut self.requests {
            while !test(request)? {
                if Instant::now() >= until {
                    return Ok(false);
                }
                std::thread::yield_now();
            }
        }
        Ok(true)
    }
}

impl Drop for SendRing {
    fn drop(&mut self) {
        if self.requests.iter().any(|request| *request != null()) {
            // MPI may still read the slots: their memory stays.
            mem::forget(mem::replace(&mut self.slots, Slots::new(1, slackline_transport::SLOT_ALIGN)));
        }
    }
}

/// The slots from one peer. Message `n` comes into slot `n % slots`; receives are posted in the order of messages.
///
/// `released <= landed <= posted <= released + slots`: messages `released .. landed` are ready, and there are receives for
/// `landed .. posted`.
struct ReceiveRing {
    route: Route,
    slots: Slots,
    /// Null where the slot is not in flight, or where its request is the ring's head.
    requests: Vec<ffi::MPI_Request>,
    /// Payload bytes of ready slots.
    lengths: Vec<usize>,
    released: u64,
    landed: u64,
    posted: u64,
}

/// All rings from all peers, on all lanes, with the oldest request of each beside each other: one call looks at them all.
pub(crate) struct Receives {
    rings: Vec<Option<ReceiveRing>>,
    heads: Vec<ffi::MPI_Request>,
    done: Vec<c_int>,
    statuses: Vec<MaybeUninit<ffi::MPI_Status>>,
}

/// A message that has come.
pub(crate) struct Landed {
    /// Which ring.
    pub(crate) ring: usize,
    pub(crate) header: [u8; HEADER],
}

impl Receives {
    /// `None` stands where there is no ring (this rank's own). No receive is posted yet.
    pub(crate) fn new(rings: Vec<Option<(Route, Slots)>>) -> Self {
        let total = rings.len();
        let ring = |(route, slots): (Route, Slots)| {
            let count = slots.count();
            let (requests, lengths) = (vec![null(); count], vec![0; count]);
            ReceiveRing { route, slots, requests, lengths, released: 0, landed: 0, posted: 0 }
        };
        Receives {
            rings: rings.into_iter().map(|parts| parts.map(ring)).collect(),
            heads: vec![null(); total],
            done: vec![0; total],
            statuses: (0..total).map(|_| MaybeUninit::uninit()).collect(),
        }
    }

    /// Posts the receives of all messages below `upto` for which there are slots.
    #[inline]
    pub(crate) fn post(&mut self, index: usize, upto: u64) -> Result<(), MpiError> {
        let Some(ring) = &mut self.rings[index] else { return Ok(()) };
        let upto = upto.min(ring.released + ring.slots.count() as u64);
        while ring.posted < upto {
            let slot = ring.slot(ring.posted);
            ring.post(slot)?;
            if ring.posted == ring.landed {
                self.heads[index] = mem::replace(&mut ring.requests[slot], null());
            }
            ring.posted += 1;
        }
        Ok(())
    }

    /// Lets MPI move messages and reports those that have come, oldest first within a ring.
    #[inline]
    pub(crate) fn poll(&mut self, mut landed: impl FnMut(Landed)) -> Result<(), MpiError> {
        loop {
            let mut outcount = 0;
            // SAFETY: as many indices and statuses as requests, all live or null.
            let code = unsafe {
                ffi::MPI_Testsome(
                    self.heads.len() as c_int,
                    self.heads.as_mut_ptr(),
                    &raw mut outcount,
                    self.done.as_mut_ptr(),
                    self.statuses.as_mut_ptr().cast(),
                )
            };
            check("MPI_Testsome", code)?;
            // MPI_UNDEFINED, a negative number, where all are null.
            if outcount <= 0 {
                return Ok(());
            }
            for at in 0..outcount as usize {
                let index = self.done[at] as usize;
                let mut bytes = 0;
                // SAFETY: the call wrote one status for each request that it says is done.
                let code = unsafe { ffi::MPI_Get_count(self.statuses[at].as_ptr(), byte(), &raw mut bytes) };
                check("MPI_Get_count", code)?;
                let ring = self.rings[index].as_mut().expect("requests come from rings");
                let header = ring.landed(bytes.max(0) as usize)?;
                let slot = ring.slot(ring.landed);
                self.heads[index] = mem::replace(&mut ring.requests[slot], null());
                landed(Landed { ring: index, header });
            }
        }
    }

    /// The payload of a ready message.
    ///
    /// # Panics
    ///
    /// If that message is not ready.
    #[inline]
    pub(crate) fn message(&self, ring: usize, number: u64) -> &[u8] {
        let ring = self.rings[ring].as_ref().expect("a ring of a peer");
        assert!(
            number >= ring.released && number < ring.landed,
            "message {number} was asked for, which has been released or not landed"
        );
        let slot = ring.slot(number);
        // SAFETY: inside of the allocation, since MPI received no more than the slot holds; the slot is ready, so no request
        // is on it, and none is put on it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(ring.slots.payload(slot).as_ptr(), ring.lengths[slot]) }
    }

    /// The number of the oldest message that has not been released.
    pub(crate) fn oldest(&self, ring: usize) -> u64 {
        self.rings[ring].as_ref().map_or(0, |ring| ring.released)
    }

    /// Gives the slot of the oldest ready message back.
    ///
    /// # Panics
    ///
    /// If none is ready.
    #[inline]
    pub(crate) fn release(&mut self, ring: usize) {
        let ring = self.rings[ring].as_mut().expect("a ring of a peer");
        assert!(ring.released < ring.landed, "no slot is ready");
        ring.released += 1;
    }

    /// Takes the receives back for which no message came; `false` if some are still not done by `until`.
    pub(crate) fn cancel(&mut self, until: Instant) -> Result<bool, MpiError> {
        let rings = self.rings.iter_mut().flatten().flat_map(|ring| &mut ring.requests);
        let mut finished = true;
        for request in self.heads.iter_mut().chain(rings) {
            finished &= take_back(request, until)?;
        }
        Ok(finished)
    }
}

/// Cancels a receive and waits until it is done, cancelled or not; `false` if it is not by `until`.
fn take_back(request: &mut ffi::MPI_Request, until: Instant) -> Result<bool, MpiError> {
    if *request == null() {
        return Ok(true);
    }
    // SAFETY: a live request.
    check("MPI_Cancel", unsafe { ffi::MPI_Cancel(request) })?;
    while !test(request)? {
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::yield_now();
    }
    Ok(true)
}

impl Drop for Receives {
    fn drop(&mut self) {
        for (ring, head) in self.rings.iter_mut().zip(&self.heads) {
            let Some(ring) = ring else { continue };
            if *head != null() || ring.requests.iter().any(|request| *request != null()) {
                // MPI may still write into the slots: their memory stays.
                mem::forget(mem::replace(&mut ring.slots, Slots::new(1, slackline_transport::SLOT_ALIGN)));
            }
        }
    }
}

impl ReceiveRing {
    #[inline]
    fn post(&mut self, slot: usize) -> Result<(), MpiError> {
        let bytes = count("MPI_Irecv", FRAME + self.slots.slot_bytes())?;
        let Route { comm, peer, tag } = self.route;
        let frame = self.slots.frame(slot);
        let request = &mut self.requests[slot];
        // SAFETY: header and payload are one stretch of the slot, which is neither read nor written until the request is
        // done: it is not among the ready ones, and dropping a ring with requests forgets its slots.
        let code = unsafe { ffi::MPI_Irecv(frame.as_ptr().cast(), bytes, byte(), peer.number(), tag, comm.0, request) };
        check("MPI_Irecv", code)
    }

    /// The head is done, with so many bytes.
    #[inline]
    fn landed(&mut self, bytes: usize) -> Result<[u8; HEADER], MpiError> {
        let length = bytes.checked_sub(FRAME).filter(|length| *length <= self.slots.slot_bytes());
        let Some(length) = length else {
            let text = format!("{} sent {bytes} bytes, which is no message", self.route.peer);
            return Err(MpiError { call: "receiving", code: ffi::MPI_ERR_TRUNCATE as c_int, text });
        };
        let slot = self.slot(self.landed);
        self.lengths[slot] = length;
        self.landed += 1;
        // SAFETY: the request on the slot is done, and it received a header at least.
        Ok(unsafe { self.slots.frame(slot).cast::<[u8; HEADER]>().read_unaligned() })
    }

    #[inline]
    fn slot(&self, number: u64) -> usize {
        (number % self.slots.count() as u64) as usize
    }
}
