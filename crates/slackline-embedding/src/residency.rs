//! How much of a table is in memory.

use std::fs;
use std::ops::Range;

/// How many bytes of a table are in memory at the moment. The system may take mapped ones back at any time, unless they are
/// locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Residency {
    /// All bytes.
    pub bytes: u64,
    /// Bytes in memory. For a mapped file this is the page cache, whichever process has read them.
    pub resident: u64,
    /// Those that this process reads through huge pages.
    pub huge: u64,
}

impl std::ops::AddAssign for Residency {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.resident += other.resident;
        self.huge += other.huge;
    }
}

/// The bytes of a range of addresses that lie in huge pages, as the system reports them for each mapping; of a part of a
/// mapping, the part's share. 0 if the system reports nothing.
pub(crate) fn huge_bytes(addresses: Range<usize>) -> u64 {
    let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut overlap = 0.0;
    let mut huge = 0.0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        let bound = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = first.split_once('-').and_then(|(start, end)| bound(start).zip(bound(end))) {
            let common = end.min(addresses.end).saturating_sub(start.max(addresses.start));
            overlap = common as f64 / (end - start).max(1) as f64;
        } else if overlap > 0.0 && ["AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:"].contains(&first) {
            huge += overlap * words.next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0;
        }
    }
    huge as u64
}
