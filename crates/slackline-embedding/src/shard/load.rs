//! From a shard to a table that can be looked up: in the file's mapping, or in memory of our own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::error::{ShardDefect, ShardError};
use super::reader::{CHUNK, Shard, Verify};
use crate::{EmbeddingTable, HeapTable};

/// Where the rows of a table are when it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// `mapped`: in the file. Ready at once; a row comes from the disk when it is first looked up, and the system may take it
    /// back when memory is short. Ranks of one machine share the memory.
    #[default]
    Mapped,
    /// `prefaulted`: in the file, all pages read before it is ready.
    Prefaulted,
    /// `copied`: in memory of this process, in huge pages where the system gives them: the fastest lookups, and whatever
    /// becomes of the file afterwards does no harm. Not shared between processes.
    Copied,
}

impl Load {
    /// All ways, by their names.
    pub const ALL: [Load; 3] = [Load::Mapped, Load::Prefaulted, Load::Copied];
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Load::Mapped => "mapped",
            Load::Prefaulted => "prefaulted",
            Load::Copied => "copied",
        })
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Load::ALL.into_iter().find(|way| way.to_string() == text);
        found.ok_or_else(|| "not one of mapped, prefaulted and copied".to_owned())
    }
}

impl Shard {
    /// One table, by the name of its tensor, ready in the way asked for.
    ///
    /// Cost: nothing if it is mapped and not verified; else its bytes are read, once (a copy is compared with its checksum
    /// as it is made), or twice if they are to be verified and then prefaulted.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Shard::verify), if that is asked for; [`ShardError::Io`] where memory is short; and
    /// [`ShardDefect::Short`] within [`ShardError::Corrupt`] if the file was cut short since the shard was opened.
    pub fn load(&self, name: &str, how: Load, verify: Verify) -> Result<Arc<dyn EmbeddingTable>, ShardError> {
        if how == Load::Copied {
            return Ok(Arc::new(self.copy(name, verify)?));
        }
        if verify == Verify::Checksums {
            self.verify(name)?;
        }
        let table = self.table(name)?;
        if how == Load::Prefaulted {
            let meta = table.meta();
            let populated = self.mapping().populate(meta.offset as usize, meta.bytes as usize);
            populated.map_err(ShardError::io(self.path(), "reading rows into memory"))?;
        }
        Ok(Arc::new(table))
    }

    /// Reads through the file and not through the mapping, so that a file that was cut short is an error.
    fn copy(&self, name: &str, verify: Verify) -> Result<HeapTable, ShardError> {
        let meta = self.find(name)?;
        let mut hash = Xxh3::new();
        let table = HeapTable::read(meta.table.clone(), meta.dim, meta.row_format, meta.rows as usize, |bytes| {
            let mut at = meta.offset;
            for chunk in bytes.chunks_mut(CHUNK) {
                self.read_at(chunk, at)?;
                at += chunk.len() as u64;
                if verify == Verify::Checksums {
                    hash.update(chunk);
                }
            }
            Ok(())
        });
        let table = table.map_err(|error| self.unreadable(meta, error))?;
        let (expected, found) = (meta.xxh3, hash.digest());
        if verify == Verify::Checksums && found != expected {
            let defect = ShardDefect::Checksum { table: name.to_owned(), expected, found };
            return Err(ShardError::corrupt(self.path())(defect));
        }
        Ok(table)
    }
}
