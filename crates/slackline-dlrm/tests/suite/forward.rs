//! The local pass against the model in double precision, and what it says of batches that do not fit.

use std::sync::Arc;

use proptest::prelude::*;
use slackline_dlrm::{DenseWeights, DlrmError, LocalModel, ModelConfig};
use slackline_embedding::{EmbeddingTable, HeapTable};

use crate::common::{Small, bits, golden, small_models};

fn dot() -> Small {
    let text = std::fs::read_to_string(golden("dot.json")).unwrap();
    Small::new(ModelConfig::from_json(&text).unwrap().config, 3)
}

proptest! {
    #[test]
    fn predictions_are_those_of_the_oracle(small in small_models(), samples in 0usize..12, seed: u64) {
        let batch = small.batch(samples, 0, seed);
        let mut out = vec![f32::NAN; 3];
        let mut model = small.local();
        model.predict(&batch, &mut out).unwrap();
        let cold = bits(&out);
        prop_assert_eq!(model.warm_up().unwrap(), 2048 * small.config.tables());
        model.predict(&batch, &mut out).unwrap();
        prop_assert_eq!(bits(&out), cold);
        let expected = small.oracle(&batch);
        prop_assert_eq!(out.len(), samples);
        for (p, q) in out.iter().zip(&expected) {
            prop_assert!((f64::from(*p) - q).abs() < 1e-4, "{} instead of {}", p, q);
        }
    }
}

#[test]
fn a_batch_larger_than_a_chunk_is_predicted_as_its_samples_alone() {
    let small = dot();
    let mut model = small.local();
    let batch = small.batch(700, 0, 11);
    let (mut all, mut one) = (Vec::new(), Vec::new());
    model.predict(&batch, &mut all).unwrap();
    for sample in [0, 255, 256, 257, 511, 512, 699] {
        let mut alone = batch.clone();
        alone.samples = 1;
        let features = small.config.dense_features();
        alone.dense = batch.dense[sample * features..(sample + 1) * features].to_vec();
        for (table, whole) in alone.tables.iter_mut().zip(&batch.tables) {
            let (from, to) = (whole.offsets[sample] as usize, whole.offsets[sample + 1] as usize);
            table.indices = whole.indices[from..to].to_vec();
            table.offsets = vec![0, (to - from) as i64];
        }
        model.predict(&alone, &mut one).unwrap();
        assert_eq!(bits(&one), bits(&all[sample..=sample]), "sample {sample}");
    }
}

#[test]
fn an_index_outside_of_its_table_is_named_with_table_sample_and_value() {
    let small = dot();
    let mut batch = small.batch(5, 1000, 1);
    batch.tables[3].indices = vec![0, 1, 11, 2];
    batch.tables[3].offsets = vec![0, 1, 1, 2, 3, 4];
    let error = small.local().predict(&batch, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, DlrmError::Bags(_)));
    let text = error.to_string();
    assert!(text.contains("table t3") && text.contains("sample 1003") && text.contains("index 11"), "{text}");
    batch.tables[3].indices[2] = -1;
    let text = small.local().predict(&batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(text.contains("sample 1003") && text.contains("-1"), "{text}");
}

#[test]
fn batches_of_another_shape_are_refused_with_both_numbers() {
    let small = dot();
    let refuse = |change: fn(&mut slackline_data::Batch)| {
        let mut batch = small.batch(4, 20, 1);
        change(&mut batch);
        small.local().predict(&batch, &mut Vec::new()).unwrap_err().to_string()
    };
    let text = refuse(|batch| batch.dense.truncate(19));
    assert_eq!(text, "samples 20 to 24: expected 20 dense values, found 19");
    let text = refuse(|batch| batch.tables.truncate(4));
    assert_eq!(text, "samples 20 to 24: expected 5 tables, found 4");
    let text = refuse(|batch| batch.tables[2].offsets.truncate(4));
    assert_eq!(text, "samples 20 to 24: expected 5 offsets of table 2 (t2), found 4");
    let text = refuse(|batch| batch.tables[2].offsets[1] = 100);
    assert!(text.contains("table t2") && text.contains("100"), "{text}");
    let text = refuse(|batch| batch.tables[1].weights = vec![1.0]);
    assert!(text.contains("table t1") && text.contains("1 weights"), "{text}");
}

#[test]
fn tables_and_weights_of_another_model_are_refused() {
    let small = dot();
    let tables = |count: usize| (0..count).map(|t| small.table(t)).collect::<Vec<_>>();
    let text = LocalModel::new(small.dense(), tables(4)).unwrap_err().to_string();
    assert_eq!(text, "the model: expected 5 tables, found 4");
    let mut wrong: Vec<Arc<dyn EmbeddingTable>> = tables(5);
    wrong[1] = Arc::new(HeapTable::new("t1", 4, vec![0.0; 4 * 9]));
    let text = LocalModel::new(small.dense(), wrong).unwrap_err().to_string();
    assert_eq!(text, "table 1 (t1) has 9 rows of 4 values; the configuration says 3 of 4");
    let mut weights = small.weights.clone();
    weights.top.pop();
    let text = slackline_dlrm::DenseModel::new(small.config.clone(), weights).unwrap_err().to_string();
    assert_eq!(text, "arch_mlp_top has 2 layers, but there are weights for 1");
    let none = slackline_dlrm::DenseModel::new(small.config, DenseWeights::default());
    assert!(matches!(none, Err(DlrmError::Layers { argument: "arch_mlp_bot", expected: 2, found: 0 })));
}
