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
    /// The ids of the rows; empty where the input has none.
    pub ids: RowIds,
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
        self.ids.clear();
        self.tables.resize_with(tables, TableInput::default);
        for table in &mut self.tables {
            table.indices.clear();
            table.offsets.clear();
            table.weights.clear();
        }
    }
}

/// The ids of the rows of one batch, as they stand in the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowIds {
    text: Vec<u8>,
    /// Where each id ends.
    ends: Vec<usize>,
}

impl RowIds {
    /// The id of a row of the batch, from 0; `None` where the input has none.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let end = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.text[start..end])
    }

    pub(crate) fn push(&mut self, id: &[u8]) {
        self.text.extend_from_slice(id);
        self.ends.push(self.text.len());
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}
