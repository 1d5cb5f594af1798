//! The engine, for Python.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use slackline_dlrm::{
    Batch, EmbeddingTable, ImportOptions, Load, LocalModel, LocalScratch, ModelDirectory, RowChoice, TableInput, Verify,
};
use slackline_embedding::Pooling;

use super::errors::unfit;
use super::ffi::array;
use crate::{Memory, locked};

/// The lookups of all tables: `indices` of one table after another, `lengths` of them for each, and `width` offsets for each.
struct Lookups {
    indices: Memory,
    lengths: Vec<usize>,
    offsets: Memory,
    width: usize,
}

impl Lookups {
    fn new(
        indices: &Bound<'_, PyAny>,
        lengths: Vec<usize>,
        offsets: &Bound<'_, PyAny>,
        width: usize,
        tables: usize,
    ) -> PyResult<Self> {
        let (indices, offsets) = (array(indices)?, array(offsets)?);
        let fits = lengths.len() == tables
            && lengths.iter().sum::<usize>().checked_mul(8) == Some(indices.len())
            && width.checked_mul(8 * tables) == Some(offsets.len());
        if !fits {
            return Err(pyo3::exceptions::PyValueError::new_err("indices or offsets do not have their lengths"));
        }
        Ok(Lookups { indices, lengths, offsets, width })
    }

    /// Writes them into the inputs of a batch of so many samples. As in `torch.nn.EmbeddingBag`, the offset behind the last may
    /// be left out.
    fn fill(&self, samples: usize, tables: &mut Vec<TableInput>) {
        tables.resize_with(self.lengths.len(), TableInput::default);
        let mut at = 0;
        for (number, (table, &length)) in tables.iter_mut().zip(&self.lengths).enumerate() {
            table.indices.resize(length, 0);
            self.indices.read(8 * at, bytemuck::cast_slice_mut(&mut table.indices));
            at += length;
            table.offsets.resize(self.width, 0);
            self.offsets.read(8 * number * self.width, bytemuck::cast_slice_mut(&mut table.offsets));
            if self.width == samples {
                table.offsets.push(length as i64);
            }
        }
    }
}
fn load(py: Python<'_>, name: &str) -> PyResult<Load> {
    let found = Load::ALL.into_iter().find(|way| way.to_string() == name);
    let names = || Load::ALL.map(|way| way.to_string()).join(", ");
    found.ok_or_else(|| unfit(py, &format!("there is no way '{name}' to load tables: use one of {}", names())))
}

/// Buffers of one call, for the next.
#[derive(Default)]
struct Buffers {
    batch: Batch,
    scratch: LocalScratch,
    predictions: Vec<f32>,
}

/// A model in one process.
#[pyclass(frozen, module = "slackline._native")]
pub(crate) struct Model {
    model: LocalModel,
    spare: Mutex<Vec<Buffers>>,
}

#[pymethods]
impl Model {
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, how: &str) -> PyResult<Self> {
        let how = load(py, how)?;
        let opened = py.detach(|| {
            let directory = ModelDirectory::open(&path)?;
            let all: Vec<usize> = (0..directory.config().tables()).collect();
            let mut model =
                LocalModel::new(directory.load_dense()?, directory.load_tables(&all, how, Verify::Checksums)?)?;
            model.warm_up()?;
            Ok(model)
        });
        let model = opened.map_err(|error: slackline_dlrm::DlrmError| unfit(py, &error.to_string()))?;
        Ok(Model { model, spare: Mutex::default() })
    }

    fn tables(&self) -> usize {
        self.model.config().tables()
    }

    fn dense_features(&self) -> usize {
        self.model.config().dense_features()
    }

    fn dim(&self) -> usize {
        self.model.config().dim()
    }

    fn rows(&self) -> Vec<u64> {
        self.model.config().rows().iter().map(|rows| *rows as u64).collect()
    }

    /// Predicts into `out`, one value a sample.
    #[allow(clippy::too_many_arguments)]
    fn predict(
        &self,
        py: Python<'_>,
        dense: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        lengths: Vec<usize>,
        offsets: &Bound<'_, PyAny>,
        width: usize,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (dense, out) = (array(dense)?, array(out)?);
        let lookups = Lookups::new(indices, lengths, offsets, width, self.tables())?;
        let done = py.detach(|| {
            let mut buffers = locked(&self.spare).pop().unwrap_or_default();
            let Buffers { batch, scratch, predictions } = &mut buffers;
            batch.samples = out.len() / 4;
            batch.dense.resize(dense.len() / 4, 0.0);
            dense.read(0, bytemuck::cast_slice_mut(&mut batch.dense));
            lookups.fill(batch.samples, &mut batch.tables);
            let done = self.model.predict_with(batch, scratch, predictions);
            if done.is_ok() {
                out.write(0, bytemuck::cast_slice(predictions));
            }
            locked(&self.spare).push(buffers);
            done
        });
        done.map_err(|error| unfit(py, &error.to_string()))
    }

    /// Fails if a mapped file was cut short.
    fn intact(&self, py: Python<'_>) -> PyResult<()> {
        self.model.intact().map_err(|error| unfit(py, &error.to_string()))
    }
}

/// The tables of a model directory, or some of them.
#[pyclass(frozen, module = "slackline._native")]
pub(crate) struct Bags {
    tables: Vec<Arc<dyn EmbeddingTable>>,
    dim: usize,
    spare: Mutex<Vec<(Vec<TableInput>, Vec<f32>)>>,
}

#[pymethods]
impl Bags {
    #[staticmethod]
    #[pyo3(signature = (path, tables, how))]
    fn open(py: Python<'_>, path: PathBuf, tables: Option<Vec<usize>>, how: &str) -> PyResult<Self> {
        let how = load(py, how)?;
        let opened = py.detach(|| {
            let directory = ModelDirectory::open(&path)?;
            let (count, dim) = (directory.config().tables(), directory.config().dim());
            let tables = tables.unwrap_or_else(|| (0..count).collect());
            if let Some(&wrong) = tables.iter().find(|table| **table >= count) {
                return Ok(Err(format!("{} has {count} tables and no table {wrong}", path.display())));
            }
            Ok(Ok((directory.load_tables(&tables, how, Verify::Checksums)?, dim)))
        });
        let opened = opened.map_err(|error: slackline_dlrm::DlrmError| unfit(py, &error.to_string()))?;
        let (tables, dim) = opened.map_err(|error| unfit(py, &error))?;
        Ok(Bags { tables, dim, spare: Mutex::default() })
    }

    fn tables(&self) -> usize {
        self.tables.len()
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn rows(&self) -> Vec<u64> {
        self.tables.iter().map(|table| table.rows()).collect()
    }

    /// Pools into `out`, `[tables, samples, dim]`.
    #[allow(clippy::too_many_arguments)]
    fn pool(
        &self,
        py: Python<'_>,
        indices: &Bound<'_, PyAny>,
        lengths: Vec<usize>,
        offsets: &Bound<'_, PyAny>,
        width: usize,
        samples: usize,
        mean: bool,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let lookups = Lookups::new(indices, lengths, offsets, width, self.tables())?;
        let (out, block) = (array(out)?, samples * self.dim);
        if out.len() != 4 * block * self.tables() {
            return Err(pyo3::exceptions::PyValueError::new_err("the output does not have its length"));
        }
        let done = py.detach(|| {
            let mut spare = locked(&self.spare).pop().unwrap_or_default();
            let (inputs, pooled) = (&mut spare.0, &mut spare.1);
            lookups.fill(samples, inputs);
            pooled.resize(block, 0.0);
            let pooling = if mean { Pooling::Mean } else { Pooling::Sum };
            let mut pool = || {
                for (number, (table, input)) in self.tables.iter().zip(inputs.iter()).enumerate() {
                    let (indices, offsets) = (&input.indices[..], &input.offsets[..]);
                    let bags = slackline_embedding::Bags::new(table.name(), table.rows(), indices, offsets, None);
                    table
                        .pool(&bags.map_err(|error| error.to_string())?, pooling, pooled)
                        .map_err(|error| error.to_string())?;
                    out.write(4 * block * number, bytemuck::cast_slice(pooled));
                }
                Ok(())
            };
            let done = pool();
            locked(&self.spare).push(spare);
            done
        });
        done.map_err(|error: String| unfit(py, &error))
    }

    /// Fails if a mapped file was cut short.
    fn intact(&self, py: Python<'_>) -> PyResult<()> {
        self.tables.iter().try_for_each(|table| table.intact()).map_err(|error| unfit(py, &error.to_string()))
    }
}

/// Imports a checkpoint; returns the number of tables. `rows` are choices as `slackline import --rows` takes them.
#[pyfunction]
pub(crate) fn import_checkpoint(
    py: Python<'_>,
    checkpoint: PathBuf,
    config: PathBuf,
    output: PathBuf,
    rows: Vec<String>,
    shards: usize,
    restart: bool,
) -> PyResult<usize> {
    let rows = rows.iter().map(|choice| choice.parse()).collect::<Result<Vec<RowChoice>, String>>();
    let rows = rows.map_err(|error| unfit(py, &format!("rows: {error}")))?;
    let mut options = ImportOptions::new(shards);
    (options.rows, options.restart) = (rows, restart);
    let imported = py.detach(|| slackline_dlrm::import(&checkpoint, &config, &output, &options, &mut |_| ()));
    let report = imported.map_err(|error| unfit(py, &error.to_string()))?;
    Ok(report.config.tables())
}
