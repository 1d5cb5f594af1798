//! What an import leaves behind if it is killed or the disk fails, so that the same import can be resumed.
//!
//! ```text
//! .NAME.partial/            locked while an import works in it
//!     binding.json          what is imported, from where, and how
//!     journal.json          how far each shard file is, with checksums
//!     model/                the directory that becomes NAME
//! ```
//!
//! After a power failure the disk has what was synced, so the order of syncs matters. The journal never runs ahead of the
//! data: the rows of a shard are synced before the journal that counts them is written, and the new journal is synced under
//! another name before it replaces the old one. On resuming, a shard is cut off at its mark, and the checksum of the rest is
//! verified. At the end, every file of `model/` and the folder itself are synced before it is renamed, and its new parent
//! afterwards. Only then is the journal removed. (A crash between the two leaves a whole model, and a folder without
//! `model/`, which the next import removes.)

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use slackline_embedding::{Shard, ShardError, ShardWriter, TableSpec, Verify};
use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Growing, place, sync, write_json, write_synced};
use super::files::{MAX_JSON, Root};
use super::write::{Begun, Memory, ShardState};
use crate::{DlrmError, Result};

const BINDING: &str = "binding.json";
const JOURNAL: &str = "journal.json";
const FRESH: &str = "journal.new";
/// The binding goes last: a folder without binding or model is not resumed.
const CONTENTS: &[&str] = &[Growing::MODEL, FRESH, JOURNAL, BINDING];

/// The folder of an unfinished import, locked.
pub(super) struct Workspace {
    growing: Growing,
    state: State,
    /// Bytes of rows after which the journal is written again.
    every: u64,
    since: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// The shard files that were begun, in order.
    shards: Vec<ShardState>,
}

impl Workspace {
    /// Fails if there is anything at `out`; see [`Growing::refuse_existing`].
    pub(super) fn refuse_existing(out: &Path) -> Result<()> {
        Growing::refuse_existing(out, CONTENTS)
    }

    /// Opens the folder beside `out`, with the unfinished work of an earlier attempt if it was the same import.
    pub(super) fn open(out: &Path, binding: &Map<String, Value>, every: u64, restart: bool) -> Result<Self> {
        let parent = place(out)?;
        let growing = Growing::lock(out, CONTENTS)?;
        let mut workspace = Workspace { growing, state: State::default(), every, since: 0 };
        let left = workspace.path().join(BINDING);
        if !restart && left.exists() && workspace.model().exists() {
            let left = Root::open(workspace.path()).and_then(|root| root.read_json(BINDING));
            let left = left.map_err(|error| workspace.leftover(error))?;
            if let Some(differs) = difference(&left, binding) {
                return Err(DlrmError::OtherImport { path: workspace.path().to_owned(), differs });
            }
            workspace.state = workspace.read_journal()?;
            return Ok(workspace);
        }
        workspace.growing.begin()?;
        write_json(&workspace.path().join(BINDING), &Value::Object(binding.clone()))?;
        sync(workspace.path())?;
        sync(parent)?;
        Ok(workspace)
    }

    /// The folder that becomes the model directory.
    pub(super) fn model(&self) -> PathBuf {
        self.growing.model()
    }

    /// Gives the directory, which is whole, its name.
    pub(super) fn publish(&self, out: &Path) -> Result<()> {
        self.growing.publish(out)
    }

    /// Removes the folder with everything in it.
    pub(super) fn discard(self) {
        self.growing.discard();
    }

    fn path(&self) -> &Path {
        self.growing.path()
    }

    /// Compares a finished shard with the journal.
    fn check_finished(&self, path: &Path, state: &ShardState) -> Result<()> {
        let shard = Shard::open(path, Verify::Checksums).map_err(|error| self.leftover(error.into()))?;
        if shard.tables().iter().map(|table| table.xxh3).eq(state.mark.full.iter().copied()) {
            return Ok(());
        }
        let file = path.to_owned();
        let why = "the checksums in its header differ from those in the journal".to_owned();
        Err(DlrmError::Leftover { path: self.path().to_owned(), why: format!("{}: {why}", file.display()) })
    }

    fn read_journal(&self) -> Result<State> {
        let path = self.path().join(JOURNAL);
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_JSON => return Err(self.bad_journal("is too large")),
            Ok(_) => fs::read_to_string(&path).map_err(DlrmError::io(&path, "read"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(DlrmError::io(&path, "open")(error)),
        };
        let mut lines = text.lines();
        let (body, sum) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if sum != format!("{:016x}", xxh3_64(body.as_bytes())) {
            return Err(self.bad_journal("was altered"));
        }
        serde_json::from_str(body).map_err(|error| self.bad_journal(&format!("cannot be parsed: {error}")))
    }

    fn bad_journal(&self, why: &str) -> DlrmError {
        DlrmError::Leftover { path: self.path().to_owned(), why: format!("{JOURNAL} {why}") }
    }

    /// Turns an error about unfinished work into [`DlrmError::Leftover`], except errors of the system.
    fn leftover(&self, error: DlrmError) -> DlrmError {
        match error {
            DlrmError::Io { .. } => error,
            DlrmError::Shard(ShardError::Io { ref source, .. }) if source.kind() != io::ErrorKind::NotFound => error,
            other => DlrmError::Leftover { path: self.path().to_owned(), why: other.to_string() },
        }
    }
}

impl Memory for Workspace {
    fn begin(
        &mut self,
        shard: usize,
        path: &Path,
        tables: &[TableSpec],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Begun> {
        let Some(state) = self.state.shards.get(shard).cloned() else {
            let writer = Some(Box::new(ShardWriter::create_kept(path, tables)?));
            return Ok(Begun { writer, state: ShardState::default() });
        };
        if state.mark.full.len() == tables.len() && path.exists() {
            self.check_finished(path, &state)?;
            return Ok(Begun { writer: None, state });
        }
        match ShardWriter::resume(path, tables, &state.mark, progress) {
            Ok(writer) => Ok(Begun { writer: Some(Box::new(writer)), state }),
            Err(error) => Err(self.leftover(error.into())),
        }
    }

    fn is_due(&mut self, bytes: u64) -> bool {
        self.since += bytes;
        self.since >= self.every
    }

    fn save(&mut self, shard: usize, writer: &mut ShardWriter, state: &mut ShardState) -> Result<()> {
        // Syncs the rows: the journal must not run ahead of them.
        state.mark = writer.mark()?;
        self.since = 0;
        self.state.shards.truncate(shard);
        debug_assert_eq!(self.state.shards.len(), shard, "shards are begun in order");
        self.state.shards.push(state.clone());
        let body = serde_json::to_string(&self.state)?;
        let text = format!("{body}\n{:016x}\n", xxh3_64(body.as_bytes()));
        let fresh = self.path().join(FRESH);
        remove(&fresh)?;
        write_synced(&fresh, &[text.as_bytes()])?;
        let journal = self.path().join(JOURNAL);
        fs::rename(&fresh, &journal).map_err(DlrmError::io(&journal, "rename to it"))?;
        sync(self.path())
    }
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DlrmError::io(file, "remove")(error)),
        _ => Ok(()),
    }
}

/// Describes the first difference between two bindings.
fn difference(left: &Map<String, Value>, now: &Map<String, Value>) -> Option<String> {
    let keys = now.keys().chain(left.keys().filter(|key| !now.contains_key(*key)));
    let none = Value::Null;
    for key in keys {
        let (was, is) = (left.get(key).unwrap_or(&none), now.get(key).unwrap_or(&none));
        match (was, is) {
            _ if was == is => {}
            (Value::Object(was), Value::Object(is)) => {
                let inner = difference(was, is).unwrap_or_default();
                return Some(format!("{key}: {inner}"));
            }
            _ => return Some(format!("{key} was {was} and is {is}")),
        }
    }
    None
}
