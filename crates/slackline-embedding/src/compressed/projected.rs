//! Mixed-dimension tables.

use std::sync::Arc;

use super::{CHUNK, with_scratch};
use crate::{Bags, EmbeddingTable, MAX_DIM, Output, PoolError, Pooling, Residency, RowFormat};

/// A table with few columns whose pooled vectors are multiplied by a matrix: the reference's `PrEmbeddingBag`.
///
/// Value `j` of a vector is the sum over `k`, ascending, of `pooled[k] * matrix[j][k]`, each product and each sum rounded
/// to single precision.
#[derive(Clone, Debug)]
pub struct ProjectedTable {
    table: Arc<dyn EmbeddingTable>,
    /// `[columns of the table, dim]`: the matrix as it is stored, transposed.
    columns: Arc<[f32]>,
    dim: usize,
}

/// A matrix that does not fit its table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table {table}: a projection of {values} values from {columns} columns")]
pub struct WrongProjection {
    /// The table.
    pub table: String,
    /// The matrix's values.
    pub values: usize,
    /// The table's columns.
    pub columns: usize,
}

impl ProjectedTable {
    /// Wraps a table with fewer columns; `matrix` is `[dim, columns of the table]`, row-major, as PyTorch's `Linear`
    /// stores it.
    ///
    /// # Errors
    ///
    /// [`WrongProjection`] if the matrix does not have a whole number of rows, or has none, or too many.
    pub fn new(table: Arc<dyn EmbeddingTable>, matrix: &[f32]) -> Result<Self, WrongProjection> {
        let narrow = table.dim();
        let dim = matrix.len() / narrow;
        if !(1..=MAX_DIM).contains(&dim) || dim * narrow != matrix.len() {
            let name = table.name().to_owned();
            return Err(WrongProjection { table: name, values: matrix.len(), columns: narrow });
        }
        let columns = (0..narrow).flat_map(|k| (0..dim).map(move |j| matrix[j * narrow + k])).collect();
        Ok(ProjectedTable { table, columns, dim })
    }
}

impl EmbeddingTable for ProjectedTable {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn rows(&self) -> u64 {
        self.table.rows()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn row_format(&self) -> Option<RowFormat> {
        self.table.row_format()
    }

    fn intact(&self) -> Result<(), PoolError> {
        self.table.intact()
    }

    fn residency(&self) -> Option<Residency> {
        self.table.residency()
    }

    fn bytes(&self) -> u64 {
        self.table.bytes() + size_of_val(&*self.columns) as u64
    }

    /// Pools the narrow table in single precision, then applies the matrix.
    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        let narrow = self.table.dim();
        with_scratch(|scratch| {
            let (pooled, wide) = (&mut scratch.first, &mut scratch.second);
            for from in (0..bags.len()).step_by(CHUNK) {
                let chunk = bags.samples(from..(from + CHUNK).min(bags.len()));
                let (mut room, rest) = out.split_at(chunk.len() * self.dim);
                out = rest;
                pooled.resize(chunk.len() * narrow, 0.0);
                self.table.pool(&chunk, pooling, pooled)?;
                wide.clear();
                wide.resize(chunk.len() * self.dim, 0.0);
                for (pooled, wide) in pooled.chunks_exact(narrow).zip(wide.chunks_exact_mut(self.dim)) {
                    for (value, column) in pooled.iter().zip(self.columns.chunks_exact(self.dim)) {
                        wide.iter_mut().zip(column).for_each(|(wide, factor)| *wide += value * factor);
                    }
                }
                room.fill(wide);
            }
            Ok(())
        })
    }
}
