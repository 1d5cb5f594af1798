//! Slots with the requests that own them meanwhile. A slot is *free* (nobody's: ours to write), *in flight* (MPI's, until
//! the request is done) or *ready* (received: ours to read); no other module sees a request. Slots that are not in flight can
//! be lent, and come in flight only when whoever holds them has given them back.
//!
//! Requests and counts lie in cells, so that rings go on while their slots are lent.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::mem::{self, MaybeUninit};
use std::time::Instant;

use mpi::ffi;
use slackline_transport::{Message, Room, SLOT_ALIGN};

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
    pub(super) fn number(self) -> c_int {
        match self {
            Peer::Rank(rank) => rank as c_int,
            // SAFETY: a constant that the shim of the bindings holds.
            Peer::Any => unsafe { ffi::RSMPI_ANY_SOURCE },
        }
    }
}

#[inline]
pub(super) fn null() -> ffi::MPI_Request {
    // SAFETY: a constant that the shim of the bindings holds.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// Requests that are not under way.
pub(super) fn nulls(count: usize) -> Box<[Cell<ffi::MPI_Request>]> {
    vec![Cell::new(null()); count].into()
}

/// Whether a request is done; a done one is null from then on, and a null one is done.
#[inline]
pub(super) fn test(request: &Cell<ffi::MPI_Request>) -> Result<bool, MpiError> {
    if request.get() == null() {
        return Ok(true);
    }
    let mut flag = 0;
    // SAFETY: a constant that the shim of the bindings holds.
    let ignore = unsafe { ffi::RSMPI_STATUS_IGNORE };
    // SAFETY: a live request, in a cell that only this thread reaches; the status may be ignored.
    check("MPI_Test", unsafe { ffi::MPI_Test(request.as_ptr(), &raw mut flag, ignore) })?;
    Ok(flag != 0)
}

/// The slots towards one peer.
pub(crate) struct SendRing {
    route: Route,
    slots: Slots,
    /// Null where the slot is free.
    requests: Box<[Cell<ffi::MPI_Request>]>,
}

impl SendRing {
    pub(crate) fn new(route: Route, slots: Slots) -> Self {
        let requests = nulls(slots.count());
        SendRing { route, slots, requests }
    }

    /// A free slot's payload, to write; `None` while it is lent.
    ///
    /// # Panics
    ///
    /// If the slot is in flight.
    #[inline]
    pub(crate) fn room(&self, index: usize) -> Option<Room<'_>> {
        self.assert_free(index);
        // SAFETY: no request is on the slot.
        unsafe { self.slots.lend_mut(index) }
    }

    /// The first bytes of a free slot's payload, to read.
    ///
    /// # Panics
    ///
    /// If the slot is in flight, shorter, or being written.
    #[inline]
    pub(crate) fn content(&self, index: usize, length: usize) -> Message<'_> {
        self.assert_free(index);
        // SAFETY: no request is on the slot.
        unsafe { self.slots.lend(index, length) }
    }

    /// Whether a slot's payload is held, to read or to write.
    #[inline]
    pub(crate) fn is_lent(&self, index: usize) -> bool {
        self.slots.is_lent(index)
    }

    /// Sends the first `length` bytes of a free slot.
    ///
    /// # Panics
    ///
    /// If the slot is in flight, lent, or shorter.
    #[inline]
    pub(crate) fn send(&self, index: usize, header: [u8; HEADER], length: usize) -> Result<(), MpiError> {
        self.assert_free(index);
        assert!(length <= self.slots.slot_bytes(), "published {length} bytes in a slot of {}", self.slots.slot_bytes());
        let frame = self.slots.frame(index);
        // SAFETY: a header's room, which nobody else refers to.
        unsafe { frame.cast::<[u8; HEADER]>().write_unaligned(header) };
        let bytes = count("MPI_Isend", FRAME + length)?;
        let Route { comm, peer, tag } = self.route;
        let request = self.requests[index].as_ptr();
        // SAFETY: header and payload are one stretch of the slot, whose payload is not lent. They stay as they are until the
        // request is done: `room`, `content` and `send` refuse the slot, and dropping a ring with requests forgets its slots.
        let code = unsafe { ffi::MPI_Isend(frame.as_ptr().cast(), bytes, byte(), peer.number(), tag, comm.0, request) };
        check("MPI_Isend", code)
    }

    #[inline]
    fn assert_free(&self, index: usize) {
        assert!(self.requests[index].get() == null(), "slot {index} is in flight");
    }

    /// Whether a slot is free; lets MPI look.
    #[inline]
    pub(crate) fn is_free(&self, index: usize) -> Result<bool, MpiError> {
        test(&self.requests[index])
    }

    /// Waits until all slots are free; `false` if they are not by `until`.
    pub(crate) fn finish(&self, until: Instant) -> Result<bool, MpiError> {
        for request in &self.requests {
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
        if self.requests.iter().any(|request| request.get() != null()) {
            // MPI may still read the slots: their memory stays.
            mem::forget(mem::replace(&mut self.slots, Slots::new(1, SLOT_ALIGN)));
        }
    }
}

/// The slots from one peer. Message `n` comes into slot `n % slots`; receives are posted in the order of messages.
///
/// `released <= landed <= posted <= released + slots`: messages `released .. landed` are ready, and there are receives for
/// `landed .. posted`. Only ready messages are lent, and none that is released.
struct ReceiveRing {
    route: Route,
    slots: Slots,
    /// Null where the slot is not in flight, or where its request is the ring's head.
    requests: Box<[Cell<ffi::MPI_Request>]>,
    /// Payload bytes of ready slots.
    lengths: Box<[Cell<usize>]>,
    released: Cell<u64>,
    landed: Cell<u64>,
    posted: Cell<u64>,
}

/// All rings from all peers, on all lanes, with the oldest request of each beside each other: one call looks at them all.
pub(crate) struct Receives {
    rings: Vec<Option<ReceiveRing>>,
    heads: Box<[Cell<ffi::MPI_Request>]>,
    outcome: RefCell<Outcome>,
}

/// What a look at the heads leaves behind, as long as they are.
struct Outcome {
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
            let (requests, lengths) = (nulls(slots.count()), vec![Cell::new(0); slots.count()].into());
            let [released, landed, posted] = [const { Cell::new(0) }; 3];
            ReceiveRing { route, slots, requests, lengths, released, landed, posted }
        };
        let statuses = (0..total).map(|_| MaybeUninit::uninit()).collect();
        Receives {
            rings: rings.into_iter().map(|parts| parts.map(ring)).collect(),
            heads: nulls(total),
            outcome: RefCell::new(Outcome { done: vec![0; total], statuses }),
        }
    }

    /// Posts the receives of all messages below `upto` for which there are slots.
    #[inline]
    pub(crate) fn post(&self, index: usize, upto: u64) -> Result<(), MpiError> {
        let Some(ring) = &self.rings[index] else { return Ok(()) };
        let upto = upto.min(ring.released.get() + ring.slots.count() as u64);
        while ring.posted.get() < upto {
            let posted = ring.posted.get();
            let slot = ring.slot(posted);
            ring.post(slot)?;
            if posted == ring.landed.get() {
                self.heads[index].set(ring.requests[slot].replace(null()));
            }
            ring.posted.set(posted + 1);
        }
        Ok(())
    }

    /// Lets MPI move messages and reports those that have come, oldest first within a ring.
    #[inline]
    pub(crate) fn poll(&self, mut landed: impl FnMut(Landed)) -> Result<(), MpiError> {
        let Outcome { done, statuses } = &mut *self.outcome.borrow_mut();
        loop {
            let mut outcount = 0;
            // SAFETY: as many indices and statuses as requests, all live or null. The requests lie beside each other, as
            // cells are laid out as what is in them, and only this thread reaches them.
            let code = unsafe {
                ffi::MPI_Testsome(
                    self.heads.len() as c_int,
                    self.heads.as_ptr().cast::<ffi::MPI_Request>().cast_mut(),
                    &raw mut outcount,
                    done.as_mut_ptr(),
                    statuses.as_mut_ptr().cast(),
                )
            };
            check("MPI_Testsome", code)?;
            // MPI_UNDEFINED, a negative number, where all are null.
            if outcount <= 0 {
                return Ok(());
            }
            for at in 0..outcount as usize {
                let index = done[at] as usize;
                let mut bytes = 0;
                // SAFETY: the call wrote one status for each request that it says is done.
                let code = unsafe { ffi::MPI_Get_count(statuses[at].as_ptr(), byte(), &raw mut bytes) };
                check("MPI_Get_count", code)?;
                let ring = self.rings[index].as_ref().expect("requests come from rings");
                let header = ring.take_in(bytes.max(0) as usize)?;
                let slot = ring.slot(ring.landed.get());
                self.heads[index].set(ring.requests[slot].replace(null()));
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
    pub(crate) fn message(&self, ring: usize, number: u64) -> Message<'_> {
        let ring = self.rings[ring].as_ref().expect("a ring of a peer");
        assert!(
            number >= ring.released.get() && number < ring.landed.get(),
            "message {number} was asked for, which has been released or not landed"
        );
        let slot = ring.slot(number);
        // SAFETY: the message is ready, so no request is on its slot.
        unsafe { ring.slots.lend(slot, ring.lengths[slot].get()) }
    }

    /// The number of the oldest message that has not been released.
    pub(crate) fn oldest(&self, ring: usize) -> u64 {
        self.rings[ring].as_ref().map_or(0, |ring| ring.released.get())
    }

    /// Gives the slots of all ready messages below `upto` back.
    ///
    /// # Panics
    ///
    /// If one of them is not ready or is lent, or if `upto` was released before.
    #[inline]
    pub(crate) fn release(&self, ring: usize, upto: u64) {
        let ring = self.rings[ring].as_ref().expect("a ring of a peer");
        let released = ring.released.get();
        assert!(
            upto >= released && upto <= ring.landed.get(),
            "released up to message {upto}, outside of {released} ..= {}",
            ring.landed.get()
        );
        for number in released..upto {
            assert!(!ring.slots.is_lent(ring.slot(number)), "message {number} was released while it is held");
        }
        ring.released.set(upto);
    }

    /// Takes the receives back for which no message came; `false` if some are still not done by `until`.
    pub(crate) fn cancel(&self, until: Instant) -> Result<bool, MpiError> {
        let rings = self.rings.iter().flatten().flat_map(|ring| &ring.requests);
        let mut finished = true;
        for request in self.heads.iter().chain(rings) {
            finished &= take_back(request, until)?;
        }
        Ok(finished)
    }
}

/// Cancels a receive and waits until it is done, cancelled or not; `false` if it is not by `until`.
fn take_back(request: &Cell<ffi::MPI_Request>, until: Instant) -> Result<bool, MpiError> {
    if request.get() == null() {
        return Ok(true);
    }
    // SAFETY: a live request, in a cell that only this thread reaches.
    check("MPI_Cancel", unsafe { ffi::MPI_Cancel(request.as_ptr()) })?;
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
            if head.get() != null() || ring.requests.iter().any(|request| request.get() != null()) {
                // MPI may still write into the slots: their memory stays.
                mem::forget(mem::replace(&mut ring.slots, Slots::new(1, SLOT_ALIGN)));
            }
        }
    }
}

impl ReceiveRing {
    #[inline]
    fn post(&self, slot: usize) -> Result<(), MpiError> {
        let bytes = count("MPI_Irecv", FRAME + self.slots.slot_bytes())?;
        let Route { comm, peer, tag } = self.route;
        let frame = self.slots.frame(slot);
        let request = self.requests[slot].as_ptr();
        // SAFETY: header and payload are one stretch of the slot, whose payload is not lent, and which is neither read nor
        // written until the request is done: it is not among the ready ones, and dropping a ring with requests forgets its
        // slots.
        let code = unsafe { ffi::MPI_Irecv(frame.as_ptr().cast(), bytes, byte(), peer.number(), tag, comm.0, request) };
        check("MPI_Irecv", code)
    }

    /// The head is done, with so many bytes.
    #[inline]
    fn take_in(&self, bytes: usize) -> Result<[u8; HEADER], MpiError> {
        let length = bytes.checked_sub(FRAME).filter(|length| *length <= self.slots.slot_bytes());
        let Some(length) = length else {
            let text = format!("{} sent {bytes} bytes, which is no message", self.route.peer);
            return Err(MpiError { call: "receiving", code: ffi::MPI_ERR_TRUNCATE as c_int, text });
        };
        let slot = self.slot(self.landed.get());
        self.lengths[slot].set(length);
        self.landed.set(self.landed.get() + 1);
        // SAFETY: the request on the slot is done, and it received a header at least.
        Ok(unsafe { self.slots.frame(slot).cast::<[u8; HEADER]>().read_unaligned() })
    }

    #[inline]
    fn slot(&self, number: u64) -> usize {
        (number % self.slots.count() as u64) as usize
    }
}
