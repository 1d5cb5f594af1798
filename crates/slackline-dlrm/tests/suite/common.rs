//! What the integration tests share: random models and batches, and the model in double precision as an oracle.
#![cfg_attr(
    not(all(feature = "distributed", feature = "import")),
    allow(dead_code, reason = "the tests of each feature use a part of it")
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use slackline_data::{Batch, Input, TableInput};
use slackline_dlrm::{
    Arguments, DenseModel, DenseWeights, InteractionOp, LayerWeights, LocalModel, ModelConfig, ModelDirectory,
    RankTables,
};
use slackline_embedding::{EmbeddingTable, HeapTable, HotRows, Load, Part, Plan, Verify};

/// A model small enough to be written down, with its weights as plain numbers.
#[derive(Clone, Debug)]
pub(crate) struct Small {
    pub(crate) config: ModelConfig,
    pub(crate) weights: DenseWeights,
    pub(crate) tables: Vec<Vec<f32>>,
}

/// Numbers in `-1.0 .. 1.0` that look random and are the same for the same seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % bound
    }

    pub(crate) fn value(&mut self) -> f32 {
        self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

impl Small {
    pub(crate) fn new(config: ModelConfig, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let mut layers = |widths: &[usize]| {
            let layer = |pair: &[usize]| LayerWeights {
                weight: numbers.values(pair[0] * pair[1]),
                bias: numbers.values(pair[1]),
            };
            widths.windows(2).map(layer).collect()
        };
        let weights = DenseWeights { bottom: layers(config.bottom()), top: layers(config.top()) };
        let tables = config.rows().iter().map(|&rows| numbers.values(rows * config.dim())).collect();
        Self { config, weights, tables }
    }

    pub(crate) fn dense(&self) -> DenseModel {
        DenseModel::new(self.config.clone(), self.weights.clone()).unwrap()
    }

    pub(crate) fn table(&self, number: usize) -> Arc<dyn EmbeddingTable> {
        Arc::new(self.heap(number))
    }

    fn heap(&self, number: usize) -> HeapTable {
        HeapTable::new(format!("t{number}"), self.config.dim(), self.tables[number].clone())
    }

    /// What a rank holds by a plan.
    pub(crate) fn rank_tables(&self, plan: &Plan, rank: usize) -> RankTables {
        let part = |part: &Part| -> Arc<dyn EmbeddingTable> {
            Arc::new(self.heap(part.table).part(part.rows.clone(), part.columns.clone()))
        };
        let hot = (0..self.tables.len()).filter(|table| !plan.hot_rows(*table).is_empty());
        let copy = |table: usize| {
            let table_of = self.heap(table);
            Arc::new(HotRows::new(table_of.name(), plan.hot_rows(table), table_of.stored()))
        };
        RankTables {
            parts: plan.parts_of(rank).iter().map(part).collect(),
            replicated: plan.replicated().iter().map(|table| self.table(*table)).collect(),
            hot: hot.map(copy).collect(),
        }
    }

    pub(crate) fn local(&self) -> LocalModel {
        LocalModel::new(self.dense(), (0..self.tables.len()).map(|t| self.table(t)).collect()).unwrap()
    }

    /// Bags of 0 to 4 indices, some twice, every third batch weighted.
    pub(crate) fn batch(&self, samples: usize, first_sample: u64, seed: u64) -> Batch {
        let mut numbers = Numbers(seed);
        let tables = self.config.rows().iter().map(|&rows| {
            let mut input = TableInput { offsets: vec![0], ..TableInput::default() };
            for _ in 0..samples {
                for _ in 0..numbers.below(5) {
                    input.indices.push(numbers.below(rows) as i64);
                }
                input.offsets.push(input.indices.len() as i64);
            }
            if seed.is_multiple_of(3) {
                input.weights = numbers.values(input.indices.len());
            }
            input
        });
        let tables = tables.collect();
        let dense = numbers.values(samples * self.config.dense_features());
        Batch { first_sample, samples, dense, tables, ..Batch::default() }
    }

    /// The whole model in double precision, one sample at a time and in the plainest words.
    pub(crate) fn oracle(&self, batch: &Batch) -> Vec<f64> {
        let config = &self.config;
        let dim = config.dim();
        let predict = |sample: usize| {
            let features = config.dense_features();
            let dense = &batch.dense[sample * features..(sample + 1) * features];
            let dense: Vec<f64> = dense.iter().map(|&x| f64::from(x)).collect();
            let mut vectors = vec![mlp(&self.weights.bottom, config.sigmoid_bottom(), dense)];
            for (table, input) in self.tables.iter().zip(&batch.tables) {
                let mut pooled = vec![0.0; dim];
                for at in input.offsets[sample] as usize..input.offsets[sample + 1] as usize {
                    let weight = input.weights.get(at).map_or(1.0, |&w| f64::from(w));
                    let row = &table[input.indices[at] as usize * dim..][..dim];
                    pooled.iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
                }
                vectors.push(pooled);
            }
            let mut input = vectors[0].clone();
            match config.interaction_op() {
                InteractionOp::Cat => input = vectors.concat(),
                InteractionOp::Dot => {
                    for i in 0..vectors.len() {
                        for j in 0..i + usize::from(config.interaction_itself()) {
                            input.push(vectors[i].iter().zip(&vectors[j]).map(|(a, b)| a * b).sum());
                        }
                    }
                }
            }
            let p = mlp(&self.weights.top, config.sigmoid_top(), input)[0];
            config.clamp().map_or(p, |(low, high)| p.clamp(f64::from(low), f64::from(high)))
        };
        (0..batch.samples).map(predict).collect()
    }
}

fn mlp(layers: &[LayerWeights], sigmoid: Option<usize>, mut x: Vec<f64>) -> Vec<f64> {
    for (number, layer) in layers.iter().enumerate() {
        let outputs = layer.weight.chunks(x.len()).zip(&layer.bias).map(|(weights, &bias)| {
            let sum: f64 = weights.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
            let y = sum + f64::from(bias);
            if sigmoid == Some(number) { 1.0 / (1.0 + (-y).exp()) } else { y.max(0.0) }
        });
        x = outputs.collect();
    }
    x
}

/// Models of up to 9 tables, both interactions, and every option.
pub(crate) fn small_models() -> impl Strategy<Value = Small> {
    let shape = (
        1usize..6,
        proptest::collection::vec(1usize..20, 1..10),
        proptest::collection::vec(1usize..7, 1..3),
        proptest::collection::vec(1usize..7, 0..3),
    );
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just(0.0), Just(0.3)]);
    (shape, options, any::<u64>()).prop_map(|((dim, rows, mut bottom, mut top), (cat, itself, sigmoid, t), seed)| {
        bottom.push(dim);
        top.push(1);
        let arguments = Arguments {
            sparse_feature_size: dim,
            embedding_size: rows,
            sigmoid_bot: Some(if sigmoid { bottom.len() as i64 - 2 } else { -1 }),
            mlp_bot: bottom,
            mlp_top: top,
            interaction_op: if cat { InteractionOp::Cat } else { InteractionOp::Dot },
            interaction_itself: itself,
            sigmoid_top: None,
            loss_threshold: t,
            ..Arguments::default()
        };
        Small::new(ModelConfig::new(arguments).unwrap(), seed)
    })
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The folder of real data, if this machine has it.
pub(crate) fn shared_data() -> Option<PathBuf> {
    std::env::var_os("SLACKLINE_SHARED_DATA").map(PathBuf::from)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

pub(crate) fn load_all(directory: &ModelDirectory) -> LocalModel {
    let all: Vec<usize> = (0..directory.config().tables()).collect();
    LocalModel::new(
        directory.load_dense().unwrap(),
        directory.load_tables(&all, Load::Mapped, Verify::Checksums).unwrap(),
    )
    .unwrap()
}

pub(crate) fn input(path: &Path, config: &ModelConfig) -> Input {
    Input::open(path, None, &config.input_shape()).unwrap()
}

/// Every sample of the input, in one batch.
pub(crate) fn whole(path: &Path, config: &ModelConfig) -> Batch {
    let mut batch = Batch::default();
    input(path, config).next_batch(1 << 20, &mut batch).unwrap();
    batch
}
