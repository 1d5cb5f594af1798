//! A table of your own: its values are computed from row and column and take no memory. The conformance suite checks it.
//!
//!     cargo run -p slackline-embedding --example own_table

use slackline_embedding::conformance::{self, Sums};
use slackline_embedding::{Bags, EmbeddingTable, Output, PoolError, Pooling};

#[derive(Debug)]
struct Computed {
    rows: u64,
    dim: usize,
}

impl Computed {
    fn value(&self, row: u64, column: usize) -> f32 {
        (row % 1000) as f32 + column as f32 / self.dim as f32
    }
}

impl EmbeddingTable for Computed {
    fn name(&self) -> &str {
        "computed"
    }

    fn rows(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn pool_to(&self, bags: &Bags<'_>, pooling: Pooling, mut out: Output<'_>) -> Result<(), PoolError> {
        PoolError::check(self, bags, pooling, &out)?;
        for sample in 0..bags.len() {
            for column in 0..self.dim {
                let mut sum = 0.0;
                for at in bags.bag(sample) {
                    let value = self.value(bags.indices().value(at) as u64, column);
                    sum += bags.weights().map_or(value, |weights| weights[at] * value);
                }
                if pooling == Pooling::Mean {
                    sum /= bags.bag(sample).len().max(1) as f32;
                }
                out.set(sample * self.dim + column, sum);
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let table = Computed { rows: 1 << 40, dim: 4 };
    conformance::check(&table, Sums::Exact)?;
    println!("a table of {} rows passes the conformance suite", table.rows());

    // Two samples: rows 3 and 1005, and no row.
    let bags = Bags::of(&table, &[3i64, 1005], &[0i64, 2, 2], None)?;
    let mut out = [0.0; 8];
    table.pool(&bags, Pooling::Sum, &mut out)?;
    println!("rows 3 and 1005: {:?}", &out[..4]);
    println!("no row:          {:?}", &out[4..]);
    Ok(())
}
