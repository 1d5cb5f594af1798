//! Mapping a file into memory: the only `unsafe` of this crate.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// The smallest page there is.
const PAGE: usize = 4096;

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

    /// Brings some of the bytes into memory.
    ///
    /// # Errors
    ///
    /// Where the disk fails, or the file was cut short.
    pub(crate) fn populate(&self, from: usize, length: usize) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        {
            // Whole pages: the advice wants to begin on one.
            let first = from / PAGE * PAGE;
            match self.0.advise_range(memmap2::Advice::PopulateRead, first, from + length - first) {
                // Before Linux 5.14.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                done => return done,
            }
        }
        let begin = &self.bytes()[from..from + length];
        begin.iter().step_by(PAGE).for_each(|byte| {
            std::hint::black_box(*byte);
        });
        Ok(())
    }
}
