//! Pooling into narrow types without overflow.

use half::{bf16, f16};

use crate::{Bags, EmbeddingTable, Output, PoolError, Pooling};

/// [`pool_to`](EmbeddingTable::pool_to), which refuses a sum that is finite in single precision and infinite in the type of
/// `out`. Sums that are infinite or NaN by themselves pass.
///
/// Cost: that of [`pool_to`](EmbeddingTable::pool_to), and one pass over an output of 2 bytes a value, which is in a cache.
/// A sample with a value that is not finite is pooled once more.
///
/// # Errors
///
/// Those of [`pool_to`](EmbeddingTable::pool_to), and [`PoolError::Narrow`]. What `out` holds is then undefined.
pub fn pool_finite(
    table: &dyn EmbeddingTable,
    bags: &Bags<'_>,
    pooling: Pooling,
    out: Output<'_>,
) -> Result<(), PoolError> {
    match out {
        Output::F32(_) => table.pool_to(bags, pooling, out),
        Output::F16(out) => {
            table.pool_to(bags, pooling, Output::F16(&mut *out))?;
            check(table, bags, pooling, out, "f16", |value: &f16| value.to_bits() & 0x7c00 == 0x7c00)
        }
        Output::Bf16(out) => {
            table.pool_to(bags, pooling, Output::Bf16(&mut *out))?;
            check(table, bags, pooling, out, "bf16", |value: &bf16| value.to_bits() & 0x7f80 == 0x7f80)
        }
    }
}

/// Values that are looked at before the first of them decides: a branch each would keep the compiler from using vectors.
const BLOCK: usize = 128;

fn check<T>(
    table: &dyn EmbeddingTable,
    bags: &Bags<'_>,
    pooling: Pooling,
    out: &[T],
    format: &'static str,
    is_odd: impl Fn(&T) -> bool,
) -> Result<(), PoolError> {
    let has_odd = |values: &[T]| values.iter().fold(false, |odd, value| odd | is_odd(value));
    if !out.chunks(BLOCK).any(has_odd) {
        return Ok(());
    }
    let mut sums = vec![0.0; table.dim()];
    for (sample, vector) in out.chunks_exact(table.dim()).enumerate().filter(|(_, vector)| has_odd(vector)) {
        table.pool(&bags.samples(sample..sample + 1), pooling, &mut sums)?;
        let narrowed = vector.iter().zip(&sums).position(|(narrow, sum)| is_odd(narrow) && sum.is_finite());
        if let Some(column) = narrowed {
            let (table, value) = (table.name().to_owned(), sums[column]);
            return Err(PoolError::Narrow { table, sample, column, value, format });
        }
    }
    Ok(())
}
