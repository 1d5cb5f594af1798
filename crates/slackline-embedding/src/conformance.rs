//! What every [`EmbeddingTable`] must do, as one check: run it over a table of your own.
//!
//! ```
//! use slackline_embedding::HeapTable;
//! use slackline_embedding::conformance::{self, Sums};
//!
//! let table = HeapTable::random("country", 200, 16, 1);
//! conformance::check(&table, Sums::Exact)?;
//! # Ok::<(), conformance::Violation>(())
//! ```

use std::ops::Range;
use std::thread;

use half::{bf16, f16};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::{Bags, EmbeddingTable, MAX_DIM, Output, PoolError, Pooling};

/// Samples of the batch that is pooled.
const SAMPLES: usize = 48;
/// Rows that the batch looks up, about.
const PICKED: usize = 40;
/// The longest bag.
const LONGEST: u64 = 12;
/// What [`Sums::Near`] allows, as a share of the largest value times the sum of the weights.
const NEAR: f32 = 1e-4;

/// How the vector of a bag follows from the vectors of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// It is their sum in the order of the indices, to the last bit: tables of floating-point rows.
    Exact,
    /// It is their sum up to rounding: quantised rows, sums that are computed on.
    Near,
    /// It is something else, such as the product of two sums. Only what does not depend on it is checked.
    Other,
}

/// A promise of [`EmbeddingTable`] that a table does not keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: {what}")]
pub struct Violation {
    /// The table.
    pub table: String,
    /// What was expected, and what was found.
    pub what: String,
}

/// Checks what [`EmbeddingTable::pool_to`] promises: vectors of single rows, of empty bags, of bags with repeated indices, of
/// weighted bags and of means; every output format and both widths of indices; a batch, its runs and its samples give the same
/// bits, as do several threads at once; all of the output is overwritten; arguments that do not fit together are the right
/// error and leave the output untouched.
///
/// Cost: some hundred vectors; at most 40 rows are looked up.
///
/// # Errors
///
/// The first [`Violation`] found, lookups that fail included.
///
/// # Panics
///
/// If the table panics.
pub fn check(table: &dyn EmbeddingTable, sums: Sums) -> Result<(), Violation> {
    let checked = Checked { table, sums };
    checked.shape()?;
    checked.refusals()?;
    checked.empty_bags()?;
    checked.rows()?;
    for (pooling, weighted) in [(Pooling::Sum, false), (Pooling::Mean, false), (Pooling::Sum, true)] {
        checked.batch(pooling, weighted)?;
    }
    Ok(())
}

/// The lookups of a batch, as a caller holds them.
struct Lookups {
    indices: Vec<i64>,
    offsets: Vec<i64>,
    weights: Option<Vec<f32>>,
}

struct Checked<'a> {
    table: &'a dyn EmbeddingTable,
    sums: Sums,
}

impl Checked<'_> {
    fn violation<T>(&self, what: String) -> Result<T, Violation> {
        Err(Violation { table: self.table.name().to_owned(), what })
    }

    fn shape(&self) -> Result<(), Violation> {
        let (rows, dim) = (self.table.rows(), self.table.dim());
        if !(1..=MAX_DIM).contains(&dim) {
            return self.violation(format!("{dim} columns, not 1 to {MAX_DIM}"));
        }
        if (self.table.rows(), self.table.dim()) != (rows, dim) {
            return self.violation(format!("its {rows} rows of {dim} columns change from call to call"));
        }
        match self.table.intact() {
            Ok(()) => Ok(()),
            Err(error) => self.violation(format!("not intact: {error}")),
        }
    }

    /// Arguments that do not fit together.
    fn refusals(&self) -> Result<(), Violation> {
        let (rows, dim) = (self.table.rows(), self.table.dim());
        let offsets = [0i64, 0, 0];
        let bags = |rows: u64| self.bags(rows, &[], &offsets, None);
        let other = [rows.checked_add(1), rows.checked_sub(1)];
        for other in other.into_iter().flatten() {
            let what = format!("bags checked against {other} rows for a table of {rows}");
            self.refused(&bags(other)?, Pooling::Sum, 2 * dim, &what, "Rows", |error| {
                matches!(error, PoolError::Rows { .. })
            })?;
        }
        for length in [0, dim, 2 * dim - 1, 2 * dim + 1, 3 * dim] {
            let what = format!("an output of {length} values for 2 samples of dimension {dim}");
            self.refused(&bags(rows)?, Pooling::Sum, length, &what, "OutputLength", |error| {
                matches!(error, PoolError::OutputLength { .. })
            })?;
        }
        let weighted = self.bags(rows, &[], &offsets, Some(&[]))?;
        self.refused(&weighted, Pooling::Mean, 2 * dim, "a mean of weighted bags", "WeightedMean", |error| {
            matches!(error, PoolError::WeightedMean { .. })
        })
    }

    fn refused(
        &self,
        bags: &Bags<'_>,
        pooling: Pooling,
        length: usize,
        what: &str,
        expected: &str,
        right: impl Fn(&PoolError) -> bool,
    ) -> Result<(), Violation> {
        let mut out = vec![7.5; length];
        match self.table.pool_to(bags, pooling, Output::F32(&mut out)) {
            Ok(()) => self.violation(format!("{what}: PoolError::{expected} expected, but it was pooled")),
            Err(error) if !right(&error) => {
                self.violation(format!("{what}: PoolError::{expected} expected, not {error:?}"))
            }
            Err(_) if out.iter().any(|value| *value != 7.5) => {
                self.violation(format!("{what}: refused, but the output was written to"))
            }
            Err(_) => Ok(()),
        }
    }

    /// No samples, and samples without lookups, with and without weights.
    fn empty_bags(&self) -> Result<(), Violation> {
        for samples in [0, 1, 5] {
            let offsets = vec![0i64; samples + 1];
            for (pooling, weights) in [(Pooling::Sum, None), (Pooling::Mean, None), (Pooling::Sum, Some(&[][..]))] {
                let bags = self.bags(self.table.rows(), &[], &offsets, weights)?;
                let vectors = self.pooled(&bags, pooling)?;
                if let Some(at) = vectors.iter().position(|value| value.to_bits() != 0) {
                    return self.violation(format!("{} for an empty bag, {pooling:?}; +0.0 expected", vectors[at]));
                }
                self.formats(&bags, pooling, &vectors)?;
            }
        }
        Ok(())
    }

    /// Single rows: a mean of one row is the row, and so is a sum with weight 1.
    fn rows(&self) -> Result<(), Violation> {
        let picked = self.picked();
        let offsets: Vec<i64> = (0..=picked.len() as i64).collect();
        let ones = vec![1.0; picked.len()];
        let bags = self.bags(self.table.rows(), &picked, &offsets, None)?;
        let rows = self.pooled(&bags, Pooling::Sum)?;
        self.formats(&bags, Pooling::Sum, &rows)?;
        let means = self.pooled(&bags, Pooling::Mean)?;
        self.same("the mean of a single row, and the row", &means, &rows)?;
        let weighted = self.bags(self.table.rows(), &picked, &offsets, Some(&ones))?;
        let weighted = self.pooled(&weighted, Pooling::Sum)?;
        self.same("a row with weight 1, and without", &weighted, &rows)
    }

    /// Bags of all lengths, with repeated indices.
    fn batch(&self, pooling: Pooling, weighted: bool) -> Result<(), Violation> {
        let (rows, dim) = (self.table.rows(), self.table.dim());
        let lookups = self.lookups(weighted);
        let bags = self.bags(rows, &lookups.indices, &lookups.offsets, lookups.weights.as_deref())?;
        let vectors = self.pooled(&bags, pooling)?;
        self.formats(&bags, pooling, &vectors)?;

        if let (Some(indices), Some(offsets)) = (narrow(&lookups.indices), narrow(&lookups.offsets)) {
            let bags = Bags::new(self.table.name(), rows, &indices, &offsets, lookups.weights.as_deref());
            let narrow = self.pooled(&bags.or_else(|error| self.violation(error.to_string()))?, pooling)?;
            self.same("indices of 32 and of 64 bits", &narrow, &vectors)?;
        }
        for sample in 0..bags.len() {
            let alone = self.pooled(&bags.samples(sample..sample + 1), pooling)?;
            let what = format!("sample {sample} alone, and in its batch, {pooling:?}");
            self.same(&what, &alone, &vectors[sample * dim..][..dim])?;
        }
        let run = SAMPLES / 3..SAMPLES - 5;
        let part = self.pooled(&bags.samples(run.clone()), pooling)?;
        self.same("a run of samples, and the batch", &part, &vectors[run.start * dim..run.end * dim])?;
        let threads = thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(|| self.pooled(&bags, pooling)));
            threads.map(|thread| thread.join().expect("the table does not panic"))
        });
        for found in threads {
            self.same("two threads at once, and one", &found?, &vectors)?;
        }
        self.agrees(&bags, pooling, &vectors)
    }

    /// Compares the vectors with sums of single rows.
    fn agrees(&self, bags: &Bags<'_>, pooling: Pooling, vectors: &[f32]) -> Result<(), Violation> {
        let dim = self.table.dim();
        if self.sums == Sums::Other {
            return Ok(());
        }
        let mut sum = vec![0.0f32; dim];
        for sample in 0..bags.len() {
            let bag = bags.bag(sample);
            let indices: Vec<i64> = bag.clone().map(|at| bags.indices().value(at)).collect();
            let offsets: Vec<i64> = (0..=indices.len() as i64).collect();
            let rows = self.pooled(&self.bags(self.table.rows(), &indices, &offsets, None)?, Pooling::Sum)?;
            let weight = |at: usize| bags.weights().map_or(1.0, |weights| weights[at]);
            sum.fill(0.0);
            for (at, row) in bag.clone().zip(rows.chunks_exact(dim)) {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight(at) * value);
            }
            if pooling == Pooling::Mean && !bag.is_empty() {
                sum.iter_mut().for_each(|sum| *sum /= bag.len() as f32);
            }
            let largest = rows.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let bound = NEAR * largest * bag.clone().map(|at| weight(at).abs()).sum::<f32>();
            for (column, (expected, found)) in sum.iter().zip(&vectors[sample * dim..]).enumerate() {
                let near = self.sums == Sums::Near && (expected - found).abs() <= bound;
                if !near && !same(*expected, *found) {
                    return self.violation(format!(
                        "rows {indices:?}, {pooling:?}{}, column {column}: {found} found, {expected} by their rows",
                        if bags.weights().is_some() { " with weights" } else { "" }
                    ));
                }
            }
        }
        Ok(())
    }

    /// The half formats are the single-precision result, rounded.
    fn formats(&self, bags: &Bags<'_>, pooling: Pooling, vectors: &[f32]) -> Result<(), Violation> {
        let mut halves = vec![f16::NAN; vectors.len()];
        self.pool_to(bags, pooling, Output::F16(&mut halves))?;
        let (rounded, found): (Vec<f32>, Vec<f32>) =
            vectors.iter().zip(&halves).map(|(value, half)| (f16::from_f32(*value).to_f32(), half.to_f32())).unzip();
        self.same("an f16 output, and f32 rounded", &found, &rounded)?;
        let mut halves = vec![bf16::NAN; vectors.len()];
        self.pool_to(bags, pooling, Output::Bf16(&mut halves))?;
        let (rounded, found): (Vec<f32>, Vec<f32>) =
            vectors.iter().zip(&halves).map(|(value, half)| (bf16::from_f32(*value).to_f32(), half.to_f32())).unzip();
        self.same("a bf16 output, and f32 rounded", &found, &rounded)
    }

    fn same(&self, what: &str, found: &[f32], expected: &[f32]) -> Result<(), Violation> {
        let differs = found.iter().zip(expected).position(|(found, expected)| !same(*found, *expected));
        match differs {
            None => Ok(()),
            Some(at) => self.violation(format!("{what}: value {at} is {}, and {}", found[at], expected[at])),
        }
    }

    /// Pools twice, over different old contents, so that a value that was not overwritten shows.
    fn pooled(&self, bags: &Bags<'_>, pooling: Pooling) -> Result<Vec<f32>, Violation> {
        let mut out = vec![f32::NAN; bags.len() * self.table.dim()];
        self.pool_to(bags, pooling, Output::F32(&mut out))?;
        let mut again = vec![7.5; out.len()];
        self.pool_to(bags, pooling, Output::F32(&mut again))?;
        self.same("over an output of NaN, and of 7.5", &out, &again)?;
        Ok(out)
    }

    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, out: Output<'_>) -> Result<(), Violation> {
        let pooled = self.table.pool_to(bags, pooling, out);
        pooled.or_else(|error| self.violation(format!("lookups fail: {error}")))
    }

    fn bags<'b>(
        &self,
        rows: u64,
        indices: &'b [i64],
        offsets: &'b [i64],
        weights: Option<&'b [f32]>,
    ) -> Result<Bags<'b>, Violation> {
        let bags = Bags::new(self.table.name(), rows, indices, offsets, weights);
        bags.or_else(|error| self.violation(error.to_string()))
    }

    /// All rows of a small table; of a large one the first, the last and some between.
    fn picked(&self) -> Vec<i64> {
        let rows = self.table.rows().min(i64::MAX as u64);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(rows);
        match rows as usize {
            rows if rows <= PICKED => (0..rows as i64).collect(),
            _ => {
                let edges: [Range<u64>; 2] = [0..4, rows - 4..rows];
                let between = (8..PICKED).map(|_| random.next_u64() % rows);
                edges.into_iter().flatten().chain(between).map(|row| row as i64).collect()
            }
        }
    }

    fn lookups(&self, weighted: bool) -> Lookups {
        let picked = self.picked();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(picked.len() as u64);
        let mut lookups = Lookups { indices: Vec::new(), offsets: vec![0], weights: None };
        for sample in 0..SAMPLES {
            // Also the longest, and one row several times.
            let length = if picked.is_empty() { 0 } else { random.next_u64() % (LONGEST + 1) };
            for at in 0..length {
                let pick = if sample % 5 == 0 && at > 0 { None } else { Some(random.next_u64() as usize) };
                let last = lookups.indices.last().copied();
                let index = pick.map_or(last, |pick| Some(picked[pick % picked.len()]));
                lookups.indices.extend(index);
            }
            lookups.offsets.push(lookups.indices.len() as i64);
        }
        let weight = |at: usize| [0.5, -1.25, 3.0, 0.0, 0.1, -0.7][at % 6];
        lookups.weights = weighted.then(|| (0..lookups.indices.len()).map(weight).collect());
        lookups
    }
}

fn narrow(values: &[i64]) -> Option<Vec<i32>> {
    values.iter().map(|&value| i32::try_from(value).ok()).collect()
}

/// The same bits; which NaN comes out is not fixed.
fn same(one: f32, other: f32) -> bool {
    one.to_bits() == other.to_bits() || (one.is_nan() && other.is_nan())
}
