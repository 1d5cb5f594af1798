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
use self::vector::{Portable, Vector, prefetch};
use super::Isa;
use super::lookahead::{Cache, LINE, LookAhead};
use crate::bags::Index;
use crate::{Bags, Indices, Output, Pooling, RowFormat, Rows};

/// Farther ahead than any lookup there is.
const NEVER: usize = usize::MAX / 2;

const LARGEST_GROUP: usize = 64;

/// See [`super::pool_with`], which has checked the lengths and that the machine has `isa`.
pub(super) fn pool(isa: Isa, ahead: LookAhead, rows: Rows<'_>, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) {
    match bags.indices() {
        Indices::I32(indices) => by_output(isa, &Job::new(ahead, rows, bags, indices, pooling), out),
        Indices::I64(indices) => by_output(isa, &Job::new(ahead, rows, bags, indices, pooling), out),
    }
}

fn by_output<I: Index>(isa: Isa, job: &Job<'_, I>, out: Output<'_>) {
    match out {
        Output::F32(out) => by_format(isa, job, out),
        Output::F16(out) => by_format(isa, job, out),
        Output::Bf16(out) => by_format(isa, job, out),
    }
}

fn by_format<I: Index, S: Store>(isa: Isa, job: &Job<'_, I>, out: &mut [S]) {
    match job.rows.format() {
        RowFormat::F32 => by_isa::<F32, I, S>(isa, job, out),
        RowFormat::F16 => by_isa::<F16, I, S>(isa, job, out),
        RowFormat::Bf16 => by_isa::<Bf16, I, S>(isa, job, out),
        RowFormat::Int8 | RowFormat::Int8Fbgemm => by_isa::<Int8, I, S>(isa, job, out),
        RowFormat::Int4 | RowFormat::Int4Fbgemm => by_isa::<Int4, I, S>(isa, job, out),
    }
}

fn by_isa<F: Format, I: Index, S: Store>(isa: Isa, job: &Job<'_, I>, out: &mut [S]) {
    match isa {
        // SAFETY: every machine has it.
        Isa::Portable => unsafe { samples::<Portable, F, I, S>(job, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has seen that the machine has it.
        Isa::Avx2 => unsafe { avx2::samples::<F, I, S>(job, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::samples::<F, I, S>(job, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every such machine has it.
        Isa::Neon => unsafe { samples::<neon::Neon, F, I, S>(job, out) },
        #[allow(unreachable_patterns, reason = "which are left depends on the target")]
        _ => unreachable!("not available on this target"),
    }
}

/// What a pooled value is stored as.
trait Store: Copy {
    /// # Safety
    ///
    /// There is room for `V::LANES` values.
    unsafe fn store<V: Vector>(values: V, at: *mut Self);

    fn rounded(value: f32) -> Self;
}

macro_rules! store {
    ($type:ty, $method:ident, $rounded:expr) => {
        impl Store for $type {
            #[inline(always)]
            unsafe fn store<V: Vector>(values: V, at: *mut Self) {
                // SAFETY: the caller's.
                unsafe { values.$method(at.cast()) }
            }

            #[inline(always)]
            fn rounded(value: f32) -> Self {
                $rounded(value)
            }
        }
    };
}

store!(f32, store_f32, std::convert::identity);
store!(f16, store_f16, f16::from_f32);
store!(bf16, store_bf16, bf16::from_f32);

/// All that a kernel is given but the output.
struct Job<'a, I> {
    rows: Rows<'a>,
    row_bytes: usize,
    parts: Parts,
    /// Some rows begin or end within a line.
    unaligned: bool,
    /// How many lookups ahead a row's first line is asked for.
    first: usize,
    /// And all of its lines.
    all: usize,
    cache: Cache,
    /// The positions with no bit of this ask, each for as many rows as there are positions up to the next of them.
    group: usize,
    /// Every position asks for one row, and for that once.
    once: bool,
    bags: &'a Bags<'a>,
    indices: &'a [I],
    /// The position of the first lookup of these samples.
    start: usize,
    /// The position after the last.
    end: usize,
    mean: bool,
}

impl<'a, I: Index> Job<'a, I> {
    fn new(ahead: LookAhead, rows: Rows<'a>, bags: &'a Bags<'a>, indices: &'a [I], pooling: Pooling) -> Self {
        let row_bytes = rows.format().row_bytes(rows.dim());
        let unaligned = !(rows.bytes().as_ptr().addr() | row_bytes).is_multiple_of(LINE);
        let [first, all] = [ahead.first, ahead.all].map(|lookups| lookups.map_or(NEVER, |lookups| lookups.min(NEVER)));
        let group = ahead.group.clamp(1, LARGEST_GROUP).next_power_of_two() - 1;
        let [start, end] = bags.len().checked_sub(1).map_or([0; 2], |last| [bags.bag(0).start, bags.bag(last).end]);
        let (parts, mean) = (Parts::of(rows), pooling == Pooling::Mean);
        Job {
            rows,
            row_bytes,
            parts,
            unaligned,
            first,
            all,
            cache: ahead.cache,
            group,
            once: first == NEVER && group == 0,
            bags,
            indices,
            start,
            end,
            mean,
        }
    }

    /// The first byte of the row that is looked up at a position.
    #[inline(always)]
    fn row(&self, position: usize) -> *const u8 {
        let row = self.indices[position].row();
        self.rows.bytes().as_ptr().wrapping_add(row * self.row_bytes)
    }

    /// Asks for the rows of the lookups that no position asks for, since they come too early.
    #[inline(always)]
    fn begin(&self) {
        // The first position that asks.
        let asks = (self.start + self.group) & !self.group;
        let end = |ahead: usize| if ahead < NEVER { self.end.min(asks + ahead) } else { self.start };
        for position in self.start..end(self.all) {
            self.ask_for_all(position);
        }
        for position in end(self.all)..end(self.first) {
            prefetch(self.row(position), Cache::First);
        }
    }

    /// Asks for the rows that are due at a position. `ONCE` says that [`once`](Self::once) is set: the loop of short bags is so
    /// short that the rest would cost a tenth of it.
    #[inline(always)]
    fn look_ahead<const ONCE: bool>(&self, position: usize) {
        if ONCE {
            if position + self.all < self.end {
                self.ask_for_all(position + self.all);
            }
        } else if position & self.group == 0 {
            for position in position..=position + self.group {
                let (first, all) = (position + self.first, position + self.all);
                if first < self.end {
                    prefetch(self.row(first), Cache::First);
                }
                if all < self.end {
                    self.ask_for_all(all);
                }
            }
        }
    }

    #[inline(always)]
    fn ask_for_all(&self, position: usize) {
        let row = self.row(position);
        match self.cache {
            Cache::First => self.each_line(row, |at| prefetch(at, Cache::First)),
            Cache::Second => self.each_line(row, |at| prefetch(at, Cache::Second)),
        }
    }

    #[inline(always)]
    fn each_line(&self, row: *const u8, ask_for: impl Fn(*const u8)) {
        for at in (0..self.row_bytes).step_by(LINE) {
            ask_for(row.wrapping_add(at));
        }
        if self.unaligned {
            ask_for(row.wrapping_add(self.row_bytes - 1));
        }
    }
}

/// Pools all samples of a job.
///
/// # Safety
///
/// The machine has the instructions of `V`. (The lengths of job and output fit: [`super::check`].)
#[inline(always)]
unsafe fn samples<V: Vector, F: Format, I: Index, S: Store>(job: &Job<'_, I>, out: &mut [S]) {
    job.begin();
    for (sample, out) in out.chunks_exact_mut(job.rows.dim()).enumerate() {
        let bag = job.bags.bag(sample);
        match (job.bags.weights(), job.once) {
            // SAFETY: the caller's.
            (None, false) => unsafe { one::<V, F, I, S, false, false>(job, bag, &[], out) },
            // SAFETY: the caller's.
            (None, true) => unsafe { one::<V, F, I, S, false, true>(job, bag, &[], out) },
            // SAFETY: the caller's.
            (Some(weights), false) => unsafe { one::<V, F, I, S, true, false>(job, bag, weights, out) },
            // SAFETY: the caller's.
            (Some(weights), true) => unsafe { one::<V, F, I, S, true, true>(job, bag, weights, out) },
        }
    }
}

/// Pools one sample into `out`, `[dim]`.
///
/// # Safety
///
/// As [`samples`].
#[inline(always)]
unsafe fn one<V: Vector, F: Format, I: Index, S: Store, const WEIGHTED: bool, const ONCE: bool>(
    job: &Job<'_, I>,
    bag: Range<usize>,
    weights: &[f32],
    out: &mut [S],
) {
    let mut sample = Sample::<'_, '_, I, S, WEIGHTED, ONCE> { job, bag, weights, out, column: 0 };
    // SAFETY: the caller's.
    unsafe { sample.blocks::<V, F, 8>() };
    // SAFETY: the caller's.
    unsafe { sample.blocks::<V, F, 4>() };
    // SAFETY: the caller's.
    unsafe { sample.blocks::<V, F, 2>() };
    // SAFETY: the caller's.
    unsafe { sample.blocks::<V, F, 1>() };
    // SAFETY: the caller's.
    unsafe { sample.rest::<V, F>() };
}

struct Sample<'j, 'a, I, S, const WEIGHTED: bool, const ONCE: bool> {
    job: &'j Job<'a, I>,
    bag: Range<usize>,
    weights: &'j [f32],
    out: &'j mut [S],
    /// The first column that is not pooled.
    column: usize,
}

impl<I: Index, S: Store, const WEIGHTED: bool, const ONCE: bool> Sample<'_, '_, I, S, WEIGHTED, ONCE> {
    /// Pools as many blocks of `N` vectors as there are columns for.
    ///
    /// # Safety
    ///
    /// As [`samples`].
    #[inline(always)]
    unsafe fn blocks<V: Vector, F: Format, const N: usize>(&mut self) {
        while self.out.len() - self.column >= N * V::LANES {
            // SAFETY: the caller's.
            let mut sums = unsafe { self.sums::<V, F, N>() };
            if self.job.mean && !self.bag.is_empty() {
                // SAFETY: the caller's.
                let divisor = unsafe { V::splat(self.bag.len() as f32) };
                sums = sums.map(|sum| sum.div(divisor));
            }
            let room = &mut self.out[self.column..][..N * V::LANES];
            for (sum, room) in sums.into_iter().zip(room.chunks_exact_mut(V::LANES)) {
                // SAFETY: a room of that many values.
                unsafe { S::store(sum, room.as_mut_ptr()) };
            }
            self.column += N * V::LANES;
        }
    }

    /// # Safety
    ///
    /// As [`samples`]; there are `N * V::LANES` columns from `self.column` on.
    #[inline(always)]
    unsafe fn sums<V: Vector, F: Format, const N: usize>(&self) -> [V; N] {
        let job = self.job;
        // SAFETY: the caller's.
        let mut sums = [unsafe { V::splat(0.0) }; N];
        for position in self.bag.clone() {
            // Once for each row, however many blocks it has.
            if self.column == 0 {
                job.look_ahead::<ONCE>(position);
            }
            let row = job.row(position);
            let weight = if WEIGHTED { self.weights[position] } else { 1.0 };
            // SAFETY: a row of the table, since the bags were checked against as many rows as there are.
            let (first, second) = unsafe { F::head::<V, WEIGHTED>(&job.parts, row, weight) };
            // SAFETY: the caller's.
            let first = unsafe { V::splat(first) };
            // SAFETY: the caller's.
            let second = unsafe { V::splat(second) };
            for (block, sum) in sums.iter_mut().enumerate() {
                let column = self.column + block * V::LANES;
                // SAFETY: a row as above, and the caller's columns of it.
                *sum = unsafe { F::add::<V, WEIGHTED>(*sum, &job.parts, row, column, first, second) };
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
    unsafe fn rest<V: Vector, F: Format>(&mut self) {
        let job = self.job;
        for column in self.column..self.out.len() {
            let mut sum = 0.0;
            for position in self.bag.clone() {
                // A table of few columns has no block that would have asked.
                if column == 0 {
                    job.look_ahead::<ONCE>(position);
                }
                let row = job.row(position);
                let weight = if WEIGHTED { self.weights[position] } else { 1.0 };
                // SAFETY: a row of the table, as above.
                let (first, second) = unsafe { F::head::<V, WEIGHTED>(&job.parts, row, weight) };
                // SAFETY: a row of the table, as above, and one of its columns.
                sum = unsafe { F::add_one::<WEIGHTED>(sum, &job.parts, row, column, first, second) };
            }
            if job.mean && !self.bag.is_empty() {
                sum /= self.bag.len() as f32;
            }
            self.out[column] = S::rounded(sum);
        }
    }
}
