//! Synthetic batches: the same whoever asks and in whatever order.

use proptest::prelude::*;
use slackline_data::{Access, Batch, DataError, PoolingFactor, Synthetic, SyntheticSpec, SyntheticTable};

fn table(rows: u64, pooling: PoolingFactor, access: Access) -> SyntheticTable {
    SyntheticTable { rows, pooling, access }
}

fn spec(tables: Vec<SyntheticTable>) -> SyntheticSpec {
    SyntheticSpec { samples_per_batch: 64, dense_features: 3, tables, seed: 11 }
}

fn batch(spec: &SyntheticSpec, number: u64) -> Batch {
    let mut batch = Batch::default();
    Synthetic::new(spec).unwrap().fill(number, &mut batch);
    batch
}

fn tables() -> impl Strategy<Value = Vec<SyntheticTable>> {
    let pooling = prop_oneof![
        (0u32..5).prop_map(PoolingFactor::Fixed),
        (0u32..4, 0u32..4).prop_map(|(low, more)| PoolingFactor::Uniform { low, high: low + more }),
    ];
    let access = prop_oneof![Just(Access::Uniform), (0.0..3.0).prop_map(Access::Zipf), Just(Access::Zipf(1.0))];
    let table = (1u64..=1 << 40, 0u32..40, pooling, access);
    let table = table.prop_map(|(rows, shift, pooling, access)| SyntheticTable {
        rows: (rows >> shift).max(1),
        pooling,
        access,
    });
    prop::collection::vec(table, 0..5)
}

proptest! {
    #[test]
    fn every_batch_is_well_formed_and_can_be_asked_for_in_any_order(
        tables in tables(), seed in any::<u64>(), samples in 1usize..40, numbers in prop::collection::vec(0u64..1 << 40, 1..4),
    ) {
        let spec = SyntheticSpec { samples_per_batch: samples, dense_features: 2, tables, seed };
        let synthetic = Synthetic::new(&spec).unwrap();
        let mut reused = Batch::default();
        for &number in numbers.iter().chain(numbers.iter().rev()) {
            synthetic.fill(number, &mut reused);
            prop_assert_eq!(&reused, &batch(&spec, number));
            prop_assert_eq!((reused.samples, reused.first_sample), (samples, number * samples as u64));
            prop_assert_eq!((reused.dense.len(), reused.labels.len()), (samples * 2, 0));
            prop_assert!(reused.dense.iter().all(|value| (0.0..1.0).contains(value)));
            for (table, spec) in reused.tables.iter().zip(&spec.tables) {
                prop_assert_eq!(table.offsets.len(), samples + 1);
                prop_assert_eq!((table.offsets[0], table.offsets[samples]), (0, table.indices.len() as i64));
                let (low, high) = match spec.pooling {
                    PoolingFactor::Fixed(count) => (count, count),
                    PoolingFactor::Uniform { low, high } => (low, high),
                };
                prop_assert!(table.offsets.windows(2).all(|bag| (i64::from(low)..=i64::from(high)).contains(&(bag[1] - bag[0]))));
                prop_assert!(table.indices.iter().all(|&index| (0..spec.rows as i64).contains(&index)));
            }
        }
    }
}

#[test]
fn batches_seeds_and_tables_differ() {
    let wide = table(1 << 40, PoolingFactor::Fixed(2), Access::Uniform);
    let spec = spec(vec![wide.clone(), wide]);
    let first = batch(&spec, 0);
    assert_ne!(first.tables[0], first.tables[1]);
    assert_ne!(first.tables, batch(&spec, 1).tables);
    assert_ne!(first.tables, batch(&SyntheticSpec { seed: 12, ..spec.clone() }, 0).tables);
    assert!(first.tables[0].indices.iter().any(|&index| index > 1 << 39), "high rows are reached");
    // A table's indices do not depend on the other tables.
    let alone = SyntheticSpec { tables: spec.tables[..1].to_vec(), ..spec.clone() };
    assert_eq!(batch(&alone, 5).tables[0], batch(&spec, 5).tables[0]);
}

#[test]
fn pooling_reaches_both_ends() {
    let spec = spec(vec![table(10, PoolingFactor::Uniform { low: 0, high: 3 }, Access::Uniform)]);
    let batch = batch(&spec, 0);
    for pooling in 0..=3 {
        assert!(batch.tables[0].offsets.windows(2).any(|bag| bag[1] - bag[0] == pooling), "{pooling}");
    }
}

#[test]
fn zipf_has_hot_rows_that_are_not_neighbours() {
    let rows = 1_000_000;
    let spec = spec(vec![table(rows, PoolingFactor::Fixed(500), Access::Zipf(1.1))]);
    let mut counts = std::collections::HashMap::<i64, u32>::new();
    for index in batch(&spec, 0).tables[0].indices.iter() {
        *counts.entry(*index).or_default() += 1;
    }
    let mut hot: Vec<(u32, i64)> = counts.into_iter().map(|(index, count)| (count, index)).collect();
    hot.sort_unstable();
    hot.reverse();
    let total: u32 = hot.iter().map(|row| row.0).sum();
    let top: u32 = hot[..100].iter().map(|row| row.0).sum();
    assert!(top > total / 3, "the 100 hottest rows have {top} of {total}");
    let mut places: Vec<i64> = hot[..50].iter().map(|row| row.1).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] > 1000), "{places:?}");
}

/// Pins the generators: whoever changes one of them, or its dependency, changes every recorded experiment.
#[test]
fn batches_stay_the_same_across_versions() {
    let tables = vec![
        table(1000, PoolingFactor::Fixed(1), Access::Uniform),
        table(1 << 40, PoolingFactor::Uniform { low: 1, high: 2 }, Access::Zipf(1.05)),
    ];
    let spec = SyntheticSpec { samples_per_batch: 3, dense_features: 1, tables, seed: 42 };
    let batch = batch(&spec, 7);
    assert_eq!(batch.dense, [0.9553681, 0.33514994, 0.46347594]);
    assert_eq!(batch.tables[0].indices, [771, 746, 40]);
    assert_eq!(batch.tables[1].offsets, [0, 1, 3, 4]);
    assert_eq!(batch.tables[1].indices, [112554863904, 108394307910, 857965449221, 1018382033800]);
}

#[test]
fn specifications_in_files() {
    let text = r#"{"samples_per_batch": 8, "dense_features": 13, "seed": 3, "tables": [
        {"rows": 5, "pooling": {"fixed": 4}, "access": {"zipf": 1.05}},
        {"rows": 6, "pooling": {"uniform": {"low": 1, "high": 2}}, "access": "uniform"},
        {"rows": 7}]}"#;
    let spec: SyntheticSpec = serde_json::from_str(text).unwrap();
    assert_eq!(spec.tables[0], table(5, PoolingFactor::Fixed(4), Access::Zipf(1.05)));
    assert_eq!(spec.tables[1], table(6, PoolingFactor::Uniform { low: 1, high: 2 }, Access::Uniform));
    assert_eq!(spec.tables[2], table(7, PoolingFactor::Fixed(1), Access::Uniform));
    assert_eq!(serde_json::from_str::<SyntheticSpec>(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
    assert!(serde_json::from_str::<SyntheticSpec>(&text.replace("seed", "sed")).is_err());
}

#[test]
fn impossible_specifications_are_named() {
    let fixed = PoolingFactor::Fixed(1);
    for (tables, expected) in [
        (vec![table(0, fixed, Access::Uniform)], "synthetic input: table 0 has 0 rows, expected 1 to 2^40"),
        (vec![table((1 << 40) + 1, fixed, Access::Uniform)], "table 0 has 1099511627777 rows"),
        (
            vec![table(5, fixed, Access::Uniform), table(5, fixed, Access::Zipf(-1.0))],
            "table 1: zipf exponent -1, expected a finite number",
        ),
        (vec![table(5, fixed, Access::Zipf(f64::NAN))], "table 0: zipf exponent NaN"),
        (
            vec![table(5, PoolingFactor::Uniform { low: 3, high: 2 }, Access::Uniform)],
            "table 0: pooling factor from 3 to 2",
        ),
    ] {
        let Err(DataError::Request { problem }) = Synthetic::new(&spec(tables)) else { panic!("{expected}") };
        assert!(problem.contains(expected), "{problem}");
    }
    let empty = SyntheticSpec { samples_per_batch: 0, ..spec(vec![]) };
    assert!(Synthetic::new(&empty).is_err());
}
