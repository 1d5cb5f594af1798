//! The fast kernel: written once over vectors of any width, compiled for every instruction set.
//!
//! A vector's value exists only where its instructions do ([`Vector`]), and the pointers below stay inside of the rows and the
//! output because [`Bags`] proves its indices and offsets and [`pool`] is called after the lengths were compared.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod formats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod vector;

use std::ops::Range;

use half::{bf16, f16};

use self::formats::{Bf16, F16, F32, Format, Int4, Int8, Parts};
use self::vector::{Portable, Vector, fence, prefetch};
use super::Isa;
use super::lookahead::{Cache, LINE, LookAhead, lines};
use crate::bags::Index;
use crate::{Bags, Indices, Output, Pooling, RowFormat, Rows};

const LARGEST_GROUP: usize = 64;

/// Lines of a row that have an instruction of their own to ask for them.
const NAMED_LINES: usize = 8;

/// See [`super::pool_with`], which has checked the lengths and that the machine has `isa`.
pub(super) fn pool(isa: Isa, ahead: LookAhead, rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) {
    match bags.indices() {
        Indices::I32(indices) => by_format(isa, &Job::new(ahead, rows, bags, indices, pooling), out),
        Indices::I64(indices) => by_format(isa, &Job::new(ahead, rows, bags, indices, pooling), out),
    }
}

fn by_format<I: Index>(isa: Isa, job: &Job<'_, I>, out: Output<'_>) {
    match job.rows.format() {
        RowFormat::F32 => by_isa::<F32, I>(isa, job, out),
        RowFormat::F16 => by_isa::<F16, I>(isa, job, out),
        RowFormat::Bf16 => by_isa::<Bf16, I>(isa, job, out),
        RowFormat::Int8 | RowFormat::Int8Fbgemm => by_isa::<Int8, I>(isa, job, out),
        RowFormat::Int4 | RowFormat::Int4Fbgemm => by_isa::<Int4, I>(isa, job, out),
    }
}

fn by_isa<F: Format, I: Index>(isa: Isa, job: &Job<'_, I>, out: Output<'_>) {
    match isa {
        // SAFETY: every machine has it.
        Isa::Portable => unsafe { samples::<Portable, F, I>(job, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has seen that the machine has it.
        Isa::Avx2 => unsafe { avx2::samples::<F, I>(job, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::samples::<F, I>(job, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every such machine has it.
        Isa::Neon => unsafe { samples::<neon::Neon, F, I>(job, out) },
        #[allow(unreachable_patterns, reason = "which are left depends on the target")]
        _ => unreachable!("not available on this target"),
    }
}

/// Lines of the smallest output that is streamed: half of a second-level cache that is not large.
const STREAMED_LINES: usize = (256 << 10) / LINE;

/// Lines that are read for each line of an output that is streamed.
const STREAMED_READS: usize = 8;

/// All that a kernel is given but the output.
struct Job<'a, I> {
    rows: Rows<'a>,
    row_bytes: usize,
    parts: Parts,
    /// The lines that a row touches at most, but the one of its last byte.
    lines_before_last: usize,
    bags: &'a Bags<'a>,
    indices: &'a [I],
    /// By position, the index whose row's first line is asked for there.
    ask_first: &'a [I],
    /// By position, the index whose row is asked for there, with all lines.
    ask_all: &'a [I],
    ahead: LookAhead,
    /// The positions with no bit of this ask, each for all positions up to the next of them.
    group: usize,
    /// The positions of these samples.
    positions: Range<usize>,
    mean: bool,
}

impl<'a, I: Index> Job<'a, I> {
    fn new(ahead: LookAhead, rows: Rows<'a>, bags: &'a Bags<'a>, indices: &'a [I], pooling: Pooling) -> Self {
        let positions = bags.len().checked_sub(1).map_or(0..0, |last| bags.bag(0).start..bags.bag(last).end);
        let to_come = |lookups: Option<usize>| lookups.and_then(|ahead| indices[..positions.end].get(ahead..));
        Job {
            rows,
            row_bytes: rows.format().row_bytes(rows.dim()),
            parts: Parts::of(rows),
            lines_before_last: lines(rows) - 1,
            bags,
            indices,
            ask_first: to_come(ahead.first).unwrap_or(&[]),
            ask_all: to_come(ahead.all).unwrap_or(&[]),
            ahead,
            group: ahead.group.clamp(1, LARGEST_GROUP).next_power_of_two() - 1,
            positions,
            mean: pooling == Pooling::Mean,
        }
    }

    /// The first byte of the row that is looked up at a position.
    ///
    /// # Safety
    ///
    /// It is a position of a bag.
    #[inline(always)]
    unsafe fn row(&self, position: usize) -> *const u8 {
        // SAFETY: bags end within the indices.
        self.row_of(*unsafe { self.indices.get_unchecked(position) })
    }

    #[inline(always)]
    fn row_of(&self, index: I) -> *const u8 {
        self.rows.bytes().as_ptr().wrapping_add(index.row() * self.row_bytes)
    }

    /// Whether the output goes past the caches: it will have left them before anybody reads it, since it is large and many
    /// more lines are read for it. Its rows are whole lines then.
    fn is_streamed(&self, out: &Output<'_>) -> bool {
        let Output::F32(out) = out else { return false };
        let lines = size_of_val(*out) / LINE;
        let read = self.positions.len() * (self.lines_before_last + 1);
        let row_bytes = self.rows.dim() * size_of::<f32>();
        let whole_lines = (row_bytes | out.as_ptr().addr()).is_multiple_of(LINE);
        whole_lines && lines >= STREAMED_LINES && read >= STREAMED_READS * lines
    }

    /// Asks for the rows of the lookups that no position asks for, since they come too early.
    #[inline(always)]
    fn begin(&self) {
        // The first position that asks.
        let asks = (self.positions.start + self.group) & !self.group;
        let early =
            |ahead: usize| &self.indices[self.positions.start..self.positions.end.min(asks.saturating_add(ahead))];
        for index in self.ahead.all.map_or(&[][..], early) {
            match self.ahead.cache {
                Cache::First => self.ask_for_lines::<false, true>(*index),
                Cache::Second => self.ask_for_lines::<true, true>(*index),
            }
        }
        for index in self.ahead.first.map_or(&[][..], early) {
            prefetch(self.row_of(*index), Cache::First);
        }
    }

    /// Asks for all lines of a row, of which there may be more than [`NAMED_LINES`] if it is said that it may be `LONG`.
    ///
    /// The first requests are instructions of their own. One instruction that steps along a row looks to a processor like the
    /// beginning of a stream, and it may bring what follows the row: that cost a third of the rate on a Zen 3.
    #[inline(always)]
    fn ask_for_lines<const SECOND: bool, const LONG: bool>(&self, index: I) {
        let row = self.row_of(index);
        let ask_for = |at: *const u8| prefetch(at, if SECOND { Cache::Second } else { Cache::First });
        let count = self.lines_before_last;
        macro_rules! ask_for_each {
            ($($line:literal)*) => { $(if count > $line { ask_for(row.wrapping_add(LINE * $line)); })* };
        }
        ask_for_each!(0 1 2 3);
        if count > 4 {
            ask_for_each!(4 5 6 7);
            if LONG {
                (NAMED_LINES..count).for_each(|line| ask_for(row.wrapping_add(LINE * line)));
            }
        }
        ask_for(row.wrapping_add(self.row_bytes).wrapping_sub(1));
    }
}

/// How the loop over the lookups asks for rows to come. It is compiled for each of them: a core that waits for rows works on
/// as many of them as its window of instructions holds, so every instruction more in that loop costs almost a per cent.
trait Ask {
    /// Asks for the rows that are due at a position.
    fn look_ahead<I: Index>(job: &Job<'_, I>, position: usize);
}

/// Every position asks, for rows of at most [`NAMED_LINES`] lines and their last byte.
struct OneByOne<const SECOND: bool>;

impl<const SECOND: bool> Ask for OneByOne<SECOND> {
    #[inline(always)]
    fn look_ahead<I: Index>(job: &Job<'_, I>, position: usize) {
        if let Some(index) = job.ask_first.get(position) {
            prefetch(job.row_of(*index), Cache::First);
        }
        if let Some(index) = job.ask_all.get(position) {
            job.ask_for_lines::<SECOND, false>(*index);
        }
    }
}

/// A position may ask for many, which may be long.
struct InGroups;

impl Ask for InGroups {
    #[inline(always)]
    fn look_ahead<I: Index>(job: &Job<'_, I>, position: usize) {
        if position & job.group != 0 {
            return;
        }
        for position in position..=position + job.group {
            if let Some(index) = job.ask_first.get(position) {
                prefetch(job.row_of(*index), Cache::First);
            }
            if let Some(index) = job.ask_all.get(position) {
                match job.ahead.cache {
                    Cache::First => job.ask_for_lines::<false, true>(*index),
                    Cache::Second => job.ask_for_lines::<true, true>(*index),
                }
            }
        }
    }
}

/// Pools all samples of a job.
///
/// # Safety
///
/// The machine has the instructions of `V`. (The lengths of job and output fit: [`super::check`].)
#[inline(always)]
unsafe fn samples<V: Vector, F: Format, I: Index>(job: &Job<'_, I>, out: Output<'_>) {
    job.begin();
    let one_by_one = job.group == 0 && job.lines_before_last <= NAMED_LINES;
    match (job.bags.weights(), one_by_one, job.ahead.cache) {
        // SAFETY: the caller's.
        (None, true, Cache::First) => unsafe { each::<V, F, I, OneByOne<false>, false>(job, &[], out) },
        // SAFETY: the caller's.
        (None, true, Cache::Second) => unsafe { each::<V, F, I, OneByOne<true>, false>(job, &[], out) },
        // SAFETY: the caller's.
        (None, ..) => unsafe { each::<V, F, I, InGroups, false>(job, &[], out) },
        // SAFETY: the caller's.
        (Some(weights), ..) => unsafe { each::<V, F, I, InGroups, true>(job, weights, out) },
    }
}

/// [`samples`], with what does not change from one to the next known to the compiler.
///
/// # Safety
///
/// As [`samples`].
#[inline(always)]
unsafe fn each<V: Vector, F: Format, I: Index, A: Ask, const WEIGHTED: bool>(
    job: &Job<'_, I>,
    weights: &[f32],
    out: Output<'_>,
) {
    let streamed = job.is_streamed(&out);
    let mut rest = out;
    for number in 0..job.bags.len() {
        let (out, after) = rest.split_at(job.rows.dim());
        rest = after;
        let bag = job.bags.bag(number);
        let mut sample = Sample::<'_, '_, I, WEIGHTED> { job, bag, weights, out, streamed, column: 0 };
        // SAFETY: the caller's.
        unsafe { sample.blocks::<V, F, A, 8>() };
        // SAFETY: the caller's.
        unsafe { sample.blocks::<V, F, A, 4>() };
        // SAFETY: the caller's.
        unsafe { sample.blocks::<V, F, A, 2>() };
        // SAFETY: the caller's.
        unsafe { sample.blocks::<V, F, A, 1>() };
        // SAFETY: the caller's.
        unsafe { sample.rest::<V, F, A>() };
    }
    if streamed {
        fence();
    }
}

/// One sample, which is pooled into `out`, `[dim]`.
///
/// What its values are stored as is seen at run time, once for each block of columns: it costs less than it takes to compile all
/// of this for each.
struct Sample<'j, 'a, I, const WEIGHTED: bool> {
    job: &'j Job<'a, I>,
    bag: Range<usize>,
    weights: &'j [f32],
    out: Output<'j>,
    /// The output goes past the caches.
    streamed: bool,
    /// The first column that is not pooled.
    column: usize,
}

impl<I: Index, const WEIGHTED: bool> Sample<'_, '_, I, WEIGHTED> {
    /// Pools as many blocks of `N` vectors as there are columns for.
    ///
    /// # Safety
    ///
    /// As [`samples`].
    #[inline(always)]
    unsafe fn blocks<V: Vector, F: Format, A: Ask, const N: usize>(&mut self) {
        while self.job.rows.dim() - self.column >= N * V::LANES {
            // Rows are asked for once, however many blocks they have.
            let mut sums = match self.column {
                // SAFETY: the caller's.
                0 => unsafe { self.sums::<V, F, N>(0, |position| A::look_ahead(self.job, position)) },
                // SAFETY: the caller's.
                column => unsafe { self.sums::<V, F, N>(column, |_| ()) },
            };
            if self.job.mean && !self.bag.is_empty() {
                // SAFETY: the caller's.
                let divisor = unsafe { V::splat(self.bag.len() as f32) };
                sums = sums.map(|sum| sum.div(divisor));
            }
            let column = self.column;
            match (&mut self.out, self.streamed) {
                // SAFETY: room for a vector, whole vectors after the begin of a cache line, since streamed rows are whole lines.
                (Output::F32(out), true) => store(sums, &mut out[column..], |sum, at| unsafe { sum.stream_f32(at) }),
                // SAFETY: room for a vector.
                (Output::F32(out), false) => store(sums, &mut out[column..], |sum, at| unsafe { sum.store_f32(at) }),
                // SAFETY: as above.
                (Output::F16(out), _) => store(sums, &mut out[column..], |sum, at| unsafe { sum.store_f16(at) }),
                // SAFETY: as above.
                (Output::Bf16(out), _) => store(sums, &mut out[column..], |sum, at| unsafe { sum.store_bf16(at) }),
            }
            self.column += N * V::LANES;
        }
    }

    /// # Safety
    ///
    /// As [`samples`]; there are `N * V::LANES` columns from `first_column` on.
    #[inline(always)]
    unsafe fn sums<V: Vector, F: Format, const N: usize>(
        &self,
        first_column: usize,
        look_ahead: impl Fn(usize),
    ) -> [V; N] {
        // SAFETY: the caller's.
        let mut sums = [unsafe { V::splat(0.0) }; N];
        for position in self.bag.clone() {
            look_ahead(position);
            let weight = if WEIGHTED { self.weights[position] } else { 1.0 };
            // SAFETY: a position of a bag of the job.
            let row = unsafe { self.job.row(position) };
            // SAFETY: a row of the table, since the bags were checked against as many rows as there are.
            let (first, second) = unsafe { F::head::<V, WEIGHTED>(&self.job.parts, row, weight) };
            // SAFETY: the caller's.
            let first = unsafe { V::splat(first) };
            // SAFETY: the caller's.
            let second = unsafe { V::splat(second) };
            for (block, sum) in sums.iter_mut().enumerate() {
                let column = first_column + block * V::LANES;
                // SAFETY: a row as above, and the caller's columns of it.
                *sum = unsafe { F::add::<V, WEIGHTED>(*sum, &self.job.parts, row, column, first, second) };
            }
        }
        sums
    }

    /// Pools the columns that are too few for a vector, one by one.
    ///
    /// # Safety
    ///
    /// As [`samples`].
    #[inline(always)]
    unsafe fn rest<V: Vector, F: Format, A: Ask>(&mut self) {
        let job = self.job;
        for column in self.column..job.rows.dim() {
            let mut sum = 0.0;
            for position in self.bag.clone() {
                // A table of few columns has no block that would have asked.
                if column == 0 {
                    A::look_ahead(job, position);
                }
                let weight = if WEIGHTED { self.weights[position] } else { 1.0 };
                // SAFETY: a position of a bag of the job.
                let row = unsafe { job.row(position) };
                // SAFETY: a row of the table, as above.
                let (first, second) = unsafe { F::head::<V, WEIGHTED>(&job.parts, row, weight) };
                // SAFETY: a row of the table, as above, and one of its columns.
                sum = unsafe { F::add_one::<WEIGHTED>(sum, &job.parts, row, column, first, second) };
            }
            if job.mean && !self.bag.is_empty() {
                sum /= self.bag.len() as f32;
            }
            match &mut self.out {
                Output::F32(out) => out[column] = sum,
                Output::F16(out) => out[column] = f16::from_f32(sum),
                Output::Bf16(out) => out[column] = bf16::from_f32(sum),
            }
        }
    }
}

/// Hands each vector to `store` with the place for its values, one after the other from the begin of `room`, which has as many.
#[inline(always)]
fn store<V: Vector, T, const N: usize>(values: [V; N], room: &mut [T], store: impl Fn(V, *mut u8)) {
    for (value, room) in values.into_iter().zip(room[..N * V::LANES].chunks_exact_mut(V::LANES)) {
        store(value, room.as_mut_ptr().cast());
    }
}
