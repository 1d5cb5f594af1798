//! The endpoint over memory that all ranks can reach: of threads, and of processes.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::group::{Group, Status, check_rank};
use super::liveness::Watch;
use super::partners::{self, Partners};
use super::ring::{Corrupt, PeerRings};
use super::slots::{self, Mapped};
use crate::parking::Calls;
use crate::sync::Reach;
use crate::{Endpoint, GroupShape, Lane, Message, PeerState, Rank, Room, TransportError, parking};

/// How long a waiting rank spins, if every rank has a core of its own: a peer that is about to publish does so within that
/// time. On an idle machine a longer spin gains nothing, since a yield returns at once. Where other work has put two ranks
/// on one core, every round pays for the spin.
const SPIN: Duration = Duration::from_micros(2);

/// How long it then yields its core, looking again each time it gets it back. Falling asleep and being woken costs 5 to
/// 10 µs on both sides; this is several times that.
const YIELD: Duration = Duration::from_micros(80);

/// The longest sleep. It only decides how soon a rank notices a peer that was killed, which wakes nobody.
const SLEEP: Duration = Duration::from_millis(50);

/// While a group starts, its ranks sleep for longer by one [`SLEEP`] for so many ranks, so that looks grow with their number and
/// not with its square; at most for two seconds.
const ONE_NAP: usize = 16;

/// Looks between two looks at the clock while spinning.
const LOOKS: u32 = 16;

/// One rank's end of a group over shared memory, between threads or between processes. A slot *is* the receiver's memory,
/// so nothing is copied.
///
/// Cost: publishing and releasing are one or two plain stores. Reading a counter is a load, and a cache miss if it has
/// moved. [`notify`](Endpoint::notify) is a fence and a load while nobody sleeps, and a system call for each rank that
/// does. Waiting spins for a few microseconds (if the machine has a core for every rank), then yields, then sleeps.
///
/// An endpoint that is dropped without [`detach`](Endpoint::detach) counts as dead, and so does one whose process has
/// ended. Counters or lengths that no correct peer can have written poison the group.
pub struct RingEndpoint {
    rank: Rank,
    /// By lane and peer.
    lanes: Box<[Box<[PeerRings<Mapped>]>]>,
    ranks: usize,
    partners: Partners,
    watches: Vec<RefCell<Watch>>,
    seen_changes: Cell<u64>,
    alarm: Arc<Alarm>,
    seen_alarms: Cell<u64>,
    spins: bool,
    poison: OnceCell<Vec<u8>>,
    ended: Cell<bool>,
    /// What a message of an impossible length reads as.
    nothing: RefCell<[u8; 0]>,
    /// Last, so that the memory outlives the pairs, which point into it.
    group: Arc<Group>,
}

impl RingEndpoint {
    /// Takes `rank` of a group, which nobody may have taken before.
    pub(crate) fn take(group: Arc<Group>, rank: Rank) -> Result<Self, TransportError> {
        let ranks = group.shape().ranks;
        check_rank(rank, ranks)?;
        if !group.claim(rank) {
            let why = match group.process(rank) {
                Some((pid, _)) if pid != std::process::id() => format!("process {pid} has taken this rank"),
                _ => "this rank was taken or given up before".into(),
            };
            return Err(TransportError::Attach { rank, why });
        }
        let pair = |lane, peer| {
            // SAFETY: the region lives as long as `group`, which the endpoint holds; `claim` succeeds once a rank, so these are
            // the only pairs of this rank; a region has one group, hence one layout.
            unsafe { slots::pair(group.region(), group.layout(), group.shape(), lane, rank, peer) }
        };
        let lanes =
            (0..group.shape().lanes.len()).map(|lane| (0..ranks).map(|peer| pair(lane, peer)).collect()).collect();
        Ok(RingEndpoint {
            rank,
            lanes,
            ranks,
            partners: Partners::new(ranks),
            watches: (0..ranks).map(|peer| RefCell::new(Watch::new(rank, peer, ranks))).collect(),
            seen_changes: Cell::new(0),
            alarm: Arc::new(Alarm { calls: Calls::default(), rank, group: Arc::clone(&group) }),
            seen_alarms: Cell::new(0),
            spins: group.spins(),
            poison: OnceCell::new(),
            ended: Cell::new(false),
            nothing: RefCell::default(),
            group,
        })
    }

    /// Waits until every rank of the group has attached, for at most `patience`. Between threads it returns at once, since
    /// all their endpoints exist from the start.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotAttached`] names the ranks that have not attached in time. [`TransportError::Failed`], the same on
    /// every rank, if a rank has ended before all were attached, or poisoned the group.
    pub fn wait_for_all(&self, patience: Duration) -> Result<(), TransportError> {
        let began = Instant::now();
        while !self.group.all_attached() {
            let dead = (0..self.ranks).find(|rank| self.peer_state(*rank) == PeerState::Dead);
            let poisoned = self.poisoned();
            // Asked again after the two: what happens once all have attached is no failure to begin.
            if self.group.all_attached() {
                break;
            }
            if let Some(why) = poisoned {
                return Err(TransportError::Failed { why: String::from_utf8_lossy(why).into_owned() });
            }
            if let Some(dead) = dead {
                self.group.poison(self.rank, format!("rank {dead} ended before all ranks had attached").as_bytes());
                continue;
            }
            let waited = began.elapsed();
            if waited >= patience {
                let absent = (0..self.ranks).filter(|rank| self.group.status(*rank) == Status::Absent);
                return Err(TransportError::NotAttached { ranks: absent.collect(), waited });
            }
            // Nothing comes yet, and in a large group many wait for long: rings are not looked at, and peers less often. The
            // last rank to attach, a poison and a death that somebody has seen wake all.
            let sleep = SLEEP * (self.ranks / ONE_NAP).clamp(1, 40) as u32;
            self.park((patience - waited).min(sleep), || self.has_changed() || self.group.all_attached())?;
        }
        Ok(())
    }

    /// Looks at everything that a wait is for, and remembers it as looked at.
    #[inline]
    fn moved(&self) -> bool {
        let alarms = self.alarm.calls.count();
        let mut moved = self.has_changed();
        moved |= self.seen_alarms.replace(alarms) != alarms;
        moved |= self.partners.answer(|| self.group.calls(self.rank));
        for (lane, pairs) in self.lanes.iter().enumerate() {
            self.partners.each(|peer| match pairs[peer].refresh() {
                Ok(changed) => moved |= changed,
                Err(corrupt) => moved |= self.corrupt(lane, peer, corrupt),
            });
        }
        moved
    }

    /// Whether poison or a status has changed since this rank last looked.
    #[inline]
    fn has_changed(&self) -> bool {
        let changes = self.group.changes();
        self.seen_changes.replace(changes) != changes
    }

    /// Sleeps until woken, unless something has `moved`.
    fn park(&self, limit: Duration, moved: impl FnMut() -> bool) -> Result<(), TransportError> {
        let group = &self.group;
        let (word, bit) = (self.rank / parking::RANKS_A_WORD, (self.rank % parking::RANKS_A_WORD) as u32);
        parking::sleep(&group.sleepers()[word], bit, &group.cell(self.rank).bell.0, limit, group.reach(), moved)
            .map_err(|source| TransportError::System { rank: self.rank, action: "sleeping on a futex", source })?;
        // An alarm that has ended this sleep ends no other.
        self.seen_alarms.set(self.alarm.calls.count());
        Ok(())
    }

    /// Poisons the group for what a peer has written; whether that was news.
    #[cold]
    fn corrupt(&self, lane: usize, peer: Rank, what: Corrupt) -> bool {
        let news = !self.group.is_poisoned();
        let rank = self.rank;
        let size = self.group.shape().lanes[lane];
        self.group.poison(
            rank,
            match what {
                Corrupt::Published(value) => format!(
                    "shared memory is corrupt: rank {rank}, lane {lane}: rank {peer} claims {value} messages published"
                ),
                Corrupt::Released(value) => format!(
                    "shared memory is corrupt: rank {rank}, lane {lane}: rank {peer} claims {value} messages released"
                ),
                Corrupt::Length(length) => format!(
                    "shared memory is corrupt: rank {rank}, lane {lane}: rank {peer} claims {length} bytes in a slot of {}",
                    size.slot_bytes
                ),
            }
            .as_bytes(),
        );
        news
    }

    #[inline(always)]
    fn pair(&self, lane: Lane, peer: Rank) -> &PeerRings<Mapped> {
        let pairs = &self.lanes[lane.index()];
        assert!(peer < pairs.len(), "rank {peer} of a group of {}", self.ranks);
        &pairs[peer]
    }
}

/// Wakes one rank from any thread of its process.
struct Alarm {
    calls: Calls,
    rank: Rank,
    group: Arc<Group>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.calls.call(&self.group.cell(self.rank).bell.0, self.group.reach());
    }
}

impl Endpoint for RingEndpoint {
    #[inline]
    fn rank(&self) -> Rank {
        self.rank
    }

    #[inline]
    fn shape(&self) -> &GroupShape {
        self.group.shape()
    }

    #[inline(always)]
    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        match self.pair(lane, to).free() {
            Ok(free) => free as usize,
            Err(corrupt) => {
                self.corrupt(lane.index(), to, corrupt);
                0
            }
        }
    }

    #[inline(always)]
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        self.pair(lane, to).room()
    }

    #[inline(always)]
    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        let pair = self.pair(lane, to);
        if pair.outgoing.is_new() {
            self.partners.add(to);
            partners::call(self.group.calls(to), self.rank);
        }
        pair.publish(len);
    }

    #[inline(always)]
    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        let pair = self.pair(lane, from);
        if let Err(corrupt) = pair.refresh_landed() {
            self.corrupt(lane.index(), from, corrupt);
        }
        pair.incoming.landed()
    }

    #[inline(always)]
    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        self.partners.answer(|| self.group.calls(self.rank));
        let pairs = &self.lanes[lane.index()];
        self.partners.each(|from| {
            let pair = &pairs[from];
            if let Err(corrupt) = pair.refresh_landed() {
                self.corrupt(lane.index(), from, corrupt);
            }
            let landed = pair.incoming.landed();
            if pair.told.replace(landed) != landed {
                found(from, landed);
            }
        });
    }

    #[inline(always)]
    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        match self.pair(lane, from).message(number) {
            Ok(message) => message,
            Err(corrupt) => {
                self.corrupt(lane.index(), from, corrupt);
                Ref::map(self.nothing.borrow(), |nothing| &nothing[..])
            }
        }
    }

    #[inline(always)]
    fn message_len(&self, lane: Lane, from: Rank, number: u64) -> usize {
        self.pair(lane, from).message_len(number).unwrap_or_else(|corrupt| {
            self.corrupt(lane.index(), from, corrupt);
            0
        })
    }

    #[inline(always)]
    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        self.pair(lane, from).release(upto);
    }

    #[inline(always)]
    fn notify(&self) {
        self.group.wake();
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        // What is about to come, comes before a clock could be read.
        for _ in 0..if self.spins { LOOKS } else { 1 } {
            if self.moved() {
                return Ok(());
            }
        }
        let began = self.now();
        let spin_end = began + if self.spins { SPIN } else { Duration::ZERO };
        let yield_end = spin_end + YIELD;
        let mut now = began;
        while now < until && now < spin_end {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if self.moved() {
                    return Ok(());
                }
            }
            now = self.now();
        }
        while now < until && now < yield_end {
            std::thread::yield_now();
            if self.moved() {
                return Ok(());
            }
            now = self.now();
        }
        if now < until { self.park((until - now).min(SLEEP), || self.moved()) } else { Ok(()) }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        match self.group.status(peer) {
            Status::Left => PeerState::Left,
            Status::Dead => PeerState::Dead,
            Status::Absent | Status::Attached => {
                // A thread that ends says so when its endpoint is dropped.
                if self.group.reach() == Reach::Process || peer == self.rank {
                    return PeerState::Alive;
                }
                match self.group.process(peer) {
                    Some((pid, start)) if self.watches[peer].borrow_mut().gone(pid, start) => {
                        // It may have left in an orderly way between the two looks.
                        self.group.die(peer);
                        if self.group.status(peer) == Status::Left { PeerState::Left } else { PeerState::Dead }
                    }
                    _ => PeerState::Alive,
                }
            }
        }
    }

    fn poison(&self, reason: &[u8]) {
        self.group.poison(self.rank, reason);
    }

    #[inline(always)]
    fn poisoned(&self) -> Option<&[u8]> {
        if !self.group.is_poisoned() {
            return None;
        }
        Some(self.poison.get_or_init(|| self.group.poisoned().unwrap_or_default()))
    }

    fn detach(&self) {
        if !self.ended.replace(true) {
            self.group.leave(self.rank);
        }
    }

    fn now(&self) -> Duration {
        self.group.age()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Drop for RingEndpoint {
    fn drop(&mut self) {
        if !self.ended.get() {
            self.group.die(self.rank);
        }
    }
}

impl std::fmt::Debug for RingEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingEndpoint")
            .field("rank", &self.rank)
            .field("shape", self.group.shape())
            .field("reach", &self.group.reach())
            .finish_non_exhaustive()
    }
}
