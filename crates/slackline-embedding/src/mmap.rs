//! Mapping a file into memory: the only `unsafe` of this crate.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapping(Mmap);

impl Mapping {
    /// Maps `file`, which must not be empty. Costs address space and page tables; pages are read when first touched.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: `Mmap::map` asks that nobody changes the file while it is mapped. We hold the file open and map it
        // without write permission, so this process cannot change it through the mapping; `ShardWriter`, the only writer
        // of shard files, never writes into an existing file but renames a new one over its name, which leaves the mapped
        // one as it was. What remains is a foreign program that writes into a shard in place, and `Shard::open` forbids
        // that in its documentation, as every reader of mapped files must.
        unsafe { Mmap::map(file) }.map(Mapping)
    }

    /// The bytes of the file; the first stands on a page boundary.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
