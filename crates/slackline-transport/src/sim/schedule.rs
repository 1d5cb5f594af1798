//! Virtual time: what happens next, and whose turn it is.
//!
//! The schedule knows ranks and times but not what travels; the events' contents are a type parameter's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::Rank;

/// A moment in nanoseconds; [`NEVER`] is past all of them.
pub(super) type Nanos = u64;

pub(super) const NEVER: Nanos = u64::MAX;

pub(super) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}

/// Where a rank stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// May run; in `ready`, or kept from it by a stall, or running.
    Runnable,
    /// In `wait`: an event with `wakes` makes it runnable.
    Waiting,
    /// In `sleep`: nothing but its timer does.
    Sleeping,
    /// Its thread has ended.
    Ended,
}

/// What [`Schedule::next`] found.
pub(super) enum Next<D> {
    /// An event of this moment, to be applied.
    Happens(D),
    /// It is this rank's turn.
    Turn(Rank),
    /// Nothing will ever happen again.
    Nothing,
    /// Time would have to pass the limit.
    PastLimit,
}

/// Queues that are kept: with a coarse tick, as many as have events at a time.
const MOST_SPENT: usize = 4;

pub(super) struct Schedule<D> {
    pub(super) now: Nanos,
    limit: Nanos,
    /// The events of this moment, in the order in which they were pushed.
    due: VecDeque<D>,
    /// Those of each later one. Many fall on few moments, so finding the moment is all that it takes to put one in order.
    later: BTreeMap<Nanos, VecDeque<D>>,
    /// Queues of moments that are over, for their memory.
    spent: Vec<VecDeque<D>>,
    /// At most one a rank: the end of its sleep, of its stall, or of its patience.
    timers: BTreeSet<(Nanos, Rank)>,
    timer_of: Vec<Nanos>,
    ready: BTreeSet<Rank>,
    phases: Vec<Phase>,
    /// For each rank the stalls, as `from .. to`.
    stalls: Vec<Vec<(Nanos, Nanos)>>,
}

impl<D> Schedule<D> {
    /// All ranks are runnable at time 0.
    pub(super) fn new(stalls: Vec<Vec<(Nanos, Nanos)>>, limit: Nanos) -> Self {
        let ranks = stalls.len();
        Self {
            now: 0,
            limit,
            due: VecDeque::new(),
            later: BTreeMap::new(),
            spent: Vec::new(),
            timers: BTreeSet::new(),
            timer_of: vec![NEVER; ranks],
            ready: (0..ranks).collect(),
            phases: vec![Phase::Runnable; ranks],
            stalls,
        }
    }

    pub(super) fn phase(&self, rank: Rank) -> Phase {
        self.phases[rank]
    }

    pub(super) fn push(&mut self, time: Nanos, happens: D) {
        let queue = if time <= self.now {
            &mut self.due
        } else {
            self.later.entry(time).or_insert_with(|| self.spent.pop().unwrap_or_default())
        };
        queue.push_back(happens);
    }

    /// The running rank stops until `until`, or until it is made runnable.
    pub(super) fn stop(&mut self, rank: Rank, phase: Phase, until: Nanos) {
        self.phases[rank] = phase;
        if until != NEVER && phase != Phase::Ended {
            self.set_timer(rank, until);
        }
    }

    pub(super) fn make_runnable(&mut self, rank: Rank) {
        self.clear_timer(rank);
        self.phases[rank] = Phase::Runnable;
        self.ready.insert(rank);
    }

    /// Frees a rank of all stalls: the dead don't wait.
    pub(super) fn forget_stalls(&mut self, rank: Rank) {
        self.stalls[rank].clear();
    }

    /// The next thing to do, with time moved on to it.
    pub(super) fn next(&mut self) -> Next<D> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Next::Happens(event);
            }
            if let Some(&(time, rank)) = self.timers.first()
                && time <= self.now
            {
                self.make_runnable(rank);
                continue;
            }
            if let Some(rank) = self.ready.pop_first() {
                match self.stalled_until(rank) {
                    Some(end) => self.set_timer(rank, end),
                    None => return Next::Turn(rank),
                }
                continue;
            }
            let event = self.later.first_key_value().map_or(NEVER, |(&time, _)| time);
            let timer = self.timers.first().map_or(NEVER, |&(time, _)| time);
            match event.min(timer) {
                NEVER => return Next::Nothing,
                time if time > self.limit => return Next::PastLimit,
                time => self.now = time,
            }
            if event == self.now {
                let due = self.later.pop_first().expect("the event that was seen").1;
                let spent = std::mem::replace(&mut self.due, due);
                if self.spent.len() < MOST_SPENT {
                    self.spent.push(spent);
                }
            }
        }
    }

    fn stalled_until(&self, rank: Rank) -> Option<Nanos> {
        let ends = self.stalls[rank].iter().filter(|&&(from, to)| from <= self.now && self.now < to);
        ends.map(|&(_, to)| to).max()
    }

    fn set_timer(&mut self, rank: Rank, time: Nanos) {
        self.clear_timer(rank);
        self.timers.insert((time, rank));
        self.timer_of[rank] = time;
    }

    fn clear_timer(&mut self, rank: Rank) {
        if self.timer_of[rank] != NEVER {
            self.timers.remove(&(self.timer_of[rank], rank));
            self.timer_of[rank] = NEVER;
        }
    }
}
