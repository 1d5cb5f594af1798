//! How far ahead a kernel asks for rows, learnt while it works.
//!
//! What is best depends on the rows, on the bags, on the processor and on how busy the memory is at the moment, and no way
//! is best throughout (docs/benchmarks.md has the figures). So a thread that pools lets two ways race now and then: the first
//! half of a job's samples is asked for in one way, the second half in another. The two halves meet the same table in the
//! same millisecond, so that their ratio says which way is faster whatever else changes. Bits do not depend on it: every
//! sample is pooled by itself.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::{Bags, Output, Rows};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// When a kernel asks for the cache lines of a row: so many lookups before it adds the row, or not at all (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LookAhead {
    /// For the first line of the row, into the first-level cache.
    pub first: Option<usize>,
    /// For all of its lines.
    pub all: Option<usize>,
    /// Where all of its lines are to go.
    pub cache: Cache,
    /// So many lookups ask in one go, before the first of them is added; a power of two up to 64 (others are rounded up).
    pub group: usize,
}

/// Where a line is to go that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// To the core.
    First,
    /// Next to it. Fewer bytes a cycle from there, but on some processors a line that goes there keeps one of the few places
    /// for lines on their way to the core for a shorter time.
    Second,
}

impl LookAhead {
    /// The first line, then all: a Zen 3 drops requests while all of its places for lines under way are taken (a fifth of 128
    /// lines that are asked for in one go), and a request that was dropped is made again. Best there for narrow rows while the
    /// memory is busy.
    const NEAR_TWICE: Self = LookAhead { first: Some(32), all: Some(16), cache: Cache::First, group: 1 };

    /// The first line only, near enough for the processor to have learnt that the others follow: good for long rows.
    const FIRST_ONLY: Self = LookAhead { first: Some(8), all: None, cache: Cache::First, group: 1 };

    /// Nothing: best for what is in the cache.
    const NEVER: Self = LookAhead { first: None, all: None, cache: Cache::First, group: 1 };

    /// Everything once, as far ahead as a first-level cache holds. Best on Zen 3 while the memory is quiet.
    fn far(row_bytes: usize) -> Self {
        const UNDER_WAY: usize = 32 << 10;
        let ahead = UNDER_WAY / row_bytes.next_multiple_of(LINE);
        LookAhead { first: None, all: Some(ahead.clamp(4, 128)), cache: Cache::First, group: 1 }
    }

    /// As far as a first-level cache holds for the first line, and near for all: for a job that is over before anything is
    /// learnt. All of its rows are asked for in one go at the beginning, and what was dropped of that comes with the second
    /// request: 1.1 times the rate of [`far`](Self::far) for two lines a row, 1.4 times for one, on a Zen 3 with busy memory.
    fn short(row_bytes: usize) -> Self {
        LookAhead { first: Self::far(row_bytes).all, ..Self::NEAR_TWICE }
    }

    /// Everything once into the second-level cache, whose places are plenty. Best on the one Intel processor that was at hand.
    const fn second(group: usize) -> Self {
        LookAhead { first: None, all: Some(64), cache: Cache::Second, group }
    }

    /// The ways that [`pool`](super::pool) chooses from for these rows, the one it begins with first.
    pub fn ways(rows: Rows<'_>) -> [LookAhead; WAYS] {
        let row_bytes = rows.format().row_bytes(rows.dim());
        let far = Self::far(row_bytes);
        if lines(rows) >= 4 && !is_small(rows) {
            return [far, Self::second(8), Self::NEAR_TWICE, Self::FIRST_ONLY];
        }
        // Which of the two is better depends on whether rows are whole lines; the other is left out where there is better.
        let (one, other) = if row_bytes.is_multiple_of(LINE) { (8, 1) } else { (1, 8) };
        let last = if is_small(rows) { Self::NEVER } else { Self::second(other) };
        [Self::second(one), Self::NEAR_TWICE, far, last]
    }
}

const WAYS: usize = 4;

/// Whether a second-level cache holds the table.
fn is_small(rows: Rows<'_>) -> bool {
    rows.bytes().len() <= 512 << 10
}

/// The cache lines that a row touches at most, wherever in a line the rows of such a table begin.
pub(super) fn lines(rows: Rows<'_>) -> usize {
    let row_bytes = rows.format().row_bytes(rows.dim());
    // Rows begin at multiples of this.
    let step = 1 << (row_bytes | rows.bytes().as_ptr().addr() | LINE).trailing_zeros();
    (LINE - step + row_bytes).div_ceil(LINE)
}

/// Calls `pool` for all samples, at once or in two halves, with the way that this thread has found best for such jobs.
pub(super) fn with_best<'a>(
    rows: Rows<'_>,
    bags: &Bags<'_>,
    out: Output<'a>,
    mut pool: impl FnMut(LookAhead, &Bags<'_>, Output<'a>),
) {
    let row_bytes = rows.format().row_bytes(rows.dim());
    if bags.lookups() < SHORTEST_RACE {
        return pool(LookAhead::short(row_bytes), bags, out);
    }
    if bags.len() < 2 || bags.lookups() < FEW && lines(rows) >= 4 {
        return pool(LookAhead::far(row_bytes), bags, out);
    }
    let (ways, kind) = (LookAhead::ways(rows), Kind::of(rows, bags));
    let (racers, challenger) = match SCORES.with_borrow_mut(|scores| scores[kind].turn()) {
        Turn::Best(way) => return pool(ways[way], bags, out),
        Turn::Race { ways, challenger } => (ways, challenger),
    };
    let half = bags.len() / 2;
    let (first_out, second_out) = out.split_at(half * rows.dim());
    let halves = [(racers[0], 0..half, first_out), (racers[1], half..bags.len(), second_out)];
    let rates = halves.map(|(way, samples, out)| {
        let part = bags.samples(samples);
        let begin = Instant::now();
        pool(ways[way], &part, out);
        part.lookups() as f64 / begin.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
    });
    // A half of empty bags says nothing.
    if rates.iter().all(|rate| *rate > 0.0) {
        let lead = (rates[0] / rates[1]).ln() * if racers[0] == challenger { 1.0 } else { -1.0 };
        SCORES.with_borrow_mut(|scores| scores[kind].race(challenger, lead));
    }
}

/// Lookups of the shortest job that two ways race in. What a shorter one costs is mostly how it begins, and a half begins once
/// more. Of long rows, so many are under way at the beginning that it takes [`FEW`] for the rest to count more.
const SHORTEST_RACE: usize = 512;

/// Lookups of a small job, in which the rows that are asked for before the first is added weigh.
const FEW: usize = 8192;

/// Races of each challenger before a thread is done with learning, in every other job.
const LESSONS: u32 = 8;

/// After that, one job in so many is a race. The slower half of it costs some tenths of its time, so less than a per cent.
const BETWEEN_RACES: u32 = 16;

/// The lead (of the logarithm of the rates) that makes a challenger the best.
const ENOUGH: f64 = 0.04;

thread_local! {
    // By thread, so that nobody waits or is disturbed; a core learns what its own memory does.
    static SCORES: RefCell<[Scores; Kind::COUNT]> = const { RefCell::new([Scores::NEW; Kind::COUNT]) };
}

/// Jobs for which the same way is best.
struct Kind;

impl Kind {
    const COUNT: usize = 64;

    fn of(rows: Rows<'_>, bags: &Bags<'_>) -> usize {
        let lines = lines(rows);
        let aligned = rows.format().row_bytes(rows.dim()).is_multiple_of(LINE);
        let short_bags = bags.lookups() < 4 * bags.len();
        let flags = [aligned, short_bags, bags.lookups() < FEW, is_small(rows)];
        flags.iter().fold(lines.clamp(1, 4) - 1, |kind, flag| 2 * kind + usize::from(*flag))
    }
}

/// What one thread knows about the ways for one kind of jobs.
struct Scores {
    best: usize,
    /// By which the logarithm of a way's rate is above that of the best, smoothed over the last races.
    lead: [f64; WAYS],
    races: [u32; WAYS],
    jobs: u32,
}

#[derive(Debug, PartialEq)]
enum Turn {
    Best(usize),
    Race {
        /// Of the first and the second half.
        ways: [usize; 2],
        challenger: usize,
    },
}

impl Scores {
    const NEW: Self = Scores { best: 0, lead: [0.0; WAYS], races: [0; WAYS], jobs: 0 };

    fn turn(&mut self) -> Turn {
        self.jobs = self.jobs.wrapping_add(1);
        let challengers = (0..WAYS).filter(|way| *way != self.best);
        let challenger = challengers.min_by_key(|way| self.races[*way]).expect("there are several ways");
        let races = self.races[challenger];
        let pause = if races < LESSONS { 2 } else { BETWEEN_RACES };
        if !self.jobs.is_multiple_of(pause) {
            return Turn::Best(self.best);
        }
        // The second half finds some things warm, so each has it in turn.
        let ways = if races.is_multiple_of(2) { [challenger, self.best] } else { [self.best, challenger] };
        Turn::Race { ways, challenger }
    }

    /// The challenger was faster by `lead` (the logarithm of the ratio of rates).
    fn race(&mut self, challenger: usize, lead: f64) {
        let races = self.races[challenger].saturating_add(1);
        self.races[challenger] = races;
        let weight = 1.0 / f64::from(races.min(4 * LESSONS));
        // One half may have been interrupted for milliseconds: no race counts for more than a factor of two.
        self.lead[challenger] += weight * (lead.clamp(-0.7, 0.7) - self.lead[challenger]);
        let ahead = self.lead[challenger];
        if ahead > ENOUGH && races >= LESSONS / 2 {
            self.lead.iter_mut().for_each(|lead| *lead -= ahead);
            // The best races with everyone, and is known as well as the one that beat it.
            self.races[self.best] = self.races[self.best].max(races);
            self.best = challenger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddingTable, HeapTable, Pooling, RowFormat};

    /// Lets a machine on which the ways have these rates go through so many jobs.
    fn learn(scores: &mut Scores, rates: [f64; WAYS], jobs: usize) -> usize {
        (0..jobs)
            .filter(|_| match scores.turn() {
                Turn::Best(_) => false,
                Turn::Race { ways, challenger } => {
                    assert!(ways.contains(&scores.best) && ways.contains(&challenger) && scores.best != challenger);
                    scores.race(challenger, (rates[challenger] / rates[scores.best]).ln());
                    true
                }
            })
            .count()
    }

    #[test]
    fn the_fastest_way_wins_and_loses_when_the_machine_changes() {
        for fastest in 0..WAYS {
            let mut scores = Scores::NEW;
            let mut rates = [10.0, 11.0, 12.0, 13.0];
            rates.swap(fastest, WAYS - 1);
            learn(&mut scores, rates, 100);
            assert_eq!(scores.best, fastest);
            rates.reverse();
            learn(&mut scores, rates, 4000);
            assert_eq!(scores.best, WAYS - 1 - fastest);
            let races = learn(&mut scores, rates, 1600);
            assert_eq!(races, 100);
        }
    }

    #[test]
    fn one_interruption_changes_nothing() {
        let mut scores = Scores::NEW;
        learn(&mut scores, [12.0, 10.0, 10.0, 10.0], 1000);
        scores.race(1, 9.0);
        assert_eq!(scores.best, 0);
        scores.race(1, f64::NEG_INFINITY);
        assert_eq!(scores.best, 0);
    }

    #[test]
    fn races_cover_all_samples_once_and_empty_halves_are_no_news() {
        let table = HeapTable::random("t", 50, 8, 1);
        let indices: Vec<i64> = (0..600).map(|at| at % 50).collect();
        // All lookups are the last sample's, so that one half has none.
        let (even, last) = ((0..=100).map(|at| 6 * at).collect::<Vec<i64>>(), [vec![0i64; 100], vec![600]].concat());
        for offsets in [even, last] {
            let bags = Bags::new("t", 50, &indices, &offsets, None).unwrap();
            for _ in 0..40 {
                let mut out = vec![f32::NAN; bags.len() * 8];
                let mut expected = out.clone();
                table.pool(&bags, Pooling::Sum, &mut out).unwrap();
                crate::kernels::naive::pool(table.stored(), &bags, Pooling::Sum, Output::F32(&mut expected));
                assert_eq!(out, expected);
            }
        }
        SCORES.with_borrow(|scores| assert!(scores.iter().all(|score| score.lead.iter().all(|lead| lead.is_finite()))));
    }

    #[test]
    fn lines_are_those_that_a_row_can_touch() {
        for (format, dim) in [(RowFormat::F32, 64), (RowFormat::Int8, 64), (RowFormat::Int4, 64), (RowFormat::F32, 3)] {
            let table = HeapTable::random("t", 500, dim, 1).to_format(format).unwrap();
            let (rows, row_bytes) = (table.stored(), format.row_bytes(dim));
            let base = rows.bytes().as_ptr().addr();
            let touched = |row: usize| (base + (row + 1) * row_bytes - 1) / LINE - (base + row * row_bytes) / LINE + 1;
            assert_eq!(lines(rows), (0..500).map(touched).max().unwrap(), "{format} x {dim}");
        }
    }
}
