//! Anonymous memory for tables, in huge pages where the system gives them.

use std::fmt;
use std::io;

use memmap2::MmapMut;

use crate::Residency;
use crate::mmap::resident;

/// Below this there is nothing to gain.
const HUGE: usize = 2 << 20;

/// Bytes of our own, which begin on a page: zeros at first.
pub(crate) struct Memory(Option<MmapMut>);

impl Memory {
    /// Memory of this length. Pages are taken when they are first written.
    ///
    /// # Errors
    ///
    /// If the system has no more address space, or none of this size.
    pub(crate) fn zeroed(length: usize) -> io::Result<Self> {
        if length == 0 {
            return Ok(Memory(None));
        }
        let map = MmapMut::map_anon(length)?;
        #[cfg(target_os = "linux")]
        if length >= HUGE {
            // A lookup of a random row costs a walk through the page tables, unless few entries cover the table. It is a
            // wish: a system without huge pages refuses, and nothing is lost.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Memory(Some(map)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// How much of it is in memory.
    pub(crate) fn residency(&self) -> io::Result<Residency> {
        resident(self.bytes(), 0..self.bytes().len())
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes().len())
    }
}
