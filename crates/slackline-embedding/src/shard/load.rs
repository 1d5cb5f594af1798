//! Loading a table from a shard: mapped, or copied into memory of the process.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::error::{ShardDefect, ShardError};
use super::header::ShardTable;
use super::reader::{CHUNK, Shard, Verify};
use crate::{EmbeddingTable, HeapTable, Rows, mmap};

/// Where the rows of a loaded table are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// `mapped`: in the file. Ready at once; a row is read from the disk when first looked up, a page at a time, and
    /// the system may evict it when memory is short. Ranks of one machine share the memory.
    #[default]
    Mapped,
    /// `prefaulted`: in the file, all pages read before it is ready.
    Prefaulted,
    /// `locked`: in the file, all pages read and kept in memory even if memory is short. The process's limit on locked
    /// memory (`ulimit -l`) must allow this.
    Locked,
    /// `copied`: in memory of this process, in huge pages where the system provides them. Lookups are fastest, and
    /// later changes of the file have no effect. Not shared between processes.
    Copied,
}

impl Load {
    /// All ways, by their names.
    pub const ALL: [Load; 4] = [Load::Mapped, Load::Prefaulted, Load::Locked, Load::Copied];
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Load::Mapped => "mapped",
            Load::Prefaulted => "prefaulted",
            Load::Locked => "locked",
            Load::Copied => "copied",
        })
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Load::ALL.into_iter().find(|way| way.to_string() == text);
        found.ok_or_else(|| "not one of mapped, prefaulted, locked and copied".to_owned())
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
    /// Those of [`verify`](Shard::verify), if that is asked for; [`ShardError::Io`] where memory is short;
    /// [`ShardError::Lock`]; [`ShardError::Unguarded`] unless it is copied; and [`ShardDefect::Short`] within
    /// [`ShardError::Corrupt`] if the file was cut short since the shard was opened.
    pub fn load(&self, name: &str, how: Load, verify: Verify) -> Result<Arc<dyn EmbeddingTable>, ShardError> {
        let meta = self.find(name)?;
        let (rows, columns) = (0..meta.rows, 0..meta.dim);
        self.load_part(name, rows, columns, how, verify, &mut |_| ())
    }

    /// Some rows and columns of one table, ready in the way asked for: a table of its own, whose rows count from 0. A run
    /// of columns is always copied, since rows that lie apart would waste the cache. `progress` is told of bytes that were
    /// read or brought into memory since it was told last, some MiB at a time.
    ///
    /// Cost: as [`load`](Shard::load), of the rows asked for; to verify them means to read the whole table.
    ///
    /// # Errors
    ///
    /// Those of [`load`](Shard::load); [`ShardError::NoPart`] if the table has no such rows or columns, or they would begin
    /// within a byte.
    pub fn load_part(
        &self,
        name: &str,
        rows: Range<u64>,
        columns: Range<usize>,
        how: Load,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Arc<dyn EmbeddingTable>, ShardError> {
        let meta = self.find(name)?;
        let whole_columns = columns == (0..meta.dim);
        let bytes_cut = meta.row_format.row_bytes(2) - meta.row_format.row_bytes(0) == 1
            && (columns.start % 2 == 1 || (columns.end % 2 == 1 && columns.end != meta.dim));
        if rows.start > rows.end || rows.end > meta.rows || columns.is_empty() || columns.end > meta.dim || bytes_cut {
            let what = format!("rows {rows:?} and columns {columns:?} of {} by {}", meta.rows, meta.dim);
            return Err(ShardError::NoPart { file: self.path().to_owned(), table: name.to_owned(), what });
        }
        let whole = whole_columns && rows == (0..meta.rows);
        if verify == Verify::Checksums && !(whole && how == Load::Copied) {
            let mut last = 0;
            self.verify_with(name, &mut |done| {
                progress(done - last);
                last = done;
            })?;
        }
        if !whole_columns {
            return Ok(Arc::new(self.copy_columns(meta, rows, columns, progress)?));
        }
        if how == Load::Copied {
            let verify = if whole { verify } else { Verify::HeaderOnly };
            return Ok(Arc::new(self.copy(meta, rows, verify, progress)?));
        }
        let table = self.table(name)?.run(rows);
        self.bring_in(table.meta(), how, progress)?;
        Ok(Arc::new(table))
    }

    /// Brings mapped rows into memory, as far as that is asked for.
    fn bring_in(&self, meta: &ShardTable, how: Load, progress: &mut dyn FnMut(u64)) -> Result<(), ShardError> {
        let bytes = meta.offset as usize..(meta.offset + meta.bytes) as usize;
        let mut last = 0;
        let mut newly = |done: u64| {
            progress(done - last);
            last = done;
        };
        let map = self.mapping();
        map.expect_rows(bytes.clone(), how == Load::Mapped);
        if how == Load::Prefaulted || how == Load::Locked {
            map.populate(bytes.clone(), &mut newly).map_err(|error| self.unreadable(meta, error))?;
        }
        if how == Load::Locked {
            let file = || self.path().to_owned();
            let refused =
                |source| ShardError::Lock { file: file(), bytes: meta.bytes, limit: mmap::lock_limit(), source };
            map.lock(bytes).map_err(refused)?;
        }
        Ok(())
    }

    /// Reads through the file and not through the mapping, so that a file that was cut short is an error.
    fn copy(
        &self,
        meta: &ShardTable,
        rows: Range<u64>,
        verify: Verify,
        progress: &mut dyn FnMut(u64),
    ) -> Result<HeapTable, ShardError> {
        let mut hash = Xxh3::new();
        let count = (rows.end - rows.start) as usize;
        let table = HeapTable::read(meta.table.clone(), meta.dim, meta.row_format, count, |bytes| {
            let mut at = meta.offset + rows.start * meta.row_format.row_bytes(meta.dim) as u64;
            for chunk in bytes.chunks_mut(CHUNK) {
                self.read_at(chunk, at)?;
                at += chunk.len() as u64;
                if verify == Verify::Checksums {
                    hash.update(chunk);
                }
                progress(chunk.len() as u64);
            }
            Ok(())
        });
        let table = table.map_err(|error| self.unreadable(meta, error))?;
        let (expected, found) = (meta.xxh3, hash.digest());
        if verify == Verify::Checksums && found != expected {
            let defect = ShardDefect::Checksum { table: meta.tensor.clone(), expected, found };
            return Err(ShardError::corrupt(self.path())(defect));
        }
        Ok(table)
    }

    fn copy_columns(
        &self,
        meta: &ShardTable,
        rows: Range<u64>,
        columns: Range<usize>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<HeapTable, ShardError> {
        let row_bytes = meta.row_format.row_bytes(meta.dim);
        let (count, width) = ((rows.end - rows.start) as usize, meta.row_format.row_bytes(columns.len()));
        let at_once = (CHUNK / row_bytes).max(1);
        let (mut whole, mut cut) = (vec![0; at_once.min(count) * row_bytes], Vec::new());
        let table = HeapTable::read(meta.table.clone(), columns.len(), meta.row_format, count, |bytes| {
            let mut at = meta.offset + rows.start * row_bytes as u64;
            for out in bytes.chunks_mut(at_once * width) {
                let whole = &mut whole[..out.len() / width * row_bytes];
                self.read_at(whole, at)?;
                at += whole.len() as u64;
                cut.clear();
                Rows::new(meta.row_format, meta.dim, whole).write_columns(columns.clone(), &mut cut);
                out.copy_from_slice(&cut);
                progress(whole.len() as u64);
            }
            Ok(())
        });
        table.map_err(|error| self.unreadable(meta, error))
    }
}
