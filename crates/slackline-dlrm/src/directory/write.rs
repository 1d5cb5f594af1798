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
use super::rows::{RowChoice, RowEncoder, RowLoss};
use super::tensors::{TensorSpec, Weights, all_table_tensors, dense_tensors, is_projection};
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

/// How tables are laid out in files.
pub(super) struct Layout<'a> {
    pub(super) shards: usize,
    /// The choices that the formats were made by.
    pub(super) rows: &'a [RowChoice],
    /// One for each tensor of a table.
    pub(super) formats: Vec<RowFormat>,
}

impl<'a> Layout<'a> {
    /// As the choices say, and otherwise as `kept` says; projections are not rows.
    pub(super) fn new(
        config: &ModelConfig,
        shards: usize,
        rows: &'a [RowChoice],
        kept: impl Fn(&TensorSpec) -> RowFormat,
    ) -> Self {
        let format = |tensor: TensorSpec| match RowChoice::of(rows, &tensor.name) {
            Some(format) if !is_projection(&tensor.name) => format,
            _ => kept(&tensor),
        };
        Layout { shards, rows, formats: all_table_tensors(config).into_iter().map(format).collect() }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Written {
    /// Shard files with the bytes of their tables.
    pub files: Vec<(String, u64)>,
    /// What tables lost whose rows were brought into another format than `f32`.
    pub losses: Vec<RowLoss>,
}

impl Written {
    /// Bytes of all tables.
    pub fn table_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Writes the whole directory.
pub(super) fn write(
    config: &ModelConfig,
    weights: &dyn Weights,
    out: &Path,
    layout: &Layout<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    if layout.shards == 0 {
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
    let written = fill(config, weights, part.path(), layout, progress)?;
    sync(part.path())?;
    rename(part.path(), out)?;
    // Its name is gone: there is nothing left to clean up.
    let _ = part.keep();
    sync(parent)?;
    Ok(written)
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
    layout: &Layout<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    let tables = all_table_tensors(config);
    RowChoice::check(layout.rows, &tables)?;
    let dense = dense_tensors(config);
    let dense_bytes = dense.iter().map(TensorSpec::bytes).sum::<u64>();
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
    let groups = spread(&tables, layout)?;
    let mut written = Written::default();
    for (number, group) in groups.iter().enumerate() {
        let name = format!("tables-{:05}-of-{:05}.safetensors", number + 1, groups.len());
        let spec = |&table: &usize| {
            let (name, shape) = (&tables[table].name, &tables[table].shape);
            TableSpec::new(name, shape[0] as u64, shape[1], layout.formats[table])
        };
        let mut writer = ShardWriter::create(folder.join(&name), &group.iter().map(spec).collect::<Vec<_>>())?;
        for (place, &table) in group.iter().enumerate() {
            let (tensor, format) = (&tables[table], layout.formats[table]);
            let copied = weights.stream_rows(tensor, format, &mut |rows| Ok(writer.write_rows(place, rows)?))?;
            if copied {
                report(&tensor.name, tensor.bytes());
            } else {
                let mut encoder = RowEncoder::new(&mut writer, place, &tensor.name, tensor.shape[1], format);
                weights.stream(tensor, &mut |piece| {
                    encoder.push(piece)?;
                    report(&tensor.name, size_of_val(piece) as u64);
                    Ok(())
                })?;
                written.losses.extend(encoder.finish());
            }
            weight_map.insert(&tensor.name, name.clone());
        }
        writer.finish()?;
        written.files.push((name, group.iter().map(|&table| stored(&tables[table], layout.formats[table])).sum()));
    }

    let index = json!({ "metadata": { "total_size": dense_bytes + written.table_bytes() }, "weight_map": weight_map });
    write_json(&folder.join(INDEX_FILE), &index)?;
    let mut description = config.to_json();
    description["model_type"] = "dlrm".into();
    description["format_version"] = FORMAT_VERSION.into();
    description["slackline_version"] = env!("CARGO_PKG_VERSION").into();
    write_json(&folder.join(CONFIG_FILE), &description)?;
    Ok(written)
}

/// The bytes of a table as it is kept.
fn stored(table: &TensorSpec, format: RowFormat) -> u64 {
    (table.shape[0] * format.row_bytes(table.shape[1])) as u64
}

/// The tables of each shard file, so that the files are of about one size; at most as many files as tables.
fn spread(tables: &[TensorSpec], layout: &Layout<'_>) -> Result<Vec<Vec<usize>>> {
    // Files are to be even in bytes.
    let cost = |(tensor, format): (&TensorSpec, &RowFormat)| {
        let bytes = stored(tensor, *format);
        TableCost::new(&tensor.name, bytes, tensor.shape[1], 1).lookups(bytes as f64)
    };
    let costs: Vec<TableCost> = tables.iter().zip(&layout.formats).map(cost).collect();
    let plan = Plan::table_wise(&costs, layout.shards.min(tables.len()))?;
    let mut groups: Vec<_> = (0..plan.ranks()).map(|file| plan.tables_of(file)).collect();
    // Safetensors has no gaps between tensors: rows that are whole cache lines come first, so that they begin on one.
    for group in &mut groups {
        group.sort_by_key(|&table| {
            let row_bytes = layout.formats[table].row_bytes(tables[table].shape[1]);
            (std::cmp::Reverse(row_bytes.trailing_zeros().min(6)), table)
        });
    }
    groups.retain(|group| !group.is_empty());
    Ok(groups)
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
