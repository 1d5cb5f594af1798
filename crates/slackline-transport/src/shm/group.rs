//! The part of a group's memory that all ranks share: who is there, who sleeps, and whether the group has failed.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::layout::{Head, LaneCell, Layout, MAGIC, RankCell, VERSION, sleeper_words};
use super::liveness;
use super::region::Region;
use crate::sync::{AtomicU64, Ordering, Reach};
use crate::{GroupShape, LaneShape, Rank, TransportError, cores, parking, poison};

/// What a rank's status word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Nobody has taken this rank yet.
    Absent,
    Attached,
    Left,
    Dead,
}

const ABSENT: u32 = 0;
const ATTACHED: u32 = 1;
const LEFT: u32 = 2;
const DEAD: u32 = 3;

/// Everything that identifies a group on its way between processes.
pub(crate) type Token = [u64; 2];

/// A group's memory with its sizes, which were checked against it.
pub(crate) struct Group {
    region: Region,
    shape: GroupShape,
    layout: Layout,
    reach: Reach,
    began: Instant,
    hot: Hot,
}

/// What every round looks at, its place checked once.
struct Hot {
    head: NonNull<Head>,
    sleepers: NonNull<[AtomicU64]>,
}

// SAFETY: the addresses point into the group's region, which is `Send` and `Sync`, at atomics.
unsafe impl Send for Hot {}
// SAFETY: as above.
unsafe impl Sync for Hot {}

impl Hot {
    fn new(region: &Region, layout: &Layout, ranks: usize) -> Self {
        let sleepers: &[AtomicU64] = region.slice(layout.sleepers, sleeper_words(ranks));
        Hot { head: NonNull::from(region.at::<Head>(0)), sleepers: NonNull::from(sleepers) }
    }
}

impl Group {
    /// Lays out fresh, zeroed memory.
    pub(crate) fn create(region: Region, shape: GroupShape, layout: Layout, reach: Reach, token: Token) -> Arc<Self> {
        if shape.has_large_slots() {
            region.use_huge_pages();
        }
        let hot = Hot::new(&region, &layout, shape.ranks);
        let group = Group { region, shape, layout, reach, began: Instant::now(), hot };
        let head = group.head();
        for (lane, size) in group.shape.lanes.iter().enumerate() {
            let cell = &group.region.slice::<LaneCell>(group.layout.lane_table, group.shape.lanes.len())[lane];
            cell.slots.store(size.slots as u64, Ordering::Relaxed);
            cell.slot_bytes.store(size.slot_bytes as u64, Ordering::Relaxed);
        }
        let own = std::process::id();
        head.version.store(VERSION, Ordering::Relaxed);
        head.token[0].store(token[0], Ordering::Relaxed);
        head.token[1].store(token[1], Ordering::Relaxed);
        head.ranks.store(group.shape.ranks as u64, Ordering::Relaxed);
        head.lanes.store(group.shape.lanes.len() as u64, Ordering::Relaxed);
        head.bytes.store(group.layout.bytes as u64, Ordering::Relaxed);
        head.epoch.store(monotonic().as_nanos() as u64, Ordering::Relaxed);
        head.spins.store(u32::from(group.shape.ranks <= cores::count()), Ordering::Relaxed);
        head.creator.store(own, Ordering::Relaxed);
        head.creator_start.store(liveness::start_time(own).unwrap_or(0), Ordering::Relaxed);
        head.magic.store(MAGIC, Ordering::Release);
        Arc::new(group)
    }

    /// Takes up the memory that another process has laid out. `region` is the whole of the file; everything in it is
    /// checked here, against `token` and against the region's size.
    pub(crate) fn open(region: Region, token: Token) -> Result<Arc<Self>, String> {
        if region.bytes() < size_of::<Head>() {
            return Err(format!("it has {} bytes, fewer than a header", region.bytes()));
        }
        let head = region.at::<Head>(0);
        if head.magic.load(Ordering::Acquire) != MAGIC {
            return Err("it is not a Slackline segment".into());
        }
        let version = head.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(format!("its layout has version {version}, this program's has {VERSION}"));
        }
        if [head.token[0].load(Ordering::Relaxed), head.token[1].load(Ordering::Relaxed)] != token {
            return Err("its token is not that of the group asked for".into());
        }
        let (ranks, lanes) = (head.ranks.load(Ordering::Relaxed), head.lanes.load(Ordering::Relaxed));
        let table = size_of::<Head>();
        let table_end = (lanes as usize).checked_mul(size_of::<LaneCell>()).and_then(|bytes| bytes.checked_add(table));
        if table_end.is_none_or(|end| end > region.bytes()) {
            return Err(format!("it claims {lanes} lanes, whose sizes alone do not fit its {} bytes", region.bytes()));
        }
        let lanes = region
            .slice::<LaneCell>(table, lanes as usize)
            .iter()
            .map(|cell| LaneShape {
                slots: cell.slots.load(Ordering::Relaxed) as usize,
                slot_bytes: cell.slot_bytes.load(Ordering::Relaxed) as usize,
            })
            .collect();
        let claimed = GroupShape { ranks: ranks as usize, lanes };
        let shape = claimed.rounded().map_err(|error| error.to_string())?;
        let layout = Layout::new(&shape).map_err(|error| error.to_string())?;
        if shape != claimed || layout.lane_table != table || layout.bytes != region.bytes() {
            return Err(format!("it has {} bytes where its shape needs {}", region.bytes(), layout.bytes));
        }
        let age = monotonic().saturating_sub(Duration::from_nanos(head.epoch.load(Ordering::Relaxed)));
        let now = Instant::now();
        let began = now.checked_sub(age).unwrap_or(now);
        if shape.has_large_slots() {
            region.use_huge_pages();
        }
        let hot = Hot::new(&region, &layout, shape.ranks);
        Ok(Arc::new(Group { region, shape, layout, reach: Reach::Machine, began, hot }))
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    #[inline]
    pub(crate) fn shape(&self) -> &GroupShape {
        &self.shape
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    #[inline]
    pub(crate) fn head(&self) -> &Head {
        // SAFETY: checked in `Hot::new` against this region, which lives as long as `self`.
        unsafe { self.hot.head.as_ref() }
    }

    #[inline]
    pub(crate) fn cell(&self, rank: Rank) -> &RankCell {
        &self.region.slice(self.layout.rank_cells, self.shape.ranks)[rank]
    }

    #[inline]
    pub(crate) fn sleepers(&self) -> &[AtomicU64] {
        // SAFETY: as above.
        unsafe { self.hot.sleepers.as_ref() }
    }

    /// Those that have sent something to `rank`: a set like that of the sleepers.
    pub(crate) fn calls(&self, rank: Rank) -> &[AtomicU64] {
        self.region.slice(self.layout.calls(self.shape.ranks, rank), sleeper_words(self.shape.ranks))
    }

    /// Whether every rank may have a core of its own.
    pub(crate) fn spins(&self) -> bool {
        self.head().spins.load(Ordering::Relaxed) == 1
    }

    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.head().changes.0.load(Ordering::Acquire)
    }

    /// Tells everybody that poison or a status has changed.
    pub(crate) fn announce(&self) {
        self.head().changes.0.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Wakes whoever sleeps.
    #[inline]
    pub(crate) fn wake(&self) {
        parking::wake(self.sleepers(), self.reach, |rank| (rank < self.shape.ranks).then(|| &self.cell(rank).bell.0));
    }

    /// Takes a rank for this process; `false` if somebody has taken it before.
    pub(crate) fn claim(&self, rank: Rank) -> bool {
        let cell = self.cell(rank);
        let own = std::process::id();
        if cell.pid.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        cell.start.store(liveness::start_time(own).unwrap_or(0), Ordering::Relaxed);
        // Whoever watches over the processes may have given the rank up just now.
        let taken = cell.status.compare_exchange(ABSENT, ATTACHED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // Nobody is woken by a rank that is not the last: that would be P wake-ups of P ranks.
        if taken && self.head().attached.fetch_add(1, Ordering::AcqRel) + 1 == self.shape.ranks as u64 {
            self.announce();
        }
        taken
    }

    /// Whether every rank has been taken, whatever has become of it.
    pub(crate) fn all_attached(&self) -> bool {
        self.head().attached.load(Ordering::Acquire) >= self.shape.ranks as u64
    }

    pub(crate) fn status(&self, rank: Rank) -> Status {
        match self.cell(rank).status.load(Ordering::Acquire) {
            ABSENT => Status::Absent,
            ATTACHED => Status::Attached,
            LEFT => Status::Left,
            // Whatever else it holds, no living rank wrote it.
            _ => Status::Dead,
        }
    }

    /// The process that has taken a rank and when it started, if one has.
    pub(crate) fn process(&self, rank: Rank) -> Option<(u32, u64)> {
        let cell = self.cell(rank);
        let pid = cell.pid.load(Ordering::Acquire);
        (pid != 0).then(|| (pid, cell.start.load(Ordering::Relaxed)))
    }

    /// An orderly end, which nothing can turn into a death afterwards.
    pub(crate) fn leave(&self, rank: Rank) {
        self.end(rank, LEFT);
    }

    /// An end without [`leave`](Self::leave).
    pub(crate) fn die(&self, rank: Rank) {
        self.end(rank, DEAD);
    }

    fn end(&self, rank: Rank, how: u32) {
        let status = &self.cell(rank).status;
        let mut seen = status.load(Ordering::Relaxed);
        while seen == ABSENT || seen == ATTACHED {
            match status.compare_exchange(seen, how, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return self.announce(),
                Err(now) => seen = now,
            }
        }
    }

    /// Marks the group as failed for a reason that `rank` has, unless it is already.
    pub(crate) fn poison(&self, rank: Rank, reason: &[u8]) {
        if poison::claim(&self.head().poison.0, rank, &self.cell(rank).reason, reason) {
            self.announce();
        }
    }

    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        poison::is_claimed(&self.head().poison.0)
    }

    /// The rank that poisoned the group first.
    pub(crate) fn poisoner(&self) -> Option<Rank> {
        poison::claimant(&self.head().poison.0).filter(|rank| *rank < self.shape.ranks)
    }

    /// The reason of the rank that was first.
    pub(crate) fn poisoned(&self) -> Option<Vec<u8>> {
        poison::reason(&self.head().poison.0, |rank| (rank < self.shape.ranks).then(|| &self.cell(rank).reason))
    }
}

/// Checks a rank number against the group's size.
pub(crate) fn check_rank(rank: Rank, ranks: usize) -> Result<(), TransportError> {
    if rank < ranks {
        return Ok(());
    }
    Err(TransportError::Attach { rank, why: format!("the group has {ranks} ranks") })
}

/// The machine's clock, which all its processes agree on.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
