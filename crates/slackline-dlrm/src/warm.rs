//! Lookups and a dense pass whose results are thrown away, so that the first batch is as fast as the others.

use slackline_data::TableInput;
use slackline_embedding::{Bags, EmbeddingTable, Output, PoolJob, Pooling, pool_all};

use crate::{DenseModel, DenseScratch, Result};

/// Samples of a batch.
const SAMPLES: usize = 128;
/// Rows of each of its bags.
const BAG: usize = 8;
/// The number of batches; their rows interleave.
const BATCHES: usize = 2;

/// Looks up rows spread evenly over each table, on the given threads. Returns the number of lookups.
pub(crate) fn tables(tables: &[&dyn EmbeddingTable], threads: Option<&rayon::ThreadPool>) -> Result<usize> {
    let mut lookups = 0;
    let mut outs: Vec<Vec<f32>> = tables.iter().map(|table| vec![0.0; SAMPLES * table.dim()]).collect();
    for batch in 0..BATCHES {
        let inputs: Vec<TableInput> = tables.iter().map(|table| spread(table.rows(), batch)).collect();
        let mut jobs = Vec::with_capacity(tables.len());
        for ((table, input), out) in tables.iter().zip(&inputs).zip(&mut outs) {
            let bags = Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, None)?;
            lookups += bags.lookups();
            jobs.push(PoolJob {
                table: *table,
                bags,
                first_sample: 0,
                first_column: 0,
                pooling: Pooling::Sum,
                out: Output::F32(out),
            });
        }
        match threads {
            Some(threads) => pool_all(threads, jobs)?,
            None => jobs.into_iter().try_for_each(PoolJob::run)?,
        }
    }
    Ok(lookups)
}

/// Runs bottom MLP, interaction and top MLP for samples that are all zeros.
pub(crate) fn dense(model: &DenseModel, scratch: &mut DenseScratch) {
    let config = model.config();
    let (mut bottom, mut predictions) = (Vec::new(), Vec::new());
    model.bottom(&vec![0.0; SAMPLES * config.dense_features()], SAMPLES, scratch, &mut bottom);
    let block = vec![0.0; SAMPLES * config.dim()];
    model.predict(&bottom, &vec![&block[..]; config.tables()], SAMPLES, scratch, &mut predictions);
}

/// One batch's lookups of a table, in even steps from its first row to its last.
fn spread(rows: u64, batch: usize) -> TableInput {
    let bag = if rows == 0 { 0 } else { BAG };
    let of_all = (SAMPLES * bag * BATCHES) as u128;
    let row = |place: usize| ((place * BATCHES + batch) as u128 * u128::from(rows) / of_all) as i64;
    TableInput {
        indices: (0..SAMPLES * bag).map(row).collect(),
        offsets: (0..=SAMPLES).map(|sample| (sample * bag) as i64).collect(),
        weights: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_are_spread_over_all_rows_of_any_table() {
        for rows in [1, 2, 100, 2048, 5000, 40_000_000, i64::MAX as u64] {
            let mut all: Vec<i64> = (0..BATCHES).flat_map(|batch| spread(rows, batch).indices).collect();
            all.sort_unstable();
            assert_eq!(all[0], 0);
            assert!((*all.last().unwrap() as u64) < rows);
            let step = rows.div_ceil((SAMPLES * BAG * BATCHES) as u64);
            assert!(all.windows(2).all(|pair| (pair[1] - pair[0]) as u64 <= step), "{rows} rows");
            assert!(rows - *all.last().unwrap() as u64 <= step, "{rows} rows");
        }
        assert!(spread(0, 0).indices.is_empty());
    }
}
