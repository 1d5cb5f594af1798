//! Quotient-remainder tables.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::remapped::{RemappedTable, RowMap};
use super::{CHUNK, with_scratch};
use crate::{Bags, EmbeddingTable, Output, PoolError, Pooling, Residency, RowFormat};

/// How the two vectors become one: the reference's `qr_operation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combine {
    /// `mult`: value by value, their product.
    #[default]
    Multiply,
    /// `add`: value by value, their sum.
    Add,
    /// `concat`: side by side, the quotient's first.
    Concatenate,
}

impl Combine {
    /// All of them, by the reference's names.
    pub const ALL: [Combine; 3] = [Combine::Multiply, Combine::Add, Combine::Concatenate];
}

impl fmt::Display for Combine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Combine::Multiply => "mult",
            Combine::Add => "add",
            Combine::Concatenate => "concat",
        })
    }
}

impl FromStr for Combine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Combine::ALL.into_iter().find(|combine| combine.to_string() == text);
        found.ok_or_else(|| "not one of mult, add and concat".to_owned())
    }
}

/// A table of `rows` rows made of two smaller ones: with `c` rows in the remainder table, row `i` is row `i / c` of the
/// quotient table and row `i % c` of the remainder table, together. The reference's `QREmbeddingBag`: each of the two is
/// pooled by itself, and the pooled vectors are combined. So the product of a bag is the product of two sums, and weights
/// count twice in it.
///
/// The reference computes `i / c` in single precision and so confuses rows from 2^24 on; here they are exact.
#[derive(Clone, Debug)]
pub struct QuotientRemainderTable {
    quotient: RemappedTable,
    remainder: RemappedTable,
    combine: Combine,
}

/// Two tables that do not fit together as quotient and remainder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: {why}")]
pub struct WrongParts {
    /// The table.
    pub table: String,
    /// What is wrong.
    pub why: String,
}

impl QuotientRemainderTable {
    /// A table of `rows` rows; each row of the quotient table is shared by as many rows as the remainder table has.
    ///
    /// # Errors
    ///
    /// [`WrongParts`] if the quotient table does not have exactly the rows that this needs, or if vectors of different
    /// lengths are to be added or multiplied.
    pub fn new(
        quotient: Arc<dyn EmbeddingTable>,
        remainder: Arc<dyn EmbeddingTable>,
        rows: u64,
        combine: Combine,
    ) -> Result<Self, WrongParts> {
        let wrong = |why: String| WrongParts { table: quotient.name().to_owned(), why };
        let collisions = remainder.rows();
        if collisions == 0 || rows.div_ceil(collisions) != quotient.rows() {
            let found = quotient.rows();
            return Err(wrong(format!("{rows} rows with {collisions} collisions do not make {found} quotients")));
        }
        let (one, other) = (quotient.dim(), remainder.dim());
        if combine != Combine::Concatenate && one != other {
            return Err(wrong(format!("vectors of {one} and {other} columns cannot be combined by {combine}")));
        }
        let quotient = RemappedTable::new(Arc::clone(&quotient), rows, RowMap::Quotient { divisor: collisions })
            .map_err(|error| wrong(error.why))?;
        let remainder = RemappedTable::new(remainder, rows, RowMap::Modulo).map_err(|error| wrong(error.why))?;
        Ok(QuotientRemainderTable { quotient, remainder, combine })
    }
}

impl EmbeddingTable for QuotientRemainderTable {
    fn name(&self) -> &str {
        self.quotient.name()
    }

    fn rows(&self) -> u64 {
        self.quotient.rows()
    }

    fn dim(&self) -> usize {
        match self.combine {
            Combine::Concatenate => self.quotient.dim() + self.remainder.dim(),
            _ => self.quotient.dim(),
        }
    }

    fn row_format(&self) -> Option<RowFormat> {
        self.quotient.row_format()
    }

    fn intact(&self) -> Result<(), PoolError> {
        self.quotient.intact()?;
        self.remainder.intact()
    }

    fn residency(&self) -> Option<Residency> {
        let mut both = self.quotient.residency()?;
        both += self.remainder.residency()?;
        Some(both)
    }

    fn bytes(&self) -> u64 {
        self.quotient.bytes() + self.remainder.bytes()
    }

    /// Pools each of the two tables in single precision, then combines the vectors, rounding each sum or product.
    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        let (one, other) = (self.quotient.dim(), self.remainder.dim());
        with_scratch(|scratch| {
            let (first, second) = (&mut scratch.first, &mut scratch.second);
            for from in (0..bags.len()).step_by(CHUNK) {
                let chunk = bags.samples(from..(from + CHUNK).min(bags.len()));
                let (mut room, rest) = out.split_at(chunk.len() * self.dim());
                out = rest;
                first.resize(chunk.len() * one, 0.0);
                second.resize(chunk.len() * other, 0.0);
                self.quotient.pool(&chunk, pooling, first)?;
                self.remainder.pool(&chunk, pooling, second)?;
                match self.combine {
                    Combine::Multiply => first.iter_mut().zip(&*second).for_each(|(one, other)| *one *= other),
                    Combine::Add => first.iter_mut().zip(&*second).for_each(|(one, other)| *one += other),
                    Combine::Concatenate => {
                        for (one, other) in first.chunks_exact(one).zip(second.chunks_exact(other)) {
                            let (mut place, rest) = room.split_at(one.len());
                            place.fill(one);
                            let (mut place, rest) = rest.split_at(other.len());
                            place.fill(other);
                            room = rest;
                        }
                        continue;
                    }
                }
                room.fill(first);
            }
            Ok(())
        })
    }
}
