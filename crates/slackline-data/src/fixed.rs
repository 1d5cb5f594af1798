//! Batches from arrays in which every sample has equally many lookups: MLPerf's multi-hot archives, TorchRec's arrays, and the
//! reference DLRM's archive and binary.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::array::Array;
use crate::beside::{self, Role};
use crate::element::Element;
use crate::npz::NpzFile;
use crate::preprocessing::DenseTransform;
use crate::rows::Rows;
use crate::values::{read_dense, read_labels};
use crate::{Batch, DataError, InputFormat, InputOptions, InputShape};

pub(crate) struct FixedReader {
    blocks: Vec<Block>,
    transform: DenseTransform,
    rows: Rows,
    samples: usize,
    labelled: bool,
    files: Vec<PathBuf>,
    bytes: u64,
    buffer: Vec<u8>,
}

/// An array with a row for each sample.
struct Block {
    array: Array,
    parts: Vec<Part>,
}

/// What some columns of an array hold.
struct Part {
    columns: Range<usize>,
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Label,
    Dense,
    /// So many lookups in this table, then as many in the next, and so on.
    Lookups {
        first_table: usize,
        each: usize,
    },
}

impl FixedReader {
    pub(crate) fn open(
        path: &Path,
        format: InputFormat,
        options: &InputOptions,
        shape: &InputShape,
        transform: DenseTransform,
        rows: Rows,
    ) -> Result<Self, DataError> {
        let (blocks, files) = match format {
            InputFormat::DlrmBin => binary(path, shape)?,
            InputFormat::DlrmNpz => processed(path, shape)?,
            InputFormat::MultiHot => multi_hot(path, options, shape)?,
            _ => triplet(path, options, shape)?,
        };
        let samples = blocks[0].array.rows();
        if let Some(other) = blocks.iter().find(|block| block.array.rows() != samples) {
            let problem = format!("{} rows, but {} has {samples}", other.array.rows(), blocks[0].array.title());
            return Err(other.array.problem(problem));
        }
        let labelled = blocks.iter().flat_map(|block| &block.parts).any(|part| part.content == Content::Label);
        let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum();
        let by_rows = |block: Block| Ok(Block { array: block.array.by_rows()?, ..block });
        let blocks = blocks.into_iter().map(by_rows).collect::<Result<_, _>>()?;
        Ok(FixedReader { blocks, transform, rows, samples, labelled, files, bytes, buffer: Vec::new() })
    }

    pub(crate) fn fill(&mut self, first: usize, max_samples: usize, batch: &mut Batch) -> Result<(), DataError> {
        let Self { blocks, buffer, transform, rows, .. } = self;
        let count = max_samples.min(blocks[0].array.rows_left());
        for Block { array, parts } in blocks {
            array.next_rows(count, buffer)?;
            for Part { columns, content } in parts {
                match *content {
                    Content::Label => read_labels(array, columns.start, first, buffer, &mut batch.labels)?,
                    Content::Dense => {
                        batch.dense.resize(count * columns.len(), 0.0);
                        read_dense(array, columns.clone(), *transform, first, buffer, &mut batch.dense)?;
                    }
                    Content::Lookups { first_table, each } => {
                        read_lookups(array, columns.clone(), (first_table, each), rows, first, buffer, batch)?;
                    }
                }
            }
        }
        for table in &mut batch.tables {
            let each = table.indices.len().checked_div(count).unwrap_or(0);
            table.offsets.extend((0..=count).map(|sample| (sample * each) as i64));
        }
        batch.samples = count;
        Ok(())
    }

    pub(crate) fn skip(&mut self, samples: usize) -> Result<usize, DataError> {
        let count = samples.min(self.blocks[0].array.rows_left());
        self.blocks.iter_mut().try_for_each(|block| block.array.skip_rows(count))?;
        Ok(count)
    }

    pub(crate) fn has_labels(&self) -> bool {
        self.labelled
    }

    /// Of all samples together, in each table.
    pub(crate) fn lookups(&self) -> Vec<u64> {
        let mut lookups = vec![0; self.rows.tables()];
        for part in self.blocks.iter().flat_map(|block| &block.parts) {
            if let Content::Lookups { first_table, each } = part.content {
                let tables = part.columns.len().checked_div(each).unwrap_or(1);
                lookups[first_table..first_table + tables].fill((self.samples * each) as u64);
            }
        }
        lookups
    }

    pub(crate) fn samples(&self) -> usize {
        self.samples
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// Appends the lookups of some columns to the tables of a batch.
fn read_lookups(
    array: &Array,
    columns: Range<usize>,
    (first_table, each): (usize, usize),
    rows: &Rows,
    first: usize,
    bytes: &[u8],
    batch: &mut Batch,
) -> Result<(), DataError> {
    let element = array.element();
    let size = element.bytes();
    if columns.is_empty() {
        return Ok(());
    }
    let decode = element.i64_decoder();
    let cells = columns.start * size..columns.end * size;
    for (at, row) in bytes.chunks_exact(array.columns() * size).enumerate() {
        for (bag, cells) in row[cells.clone()].chunks_exact(each * size).enumerate() {
            let table = first_table + bag;
            for (place, bytes) in cells.chunks_exact(size).enumerate() {
                let wrong = |expected: &str| {
                    let place = if each == 1 { String::new() } else { format!(", number {place} of its bag") };
                    let of_table = format!("{expected}: table {table} has {} rows{place}", rows.of_table(table));
                    array.bad_value(first + at, element.text(bytes), of_table)
                };
                let number = decode(bytes).ok_or_else(|| wrong("a whole number that int64 has"))?;
                batch.tables[table].indices.push(rows.of_number(table, number).map_err(wrong)?);
            }
        }
    }
    Ok(())
}

type Opened = (Vec<Block>, Vec<PathBuf>);

/// The reference's binary: rows of `int32`: label, dense features, categories.
fn binary(path: &Path, shape: &InputShape) -> Result<Opened, DataError> {
    let (dense, tables) = (shape.dense_features, shape.table_rows.len());
    let array = Array::headless(path, Element::I4, 1 + dense + tables)?;
    let parts = vec![
        Part { columns: 0..1, content: Content::Label },
        Part { columns: 1..1 + dense, content: Content::Dense },
        Part { columns: 1 + dense..1 + dense + tables, content: Content::Lookups { first_table: 0, each: 1 } },
    ];
    Ok((vec![Block { array, parts }], vec![path.to_owned()]))
}

/// The reference's processed archive: `X_int`, `X_cat`, and `y`.
fn processed(path: &Path, shape: &InputShape) -> Result<Opened, DataError> {
    let mut file = NpzFile::open(path)?;
    let mut blocks = vec![single(file.array("X_cat")?, shape)?, dense(file.array("X_int")?, shape)?];
    if file.contains("y") {
        blocks.push(labels(file.array("y")?)?);
    }
    Ok((blocks, vec![path.to_owned()]))
}

/// MLPerf's multi-hot archive: a member `[rows, hot]` for each table, named by its number; dense features and labels are
/// members, or lie in files beside it.
fn multi_hot(path: &Path, options: &InputOptions, shape: &InputShape) -> Result<Opened, DataError> {
    let mut file = NpzFile::open(path)?;
    let tables = shape.table_rows.len();
    if file.contains(&tables.to_string()) {
        return Err(file.problem(&tables.to_string(), format!("the model has {shape}")));
    }
    if let Some(weights) = file.names().iter().find(|name| name.contains("weight")) {
        let problem = "multi-hot has no weights, and leaving them out would change predictions; bring them as npz does";
        return Err(file.problem(weights, problem));
    }
    let mut blocks = Vec::with_capacity(tables + 2);
    for first_table in 0..tables {
        let array = file.array(&first_table.to_string())?;
        if array.shape().is_empty() || array.shape().len() > 2 {
            return Err(array.problem(format!("shape {:?}, expected [rows, lookups]", array.shape())));
        }
        let (columns, each) = (0..array.columns(), array.columns());
        blocks.push(Block { array, parts: vec![Part { columns, content: Content::Lookups { first_table, each } }] });
    }
    let mut files = vec![path.to_owned()];
    let within = file.contains("dense") && options.dense_file.is_none();
    if within {
        blocks.push(transformed(file.array("dense")?, options, shape)?);
    } else {
        let found = beside::required(path, Role::Dense, options.dense_file.as_deref())?;
        blocks.push(transformed(beside::array(&found, Role::Dense)?, options, shape)?);
        files.push(found);
    }
    let member = ["labels", "label"].into_iter().find(|name| file.contains(name) && options.labels_file.is_none());
    if let Some(name) = member {
        blocks.push(labels(file.array(name)?)?);
    } else if let Some(found) = beside::find(path, Role::Labels, options.labels_file.as_deref()) {
        blocks.push(labels(beside::array(&found, Role::Labels)?)?);
        files.push(found);
    }
    Ok((blocks, files))
}

/// TorchRec's arrays of a day: sparse and dense features, and labels if they are there.
fn triplet(path: &Path, options: &InputOptions, shape: &InputShape) -> Result<Opened, DataError> {
    let sparse = beside::sparse(path, options.dense_file.is_some())?;
    let found = beside::required(&sparse, Role::Dense, options.dense_file.as_deref())?;
    let array = beside::array(&found, Role::Dense)?;
    let mut blocks = vec![single(beside::array(&sparse, Role::Sparse)?, shape)?, transformed(array, options, shape)?];
    let mut files = vec![sparse.clone(), found];
    if let Some(found) = beside::find(&sparse, Role::Labels, options.labels_file.as_deref()) {
        blocks.push(labels(beside::array(&found, Role::Labels)?)?);
        files.push(found);
    }
    Ok((blocks, files))
}

/// Dense features as TorchRec prepares them.
fn transformed(array: Array, options: &InputOptions, shape: &InputShape) -> Result<Block, DataError> {
    if options.dense.is_none() && !array.element().is_float() {
        let problem = format!(
            "type {}: TorchRec writes transformed dense features as floats; say with --dense-transform (ln1p, ln3 or \
             none) what these integers are",
            array.element().name()
        );
        return Err(array.problem(problem));
    }
    dense(array, shape)
}

/// One lookup in each table.
fn single(array: Array, shape: &InputShape) -> Result<Block, DataError> {
    let content = Content::Lookups { first_table: 0, each: 1 };
    matrix(array, shape.table_rows.len(), content, &format!("but the model has {shape}"))
}

fn dense(array: Array, shape: &InputShape) -> Result<Block, DataError> {
    matrix(array, shape.dense_features, Content::Dense, &format!("but the model has {shape}"))
}

fn labels(array: Array) -> Result<Block, DataError> {
    matrix(array, 1, Content::Label, "expected one label for each row")
}

fn matrix(array: Array, columns: usize, content: Content, expected: &str) -> Result<Block, DataError> {
    let found = array.shape();
    if found.is_empty() || found.len() > 2 || array.columns() != columns {
        return Err(array.problem(format!("shape {found:?}, {expected}")));
    }
    Ok(Block { array, parts: vec![Part { columns: 0..columns, content }] })
}
