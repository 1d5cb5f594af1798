//! Batches from an `.npz` archive of bags.

use std::path::Path;

use crate::array::Array;
use crate::npz::NpzFile;
use crate::preprocessing::{DenseTransform, SparseTransform};
use crate::rows::Rows;
use crate::values::{read_dense, read_labels};
use crate::{Batch, DataError, InputShape};

/// `dense [B, D]`; for each table `offsets_i [B]` (the last bag ends where the indices do) or `[B + 1]`, `indices_i`, and
/// optionally `weights_i` of the same length; optionally `labels` (or `label`), `[B]` or `[B, 1]`. Other members are ignored.
pub(crate) struct BagsReader {
    samples: usize,
    dense: Array,
    transform: DenseTransform,
    labels: Option<Array>,
    tables: Vec<Bags>,
    /// Applied to indices, unless they are row numbers already: then whoever owns the tables checks them.
    rows: Option<Rows>,
    bytes: u64,
    buffer: Vec<u8>,
}

/// The bags of one table that are not read yet.
struct Bags {
    indices: Array,
    offsets: Array,
    weights: Option<Array>,
    /// Whether there is an offset more than samples, which closes the last bag.
    closing: bool,
    /// The offsets read so far, and the last of them: where the next bag begins.
    read: usize,
    begin: usize,
}

impl BagsReader {
    pub(crate) fn open(
        path: &Path,
        shape: &InputShape,
        transform: DenseTransform,
        rows: Rows,
        sparse: SparseTransform,
    ) -> Result<Self, DataError> {
        let mut file = NpzFile::open(path)?;
        let dense = file.array("dense")?;
        let [samples, features] = dense.shape()[..] else {
            return Err(dense.problem(format!("shape {:?}, expected two dimensions", dense.shape())));
        };
        if features != shape.dense_features {
            return Err(dense.problem(format!("shape {:?}, but the model has {shape}", dense.shape())));
        }
        for extra in ["offsets", "indices"].map(|kind| format!("{kind}_{}", shape.table_rows.len())) {
            if file.contains(&extra) {
                return Err(file.problem(&extra, format!("the model has {shape}")));
            }
        }
        let is_read = |name: &str| (0..shape.table_rows.len()).any(|table| name == format!("weights_{table}"));
        if let Some(weights) = file.names().iter().find(|name| name.contains("weight") && !is_read(name)) {
            let problem = "weights of no table, and leaving them out would change predictions; expected weights_0, …";
            return Err(file.problem(weights, problem));
        }
        let labels = ["labels", "label"].into_iter().find(|name| file.contains(name));
        let labels = labels.map(|name| file.array(name)).transpose()?;
        if let Some(labels) = &labels
            && labels.shape() != [samples]
            && labels.shape() != [samples, 1]
        {
            return Err(labels.problem(format!("shape {:?}, but dense has {samples} samples", labels.shape())));
        }
        let tables = (0..shape.table_rows.len()).map(|table| Bags::open(&mut file, table, samples));
        let tables = tables.collect::<Result<_, _>>()?;
        let rows = (sparse != SparseTransform::None).then_some(rows);
        let (dense, bytes) = (dense.by_rows()?, file.bytes());
        Ok(BagsReader { samples, dense, transform, labels, tables, rows, bytes, buffer: Vec::new() })
    }

    pub(crate) fn fill(&mut self, first: usize, max_samples: usize, batch: &mut Batch) -> Result<(), DataError> {
        let count = max_samples.min(self.dense.rows_left());
        let Self { dense, labels, tables, rows, buffer, .. } = self;
        dense.next_rows(count, buffer)?;
        let columns = dense.columns();
        batch.dense.resize(count * columns, 0.0);
        read_dense(dense, 0..columns, self.transform, first, buffer, &mut batch.dense)?;
        if let Some(labels) = labels {
            labels.next_rows(count, buffer)?;
            read_labels(labels, 0, first, buffer, &mut batch.labels)?;
        }
        for (number, (table, bags)) in batch.tables.iter_mut().zip(tables).enumerate() {
            let begin = bags.begin()?;
            table.offsets.push(0);
            bags.ends(count, buffer, |end| table.offsets.push((end - begin) as i64))?;
            let lookups = table.offsets[count] as usize;
            let sample_of = |at: usize| first + table.offsets.partition_point(|&offset| offset as usize <= at) - 1;
            bags.indices.next_rows(lookups, buffer)?;
            let element = bags.indices.element();
            let decode = element.i64_decoder();
            for bytes in buffer.chunks_exact(element.bytes()) {
                let wrong =
                    |expected| bags.indices.bad_value(sample_of(table.indices.len()), element.text(bytes), expected);
                let index = decode(bytes).ok_or_else(|| wrong("a whole number that int64 has"))?;
                table.indices.push(match rows {
                    Some(rows) => rows.of_number(number, index).map_err(wrong)?,
                    None => index,
                });
            }
            if let Some(weights) = &mut bags.weights {
                weights.next_rows(lookups, buffer)?;
                let element = weights.element();
                let decode = element.f32_decoder();
                for bytes in buffer.chunks_exact(element.bytes()) {
                    let weight = decode(bytes).filter(|weight| weight.is_finite());
                    let wrong =
                        || weights.bad_value(sample_of(table.weights.len()), element.text(bytes), "a finite f32");
                    table.weights.push(weight.ok_or_else(wrong)?);
                }
            }
        }
        batch.samples = count;
        Ok(())
    }

    pub(crate) fn skip(&mut self, samples: usize) -> Result<usize, DataError> {
        let count = samples.min(self.dense.rows_left());
        self.dense.skip_rows(count)?;
        if let Some(labels) = &mut self.labels {
            labels.skip_rows(count)?;
        }
        for bags in &mut self.tables {
            let mut left = count;
            while left > 0 {
                // The offsets of a part: a whole day's need not fit in memory.
                let part = left.min(1 << 16);
                let begin = bags.begin()?;
                let mut last = begin;
                bags.ends(part, &mut self.buffer, |end| last = end)?;
                bags.indices.skip_rows(last - begin)?;
                if let Some(weights) = &mut bags.weights {
                    weights.skip_rows(last - begin)?;
                }
                left -= part;
            }
        }
        Ok(count)
    }

    pub(crate) fn has_labels(&self) -> bool {
        self.labels.is_some()
    }

    pub(crate) fn has_weights(&self, table: usize) -> bool {
        self.tables[table].weights.is_some()
    }

    /// Of the samples read so far, in each table.
    pub(crate) fn lookups_read(&self) -> Vec<u64> {
        self.tables.iter().map(|bags| bags.begin as u64).collect()
    }

    /// Of all samples together, in each table.
    pub(crate) fn lookups(&self) -> Vec<u64> {
        self.tables.iter().map(|bags| bags.indices.rows() as u64).collect()
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Bags {
    fn open(file: &mut NpzFile, table: usize, samples: usize) -> Result<Self, DataError> {
        let [indices_name, offsets_name, weights_name] =
            ["indices", "offsets", "weights"].map(|kind| format!("{kind}_{table}"));
        let indices = file.array(&indices_name)?;
        let total = match indices.shape() {
            [total] => *total,
            shape => return Err(indices.problem(format!("shape {shape:?}, expected one dimension"))),
        };
        let offsets = file.array(&offsets_name)?;
        match offsets.shape() {
            [count] if *count == samples || count.checked_sub(1) == Some(samples) => {}
            shape => {
                let problem = format!("shape {shape:?}, expected one dimension of {samples} samples, or one more");
                return Err(offsets.problem(problem));
            }
        }
        if offsets.rows() == 0 && total > 0 {
            return Err(offsets.problem(format!("the bags do not cover the {total} indices of {indices_name}")));
        }
        let weights = file.contains(&weights_name).then(|| file.array(&weights_name)).transpose()?;
        if let Some(weights) = &weights
            && weights.shape() != [total]
        {
            let problem = format!("shape {:?}, but {indices_name} has {total} indices", weights.shape());
            return Err(weights.problem(problem));
        }
        let closing = offsets.rows() > samples;
        Ok(Bags { indices, offsets, weights, closing, read: 0, begin: 0 })
    }

    /// Where the next bag begins.
    fn begin(&mut self) -> Result<usize, DataError> {
        if self.read == 0 && self.offsets.rows() > 0 {
            self.take(1, 0, &mut Vec::new(), |_| {})?;
            // There may be nothing but the offset that closes no bag.
            self.check_end()?;
        }
        Ok(self.begin)
    }

    /// Where the next bags end.
    fn ends(&mut self, count: usize, buffer: &mut Vec<u8>, mut each: impl FnMut(usize)) -> Result<(), DataError> {
        let given = count.min(self.offsets.rows_left());
        let total = self.indices.rows();
        self.take(given, total, buffer, &mut each)?;
        if given < count {
            self.begin = total;
            each(total);
        }
        self.check_end()
    }

    /// Offsets that close every bag must close the last one at the last index.
    fn check_end(&self) -> Result<(), DataError> {
        let total = self.indices.rows();
        if self.closing && self.offsets.rows_left() == 0 && self.begin != total {
            return Err(self.offsets.problem(format!("the bags do not cover the {total} indices of its table")));
        }
        Ok(())
    }

    fn take(
        &mut self,
        count: usize,
        highest: usize,
        buffer: &mut Vec<u8>,
        mut each: impl FnMut(usize),
    ) -> Result<(), DataError> {
        self.offsets.next_rows(count, buffer)?;
        let element = self.offsets.element();
        let decode = element.i64_decoder();
        for bytes in buffer.chunks_exact(element.bytes()) {
            let offset = decode(bytes).and_then(|offset| usize::try_from(offset).ok());
            let Some(offset) = offset.filter(|offset| (self.begin..=highest).contains(offset)) else {
                let expected = format!("an offset from {} to {highest}", self.begin);
                return Err(self.offsets.bad_value(self.read, element.text(bytes), expected));
            };
            self.begin = offset;
            self.read += 1;
            each(offset);
        }
        Ok(())
    }
}
