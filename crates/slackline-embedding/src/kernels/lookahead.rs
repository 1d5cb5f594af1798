//! How far ahead of their use a kernel prefetches rows.
//!
//! The way is fixed by the processor's kind, by the lines of a row and by whether a cache holds the table. CHANGELOG.md has the
//! figures behind the choice. The bits of a result do not depend on it.

use std::sync::LazyLock;

use crate::Rows;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// When a kernel asks for the cache lines of a row: so many lookups before it adds the row, or not at all (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LookAhead {
    /// For the first line of the row, into the first-level cache.
    pub first: Option<usize>,
    /// For all of its lines.
    pub all: Option<usize>,
    /// The cache that all of its lines go to.
    pub cache: Cache,
}

/// The cache that a requested line goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// The first level.
    First,
    /// The second level. It is slower to read, but on Intel's processors it has more places for lines under way.
    Second,
}

impl LookAhead {
    /// No requests: for rows of several lines in a table that a core's cache holds.
    pub const NEVER: Self = LookAhead { first: None, all: None, cache: Cache::First };

    /// All lines once, so many lookups ahead, into the second-level cache: for Intel's processors, and AMD's from Zen 4 on.
    pub const fn once(ahead: usize) -> Self {
        LookAhead { first: None, all: Some(ahead), cache: Cache::Second }
    }

    /// The first line so many lookups ahead, then all lines. A Zen 3 drops requests while all places for lines
    /// under way are taken; the second request brings what the first one lost.
    pub const fn twice(first: usize) -> Self {
        LookAhead { first: Some(first), all: Some(16), cache: Cache::First }
    }

    /// The way that [`pool`](super::pool) takes for these rows on this machine.
    pub fn of(rows: Rows<'_>) -> Self {
        static PROCESSOR: LazyLock<Processor> = LazyLock::new(Processor::of_this_machine);
        let is_wide = lines(rows) >= 4;
        match (rows.bytes().len() <= SMALL, *PROCESSOR) {
            (true, _) if is_wide => LookAhead::NEVER,
            (true, _) => LookAhead::twice(32),
            // As far as a first-level cache holds rows.
            (false, Processor::Zen3) => LookAhead::twice(((32 << 10) / (lines(rows) * LINE)).clamp(16, 128)),
            (false, Processor::Zen4) => LookAhead::once(64),
            (false, Processor::Other) => LookAhead::once(if is_wide { 64 } else { 32 }),
        }
    }
}

/// Bytes of a table that a second-level cache holds beside other data.
const SMALL: usize = 1 << 20;

/// Processors that differ in the best way.
#[derive(Clone, Copy)]
enum Processor {
    /// AMD's without AVX-512: Zen 3 and before.
    Zen3,
    /// AMD's with it: Zen 4 and after.
    Zen4,
    Other,
}

impl Processor {
    #[cfg(target_arch = "x86_64")]
    fn of_this_machine() -> Self {
        let vendor = std::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        // Hygon's processors have AMD's design.
        let is_amd = name == b"AuthenticAMD" || name == b"HygonGenuine";
        match (is_amd, std::arch::is_x86_feature_detected!("avx512f")) {
            (false, _) => Processor::Other,
            (true, false) => Processor::Zen3,
            (true, true) => Processor::Zen4,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_this_machine() -> Self {
        Processor::Other
    }
}

/// The cache lines that a row touches at most, wherever in a line the rows of such a table begin.
pub(super) fn lines(rows: Rows<'_>) -> usize {
    let row_bytes = rows.format().row_bytes(rows.dim());
    // Rows begin at multiples of this.
    let step = 1 << (row_bytes | rows.bytes().as_ptr().addr() | LINE).trailing_zeros();
    (LINE - step + row_bytes).div_ceil(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeapTable, RowFormat};

    #[test]
    fn lines_are_those_that_a_row_can_touch() {
        for (format, dim) in [(RowFormat::F32, 64), (RowFormat::Int8, 64), (RowFormat::Int4, 64), (RowFormat::F32, 3)] {
            let table = HeapTable::random("t", 500, dim, 1).to_format(format).unwrap();
            let (rows, row_bytes) = (table.stored(), format.row_bytes(dim));
            let base = rows.bytes().as_ptr().addr();
            let touched = |row: usize| (base + (row + 1) * row_bytes - 1) / LINE - (base + row * row_bytes) / LINE + 1;
            assert_eq!(lines(rows), (0..500).map(touched).max().unwrap(), "{format} x {dim}");
        }
    }
}
