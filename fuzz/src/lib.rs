//! What the fuzz targets share: input files, and the seeds that they begin with.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// Where the inputs of this process are written: in memory, where the system has such a folder.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let make = || match tempfile::tempdir_in("/dev/shm") {
        Ok(folder) => folder,
        Err(_) => tempfile::tempdir().expect("a folder for inputs"),
    };
    FOLDER.get_or_init(make).path()
}

/// A file of these bytes. The one of the same name before is unlinked, not written into: it may still be mapped.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).expect("room for the input");
    path
}

/// The parts of an input that stands for several files: each behind its length (32 bits, little-endian). A length past the
/// end means all that is left.
pub fn parts<const N: usize>(mut data: &[u8]) -> [&[u8]; N] {
    [(); N].map(|()| {
        let Some((length, rest)) = data.split_first_chunk() else { return &[][..] };
        let (part, rest) = rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize));
        data = rest;
        part
    })
}

/// The inverse of [`parts`].
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [&(part.len() as u32).to_le_bytes()[..], part].concat()).collect()
}

/// Makes the checksum of a shard's header right, so that an altered header is read and not refused at the door.
pub fn mend_shard(bytes: &mut [u8]) {
    const KEY: &[u8] = b"\"header_xxh3\":\"";
    let Some((length, rest)) = bytes.split_first_chunk_mut() else { return };
    let Some(header) = rest.get_mut(..u64::from_le_bytes(*length).min(1 << 24) as usize) else { return };
    let Some(at) = header.windows(KEY.len()).position(|window| window == KEY) else { return };
    let digits = at + KEY.len()..at + KEY.len() + 16;
    if header.len() < digits.end {
        return;
    }
    header[digits.clone()].fill(b'0');
    let hash = format!("{:016x}", xxh3_64(header));
    header[digits].copy_from_slice(hash.as_bytes());
}

/// Writes the seeds where `SLACKLINE_FUZZ_SEEDS` says, if it does: libFuzzer reads its corpus after that.
pub fn seed(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("SLACKLINE_FUZZ_SEEDS") else { return };
    for (number, bytes) in seeds().iter().enumerate() {
        fs::write(Path::new(&folder).join(format!("seed-{number}")), bytes).expect("the folder of the corpus is there");
    }
}

/// A file of the test data in the tree.
pub fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Takes numbers off an input; at its end, zeros.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    /// The next `count` bytes, or what is left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
