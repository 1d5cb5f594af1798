//! Batches from an `.npz` archive.

use std::path::Path;

use crate::npz::NpzFile;
use crate::{Batch, DataError, InputShape};

/// `dense [B, D]`; for each table `offsets_i [B]` (the last bag ends where the indices do) or `[B + 1]`, `indices_i`, and
/// optionally `weights_i` of the same length; optionally `labels` (or `label`), `[B]` or `[B, 1]`. Other members are ignored.
pub(crate) struct NpzReader {
    dense_features: usize,
    samples: usize,
    dense: Vec<f32>,
    labels: Option<Vec<f32>>,
    tables: Vec<Bags>,
    samples_read: usize,
    bytes: u64,
}

/// All bags of one table.
struct Bags {
    indices: Vec<i64>,
    /// Ascending from 0 to the number of indices, one more than samples.
    offsets: Vec<usize>,
    weights: Option<Vec<f32>>,
}

impl NpzReader {
    pub(crate) fn open(path: &Path, shape: &InputShape) -> Result<Self, DataError> {
        shape.check()?;
        let mut file = NpzFile::open(path)?;
        let samples = file.samples()?;
        let (dense_shape, dense) = file.f32("dense")?;
        if dense_shape[1] != shape.dense_features {
            let problem = format!("shape {dense_shape:?}, but the model has {shape}");
            return Err(file.problem("dense", problem));
        }
        check_finite(&file, "dense", &dense, |at| at / shape.dense_features)?;
        for extra in ["offsets", "indices"].map(|kind| format!("{kind}_{}", shape.table_rows.len())) {
            if file.contains(&extra) {
                return Err(file.problem(&extra, format!("the model has {shape}")));
            }
        }
        let labels = ["labels", "label"].into_iter().find(|name| file.contains(name));
        let labels = labels.map(|name| read_labels(&mut file, name, samples)).transpose()?;
        let tables = (0..shape.table_rows.len()).map(|table| Bags::read(&mut file, table, samples));
        let tables = tables.collect::<Result<_, _>>()?;
        let (dense_features, bytes) = (shape.dense_features, file.bytes());
        Ok(NpzReader { dense_features, samples, dense, labels, tables, samples_read: 0, bytes })
    }

    pub(crate) fn next_batch(&mut self, max_samples: usize, batch: &mut Batch) -> bool {
        batch.reset(self.samples_read as u64, self.tables.len());
        let from = self.samples_read;
        let to = self.samples.min(from.saturating_add(max_samples));
        batch.samples = to - from;
        batch.dense.extend_from_slice(&self.dense[from * self.dense_features..to * self.dense_features]);
        if let Some(labels) = &self.labels {
            batch.labels.extend_from_slice(&labels[from..to]);
        }
        for (table, bags) in batch.tables.iter_mut().zip(&self.tables) {
            let (first, last) = (bags.offsets[from], bags.offsets[to]);
            table.indices.extend_from_slice(&bags.indices[first..last]);
            table.offsets.extend(bags.offsets[from..=to].iter().map(|offset| (offset - first) as i64));
            if let Some(weights) = &bags.weights {
                table.weights.extend_from_slice(&weights[first..last]);
            }
        }
        self.samples_read = to;
        to > from
    }

    pub(crate) fn has_labels(&self) -> bool {
        self.labels.is_some()
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Bags {
    fn read(file: &mut NpzFile, table: usize, samples: usize) -> Result<Self, DataError> {
        let [indices_name, offsets_name, weights_name] =
            ["indices", "offsets", "weights"].map(|kind| format!("{kind}_{table}"));
        let (shape, indices) = file.i64(&indices_name)?;
        if shape.len() != 1 {
            return Err(file.problem(&indices_name, format!("shape {shape:?}, expected one dimension")));
        }
        let (shape, raw) = file.i64(&offsets_name)?;
        if shape.len() != 1 || raw.len() != samples && raw.len().checked_sub(1) != Some(samples) {
            let problem = format!("shape {shape:?}, expected one dimension of {samples} samples, or one more");
            return Err(file.problem(&offsets_name, problem));
        }
        let mut offsets = Vec::with_capacity(raw.len() + 1);
        for (sample, &offset) in raw.iter().enumerate() {
            let lowest = offsets.last().copied().unwrap_or(0);
            let highest = match sample {
                0 => 0,
                _ => indices.len(),
            };
            match usize::try_from(offset) {
                Ok(offset) if (lowest..=highest).contains(&offset) => offsets.push(offset),
                _ => {
                    return Err(DataError::MemberValue {
                        path: file.path().to_owned(),
                        member: offsets_name,
                        sample,
                        value: offset.to_string(),
                        expected: format!("an offset from {lowest} to {highest}"),
                    });
                }
            }
        }
        if raw.len() == samples {
            offsets.push(indices.len());
        }
        if offsets.first() != Some(&0) || offsets.last() != Some(&indices.len()) {
            let problem = format!("the bags do not cover the {} indices of {indices_name}", indices.len());
            return Err(file.problem(&offsets_name, problem));
        }
        let weights = file.contains(&weights_name).then(|| file.f32(&weights_name)).transpose()?;
        if let Some((shape, weights)) = &weights {
            if shape[..] != [indices.len()] {
                let problem = format!("shape {shape:?}, but {indices_name} has {} indices", indices.len());
                return Err(file.problem(&weights_name, problem));
            }
            let sample = |at: usize| offsets.partition_point(|&offset| offset <= at) - 1;
            check_finite(file, &weights_name, weights, sample)?;
        }
        Ok(Bags { indices, offsets, weights: weights.map(|(_, weights)| weights) })
    }
}

fn read_labels(file: &mut NpzFile, name: &str, samples: usize) -> Result<Vec<f32>, DataError> {
    let (shape, labels) = file.numbers(name)?;
    if shape[..] != [samples] && shape[..] != [samples, 1] {
        return Err(file.problem(name, format!("shape {shape:?}, but dense has {samples} samples")));
    }
    match labels.iter().position(|label| !(0.0..=1.0).contains(label)) {
        None => Ok(labels),
        Some(sample) => Err(DataError::MemberValue {
            path: file.path().to_owned(),
            member: name.to_owned(),
            sample,
            value: labels[sample].to_string(),
            expected: "a label from 0 to 1".to_owned(),
        }),
    }
}

fn check_finite(
    file: &NpzFile,
    name: &str,
    values: &[f32],
    sample: impl FnOnce(usize) -> usize,
) -> Result<(), DataError> {
    let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    Err(DataError::MemberValue {
        path: file.path().to_owned(),
        member: name.to_owned(),
        sample: sample(at),
        value: values[at].to_string(),
        expected: "a finite f32".to_owned(),
    })
}
