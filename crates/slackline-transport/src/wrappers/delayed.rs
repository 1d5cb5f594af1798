//! An endpoint that is late by a schedule.

use std::time::Duration;

use crate::delay::DelaySchedule;
use crate::{Endpoint, GroupShape, Lane, PeerState, Rank, Rooms, TransportError};

/// An endpoint that is late by a [`DelaySchedule`]: before the `n`-th *burst* on one lane it sleeps for the time that the
/// schedule has for this rank in round `n`.
///
/// A transport knows no rounds, so bursts stand for them. A burst is a run of [`publish`](Endpoint::publish) calls on the
/// lane without a [`rooms`](Endpoint::rooms) of that lane or a [`notify`](Endpoint::notify) in between. It begins, and the
/// sleep happens, before its first message is published. A collective that takes its rooms, publishes one message to each
/// peer and then notifies has one burst a round. One that publishes a round in several steps, such as large messages in
/// fragments, has several.
#[derive(Debug)]
pub struct Delayed<E> {
    inner: E,
    schedule: DelaySchedule,
    lane: Lane,
    bursts: u64,
    inside: bool,
}

impl<E: Endpoint> Delayed<E> {
    /// Delays the bursts on `lane`; other lanes are not touched.
    pub fn new(inner: E, schedule: DelaySchedule, lane: Lane) -> Self {
        Self { inner, schedule, lane, bursts: 0, inside: false }
    }

    /// How many bursts have begun.
    pub fn bursts(&self) -> u64 {
        self.bursts
    }
}

impl<E: Endpoint> Endpoint for Delayed<E> {
    fn rooms(&mut self, lane: Lane) -> Rooms<'_> {
        if lane == self.lane {
            self.inside = false;
        }
        self.inner.rooms(lane)
    }

    fn publish(&mut self, lane: Lane, to: Rank, len: usize) {
        if lane == self.lane && !self.inside {
            let delay = self.schedule.delay(self.inner.rank(), self.bursts);
            self.inside = true;
            self.bursts += 1;
            if delay > Duration::ZERO {
                self.inner.sleep(delay);
            }
        }
        self.inner.publish(lane, to, len);
    }

    fn notify(&mut self) {
        self.inside = false;
        self.inner.notify();
    }

    fn rank(&self) -> Rank {
        self.inner.rank()
    }

    fn shape(&self) -> &GroupShape {
        self.inner.shape()
    }

    fn free_slots(&mut self, lane: Lane, to: Rank) -> usize {
        self.inner.free_slots(lane, to)
    }

    fn landed(&mut self, lane: Lane, from: Rank) -> u64 {
        self.inner.landed(lane, from)
    }

    fn message(&self, lane: Lane, from: Rank, number: u64) -> &[u8] {
        self.inner.message(lane, from, number)
    }

    fn release(&mut self, lane: Lane, from: Rank, upto: u64) {
        self.inner.release(lane, from, upto);
    }

    fn progress(&mut self) {
        self.inner.progress();
    }

    fn moves_in_calls(&self) -> bool {
        self.inner.moves_in_calls()
    }

    fn wait(&mut self, until: Duration) -> Result<(), TransportError> {
        self.inner.wait(until)
    }

    fn peer_state(&mut self, peer: Rank) -> PeerState {
        self.inner.peer_state(peer)
    }

    fn poison(&mut self, reason: &[u8]) {
        self.inner.poison(reason);
    }

    fn poisoned(&mut self) -> Option<&[u8]> {
        self.inner.poisoned()
    }

    fn detach(&mut self) {
        self.inner.detach();
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }

    fn sleep(&mut self, duration: Duration) {
        self.inner.sleep(duration);
    }
}
