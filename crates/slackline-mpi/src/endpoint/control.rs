//! What ranks tell each other beside the messages: credits, farewells, and that the group has failed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use slackline_transport::{Lane, POISON_BYTES, Rank};

use super::{HASTE, MpiEndpoint, NAP, count_up};
use crate::ffi::MpiError;
use crate::ffi::rings::SendRing;
use crate::ffi::slots::HEADER;
use crate::frame::Control;

/// Control messages under way to one peer.
pub(super) const CONTROL_SLOTS: usize = 8;

/// How long the reports of several ranks that noticed a failure at once have to reach each other. The one of the smallest
/// rank becomes the group's.
const SETTLING: Duration = Duration::from_millis(500);

pub(super) struct ControlRing {
    pub(super) ring: SendRing,
    pub(super) next: Cell<usize>,
}

/// What a peer has said about its end.
pub(super) struct Farewells {
    /// How many messages it published, by lane.
    pub(super) left: Vec<Cell<Option<u64>>>,
    pub(super) died: Cell<bool>,
}

impl Farewells {
    /// Whether it has left every lane.
    pub(super) fn has_left(&self) -> bool {
        self.left.iter().all(|left| left.get().is_some())
    }
}

pub(super) struct Poisoning {
    reporter: Rank,
    reason: Vec<u8>,
    since: Instant,
}

impl MpiEndpoint {
    /// A control message has come.
    pub(super) fn hear(&self, ring: usize) -> Result<(), MpiError> {
        // Control messages are used up one by one, in order.
        let number = self.receives.oldest(ring);
        let heard = Control::read(&self.receives.message(ring, number));
        self.receives.release(ring, number + 1);
        self.receives.post(ring, u64::MAX)?;
        let Some((from, control)) = heard.filter(|(from, _)| *from < self.shape.ranks && *from != self.rank) else {
            self.fail_alone(format!("rank {}: a control message that is none", self.rank));
            return Ok(());
        };
        let lane_of = |lane: Lane| (lane.index() < self.shape.lanes.len()).then_some(lane);
        match control {
            Control::Credit { lane, released } => {
                let index = lane_of(lane).map(|lane| self.index(lane, from));
                match index.filter(|index| released <= self.pairs[*index].published.get()) {
                    // Older than what rode on a message, it may be.
                    Some(index) => {
                        let credited = &self.pairs[index].credited;
                        credited.set(credited.get().max(released));
                    }
                    None => self.corrupt(from, &format!("a credit of {released} on lane {lane}")),
                }
            }
            Control::Left { lane, published } => {
                if let Some(lane) = lane_of(lane) {
                    self.peers[from].left[lane.index()].set(Some(published));
                }
            }
            Control::Died => self.peers[from].died.set(true),
            Control::Poison { reason } => self.adopt(from, reason),
        }
        Ok(())
    }

    #[cold]
    pub(super) fn corrupt(&self, index: usize, what: &str) {
        let (lane, peer, rank) = (index / self.shape.ranks, index % self.shape.ranks, self.rank);
        self.fail_alone(format!("MPI messages are corrupt: rank {rank}, lane {lane}: rank {peer} says {what}"));
    }

    /// MPI returned an error: the group cannot go on.
    #[cold]
    pub(super) fn broken(&self, error: &MpiError) {
        self.fail_alone(format!("rank {}: {error}", self.rank));
    }

    #[cold]
    fn fail_alone(&self, reason: String) {
        if !self.is_poisoned() {
            let report = self.report(reason.as_bytes());
            self.tell_all(&report);
        }
    }

    /// Poisons the group if nobody has, and waits for what others have to say.
    pub(super) fn report_and_settle(&self, reason: &[u8]) {
        if self.is_poisoned() {
            return self.settle();
        }
        let report = self.report(reason);
        let slow = self.tell_ready(&report);
        // Before the slow: to wait for a stopped rank takes longer than the others' reports stay welcome.
        self.settle();
        self.tell_slow(&report, slow);
    }

    /// Takes over a report of its own, and returns what the others are to be told.
    fn report(&self, reason: &[u8]) -> Control {
        let mut end = reason.len().min(POISON_BYTES);
        // Not in the middle of a character, if it is text.
        while end > 0 && reason.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
            end -= 1;
        }
        let reason = reason[..end].to_vec();
        self.adopt(self.rank, reason.clone());
        Control::Poison { reason }
    }

    /// Takes over a report, if it is the first or of a smaller rank.
    fn adopt(&self, reporter: Rank, reason: Vec<u8>) {
        count_up(&self.changes);
        self.world.inner.failed.set(true);
        let mut poisoning = self.poisoning.borrow_mut();
        match &mut *poisoning {
            Some(known) if reporter < known.reporter && known.since.elapsed() < SETTLING => {
                (known.reporter, known.reason) = (reporter, reason);
            }
            Some(_) => {}
            None => *poisoning = Some(Poisoning { reporter, reason, since: Instant::now() }),
        }
    }

    /// Whether somebody has reported a failure.
    #[inline]
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoning.borrow().is_some()
    }

    /// The reason, once all reports are in that are under way.
    #[cold]
    pub(super) fn settled(&self) -> Vec<u8> {
        self.settle();
        self.poisoning.borrow().as_ref().map_or_else(Vec::new, |poisoning| poisoning.reason.clone())
    }

    /// Waits until all reports are in that are under way.
    fn settle(&self) {
        while self.poisoning.borrow().as_ref().is_some_and(|poisoning| poisoning.since.elapsed() < SETTLING) {
            if self.look().is_err() {
                return;
            }
            std::thread::sleep(NAP);
        }
    }

    /// Tells all peers, the slow last: a rank that is stopped is not to keep the news from the others.
    pub(super) fn tell_all(&self, control: &Control) {
        let slow = self.tell_ready(control);
        self.tell_slow(control, slow);
    }

    /// Tells the peers that can take it at once, and returns the others.
    fn tell_ready(&self, control: &Control) -> Vec<Rank> {
        let ranks = self.shape.ranks;
        let not_now = |peer: &Rank| matches!(self.tell(*peer, control, Instant::now()), Ok(false));
        (0..ranks).filter(not_now).collect()
    }

    /// Tells peers that have not taken the last few messages.
    fn tell_slow(&self, control: &Control, peers: Vec<Rank>) {
        for peer in peers {
            // Whoever cannot be told finds out at its deadline.
            let _ = self.tell(peer, control, Instant::now() + HASTE);
        }
    }

    /// Sends a control message; `Ok(false)` if the peer has not taken the last few by `until`.
    pub(super) fn tell(&self, peer: Rank, control: &Control, until: Instant) -> Result<bool, MpiError> {
        let Some(ControlRing { ring, next }) = &self.controls[peer] else { return Ok(true) };
        while !ring.is_free(next.get())? {
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::yield_now();
        }
        let mut room = ring.room(next.get()).expect("a control slot is lent only here");
        let length = control.write(self.rank, &mut room);
        drop(room);
        ring.send(next.get(), [0; HEADER], length)?;
        next.set((next.get() + 1) % CONTROL_SLOTS);
        Ok(true)
    }

    /// Tells senders that may be out of slots what was released since they last heard of it.
    pub(super) fn give_credit(&self) -> Result<(), MpiError> {
        for index in 0..self.pairs.len() {
            let (slots, pair) = (self.slots(index), &self.pairs[index]);
            let (told, released) = (pair.told.get(), pair.released.get());
            if released == told || pair.landed.get() - told < slots - slots / 4 || self.is_own(index) {
                continue;
            }
            let (lane, peer) = (Lane((index / self.shape.ranks) as u16), index % self.shape.ranks);
            // If it cannot go now, a later call tries again.
            if self.tell(peer, &Control::Credit { lane, released }, Instant::now())? {
                pair.told.set(released);
            }
        }
        Ok(())
    }
}
