//! Maps files into memory and survives their failure: the `unsafe` code of this crate that concerns memory.

mod guard;
mod registry;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub(crate) use self::guard::{install as install_guard, is_in_place as guard_in_place};

use self::guard::Guarded;
use crate::Residency;

/// Bytes per step when progress is reported.
const STEP: usize = 64 << 20;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Dropped first, so that no address is guarded that is not mapped.
    guard: Guarded,
    map: Mmap,
    file: File,
    path: PathBuf,
}

/// Bytes of a mapping that cannot be read any more.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) file: PathBuf,
    pub(crate) expected: u64,
    /// The file's bytes now, if it can be asked.
    pub(crate) found: Option<u64>,
}

impl Mapping {
    /// Maps `file`, opened by `path`, which must not be empty. Costs address space and page tables; pages are read when
    /// first touched.
    pub(crate) fn new(file: File, path: &Path) -> io::Result<Self> {
        // SAFETY: `Mmap::map` asks that nobody changes the file while it is mapped. We hold the file open and map it
        // without write permission, so this process cannot change it through the mapping; `ShardWriter`, the only writer
        // of shard files, never writes into an existing file but renames a new one over its name, which leaves the mapped
        // one as it was. What remains is a foreign program that writes into a shard in place, and `Shard::open` forbids
        // that in its documentation, as every reader of mapped files must. If one does all the same, what is read are other
        // numbers: every value is valid, none is trusted to be an address or a length, and a part that is gone is SIGBUS,
        // or reads as zeros under the `guard`.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Mapping { guard: Guarded::new(&map), map, file, path: path.to_owned() })
    }

    /// The bytes of the file; the first is on a page boundary. After reading them, check [`lost`](Self::lost) before
    /// trusting what was read.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Why what was read so far cannot be trusted. Cost: one load if nothing is lost.
    #[inline]
    pub(crate) fn lost(&self) -> Option<Box<Lost>> {
        self.guard.is_lost().then(|| self.describe_loss())
    }

    /// The same if the file is shorter than it was. Cost: a system call.
    pub(crate) fn cut(&self) -> Option<Box<Lost>> {
        let now = self.file.metadata().ok()?.len();
        (now < self.map.len() as u64).then(|| self.describe_loss())
    }

    #[cold]
    fn describe_loss(&self) -> Box<Lost> {
        let found = self.file.metadata().ok().map(|metadata| metadata.len());
        Box::new(Lost { file: self.path.clone(), expected: self.map.len() as u64, found })
    }

    /// Tells the system how some of the bytes will be read: row by row, in no order, or all of them. The first keeps
    /// the system from reading megabytes around every row that is not in memory. This is a hint: if refused, reads are
    /// slower but still correct.
    pub(crate) fn expect_rows(&self, bytes: Range<usize>, rows: bool) {
        let advice = if rows { memmap2::Advice::Random } else { memmap2::Advice::Normal };
        let first = bytes.start / page() * page();
        if first < bytes.end {
            let _ = self.map.advise_range(advice, first, bytes.end - first);
        }
    }

    /// Brings some of the bytes into memory, telling how many after every [`STEP`], and reads a byte of each page: under a
    /// hypervisor a page that the disk has filled costs its first reader a fault of the host, which no request should wait for.
    ///
    /// # Errors
    ///
    /// Where the disk fails, or the file was cut short.
    pub(crate) fn populate(&self, bytes: Range<usize>, progress: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.in_steps(bytes, progress, |run| {
            match self.map.advise_range(memmap2::Advice::PopulateRead, run.start, run.len()) {
                // Before Linux 5.14, where reading is what brings them.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => (),
                done => done?,
            }
            self.bytes()[run].iter().step_by(page()).for_each(|byte| {
                std::hint::black_box(*byte);
            });
            Ok(())
        })
    }

    /// Locks some of the bytes, which are already in memory, until the mapping is dropped.
    ///
    /// # Errors
    ///
    /// If the process may not lock that much.
    pub(crate) fn lock(&self, bytes: Range<usize>) -> io::Result<()> {
        self.in_steps(bytes, &mut |_| (), |run| {
            let from = self.map.as_ptr().wrapping_add(run.start);
            // SAFETY: addresses of this mapping, whose memory it neither changes nor unmaps. Unmapping it unlocks it.
            match unsafe { libc::mlock(from.cast(), run.len()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    /// Whole pages, run by run.
    fn in_steps(
        &self,
        bytes: Range<usize>,
        progress: &mut dyn FnMut(u64),
        mut step: impl FnMut(Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let first = bytes.start / page() * page();
        for from in (first..bytes.end).step_by(STEP) {
            let to = (from + STEP).min(bytes.end);
            step(from..to)?;
            if self.guard.is_lost() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            progress((to - bytes.start.min(to)) as u64);
        }
        Ok(())
    }

    /// How much of a range of the bytes is in memory.
    pub(crate) fn residency(&self, bytes: Range<usize>) -> io::Result<Residency> {
        resident(&self.map, bytes)
    }
}

/// How much of a range of a mapping is in memory, in whole pages. The mapping begins on a page boundary.
pub(crate) fn resident(map: &[u8], bytes: Range<usize>) -> io::Result<Residency> {
    let page = page();
    let first = bytes.start / page * page;
    let mut pages = vec![0u8; (bytes.end - first).div_ceil(page)];
    if !pages.is_empty() {
        let from = map[first..].as_ptr();
        // SAFETY: addresses that are mapped, and room for a byte for each of their pages.
        let refused = unsafe { libc::mincore(from.cast_mut().cast(), bytes.end - first, pages.as_mut_ptr()) };
        if refused != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut inside = 0;
    for (at, _) in pages.iter().enumerate().filter(|(_, state)| **state & 1 != 0) {
        let (from, to) = (first + at * page, first + (at + 1) * page);
        inside += to.min(bytes.end) - from.max(bytes.start);
    }
    let begins = map.as_ptr().addr();
    Ok(Residency {
        bytes: bytes.len() as u64,
        resident: inside as u64,
        huge: crate::residency::huge_bytes(begins + bytes.start..begins + bytes.end),
    })
}

/// The bytes that this process may lock; none if it may lock all.
pub(crate) fn lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it fills the struct that it is given.
    let refused = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (refused == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn page() -> usize {
    // SAFETY: it asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(page).unwrap_or(4096)
}
