//! Model directories: how models are stored, and what is read from them.
//!
//! ```text
//! config.json                           arguments of the reference DLRM, model_type, format_version, slackline_version
//! model.safetensors.index.json          weight_map: which tensor is in which file
//! dense.safetensors                     weights and biases of both MLPs
//! tables-00001-of-00004.safetensors …   the tables, as shards of slackline-embedding
//! ```

#[cfg(feature = "import")]
mod agreement;
#[cfg(feature = "import")]
mod choice;
#[cfg(feature = "import")]
mod convert;
mod dense_file;
mod digest;
mod disk;
mod files;
mod format;
#[cfg(feature = "import")]
mod harmless;
mod header;
#[cfg(feature = "import")]
mod import;
#[cfg(feature = "import")]
mod journal;
#[cfg(feature = "import")]
mod kept;
#[cfg(feature = "import")]
mod naming;
mod other;
#[cfg(feature = "import")]
mod packed;
#[cfg(feature = "import")]
mod pooling;
mod rows;
mod summary;
mod synthetic;
mod tables;
mod tensors;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use slackline_embedding::{EmbeddingTable, Residency, Shard, ShardTable, Verify};

use crate::{DenseModel, DirectoryDefect, DlrmError, ModelConfig, Printable, Result};
#[cfg(feature = "import")]
pub use choice::RowChoice;
#[cfg(feature = "import")]
pub use convert::convert;
use dense_file::DenseFile;
use files::{Root, check_name};
pub use format::FORMAT_VERSION;
use format::{CONFIG_FILE, INDEX_FILE};
#[cfg(feature = "import")]
pub use import::{ImportOptions, ImportReport, ImportedTable, import};
#[cfg(feature = "import")]
pub use naming::Naming;
pub use rows::RowLoss;
pub use summary::Summary;
pub use synthetic::write_synthetic;
use tensors::{TensorSpec, all_table_tensors, assemble, dense_tensors};
pub use write::{Progress, Written};

/// A model directory whose configuration, index and headers have been read and are consistent.
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    config: ModelConfig,
    written_by: String,
    /// The tensors of all tables, in order, with their shards.
    tables: Vec<(TensorSpec, Shard)>,
    /// The dense tensors, in order, with the numbers of their files.
    dense: Vec<(TensorSpec, usize)>,
    dense_files: Vec<DenseFile>,
    /// The size of every file in the index.
    files: BTreeMap<String, u64>,
}

impl ModelDirectory {
    /// Opens a directory: reads `config.json`, the index and the headers of its files, and checks that every tensor of the
    /// model is there in its shape. Reads no weights, so it takes milliseconds whatever the size of the model.
    ///
    /// Files are untrusted: names in the index must be plain file names, and no link may lead out of the directory. This is
    /// checked when the directory is opened; whoever can write into it at that time can put any weights there anyway.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Io`], [`DlrmError::ConfigFile`]; [`DlrmError::Corrupt`] or [`DlrmError::Shard`] with the file and its
    /// defect; [`DlrmError::TensorMissing`] and [`DlrmError::TensorShape`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        other::check(path)?;
        let root = Root::open(path)?;
        let (config, written_by) = read_config(&root, &path.join(CONFIG_FILE))?;
        let index_file = path.join(INDEX_FILE);
        let weight_map = read_index(&root, &index_file)?;
        let file_of = |tensor: &TensorSpec| {
            weight_map.get(&tensor.name).ok_or_else(|| {
                let (file, tensor, argument) = (index_file.clone(), tensor.name.clone(), tensor.argument);
                DlrmError::TensorMissing { file, tensor, argument, hint: String::new() }
            })
        };
        let mut files = BTreeMap::new();
        for (tensor, name) in &weight_map {
            if !files.contains_key(name) {
                check_name(&index_file, tensor, name)?;
                files.insert(name.clone(), root.find(name)?);
            }
        }

        let mut shards = BTreeMap::<&str, Shard>::new();
        let mut tables = Vec::with_capacity(config.tables());
        for tensor in all_table_tensors(&config) {
            let name = file_of(&tensor)?.as_str();
            let shard = match shards.get(name) {
                Some(shard) => shard.clone(),
                None => {
                    let found = &files[name];
                    Shard::from_file(found.open()?.0, &found.path, Verify::HeaderOnly)?
                }
            };
            check_table(&shard, &tensor)?;
            shards.insert(name, shard.clone());
            tables.push((tensor, shard));
        }

        let mut opened = BTreeMap::<&str, usize>::new();
        let mut dense_files = Vec::new();
        let mut dense = Vec::new();
        for tensor in dense_tensors(&config) {
            let name = file_of(&tensor)?.as_str();
            let number = match opened.get(name) {
                Some(&number) => number,
                None => {
                    dense_files.push(DenseFile::open(&files[name])?);
                    dense_files.len() - 1
                }
            };
            opened.insert(name, number);
            dense_files[number].check(&tensor)?;
            dense.push((tensor, number));
        }
        let files = files.into_iter().map(|(name, found)| (name, found.length)).collect();
        Ok(Self { path: path.to_owned(), config, written_by, tables, dense, dense_files, files })
    }

    /// The path given to [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Reads both MLPs and verifies their checksums.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Corrupt`] for a tensor that does not match its checksum; [`DlrmError::Io`].
    pub fn load_dense(&self) -> Result<DenseModel> {
        let values = self.dense.iter().map(|(tensor, file)| self.dense_files[*file].read(tensor));
        let values = values.collect::<Result<Vec<_>>>()?;
        DenseModel::new(self.config.clone(), assemble(&self.config, values))
    }

    /// Reads everything and verifies all checksums. Reports its progress.
    ///
    /// # Errors
    ///
    /// [`DlrmError::Shard`] or [`DlrmError::Corrupt`] for the first tensor that does not match its checksum; [`DlrmError::Io`].
    pub fn verify(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        let dense_bytes: u64 = self.dense.iter().map(|(tensor, _)| tensor.bytes()).sum();
        let total = dense_bytes + self.shard_tables().map(|table| table.bytes).sum::<u64>();
        let mut done = 0;
        for (tensor, file) in &self.dense {
            self.dense_files[*file].read(tensor)?;
            done += tensor.bytes();
            progress(Progress { tensor: &tensor.name, done, total });
        }
        for (TensorSpec { name: tensor, .. }, shard) in &self.tables {
            let mut of_table = 0;
            shard.verify_with(tensor, &mut |bytes| {
                of_table = bytes;
                progress(Progress { tensor, done: done + bytes, total });
            })?;
            done += of_table;
        }
        Ok(())
    }

    /// An overview of the directory.
    pub fn summary(&self) -> Summary {
        let tables: Vec<ShardTable> = self.shard_tables().cloned().collect();
        Summary {
            config: self.config.clone(),
            written_by: self.written_by.clone(),
            table_bytes: tables.iter().map(|table| table.bytes).sum(),
            tables,
            dense_values: self.config.dense_values(),
            files: self.files.clone().into_iter().collect(),
        }
    }

    /// How much of each table in [`Summary::tables`] is in the page cache, which all processes share. `None` where the system
    /// does not report it.
    pub fn residency(&self) -> Vec<Option<Residency>> {
        let of = |(tensor, shard): &(TensorSpec, Shard)| shard.table(&tensor.name).ok()?.residency();
        self.tables.iter().map(of).collect()
    }

    /// The shard of a table's tensor.
    fn shard_of(&self, tensor: &str) -> &Shard {
        let found = self.tables.iter().find(|(spec, _)| spec.name == tensor);
        &found.expect("a tensor of the configuration").1
    }

    fn shard_table(&self, tensor: &str) -> &ShardTable {
        let mut tables = self.shard_of(tensor).tables().iter();
        tables.find(|table| table.tensor == tensor).expect("found when the directory was opened")
    }

    fn shard_tables(&self) -> impl Iterator<Item = &ShardTable> {
        self.tables.iter().map(|(tensor, _)| self.shard_table(&tensor.name))
    }
}

fn read_config(root: &Root<'_>, path: &Path) -> Result<(ModelConfig, String)> {
    let mut object = root.read_json(CONFIG_FILE)?;
    object.remove("model_type");
    let written_by = match object.remove("slackline_version") {
        Some(Value::String(version)) => Printable(&version).to_string(),
        _ => "(unknown)".to_owned(),
    };
    let version = object.remove("format_version").unwrap_or(Value::Null);
    if version != FORMAT_VERSION {
        let found = if version.is_null() { "missing".to_owned() } else { version.to_string() };
        return Err(DlrmError::corrupt(path, DirectoryDefect::Version { found }));
    }
    let parsed = ModelConfig::from_object(object)
        .map_err(|source| DlrmError::ConfigFile { file: path.to_owned(), source: Box::new(source) })?;
    Ok((parsed.config, written_by))
}

/// The file of each tensor.
fn read_index(root: &Root<'_>, path: &Path) -> Result<BTreeMap<String, String>> {
    let map = root.read_json(INDEX_FILE)?.remove("weight_map").unwrap_or(Value::Null);
    serde_json::from_value(map).map_err(|error| {
        let why = format!("weight_map: {error}");
        DlrmError::corrupt(path, DirectoryDefect::Syntax { why })
    })
}

fn check_table(shard: &Shard, tensor: &TensorSpec) -> Result<()> {
    let file = shard.path().to_owned();
    let name = tensor.name.clone();
    let Some(table) = shard.tables().iter().find(|table| table.tensor == tensor.name) else {
        return Err(DlrmError::TensorMissing { file, tensor: name, argument: tensor.argument, hint: String::new() });
    };
    if table.table.contains(Printable::is_unprintable) {
        let defect = DirectoryDefect::TableName { tensor: name, name: table.table.clone() };
        return Err(DlrmError::Corrupt { file, defect });
    }
    if table.first_row != 0 {
        let defect = DirectoryDefect::PartialTable { table: name, first_row: table.first_row };
        return Err(DlrmError::Corrupt { file, defect });
    }
    let found = vec![table.rows as usize, table.dim];
    if found != tensor.shape {
        let (expected, argument) = (tensor.shape.clone(), tensor.argument);
        return Err(DlrmError::TensorShape { file, tensor: name, expected, found, argument });
    }
    Ok(())
}
