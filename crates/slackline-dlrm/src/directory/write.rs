//! Writing a model directory under a temporary name, and renaming it when it is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use slackline_embedding::{Plan, RowFormat, ShardMark, ShardWriter, TableCost, TableSpec};

use super::dense_file;
use super::disk::{Growing, place, write_json};
use super::format::{CONFIG_FILE, DENSE_FILE, FORMAT_VERSION, INDEX_FILE};
use super::rows::{RowEncoder, RowLoss, Tally};
use super::tensors::{TensorSpec, Weights, all_table_tensors, dense_tensors};
use crate::{DlrmError, ModelConfig, Result};

/// The progress of long work on a model's tensors.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor being worked on.
    pub tensor: &'a str,
    /// Bytes done so far, in all tensors.
    pub done: u64,
    /// Bytes of all tensors.
    pub total: u64,
}

/// How tables are laid out in files.
pub(super) struct Layout {
    /// The number of files, at least 1.
    pub(super) shards: usize,
    /// The row format of each tensor in [`all_table_tensors`].
    pub(super) formats: Vec<RowFormat>,
}

/// How far a shard file is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ShardState {
    pub(super) mark: ShardMark,
    /// The rounding errors so far of each table that was begun; `None` for rows that are copied.
    pub(super) tallies: Vec<Option<Tally>>,
}

/// A shard file at the point where writing goes on.
pub(super) struct Begun {
    /// `None` if the file is whole.
    pub(super) writer: Option<Box<ShardWriter>>,
    pub(super) state: ShardState,
}

/// Remembers how far the shard files are, for a later attempt.
pub(super) trait Memory {
    /// Begins a shard file, or resumes it; `progress` is told the bytes of rows that were found intact.
    fn begin(
        &mut self,
        shard: usize,
        path: &Path,
        tables: &[TableSpec],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Begun>;

    /// Counts bytes of rows, and says whether it is time to [save](Self::save).
    fn is_due(&mut self, bytes: u64) -> bool;

    /// Saves the state of a shard file with all that its writer has been given.
    fn save(&mut self, shard: usize, writer: &mut ShardWriter, state: &mut ShardState) -> Result<()>;
}

/// Remembers nothing.
struct Forgetful;

impl Memory for Forgetful {
    fn begin(&mut self, _: usize, path: &Path, tables: &[TableSpec], _: &mut dyn FnMut(u64)) -> Result<Begun> {
        let writer = Some(Box::new(ShardWriter::create(path, tables)?));
        Ok(Begun { writer, state: ShardState::default() })
    }

    fn is_due(&mut self, _: u64) -> bool {
        false
    }

    fn save(&mut self, _: usize, _: &mut ShardWriter, _: &mut ShardState) -> Result<()> {
        Ok(())
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Written {
    /// Shard files with the bytes of their tables.
    pub files: Vec<(String, u64)>,
    /// The rounding errors of the tables that are kept in another format than `f32`.
    pub losses: Vec<RowLoss>,
    /// Bytes of rows that an interrupted import had already written.
    pub resumed: u64,
}

impl Written {
    /// Bytes of all tables.
    pub fn table_bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Writes the whole directory under a temporary name and renames it.
pub(super) fn write(
    config: &ModelConfig,
    weights: &dyn Weights,
    out: &Path,
    layout: &Layout,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    if layout.shards == 0 {
        return Err(DlrmError::NoShards);
    }
    place(out)?;
    Growing::refuse_existing(out, &[Growing::MODEL])?;
    let growing = Growing::lock(out, &[Growing::MODEL])?;
    let written = growing.begin().and_then(|model| {
        let written = fill(config, weights, &model, layout, &mut Forgetful, progress)?;
        growing.publish(out)?;
        Ok(written)
    });
    growing.discard();
    written
}

/// Adds up the progress.
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

/// Writes all files of the directory into a folder that exists.
pub(super) fn fill(
    config: &ModelConfig,
    weights: &dyn Weights,
    folder: &Path,
    layout: &Layout,
    memory: &mut dyn Memory,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Written> {
    let tables = all_table_tensors(config);
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
    // A resumed import writes the small files again.
    for name in [DENSE_FILE, INDEX_FILE, CONFIG_FILE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DlrmError::io(&folder.join(name), "remove")(error));
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
        shard.write(&folder.join(&name), weights, memory, &mut reporter, &mut written)?;
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
        memory: &mut dyn Memory,
        reporter: &mut Reporter<'_>,
        written: &mut Written,
    ) -> Result<()> {
        let spec = |&table: &usize| {
            let TensorSpec { name, shape, .. } = &self.tables[table];
            TableSpec::new(name, shape[0] as u64, shape[1], self.formats[table])
        };
        let specs: Vec<TableSpec> = self.group.iter().map(spec).collect();
        let first = &specs[0].name;
        let begun = memory.begin(self.number, path, &specs, &mut |_| reporter.more(first, 0))?;
        let Begun { mut writer, mut state } = begun;
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
                    if memory.is_due(rows.len() as u64) {
                        state.tallies[place] = tally;
                        memory.save(self.number, writer, &mut state)?;
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
        memory.save(self.number, &mut writer, &mut state)?;
        Ok(writer.finish()?)
    }
}

/// The bytes of a table in its row format.
fn stored(table: &TensorSpec, format: RowFormat) -> u64 {
    (table.shape[0] * format.row_bytes(table.shape[1])) as u64
}

/// The tables of each shard file, so that all files have about the same size; at most one file a table.
fn spread(tables: &[TensorSpec], layout: &Layout) -> Result<Vec<Vec<usize>>> {
    let cost = |(tensor, format): (&TensorSpec, &RowFormat)| {
        let bytes = stored(tensor, *format);
        TableCost::new(&tensor.name, bytes, tensor.shape[1], 1).lookups(bytes as f64)
    };
    let costs: Vec<TableCost> = tables.iter().zip(&layout.formats).map(cost).collect();
    let plan = Plan::table_wise(&costs, layout.shards.min(tables.len()))?;
    let mut groups: Vec<_> = (0..plan.ranks()).map(|file| plan.tables_of(file)).collect();
    // Safetensors has no gaps between tensors. Rows of whole cache lines come first, so that they start on a cache line.
    for group in &mut groups {
        group.sort_by_key(|&table| {
            let row_bytes = layout.formats[table].row_bytes(tables[table].shape[1]);
            (std::cmp::Reverse(row_bytes.trailing_zeros().min(6)), table)
        });
    }
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}
