//! The lookups of one table, checked once.

use std::ops::Range;

/// Row numbers or offsets in either of the two widths that are in use.
#[derive(Clone, Copy, Debug)]
pub enum Indices<'a> {
    /// 32 bits.
    I32(&'a [i32]),
    /// 64 bits.
    I64(&'a [i64]),
}

/// The bags of one table for a run of samples: the rows pooled into each sample's vector, and their weights.
///
/// Sample `s` has the lookups `offsets[s] .. offsets[s + 1]` of `indices`, as in PyTorch's `EmbeddingBag` with
/// `include_last_offset=True`. A value of this type is the proof that every index is inside the table and that every
/// offset is inside the indices: kernels and tables check neither again. It borrows its arrays and is cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Bags<'a> {
    rows: u64,
    indices: Indices<'a>,
    offsets: Indices<'a>,
    weights: Option<&'a [f32]>,
}

impl<'a> Bags<'a> {
    /// Checks the lookups of the table named `table` (the name is used for errors only), which has `rows` rows.
    ///
    /// `offsets` has one entry more than there are samples, begins with 0, never decreases and ends with the number of
    /// indices; equal neighbours are empty bags. `indices` lie in `0 .. rows` and may repeat. `weights`, if given, has
    /// one entry for each index; any value is allowed, including infinities.
    ///
    /// Cost: one pass over offsets and indices, a few instructions for each vector of them; only a failure costs a second
    /// pass, which finds the sample. Nothing is allocated unless the check fails.
    ///
    /// # Errors
    ///
    /// The first defect found, in this order: offsets, length of the weights, indices.
    ///
    /// # Examples
    ///
    /// ```
    /// use slackline_embedding::{BagError, Bags};
    ///
    /// // Three samples: rows 4 and 1, no row, row 4.
    /// let bags = Bags::new("country", 5, &[4i64, 1, 4], &[0i32, 2, 2, 3], None)?;
    /// assert_eq!((bags.len(), bags.lookups()), (3, 3));
    ///
    /// let error = Bags::new("country", 4, &[0i64, 1, 4], &[0i32, 2, 2, 3], None).unwrap_err();
    /// assert_eq!(error.to_string(), "table country, sample 2: index 4 (number 0 of its bag) is outside of the table's 4 rows");
    /// # Ok::<(), BagError>(())
    /// ```
    pub fn new(
        table: &str,
        rows: u64,
        indices: impl Into<Indices<'a>>,
        offsets: impl Into<Indices<'a>>,
        weights: Option<&'a [f32]>,
    ) -> Result<Self, BagError> {
        let bags = Bags { rows, indices: indices.into(), offsets: offsets.into(), weights };
        if bags.is_sound() { Ok(bags) } else { Err(bags.defect(table)) }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of lookups of all samples together.
    pub fn lookups(&self) -> usize {
        self.offsets.at(self.len()) - self.offsets.at(0)
    }

    /// The rows of the table that the indices were checked against.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The bags of a run of samples, without another check; sample 0 of the result is sample `range.start` of these.
    ///
    /// # Panics
    ///
    /// If `range` is not within `0 .. self.len()`.
    pub fn samples(&self, range: Range<usize>) -> Bags<'a> {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "samples {range:?} of bags that have {} samples",
            self.len()
        );
        Bags { offsets: self.offsets.slice(range.start..range.end + 1), ..*self }
    }

    /// The positions of one sample's lookups in [`indices`](Self::indices) and [`weights`](Self::weights).
    ///
    /// # Panics
    ///
    /// If `sample` is not below [`len`](Self::len).
    #[inline]
    pub fn bag(&self, sample: usize) -> Range<usize> {
        self.offsets.at(sample)..self.offsets.at(sample + 1)
    }

    /// The indices, each below [`rows`](Self::rows), of all samples of the batch, even in a run cut out by
    /// [`samples`](Self::samples).
    pub fn indices(&self) -> Indices<'a> {
        self.indices
    }

    /// The weights, one for each entry of [`indices`](Self::indices).
    pub fn weights(&self) -> Option<&'a [f32]> {
        self.weights
    }

    fn is_sound(&self) -> bool {
        let offsets = match self.offsets {
            Indices::I32(offsets) => i32::rise_from_zero_to(offsets, self.indices.len()),
            Indices::I64(offsets) => i64::rise_from_zero_to(offsets, self.indices.len()),
        };
        let indices = match self.indices {
            Indices::I32(indices) => i32::all_below(indices, self.rows),
            Indices::I64(indices) => i64::all_below(indices, self.rows),
        };
        offsets && indices && self.weights.is_none_or(|weights| weights.len() == self.indices.len())
    }

    /// The slow second pass, after [`is_sound`](Self::is_sound) returned false.
    #[cold]
    fn defect(&self, table: &str) -> BagError {
        let table = table.to_owned();
        let indices = self.indices.len();
        let Some(samples) = self.offsets.len().checked_sub(1) else { return BagError::NoOffsets { table } };
        let first = self.offsets.value(0);
        if first != 0 {
            return BagError::FirstOffset { table, offset: first };
        }
        for sample in 0..samples {
            let (offset, next) = (self.offsets.value(sample), self.offsets.value(sample + 1));
            if next < 0 {
                return BagError::NegativeOffset { table, sample, offset: next };
            }
            if next < offset {
                return BagError::FallingOffsets { table, sample, offset, next };
            }
            if next as u64 > indices as u64 {
                return BagError::OffsetPastEnd { table, sample, offset: next, indices };
            }
        }
        let last = self.offsets.value(samples);
        if last as u64 != indices as u64 {
            return BagError::LastOffset { table, samples, offset: last, indices };
        }
        if let Some(weights) = self.weights
            && weights.len() != indices
        {
            return BagError::Weights { table, weights: weights.len(), indices };
        }
        for sample in 0..samples {
            for position in self.bag(sample) {
                let index = self.indices.value(position);
                if index < 0 {
                    let position = position - self.bag(sample).start;
                    return BagError::NegativeIndex { table, sample, position, index };
                }
                if index as u64 >= self.rows {
                    let position = position - self.bag(sample).start;
                    return BagError::IndexPastEnd { table, sample, position, index, rows: self.rows };
                }
            }
        }
        unreachable!("the fast check refused bags in which the slow check finds no defect")
    }
}

/// Bags made from other bags: of some samples, with some of the lookups, or with other row numbers. The buffers are
/// reused between calls, so nothing is allocated once they are large enough.
#[derive(Clone, Debug, Default)]
pub struct BagBuffer {
    indices: Vec<i64>,
    offsets: Vec<i64>,
    weights: Vec<f32>,
}

impl BagBuffer {
    /// Keeps the lookups of `bags` for which `row` returns a new row number, below `rows`, and drops the others. The
    /// number of samples stays the same.
    ///
    /// # Panics
    ///
    /// If `row` returns a number of `rows` or more.
    pub fn map<'a>(&'a mut self, bags: &Bags<'_>, rows: u64, row: impl Fn(u64) -> Option<u64>) -> Bags<'a> {
        self.select(bags, rows, |_| true, row)
    }

    /// Keeps the lookups of a run of rows, renumbered from 0. The number of samples stays the same. Same result as
    /// [`map`](Self::map), but faster.
    ///
    /// # Panics
    ///
    /// If the table does not have these rows.
    pub fn run<'a>(&'a mut self, bags: &Bags<'_>, rows: Range<u64>) -> Bags<'a> {
        assert!(rows.start <= rows.end && rows.end <= bags.rows, "rows {rows:?} of {}", bags.rows);
        let (first, count) = (rows.start as i64, rows.end - rows.start);
        self.indices.resize(bags.lookups(), 0);
        self.weights.resize(if bags.weights.is_some() { bags.lookups() } else { 0 }, 0.0);
        self.offsets.clear();
        self.offsets.push(0);
        let mut kept = 0;
        for sample in 0..bags.len() {
            for position in bags.bag(sample) {
                let row = bags.indices.value(position) - first;
                // Written unconditionally and kept only if it belongs to the run: a branch here would be unpredictable.
                self.indices[kept] = row;
                if let Some(weights) = bags.weights {
                    self.weights[kept] = weights[position];
                }
                kept += usize::from((row as u64) < count);
            }
            self.offsets.push(kept as i64);
        }
        self.indices.truncate(kept);
        self.weights.truncate(kept);
        let weights = bags.weights.map(|_| &self.weights[..]);
        let (indices, offsets) = (Indices::I64(&self.indices), Indices::I64(&self.offsets));
        Bags { rows: count, indices, offsets, weights }
    }

    /// The same for the samples that `wanted` says, which follow each other in the result.
    ///
    /// # Panics
    ///
    /// If `row` returns a number of `rows` or more.
    pub fn select<'a>(
        &'a mut self,
        bags: &Bags<'_>,
        rows: u64,
        wanted: impl Fn(usize) -> bool,
        row: impl Fn(u64) -> Option<u64>,
    ) -> Bags<'a> {
        self.indices.clear();
        self.weights.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for sample in (0..bags.len()).filter(|sample| wanted(*sample)) {
            for position in bags.bag(sample) {
                let Some(row) = row(bags.indices.at(position) as u64) else { continue };
                assert!(row < rows, "row {row} of {rows}");
                self.indices.push(row as i64);
                self.weights.extend(bags.weights.map(|weights| weights[position]));
            }
            self.offsets.push(self.indices.len() as i64);
        }
        let weights = bags.weights.map(|_| &self.weights[..]);
        Bags { rows, indices: Indices::I64(&self.indices), offsets: Indices::I64(&self.offsets), weights }
    }
}

impl BagError {
    /// Numbers the sample from the start of the input instead of the batch, which begins with sample `first_sample`.
    #[must_use]
    pub fn counted_from(mut self, first_sample: u64) -> Self {
        match &mut self {
            BagError::NegativeIndex { sample, .. }
            | BagError::IndexPastEnd { sample, .. }
            | BagError::NegativeOffset { sample, .. }
            | BagError::FallingOffsets { sample, .. }
            | BagError::OffsetPastEnd { sample, .. } => *sample = sample.saturating_add(first_sample as usize),
            _ => {}
        }
        self
    }
}

/// Lookups that do not fit their table, or are not well formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BagError {
    /// An index is negative.
    #[error("table {table}, sample {sample}: index {index} (number {position} of its bag) is negative")]
    NegativeIndex {
        /// The table looked up.
        table: String,
        /// The sample whose bag holds the index.
        sample: usize,
        /// Where it stands in its bag, from 0.
        position: usize,
        /// Its value.
        index: i64,
    },
    /// An index is the number of rows or larger.
    #[error(
        "table {table}, sample {sample}: index {index} (number {position} of its bag) is outside of the table's {rows} rows"
    )]
    IndexPastEnd {
        /// The table looked up.
        table: String,
        /// The sample whose bag holds the index.
        sample: usize,
        /// Where it stands in its bag, from 0.
        position: usize,
        /// Its value.
        index: i64,
        /// The rows that the table has.
        rows: u64,
    },
    /// There are no offsets; even zero samples need one.
    #[error("table {table}: offsets are empty; there must be one more than samples")]
    NoOffsets {
        /// The table looked up.
        table: String,
    },
    /// The first bag does not begin at the first index.
    #[error("table {table}, sample 0: the first offset is {offset}, it must be 0")]
    FirstOffset {
        /// The table looked up.
        table: String,
        /// The offset found.
        offset: i64,
    },
    /// A bag ends at a negative offset.
    #[error("table {table}, sample {sample}: the bag ends at offset {offset}, which is negative")]
    NegativeOffset {
        /// The table looked up.
        table: String,
        /// The sample whose bag it is.
        sample: usize,
        /// The offset found.
        offset: i64,
    },
    /// A bag ends before it begins.
    #[error("table {table}, sample {sample}: the bag begins at offset {offset} and ends before it, at {next}")]
    FallingOffsets {
        /// The table looked up.
        table: String,
        /// The sample whose bag it is.
        sample: usize,
        /// Where the bag begins.
        offset: i64,
        /// Where it ends.
        next: i64,
    },
    /// A bag ends past the last index.
    #[error("table {table}, sample {sample}: the bag ends at offset {offset}, past the {indices} indices")]
    OffsetPastEnd {
        /// The table looked up.
        table: String,
        /// The sample whose bag it is.
        sample: usize,
        /// The offset found.
        offset: i64,
        /// The number of indices.
        indices: usize,
    },
    /// Indices are left over after the last bag.
    #[error("table {table}: the last of {samples} samples ends at offset {offset}, but there are {indices} indices")]
    LastOffset {
        /// The table looked up.
        table: String,
        /// The number of samples.
        samples: usize,
        /// The last offset.
        offset: i64,
        /// The number of indices.
        indices: usize,
    },
    /// The number of weights differs from the number of indices.
    #[error("table {table}: {weights} weights for {indices} indices")]
    Weights {
        /// The table looked up.
        table: String,
        /// The number of weights.
        weights: usize,
        /// The number of indices.
        indices: usize,
    },
}

impl Indices<'_> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        match self {
            Indices::I32(values) => values.len(),
            Indices::I64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One entry.
    ///
    /// # Panics
    ///
    /// If `at` is not below [`len`](Self::len).
    pub fn value(&self, at: usize) -> i64 {
        match self {
            Indices::I32(values) => values[at].into(),
            Indices::I64(values) => values[at],
        }
    }

    /// One entry that is known not to be negative.
    #[inline]
    fn at(&self, at: usize) -> usize {
        match self {
            Indices::I32(values) => values[at] as usize,
            Indices::I64(values) => values[at] as usize,
        }
    }

    fn slice(self, range: Range<usize>) -> Self {
        match self {
            Indices::I32(values) => Indices::I32(&values[range]),
            Indices::I64(values) => Indices::I64(&values[range]),
        }
    }
}

/// One width of index, so that kernels are written once and compiled for both.
pub(crate) trait Index: Copy {
    /// The row of a checked index.
    fn row(self) -> usize;

    /// Whether all values lie in `0 .. rows`.
    fn all_below(values: &[Self], rows: u64) -> bool;

    /// Whether the values begin with 0, never decrease, and end with `last`.
    fn rise_from_zero_to(values: &[Self], last: usize) -> bool;
}

macro_rules! index {
    ($type:ty, $variant:ident) => {
        impl Index for $type {
            #[inline(always)]
            fn row(self) -> usize {
                self as usize
            }

            // The sign bit of `x | (last - x)` is set exactly when x is below 0 or above `last` (where the subtraction
            // wraps, x is negative). Or-ing that over all values needs no comparison and no branch: every x86 and Arm
            // vector unit has it for both widths, which is not so for comparing 64-bit integers.
            fn all_below(values: &[Self], rows: u64) -> bool {
                let last = (rows.min(<$type>::MAX as u64 + 1) as i128 - 1) as $type;
                values.iter().fold(0, |bad, &x| bad | x | last.wrapping_sub(x)) >= 0
            }

            // As above: where the subtraction wraps, one of the two is negative. A negative `x` sets the sign bit as
            // the left value of its pair; the last value is never on the left, but is compared with `last`.
            fn rise_from_zero_to(values: &[Self], last: usize) -> bool {
                let (Some(&first), Some(&end)) = (values.first(), values.last()) else { return false };
                let pairs = values.iter().zip(&values[1..]);
                let rises = pairs.fold(0, |bad, (&x, &next)| bad | x | next.wrapping_sub(x)) >= 0;
                first == 0 && rises && u64::try_from(end).is_ok_and(|end| end == last as u64)
            }
        }

        impl<'a> From<&'a [$type]> for Indices<'a> {
            fn from(values: &'a [$type]) -> Self {
                Indices::$variant(values)
            }
        }

        impl<'a, const N: usize> From<&'a [$type; N]> for Indices<'a> {
            fn from(values: &'a [$type; N]) -> Self {
                Indices::$variant(values)
            }
        }

        impl<'a> From<&'a Vec<$type>> for Indices<'a> {
            fn from(values: &'a Vec<$type>) -> Self {
                Indices::$variant(values)
            }
        }
    };
}

index!(i32, I32);
index!(i64, I64);
