//! Writing a model directory: beside its place, then renamed when whole.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::json;
use slackline_embedding::{Plan, RowFormat, ShardWriter, TableCost, TableSpec};

use super::dense_file;
use super::tensors::{TensorSpec, Weights, dense_tensors, table_tensor};
use super::{CONFIG_FILE, DENSE_FILE, INDEX_FILE};
use crate::{DlrmError, FORMAT_VERSION, ModelConfig, Result};

/// How far a long piece of work on a model's tensors has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor at work.
    pub tensor: &'a str,
    /// Bytes done, of all tensors.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Writes the whole directory and returns its shard files with the bytes of their tables.
pub(super) fn write(
    config: &ModelConfig,
    weights: &dyn Weights,
    out: &Path,
    shards: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<(String, u64)>> {
    if shards == 0 {
        return Err(DlrmError::NoShards);
    }
    let (parent, name) = place(out)?;
    refuse_existing(out)?;
    let part = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".partial")
        // As any new directory, less what the umask takes away; the default is for the owner only.
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent)
        .map_err(DlrmError::io(parent, "creating a directory in it"))?;
    let files = fill(config, weights, part.path(), shards, progress)?;
    sync(part.path())?;
    rename(part.path(), out)?;
    // Its name is gone: there is nothing left to clean up.
    let _ = part.keep();
    sync(parent)?;
    Ok(files)
}

/// The parent directory and the name of a directory to be made.
fn place(out: &Path) -> Result<(&Path, String)> {
    let Some(name) = out.file_name() else {
        return Err(DlrmError::io(out, "creating it")(io::Error::other("the path does not end in a name")));
    };
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent, name.to_string_lossy().into_owned()))
}

fn refuse_existing(out: &Path) -> Result<()> {
    // Not `exists`: that follows links, and a link to nowhere is something as well.
    match fs::symlink_metadata(out) {
        Ok(_) => Err(DlrmError::Exists { path: out.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DlrmError::io(out, "looking whether it exists")(error)),
    }
}

/// Plain renaming would replace an empty directory that somebody made in the meantime.
fn rename(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(DlrmError::Exists { path: to.to_owned() }),
        // File systems that don't know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            refuse_existing(to)?;
            fs::rename(from, to).map_err(DlrmError::io(to, "renaming to it"))
        }
        Err(error) => Err(DlrmError::io(to, "renaming to it")(error.into())),
    }
}

fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(DlrmError::io(directory, "syncing it"))
}

fn fill(
    config: &ModelConfig,
    weights: &dyn Weights,
    folder: &Path,
    shards: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<(String, u64)>> {
    let tables: Vec<TensorSpec> = (0..config.tables()).map(|table| table_tensor(config, table)).collect();
    let dense = dense_tensors(config);
    let total = tables.iter().chain(&dense).map(TensorSpec::bytes).sum();
    let mut done = 0;
    let mut report = |tensor: &str, bytes: u64| {
        done += bytes;
        progress(Progress { tensor, done, total });
    };

    let mut values = Vec::with_capacity(dense.len());
    for tensor in &dense {
        let mut all = Vec::new();
        weights.stream(tensor, &mut |piece| {
            all.extend_from_slice(piece);
            report(&tensor.name, size_of_val(piece) as u64);
            Ok(())
        })?;
        values.push(all);
    }
    dense_file::write(&folder.join(DENSE_FILE), &dense, &values)?;

    let mut weight_map: BTreeMap<&str, String> =
        dense.iter().map(|tensor| (tensor.name.as_str(), DENSE_FILE.to_owned())).collect();
    let groups = spread(&tables, shards)?;
    let mut files = Vec::with_capacity(groups.len());
    for (number, group) in groups.iter().enumerate() {
        let name = format!("tables-{:05}-of-{:05}.safetensors", number + 1, groups.len());
        let specs: Vec<TableSpec> = group
            .iter()
            .map(|&table| {
                TableSpec::new(&tables[table].name, config.rows()[table] as u64, config.dim(), RowFormat::F32)
            })
            .collect();
        let mut writer = ShardWriter::create(folder.join(&name), &specs)?;
        for (place, &table) in group.iter().enumerate() {
            weights.stream(&tables[table], &mut |piece| {
                writer.write_rows(place, bytemuck::cast_slice(piece))?;
                report(&tables[table].name, size_of_val(piece) as u64);
                Ok(())
            })?;
            weight_map.insert(&tables[table].name, name.clone());
        }
        writer.finish()?;
        files.push((name, group.iter().map(|&table| tables[table].bytes()).sum()));
    }

    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&folder.join(INDEX_FILE), &index)?;
    let mut description = config.to_json();
    description["model_type"] = "dlrm".into();
    description["format_version"] = FORMAT_VERSION.into();
    description["slackline_version"] = env!("CARGO_PKG_VERSION").into();
    write_json(&folder.join(CONFIG_FILE), &description)?;
    Ok(files)
}

/// The tables of each shard file, so that the files are of about one size; at most as many files as tables.
fn spread(tables: &[TensorSpec], shards: usize) -> Result<Vec<Vec<usize>>> {
    let costs: Vec<TableCost> = tables
        .iter()
        .map(|tensor| TableCost {
            name: tensor.name.clone(),
            rows: tensor.shape[0] as u64,
            dim: tensor.shape[1],
            row_bytes: tensor.shape[1] as u64 * 4,
            // Files are to be even in bytes, which is in rows, since all rows are of one width.
            lookups_per_sample: tensor.shape[0] as f64,
        })
        .collect();
    let plan = Plan::table_wise(&costs, shards.min(tables.len()))?;
    let groups = (0..plan.ranks()).map(|file| plan.tables_of(file).to_vec());
    Ok(groups.filter(|group| !group.is_empty()).collect())
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_synced(path, &[text.as_bytes()])
}

/// Writes a new file and syncs it to the disk.
pub(super) fn write_synced(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = File::create_new(path).map_err(DlrmError::io(path, "creating it"))?;
    for part in parts {
        file.write_all(part).map_err(DlrmError::io(path, "writing it"))?;
    }
    file.sync_all().map_err(DlrmError::io(path, "syncing it"))
}
