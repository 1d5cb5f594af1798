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

/// Lines of a row that are requested by an instruction each.
const NAMED_LINES: usize = 8;

/// Positions whose requests are made in one go, before the first of them is added.
const GROUP: usize = 8;

/// Lines of the smallest output that is streamed: half of a second-level cache that is not large.
const STREAMED_LINES: usize = (256 << 10) / LINE;

/// Lines that are read for each line of an output that is streamed.
const STREAMED_READS: usize = 8;

/// The inputs of a kernel, without the output.
struct Job<'a, I> {
    rows: Rows<'a>,
    row_bytes: usize,
    parts: Parts,
    /// The most lines that a row touches, without the line of its last byte.
    lines_before_last: usize,
    bags: &'a Bags<'a>,
    indices: &'a [I],
    /// By position, the index whose row's first line is requested there.
    ask_first: &'a [I],
    /// By position, the index whose row is requested there, with all lines.
    ask_all: &'a [I],
    ahead: LookAhead,
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

    /// Requests the rows of the lookups that come before any position could request them.
    #[inline(never)]
    fn begin(&self) {
        let Range { start, end } = self.positions;
        let early = |ahead: Option<usize>| {
            &self.indices[start..ahead.map_or(start, |ahead| end.min(start.saturating_add(ahead)))]
        };
        self.ask(early(self.ahead.first), early(self.ahead.all));
    }

    /// Requests the rows that are due at the positions of a group.
    #[inline(never)]
    fn ask_for_group(&self, begin: usize) {
        let due = |by_position: &'a [I]| {
            let rest = by_position.get(begin..).unwrap_or(&[]);
            &rest[..rest.len().min(GROUP)]
        };
        self.ask(due(self.ask_first), due(self.ask_all));
    }

    /// Requests the first lines of some rows, and all lines of others.
    #[inline(always)]
    fn ask(&self, first: &[I], all: &[I]) {
        first.iter().for_each(|index| prefetch(self.row_of(*index), Cache::First));
        match self.ahead.cache {
            Cache::First => self.ask_for_lines(all, |at| prefetch(at, Cache::First)),
            Cache::Second => self.ask_for_lines(all, |at| prefetch(at, Cache::Second)),
        }
    }

    /// Requests all lines of some rows. Rows of one line or two have loops of their own.
    #[inline(always)]
    fn ask_for_lines(&self, indices: &[I], ask_for: impl Fn(*const u8)) {
        let rows = indices.iter().map(|index| self.row_of(*index));
        let last = |row: *const u8| row.wrapping_add(self.row_bytes).wrapping_sub(1);
        match self.lines_before_last {
            0 => rows.for_each(&ask_for),
            1 => rows.for_each(|row| {
                ask_for(row);
                ask_for(last(row));
            }),
            _ => rows.for_each(|row| {
                self.ask_before_last(row, &ask_for);
                ask_for(last(row));
            }),
        }
    }

    /// The first requests are instructions of their own. One instruction that steps along a row looks to a processor like the
    /// beginning of a stream, and it may bring what follows the row: that cost a third of the rate on a Zen 3.
    #[inline(always)]
    fn ask_before_last(&self, row: *const u8, ask_for: impl Fn(*const u8)) {
        let count = self.lines_before_last;
        macro_rules! named {
            ($($line:literal)*) => { $(if count > $line { ask_for(row.wrapping_add(LINE * $line)); })* };
        }
        named!(0 1 2 3);
        if count > 4 {
            named!(4 5 6 7);
            (NAMED_LINES..count).for_each(|line| ask_for(row.wrapping_add(LINE * line)));
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
    match job.bags.weights() {
        // Weights of 1 change no bit, and save the code for having none.
        // SAFETY: the caller's.
        None if !V::FAST => unsafe { each::<V, F, I, true>(job, &[], out) },
        // SAFETY: the caller's.
        None => unsafe { each::<V, F, I, false>(job, &[], out) },
        // SAFETY: the caller's.
        Some(weights) => unsafe { each::<V, F, I, true>(job, weights, out) },
    }
}

/// [`samples`], with what does not change from one to the next known to the compiler.
///
/// # Safety
///
/// As [`samples`].
#[inline(always)]
unsafe fn each<V: Vector, F: Format, I: Index, const WEIGHTED: bool>(
    job: &Job<'_, I>,
    weights: &[f32],
    out: Output<'_>,
) {
    let streamed = job.is_streamed(&out);
    let mut out = out;
    // Where no position requests anything, none is the first to.
    let asks = !job.ask_first.is_empty() || !job.ask_all.is_empty();
    let mut asked = if asks { job.positions.start } else { usize::MAX };
    for number in 0..job.bags.len() {
        let (bag, begin) = (job.bags.bag(number), number * job.rows.dim());
        let mut sample = Sample::<'_, '_, I, WEIGHTED> {
            job,
            bag,
            weights,
            out: &mut out,
            begin,
            streamed,
            column: 0,
            asked: &mut asked,
        };
        if V::FAST {
            // SAFETY: the caller's.
            unsafe { sample.blocks::<V, F, 8>() };
            // SAFETY: the caller's.
            unsafe { sample.blocks::<V, F, 4>() };
            // SAFETY: the caller's.
            unsafe { sample.blocks::<V, F, 2>() };
        }
        // SAFETY: the caller's.
        unsafe { sample.blocks::<V, F, 1>() };
        // SAFETY: the caller's.
        unsafe { sample.rest::<V, F>() };
    }
    if streamed {
        fence();
    }
}

/// One sample, which is pooled into `out[begin..begin + dim]`.
///
/// The storage format of the values is checked at run time, once for each block of columns: this costs less than
/// compiling all of this for each format.
struct Sample<'j, 'a, I, const WEIGHTED: bool> {
    job: &'j Job<'a, I>,
    bag: Range<usize>,
    weights: &'j [f32],
    out: &'j mut Output<'a>,
    begin: usize,
    /// The output goes past the caches.
    streamed: bool,
    /// The first column that is not pooled.
    column: usize,
    /// The first position whose requests are not made: the end of a group, at or after the bag's begin.
    asked: &'j mut usize,
}

impl<I: Index, const WEIGHTED: bool> Sample<'_, '_, I, WEIGHTED> {
    /// Pools as many blocks of `N` vectors as there are columns for.
    ///
    /// # Safety
    ///
    /// As [`samples`].
    #[inline(always)]
    unsafe fn blocks<V: Vector, F: Format, const N: usize>(&mut self) {
        while self.job.rows.dim() - self.column >= N * V::LANES {
            // SAFETY: the caller's; the loop's condition.
            let mut sums = unsafe { self.sums::<V, F, N>() };
            if self.job.mean && !self.bag.is_empty() {
                // SAFETY: the caller's.
                let divisor = unsafe { V::splat(self.bag.len() as f32) };
                sums = sums.map(|sum| sum.div(divisor));
            }
            let at = self.begin + self.column;
            match (&mut *self.out, self.streamed) {
                // SAFETY: room for a vector, whole vectors after the begin of a cache line, since streamed rows are whole lines.
                (Output::F32(out), true) => store(sums, &mut out[at..], |sum, at| unsafe { sum.stream_f32(at) }),
                // SAFETY: room for a vector.
                (Output::F32(out), false) => store(sums, &mut out[at..], |sum, at| unsafe { sum.store_f32(at) }),
                // SAFETY: the caller's.
                (Output::F16(out), _) => unsafe { V::store_halves(&{ sums }, Output::F16(&mut out[at..])) },
                // SAFETY: the caller's.
                (Output::Bf16(out), _) => unsafe { V::store_halves(&{ sums }, Output::Bf16(&mut out[at..])) },
            }
            self.column += N * V::LANES;
        }
    }

    /// # Safety
    ///
    /// As [`samples`]; there are `N * V::LANES` columns from the first that is not pooled on.
    #[inline(always)]
    unsafe fn sums<V: Vector, F: Format, const N: usize>(&mut self) -> [V; N] {
        // SAFETY: the caller's.
        let mut sums = [unsafe { V::splat(0.0) }; N];
        let mut begin = self.bag.start;
        while begin < self.bag.end {
            let end = self.ask(begin);
            for position in begin..end {
                let weight = self.weight(position);
                // SAFETY: a position of a bag of the job.
                let row = unsafe { self.job.row(position) };
                // SAFETY: a row of the table, since the bags were checked against as many rows as there are.
                let (first, second) = unsafe { F::head::<V, WEIGHTED>(&self.job.parts, row, weight) };
                // SAFETY: the caller's.
                let first = unsafe { V::splat(first) };
                // SAFETY: the caller's.
                let second = unsafe { V::splat(second) };
                for (block, sum) in sums.iter_mut().enumerate() {
                    let column = self.column + block * V::LANES;
                    // SAFETY: a row as above, and the caller's columns of it.
                    *sum = unsafe { F::add::<V, WEIGHTED>(*sum, &self.job.parts, row, column, first, second) };
                }
            }
            begin = end;
        }
        sums
    }

    /// Makes the requests that are due at a position of the bag, unless they are made: once, however many blocks of columns
    /// come here. Returns the position of the bag up to which none is due.
    #[inline(always)]
    fn ask(&mut self, position: usize) -> usize {
        if position == *self.asked {
            self.job.ask_for_group(position);
            *self.asked += GROUP;
        }
        self.bag.end.min(*self.asked)
    }

    #[inline(always)]
    fn weight(&self, position: usize) -> f32 {
        if WEIGHTED { self.weights.get(position).copied().unwrap_or(1.0) } else { 1.0 }
    }

    /// Pools the columns that are too few for a vector, one by one.
    ///
    /// # Safety
    ///
    /// As [`samples`].
    #[inline(always)]
    unsafe fn rest<V: Vector, F: Format>(&mut self) {
        let job = self.job;
        if self.column == 0 {
            // A table of few columns has no block that would have requested them.
            let mut position = self.bag.start;
            while position < self.bag.end {
                position = self.ask(position);
            }
        }
        for column in self.column..job.rows.dim() {
            let mut sum = 0.0;
            for position in self.bag.clone() {
                let weight = self.weight(position);
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
            match &mut *self.out {
                Output::F32(out) => out[self.begin + column] = sum,
                Output::F16(out) => out[self.begin + column] = f16::from_f32(sum),
                Output::Bf16(out) => out[self.begin + column] = bf16::from_f32(sum),
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

/// Rounds the values of some vectors to half precision and stores them at the begin of `room`.
///
/// # Safety
///
/// The machine has the vector's instructions.
#[inline(always)]
unsafe fn store_halves<V: Vector>(values: &[V], room: Output<'_>) {
    match room {
        Output::F32(_) => unreachable!("stored by whoever summed"),
        Output::F16(room) => {
            let room = &mut room[..values.len() * V::LANES];
            for (value, room) in values.iter().zip(room.chunks_exact_mut(V::LANES)) {
                // SAFETY: room for a vector.
                unsafe { value.store_f16(room.as_mut_ptr().cast()) };
            }
        }
        Output::Bf16(room) => {
            let room = &mut room[..values.len() * V::LANES];
            for (value, room) in values.iter().zip(room.chunks_exact_mut(V::LANES)) {
                // SAFETY: room for a vector.
                unsafe { value.store_bf16(room.as_mut_ptr().cast()) };
            }
        }
    }
}
