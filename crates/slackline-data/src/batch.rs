//! Batches: what readers and generators fill.

/// One batch of samples. Its buffers are reused from one batch to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The number of the first sample in the whole input, from 0.
    pub first_sample: u64,
    /// Samples in this batch.
    pub samples: usize,
    /// Dense features, `[samples, dense_features]` row-major, transformed for the model.
    pub dense: Vec<f32>,
    /// Labels in `0.0 ..= 1.0`, `[samples]`; empty where the input has none.
    pub labels: Vec<f32>,
    /// One entry for each table, in the order of the model.
    pub tables: Vec<TableInput>,
}

/// The bags of one batch in one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableInput {
    /// Row indices of all bags, one bag after another.
    pub indices: Vec<i64>,
    /// `[samples + 1]`: bag `s` is `indices[offsets[s] .. offsets[s + 1]]`; starts with 0 and ends with `indices.len()`.
    pub offsets: Vec<i64>,
    /// One weight for each index, or empty if the bags are unweighted.
    pub weights: Vec<f32>,
}

impl Batch {
    /// Empties the batch for `tables` tables and a first sample, keeping its buffers.
    pub(crate) fn reset(&mut self, first_sample: u64, tables: usize) {
        self.first_sample = first_sample;
        self.samples = 0;
        self.dense.clear();
        self.labels.clear();
        self.tables.resize_with(tables, TableInput::default);
        for table in &mut self.tables {
            table.indices.clear();
            table.offsets.clear();
            table.weights.clear();
        }
    }
}
