//! Pooling on several threads.

use rayon::prelude::*;

use crate::{Bags, EmbeddingTable, Output, PoolError, Pooling, RowFormat, pool_finite};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Cache lines, read and written, that are worth a second thread where this one goes on working: they take one 40 to 70 µs, and
/// a thread that sleeps takes 50 µs to begin.
const WORTH_IT: usize = 4096;
/// The same where this thread only waits, and has to be woken in the end as well.
const WORTH_WAITING: usize = 4 * WORTH_IT;
/// Lookups of the smallest piece.
const PIECE: usize = 2048;

/// One table's part of a batch.
#[derive(Debug)]
pub struct PoolJob<'a> {
    /// The table.
    pub table: &'a dyn EmbeddingTable,
    /// Its lookups.
    pub bags: Bags<'a>,
    /// The number of their first sample, for errors.
    pub first_sample: usize,
    /// The table's column that its first one is, if it is a part of another; for errors.
    pub first_column: usize,
    /// How rows become one vector.
    pub pooling: Pooling,
    /// Where the vectors go, `[bags.len(), table.dim()]`.
    pub out: Output<'a>,
}

/// Does all jobs on the threads of `threads`, which belong to this rank: each thread takes a whole table at a time, so that
/// a table's hot rows stay in one core's cache, and a table with many lookups is cut by samples, so that no thread is left
/// alone at the end. The bits are those of [`EmbeddingTable::pool_to`], however many threads there are.
///
/// Cost: if this thread is one of them ([`rayon::ThreadPoolBuilder::use_current_thread`]), it begins at once, and the others
/// join it when they are awake, after 50 µs where they slept. Else it waits for them, which takes 100 µs more than the work.
/// Jobs of so few lookups that it is not worth that are done here.
///
/// # Errors
///
/// Those of [`pool_finite`]: one of them, if several jobs fail. Other jobs may have been done or not.
///
/// # Panics
///
/// If an output's length is not a multiple of its table's dimension.
pub fn pool_all(threads: &rayon::ThreadPool, jobs: Vec<PoolJob<'_>>) -> Result<(), PoolError> {
    let lookups: usize = jobs.iter().map(|job| job.bags.lookups()).sum();
    let lines: usize = jobs.iter().map(PoolJob::lines).sum();
    let count = threads.current_num_threads();
    let enough = if threads.current_thread_index().is_some() { WORTH_IT } else { WORTH_WAITING };
    if count < 2 || lines < enough {
        return jobs.into_iter().try_for_each(PoolJob::run);
    }
    // Pieces small enough that the last ones even out, and large enough to be worth a thread's while.
    let piece = (lookups / (4 * count)).max(PIECE);
    let pieces: Vec<PoolJob<'_>> = jobs.into_iter().flat_map(|job| job.cut(piece)).collect();
    threads.install(|| pieces.into_par_iter().with_max_len(1).try_for_each(PoolJob::run))
}

impl<'a> PoolJob<'a> {
    /// Cache lines that it reads and writes, about.
    fn lines(&self) -> usize {
        // Rows that are not stored are taken for as much work as rows of f32.
        let format = self.table.row_format().unwrap_or(RowFormat::F32);
        let row = format.row_bytes(self.table.dim());
        self.bags.lookups() * row.div_ceil(LINE) + (self.out.len() * size_of::<f32>()).div_ceil(LINE)
    }

    /// Does the job on this thread.
    ///
    /// # Errors
    ///
    /// Those of [`pool_finite`], with samples and columns counted from the fields' on.
    pub fn run(self) -> Result<(), PoolError> {
        pool_finite(self.table, &self.bags, self.pooling, self.out).map_err(|mut error| {
            if let PoolError::Narrow { sample, column, .. } = &mut error {
                *sample += self.first_sample;
                *column += self.first_column;
            }
            error
        })
    }

    /// Runs of samples with about `lookups` lookups each.
    fn cut(self, lookups: usize) -> Vec<PoolJob<'a>> {
        let (samples, dim) = (self.bags.len(), self.table.dim());
        let parts = self.bags.lookups().div_ceil(lookups).clamp(1, samples.max(1));
        // A wrong length is for the table to complain about.
        if parts == 1 || self.out.len() != samples * dim {
            return vec![self];
        }
        let PoolJob { table, bags, first_sample, first_column, pooling, out } = self;
        let mut rest = Some(out);
        let part = |part: usize| {
            let run = part * samples / parts..(part + 1) * samples / parts;
            let (out, after) = rest.take().expect("as many parts as there are").split_at(run.len() * dim);
            rest = Some(after);
            PoolJob {
                table,
                first_sample: first_sample + run.start,
                first_column,
                bags: bags.samples(run),
                pooling,
                out,
            }
        };
        (0..parts).map(part).collect()
    }
}
