//! What travels between the ranks, and when it lands.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::block::Block;
use super::config::SimConfig;
use super::schedule::{NEVER, Nanos, Next, Phase, Schedule, nanos};
use crate::delay::{draw, mix, pick};
use crate::{GroupShape, PeerState, Rank};

/// What all threads of a simulation share.
pub(super) struct Shared {
    pub(super) shape: GroupShape,
    network: Mutex<Network>,
    seats: Vec<Seat>,
}

impl Shared {
    pub(super) fn new(shape: GroupShape, config: &SimConfig) -> Self {
        let seats = (0..shape.ranks).map(|_| Seat::default()).collect();
        Self { network: Mutex::new(Network::new(&shape, config)), shape, seats }
    }

    /// The state is whole between any two calls, so a thread that panicked has not spoilt it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `rank` run. The caller holds no lock and runs no more, but for a [`take_turn`](Self::take_turn).
    pub(super) fn give_turn(&self, rank: Rank) {
        let seat = &self.seats[rank];
        *seat.turn.lock().unwrap_or_else(PoisonError::into_inner) = true;
        seat.given.notify_one();
    }

    /// Blocks the thread of `rank` until it is given the turn.
    pub(super) fn take_turn(&self, rank: Rank) {
        let seat = &self.seats[rank];
        let turn = seat.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *seat.given.wait_while(turn, |turn| !*turn).unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Where a rank's thread waits for its turn.
#[derive(Default)]
struct Seat {
    turn: Mutex<bool>,
    given: Condvar,
}

/// Something on its way from one rank to another.
pub(super) enum Parcel {
    Message {
        lane: usize,
        number: u64,
        block: Block,
        /// Of the block's bytes.
        hash: u64,
    },
    Credit {
        lane: usize,
        upto: u64,
    },
    State(PeerState),
    Poison(Arc<[u8]>),
    /// Nothing but a notification of what was sent before.
    Wake,
}

/// A parcel at its receiver.
pub(super) struct Arrived {
    pub(super) from: Rank,
    pub(super) parcel: Parcel,
}

/// Why all ranks are made to end.
pub(super) enum Failure {
    /// These wait, and nothing will happen; counters of the latter moved without a notification.
    Deadlock {
        waiting: Vec<Rank>,
        unnotified: Vec<Rank>,
    },
    PastLimit {
        running: Vec<Rank>,
    },
    Thread {
        rank: Rank,
        source: std::io::Error,
    },
}

/// An event of the schedule.
pub(super) enum Happening {
    Landing { to: Rank, wakes: bool, delivery: Arrived },
    Death(Rank),
}

pub(super) struct Network {
    pub(super) schedule: Schedule<Happening>,
    pub(super) poison: Option<Arc<[u8]>>,
    pub(super) failure: Option<Failure>,
    /// Landings and deaths so far.
    pub(super) events: u64,
    /// Turns given so far.
    pub(super) turns: u64,
    /// A hash over all events and turns, with their times.
    pub(super) trace: u64,
    members: Vec<Member>,
    ranks: usize,
    seed: u64,
    latency: (Nanos, Nanos),
    ns_per_byte: f64,
    tick: Nanos,
    detection: Nanos,
    /// By lane, sender and receiver: when the last message, and the last credit, lands.
    last: Vec<[Nanos; 2]>,
    /// By sender and receiver: when the last byte has left.
    link_free: Vec<Nanos>,
}

#[derive(Default)]
struct Member {
    inbox: Vec<Arrived>,
    /// A notification came while it slept or was about to run.
    woken: bool,
    killed: bool,
    /// How it left, if it has.
    left: Option<PeerState>,
}

impl Network {
    fn new(shape: &GroupShape, config: &SimConfig) -> Self {
        let ranks = shape.ranks;
        let mut stalls = vec![Vec::new(); ranks];
        for stall in &config.stalled {
            stalls[stall.rank].push((nanos(stall.from), nanos(stall.from.saturating_add(stall.length))));
        }
        let mut schedule = Schedule::new(stalls, nanos(config.time_limit));
        for death in &config.dead {
            schedule.push(nanos(death.at), Happening::Death(death.rank));
        }
        Self {
            schedule,
            poison: None,
            failure: None,
            events: 0,
            turns: 0,
            trace: 0,
            members: (0..ranks).map(|_| Member::default()).collect(),
            ranks,
            seed: config.seed,
            latency: (nanos(*config.latency.start()), nanos(*config.latency.end())),
            ns_per_byte: config.ns_per_byte,
            tick: nanos(config.tick),
            detection: nanos(config.detection),
            last: vec![[0; 2]; shape.lanes.len() * ranks * ranks],
            link_free: vec![0; ranks * ranks],
        }
    }

    pub(super) fn now(&self) -> Nanos {
        self.schedule.now
    }

    /// Whether the rank may do nothing more.
    pub(super) fn is_gone(&self, rank: Rank) -> bool {
        self.failure.is_some() || self.is_killed(rank) || self.has_ended(rank)
    }

    pub(super) fn is_killed(&self, rank: Rank) -> bool {
        self.members[rank].killed
    }

    pub(super) fn has_ended(&self, rank: Rank) -> bool {
        self.schedule.phase(rank) == Phase::Ended
    }

    /// Swaps what has landed at `rank` for an empty box; returns whether a notification came since the last time.
    pub(super) fn collect(&mut self, rank: Rank, inbox: &mut Vec<Arrived>) -> bool {
        let member = &mut self.members[rank];
        std::mem::swap(&mut member.inbox, inbox);
        std::mem::take(&mut member.woken)
    }

    /// Sends something off now; when it lands, it wakes its receiver if `wakes`.
    pub(super) fn send(&mut self, from: Rank, to: Rank, wakes: bool, parcel: Parcel) {
        let (kind, lane, number) = label(&parcel);
        // What has no number of its own is told apart by its time.
        let number_or_time = if lane == NO_LANE { self.now() } else { number };
        let bits = draw(&[self.seed, from as u64, to as u64, kind, lane as u64, number_or_time]);
        let latency = pick(bits, self.latency.0, self.latency.1);
        let link = from * self.ranks + to;
        let earliest = match &parcel {
            Parcel::Message { block, .. } => {
                let sending = (block.len() as f64 * self.ns_per_byte).round() as Nanos;
                self.link_free[link] = self.link_free[link].max(self.now()).saturating_add(sending);
                self.link_free[link].saturating_add(latency)
            }
            Parcel::State(PeerState::Dead) => self.now().saturating_add(self.detection),
            _ => self.now().saturating_add(latency),
        };
        let earliest = earliest.checked_next_multiple_of(self.tick).unwrap_or(NEVER);
        let time = if lane == NO_LANE {
            self.last.iter().skip(link).step_by(self.ranks * self.ranks).flatten().fold(earliest, |a, &b| a.max(b))
        } else {
            let fifo = usize::from(kind != MESSAGE);
            let last = &mut self.last[lane * self.ranks * self.ranks + link][fifo];
            *last = earliest.max(*last);
            *last
        };
        self.schedule.push(time, Happening::Landing { to, wakes, delivery: Arrived { from, parcel } });
    }

    /// Ends the wait of `rank`, if it waits.
    pub(super) fn alarm(&mut self, rank: Rank) {
        if self.schedule.phase(rank) == Phase::Waiting {
            self.schedule.make_runnable(rank);
        }
    }

    /// Tells the others how `rank` left, the first time that it does.
    pub(super) fn leave(&mut self, rank: Rank, state: PeerState) {
        if self.members[rank].left.is_none() {
            self.members[rank].left = Some(state);
            for peer in (0..self.ranks).filter(|&peer| peer != rank) {
                self.send(rank, peer, true, Parcel::State(state));
            }
        }
    }

    /// Lets things happen until it is a rank's turn, and says whose. After a failure each rank in turn, to end. `None`
    /// when all have ended.
    pub(super) fn next_turn(&mut self) -> Option<Rank> {
        loop {
            if self.failure.is_some() {
                return (0..self.ranks).find(|&rank| !self.has_ended(rank));
            }
            let going: Vec<Rank> = match self.schedule.next() {
                Next::Happens(happening) => {
                    self.apply(happening);
                    continue;
                }
                Next::Turn(rank) => {
                    self.turns += 1;
                    self.record(&[self.now(), rank as u64]);
                    return Some(rank);
                }
                Next::Nothing => {
                    let waiting: Vec<Rank> = (0..self.ranks).filter(|&rank| !self.has_ended(rank)).collect();
                    if waiting.is_empty() {
                        return None;
                    }
                    let deaf = |rank: &Rank| !self.members[*rank].inbox.is_empty();
                    let unnotified = waiting.iter().copied().filter(deaf).collect();
                    self.failure = Some(Failure::Deadlock { waiting, unnotified });
                    continue;
                }
                Next::PastLimit => (0..self.ranks).filter(|&rank| !self.has_ended(rank)).collect(),
            };
            if going.is_empty() {
                return None;
            }
            self.failure = Some(Failure::PastLimit { running: going });
        }
    }

    fn apply(&mut self, happening: Happening) {
        self.events += 1;
        match happening {
            Happening::Landing { to, wakes, delivery } => {
                let (kind, lane, number) = label(&delivery.parcel);
                let contents = match &delivery.parcel {
                    Parcel::Message { hash, .. } => *hash,
                    Parcel::Poison(reason) => xxhash_rust::xxh3::xxh3_64(reason),
                    _ => u64::from(wakes),
                };
                let from = delivery.from as u64;
                self.record(&[self.now(), to as u64, from, kind, lane as u64, number, contents]);
                if self.is_killed(to) || self.has_ended(to) {
                    return;
                }
                self.members[to].inbox.push(delivery);
                if wakes {
                    match self.schedule.phase(to) {
                        Phase::Waiting => self.schedule.make_runnable(to),
                        _ => self.members[to].woken = true,
                    }
                }
            }
            Happening::Death(rank) => {
                self.record(&[self.now(), rank as u64, DEATH]);
                if !self.has_ended(rank) {
                    self.members[rank].killed = true;
                    self.leave(rank, PeerState::Dead);
                    self.schedule.forget_stalls(rank);
                    self.schedule.make_runnable(rank);
                }
            }
        }
    }

    fn record(&mut self, words: &[u64]) {
        self.trace = words.iter().fold(self.trace, |trace, &word| mix(trace.rotate_left(23) ^ mix(!word)));
    }
}

const MESSAGE: u64 = 0;
const DEATH: u64 = 16;

/// Of parcels that belong to no lane.
const NO_LANE: usize = usize::MAX;

/// Kind, lane and number of a parcel, for drawing its latency and for the trace.
fn label(parcel: &Parcel) -> (u64, usize, u64) {
    match parcel {
        Parcel::Message { lane, number, .. } => (MESSAGE, *lane, *number),
        Parcel::Credit { lane, upto } => (1, *lane, *upto),
        Parcel::State(PeerState::Alive) => (2, NO_LANE, 0),
        Parcel::State(PeerState::Left) => (3, NO_LANE, 0),
        Parcel::State(PeerState::Dead) => (4, NO_LANE, 0),
        Parcel::Poison(_) => (5, NO_LANE, 0),
        Parcel::Wake => (6, NO_LANE, 0),
    }
}
