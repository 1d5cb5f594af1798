//! An endpoint that is late by a schedule.

use std::cell::Cell;
use std::task::Waker;
use std::time::Duration;

use crate::delay::DelaySchedule;
use crate::{Endpoint, GroupShape, Lane, Message, PeerState, Rank, Room, TransportError};

/// An endpoint that is late by a [`DelaySchedule`]: before the `n`-th *burst* on one lane it sleeps for the time that the
/// schedule has for this rank in round `n`.
///
/// A transport knows no rounds, so bursts stand for them. A burst is a run of [`publish`](Endpoint::publish) calls on the
/// lane without a [`notify`](Endpoint::notify) in between. It begins, and the sleep happens, before its first message is
/// published. A collective that publishes one message to each peer and then notifies has one burst a round. One that publishes
/// a round in several steps, such as large messages in fragments, has several.
#[derive(Debug)]
pub struct Delayed<E> {
    inner: E,
    schedule: DelaySchedule,
    lane: Lane,
    bursts: Cell<u64>,
    inside: Cell<bool>,
}

impl<E: Endpoint> Delayed<E> {
    /// Delays the bursts on `lane`; other lanes are not touched.
    pub fn new(inner: E, schedule: DelaySchedule, lane: Lane) -> Self {
        Self { inner, schedule, lane, bursts: Cell::new(0), inside: Cell::new(false) }
    }

    /// How many bursts have begun.
    pub fn bursts(&self) -> u64 {
        self.bursts.get()
    }
}

impl<E: Endpoint> Endpoint for Delayed<E> {
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        self.inner.room(lane, to)
    }

    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        if lane == self.lane && !self.inside.replace(true) {
            let burst = self.bursts.get();
            self.bursts.set(burst + 1);
            let delay = self.schedule.delay(self.inner.rank(), burst);
            if delay > Duration::ZERO {
                self.inner.sleep(delay);
            }
        }
        self.inner.publish(lane, to, len);
    }

    fn notify(&self) {
        self.inside.set(false);
        self.inner.notify();
    }

    fn rank(&self) -> Rank {
        self.inner.rank()
    }

    fn shape(&self) -> &GroupShape {
        self.inner.shape()
    }

    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        self.inner.free_slots(lane, to)
    }

    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        self.inner.landed(lane, from)
    }

    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        self.inner.landings(lane, found);
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        self.inner.message(lane, from, number)
    }

    fn message_len(&self, lane: Lane, from: Rank, number: u64) -> usize {
        self.inner.message_len(lane, from, number)
    }

    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        self.inner.release(lane, from, upto);
    }

    fn progress(&self) {
        self.inner.progress();
    }

    fn moves_in_calls(&self) -> bool {
        self.inner.moves_in_calls()
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        self.inner.wait(until)
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        self.inner.peer_state(peer)
    }

    fn poison(&self, reason: &[u8]) {
        self.inner.poison(reason);
    }

    fn poisoned(&self) -> Option<&[u8]> {
        self.inner.poisoned()
    }

    fn detach(&self) {
        self.inner.detach();
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration);
    }
}
