//! Writing a model directory: beside its place, then renamed when whole.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use slackline_checkpoint::CheckpointError;
use slackline_embedding::{Plan, RowFormat, ShardError, ShardWriter, TableCost, TableSpec};

use super::dense_file;
use super::import::ImportOptions;
use super::journal::{Begun, ShardState, Workspace};
use super::rows::{RowChoice, RowEncoder, RowLoss, Tally};
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
    /// Bytes of rows that an earlier import, which did not come to its end, had written already.
    pub resumed: u64,
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
    let written = fill(config, weights, part.path(), layout, None, progress)?;
    sync(part.path())?;
    rename(part.path(), out)?;
    // Its name is gone: there is nothing left to clean up.
    let _ = part.keep();
    sync(parent)?;
    Ok(written)
}

/// Writes the whole directory so that what it has come to is kept if it is killed or the disk fails: see
/// [`journal`](super::journal).
pub(super) fn write_kept(
    config: &ModelConfig,
    weights: &dyn Weights,
    out: &Path,
    layout: &Layout<'_>,
    binding: &Map<String, Value>,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    if layout.shards == 0 {
        return Err(DlrmError::NoShards);
    }
    refuse_existing(out)?;
    let mut workspace = Workspace::open(out, binding, options.keep_every, options.restart)?;
    let model = workspace.model();
    let ended = fill(config, weights, &model, layout, Some(&mut workspace), progress).and_then(|written| {
        sync(&model)?;
        rename(&model, out)?;
        sync(place(out)?.0)?;
        Ok(written)
    });
    if ended.as_ref().is_err_and(is_worth_keeping) {
        return ended;
    }
    // Neither a model that is whole nor the reason why there is none is worth less for what could not be cleared away.
    let _ = workspace.discard();
    ended
}

/// Whether an import that ended so can be gone on with: the disk may have room again.
fn is_worth_keeping(error: &DlrmError) -> bool {
    match error {
        DlrmError::Io { .. } | DlrmError::Leftover { .. } | DlrmError::Exists { .. } => true,
        DlrmError::Shard(error) => matches!(error, ShardError::Io { .. } | ShardError::Abandoned { .. }),
        DlrmError::Checkpoint(error) => matches!(error, CheckpointError::Io { .. }),
        _ => false,
    }
}

/// The parent directory and the name of a directory to be made.
pub(super) fn place(out: &Path) -> Result<(&Path, String)> {
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

pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(DlrmError::io(directory, "syncing it"))
}

/// Tells how far it is.
struct Reporter<'p> {
    done: u64,
    total: u64,
    progress: &'p mut dyn FnMut(Progress<'_>),
}

impl Reporter<'_> {
    fn more(&mut self, tensor: &str, bytes: u64) {
        self.done += bytes;
        (self.progress)(Progress { tensor, done: self.done, total: self.total });
    }
}

fn fill(
    config: &ModelConfig,
    weights: &dyn Weights,
    folder: &Path,
    layout: &Layout<'_>,
    mut kept: Option<&mut Workspace>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    let tables = all_table_tensors(config);
    RowChoice::check(layout.rows, &tables)?;
    let dense = dense_tensors(config);
    let dense_bytes = dense.iter().map(TensorSpec::bytes).sum::<u64>();
    let total = tables.iter().chain(&dense).map(TensorSpec::bytes).sum();
    let mut reporter = Reporter { done: 0, total, progress };

    let mut values = Vec::with_capacity(dense.len());
    for tensor in &dense {
        let mut all = Vec::new();
        weights.stream(tensor, 0, &mut |piece| {
            all.extend_from_slice(piece);
            reporter.more(&tensor.name, size_of_val(piece) as u64);
            Ok(())
        })?;
        values.push(all);
    }
    // Small files are written anew by an import that goes on.
    for name in [DENSE_FILE, INDEX_FILE, CONFIG_FILE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DlrmError::io(&folder.join(name), "removing it")(error));
            }
            _ => {}
        }
    }
    dense_file::write(&folder.join(DENSE_FILE), &dense, &values)?;

    let mut weight_map: BTreeMap<&str, String> =
        dense.iter().map(|tensor| (tensor.name.as_str(), DENSE_FILE.to_owned())).collect();
    let groups = spread(&tables, layout)?;
    let mut written = Written::default();
    for (number, group) in groups.iter().enumerate() {
        let name = format!("tables-{:05}-of-{:05}.safetensors", number + 1, groups.len());
        let shard = ShardFile { number, group, tables: &tables, formats: &layout.formats };
        shard.write(&folder.join(&name), weights, kept.as_deref_mut(), &mut reporter, &mut written)?;
        weight_map.extend(group.iter().map(|&table| (tables[table].name.as_str(), name.clone())));
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

/// One shard file to be written.
struct ShardFile<'t> {
    number: usize,
    /// Its tables, by number.
    group: &'t [usize],
    tables: &'t [TensorSpec],
    formats: &'t [RowFormat],
}

impl ShardFile<'_> {
    fn write(
        &self,
        path: &Path,
        weights: &dyn Weights,
        mut kept: Option<&mut Workspace>,
        reporter: &mut Reporter<'_>,
        written: &mut Written,
    ) -> Result<()> {
        let spec = |&table: &usize| {
            let TensorSpec { name, shape, .. } = &self.tables[table];
            TableSpec::new(name, shape[0] as u64, shape[1], self.formats[table])
        };
        let specs: Vec<TableSpec> = self.group.iter().map(spec).collect();
        let first = &specs[0].name;
        let (mut writer, mut state) = match kept.as_deref_mut() {
            None => (Some(Box::new(ShardWriter::create(path, &specs)?)), ShardState::default()),
            Some(kept) => match kept.begin(self.number, path, &specs, &mut |_| reporter.more(first, 0))? {
                Begun::Finished(state) => (None, state),
                Begun::Open(writer, state) => (Some(writer), state),
            },
        };
        for (place, &table) in self.group.iter().enumerate() {
            let (tensor, format) = (&self.tables[table], self.formats[table]);
            let (dim, row_bytes) = (tensor.shape[1], format.row_bytes(tensor.shape[1]) as u64);
            let full = state.mark.full.len();
            let rows = match place.cmp(&full) {
                std::cmp::Ordering::Less => tensor.shape[0] as u64,
                std::cmp::Ordering::Equal => state.mark.written / row_bytes,
                std::cmp::Ordering::Greater => 0,
            };
            reporter.more(&tensor.name, rows * 4 * dim as u64);
            written.resumed += rows * row_bytes;
            state.tallies.resize(state.tallies.len().max(place + 1), None);
            if let Some(writer) = &mut writer
                && place >= full
            {
                let tally = state.tallies[place].unwrap_or_default();
                let mut put = |rows: &[u8], tally: Option<Tally>| {
                    writer.write_rows(place, rows)?;
                    reporter.more(&tensor.name, rows.len() as u64 / row_bytes * 4 * dim as u64);
                    if let Some(kept) = kept.as_deref_mut()
                        && kept.wrote(rows.len() as u64)
                    {
                        state.tallies[place] = tally;
                        state.mark = writer.mark()?;
                        kept.save(self.number, state.clone())?;
                    }
                    Ok(())
                };
                if !weights.stream_rows(tensor, format, rows, &mut |rows| put(rows, None))? {
                    let mut encoder = RowEncoder::new(&tensor.name, dim, format, tally);
                    weights.stream(tensor, rows, &mut |piece| {
                        let rows = encoder.push(piece)?;
                        put(rows.0, Some(rows.1))
                    })?;
                    state.tallies[place] = Some(encoder.tally);
                }
            }
            written.losses.extend(state.tallies[place].and_then(|tally| tally.loss(&tensor.name, format, dim)));
        }
        let Some(mut writer) = writer else { return Ok(()) };
        if let Some(kept) = kept {
            state.mark = writer.mark()?;
            kept.save(self.number, state)?;
        }
        Ok(writer.finish()?)
    }
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

pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
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
