//! Where everything lies in a group's memory: a header, then the rings.
//!
//! ```text
//! 0            Head: magic, version, token, sizes, changes, poison
//! then         lane table, one LaneCell a lane
//! then         the sleepers' set, one bit a rank
//! then         one RankCell a rank
//! then         per receiver, the set of those that have sent it something, one bit a rank
//! then         per receiver, sender and lane: a Mark for each slot, [released]
//! page         per receiver, sender and lane: the slots
//! ```
//!
//! All rings of a pair lie side by side, so that in a large group, whose slots are small, it touches few pages. The pairs lie in
//! tiles of `TILE` by `TILE` ranks, and in a tile by receiver.
//!
//! All of the header is atomics, so that whatever another process writes there is a value to be checked and never
//! undefined behaviour.

use super::region::Shared;
use super::ring::Mark;
use crate::parking::RANKS_A_WORD;
use crate::poison::Reason;
use crate::sync::{AtomicU32, AtomicU64, Bell};
use crate::{GroupShape, SLOT_ALIGN, TransportError};

/// "slackln" and a byte that no text has.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"slackln\xb5");

/// To be raised with every change of this file or of what the words mean.
pub(crate) const VERSION: u64 = 5;

/// Counters of different writers stand this far apart: two cache lines, since processors fetch them in pairs.
pub(crate) const LINE: usize = 128;

/// Senders and receivers of a tile. With the marks of some slots, a tile is as large as what one page table maps.
const TILE: usize = 32;

/// Slots start on a page, and so does a mapping's length.
pub(crate) const PAGE: usize = 4096;

#[repr(C, align(128))]
pub(crate) struct Head {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) token: [AtomicU64; 2],
    pub(crate) ranks: AtomicU64,
    pub(crate) lanes: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// When the group began: nanoseconds of the machine's monotonic clock.
    pub(crate) epoch: AtomicU64,
    /// 1 where every rank may have a core of its own. Told by the creator, since a pinned rank sees only its own core.
    pub(crate) spins: AtomicU32,
    /// The process that made the group, and when that one started.
    pub(crate) creator: AtomicU32,
    pub(crate) creator_start: AtomicU64,
    /// Counts changes of poison and of ranks' status, so that a waiting rank polls one word for all of them.
    pub(crate) changes: Line,
    /// Whose poison was first.
    pub(crate) poison: Line,
    /// Ranks that have attached so far.
    pub(crate) attached: AtomicU64,
}

#[repr(C, align(128))]
pub(crate) struct Line(pub(crate) AtomicU64);

#[repr(C)]
pub(crate) struct LaneCell {
    pub(crate) slots: AtomicU64,
    pub(crate) slot_bytes: AtomicU64,
}

#[repr(C, align(128))]
pub(crate) struct RankCell {
    pub(crate) status: AtomicU32,
    pub(crate) pid: AtomicU32,
    pub(crate) start: AtomicU64,
    pub(crate) bell: BellCell,
    pub(crate) reason: Reason,
}

/// The bell, on a cache line of its own.
#[repr(C, align(64))]
pub(crate) struct BellCell(pub(crate) Bell);

/// The place of every part, all sums checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) lane_table: usize,
    pub(crate) sleepers: usize,
    pub(crate) rank_cells: usize,
    calls: usize,
    pairs: PairLayout,
    rings: Vec<LaneLayout>,
    /// Of the whole region, a multiple of [`PAGE`].
    pub(crate) bytes: usize,
}

/// The place of the first pair's rings, and how far apart pairs are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PairLayout {
    marks: usize,
    mark_bytes: usize,
    slots: usize,
    slot_bytes: usize,
}

/// The place of one lane's ring within those of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LaneLayout {
    marks: usize,
    mark_bytes: usize,
    slots: usize,
}

/// The place of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingLayout {
    /// A [`Mark`] a slot, written by the sender.
    pub(crate) marks: usize,
    /// The receiver's counter.
    pub(crate) released: usize,
    pub(crate) slots: usize,
}

impl Layout {
    /// The layout of a group of a shape that [`GroupShape::rounded`] returned.
    pub(crate) fn new(shape: &GroupShape) -> Result<Self, TransportError> {
        Self::checked(shape).ok_or_else(|| TransportError::Shape {
            ranks: shape.ranks,
            why: format!("the rings of {} lanes add up to more than this machine can address", shape.lanes.len()),
        })
    }

    fn checked(shape: &GroupShape) -> Option<Self> {
        let mut place = Place(size_of::<Head>());
        let lane_table = place.take(shape.lanes.len().checked_mul(size_of::<LaneCell>())?, LINE)?;
        let sleepers = place.take(sleeper_words(shape.ranks).checked_mul(size_of::<AtomicU64>())?, LINE)?;
        let rank_cells = place.take(shape.ranks.checked_mul(size_of::<RankCell>())?, LINE)?;
        let calls = place.take(shape.ranks.checked_mul(call_bytes(shape.ranks))?, LINE)?;
        let pairs = shape.ranks.checked_mul(shape.ranks)?;
        let mut rings = Vec::with_capacity(shape.lanes.len());
        let (mut marks, mut slots) = (Place(0), Place(0));
        for lane in &shape.lanes {
            let mark_bytes = lane.slots.checked_mul(size_of::<Mark>())?.checked_add(LINE)?;
            rings.push(LaneLayout {
                marks: marks.take(mark_bytes, LINE)?,
                mark_bytes,
                slots: slots.take(lane.slots.checked_mul(lane.slot_bytes)?, SLOT_ALIGN)?,
            });
        }
        let (mark_bytes, slot_bytes) = (marks.0, slots.0);
        let marks = place.take(mark_bytes.checked_mul(pairs)?, LINE)?;
        let slots = place.take(slot_bytes.checked_mul(pairs)?, PAGE)?;
        let pairs = PairLayout { marks, mark_bytes, slots, slot_bytes };
        let bytes = place.0.checked_next_multiple_of(PAGE)?;
        // No object may be larger, and offsets into it must fit pointer arithmetic.
        isize::try_from(bytes).ok()?;
        Some(Layout { lane_table, sleepers, rank_cells, calls, pairs, rings, bytes })
    }

    /// Where the set lies of those that have sent something to `rank`: as many words as the sleepers' set.
    pub(crate) fn calls(&self, ranks: usize, rank: usize) -> usize {
        self.calls + rank * call_bytes(ranks)
    }

    /// The ring from one rank to another.
    pub(crate) fn ring(&self, ranks: usize, lane: usize, from: usize, to: usize) -> RingLayout {
        let (pairs, lane) = (&self.pairs, &self.rings[lane]);
        let pair = place_of_pair(ranks, from, to);
        let marks = pairs.marks + pair * pairs.mark_bytes + lane.marks;
        let slots = pairs.slots + pair * pairs.slot_bytes + lane.slots;
        RingLayout { marks, released: marks + lane.mark_bytes - LINE, slots }
    }
}

/// Words of the sleepers' set.
pub(crate) fn sleeper_words(ranks: usize) -> usize {
    ranks.div_ceil(RANKS_A_WORD)
}

/// The number of a pair among all, tile by tile. Side by side lies what one rank receives, since it looks at all of that, again
/// and again. What it sends is apart, and the tiles keep that from being spread over all of the region: each process would
/// need nearly all page tables of it, which would grow with the cube of the ranks.
fn place_of_pair(ranks: usize, from: usize, to: usize) -> usize {
    let (first_from, first_to) = (from / TILE * TILE, to / TILE * TILE);
    let (width, height) = (TILE.min(ranks - first_from), TILE.min(ranks - first_to));
    first_to * ranks + first_from * height + (to - first_to) * width + (from - first_from)
}

/// Bytes of the set of those that have sent something to one rank, on cache lines of its own.
fn call_bytes(ranks: usize) -> usize {
    (sleeper_words(ranks) * size_of::<AtomicU64>()).next_multiple_of(LINE)
}

struct Place(usize);

impl Place {
    fn take(&mut self, bytes: usize, align: usize) -> Option<usize> {
        let at = self.0.checked_next_multiple_of(align)?;
        self.0 = at.checked_add(bytes)?;
        Some(at)
    }
}

// SAFETY: atomics all through, `repr(C)`, and any bit pattern is a value of each.
unsafe impl Shared for Head {}
// SAFETY: as above.
unsafe impl Shared for LaneCell {}
// SAFETY: as above.
unsafe impl Shared for Mark {}
// SAFETY: as above; a `Bell` is one atomic word, a `Reason` several.
unsafe impl Shared for RankCell {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LaneShape;

    fn shapes() -> impl Strategy<Value = GroupShape> {
        let lane = (1usize..20, 0usize..3000).prop_map(|(slots, slot_bytes)| LaneShape { slots, slot_bytes });
        (1usize..10, prop::collection::vec(lane, 1..5)).prop_map(|(ranks, lanes)| GroupShape { ranks, lanes })
    }

    proptest! {
        #[test]
        fn no_two_parts_overlap_and_all_lie_inside(shape in shapes()) {
            let shape = shape.rounded().unwrap();
            let layout = Layout::new(&shape).unwrap();
            let mut parts = vec![
                (0, size_of::<Head>()),
                (layout.lane_table, shape.lanes.len() * size_of::<LaneCell>()),
                (layout.sleepers, sleeper_words(shape.ranks) * 8),
                (layout.rank_cells, shape.ranks * size_of::<RankCell>()),
            ];
            for rank in 0..shape.ranks {
                parts.push((layout.calls(shape.ranks, rank), sleeper_words(shape.ranks) * 8));
            }
            for (lane, size) in shape.lanes.iter().enumerate() {
                for from in 0..shape.ranks {
                    for to in 0..shape.ranks {
                        let ring = layout.ring(shape.ranks, lane, from, to);
                        prop_assert_eq!(ring.slots % crate::SLOT_ALIGN, 0);
                        parts.push((ring.marks, size_of::<Mark>() * size.slots));
                        parts.push((ring.released, LINE));
                        parts.push((ring.slots, size.slots * size.slot_bytes));
                        prop_assert!(ring.marks.is_multiple_of(LINE));
                    }
                }
            }
            parts.sort();
            for pair in parts.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?} overlaps {:?}", pair[0], pair[1]);
            }
            let last = parts.last().unwrap();
            prop_assert!(last.0 + last.1 <= layout.bytes);
            prop_assert_eq!(layout.bytes % PAGE, 0);
        }
    }

    #[test]
    fn each_pair_has_a_place_and_a_rank_uses_few_tiles() {
        for ranks in [1, 2, 31, 32, 33, 64, 70, 101] {
            let mut places: Vec<_> =
                (0..ranks * ranks).map(|pair| place_of_pair(ranks, pair / ranks, pair % ranks)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..ranks * ranks), "{ranks} ranks");
        }
        let tiles = |places: &mut dyn Iterator<Item = usize>| {
            places.map(|place| place / (TILE * TILE)).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(tiles(&mut (0..1024).map(|to| place_of_pair(1024, 7, to))), 1024 / TILE);
        assert_eq!(tiles(&mut (0..1024).map(|from| place_of_pair(1024, from, 7))), 1024 / TILE);
    }

    #[test]
    fn sizes_past_the_address_space_are_an_error() {
        for (ranks, slots, slot_bytes) in
            [(usize::MAX, 1, 64), (1 << 40, 1, 64), (2, usize::MAX, 64), (2, 1 << 40, 1 << 31), (1 << 31, 1, 64)]
        {
            let shape = GroupShape { ranks, lanes: vec![LaneShape { slots, slot_bytes }] };
            let error = shape.rounded().and_then(|shape| Layout::new(&shape)).unwrap_err();
            assert!(matches!(error, TransportError::Shape { .. }), "{error}");
        }
    }
}
