//! The numbers of the format, version 1.

/// The version that is written and read.
pub(super) const VERSION: &str = "1";

/// What the data section is aligned to.
pub(super) const PAGE: u64 = 4096;

/// Bytes before the header: its length.
pub(super) const PREFIX: u64 = 8;

/// The longest header accepted: the limit of the safetensors library.
pub(super) const MAX_HEADER: u64 = 100_000_000;
