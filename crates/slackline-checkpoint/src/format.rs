//! The formats, and telling them apart by content.

use std::fmt;

use crate::source::{Cursor, Source};
use crate::{CheckpointError, Corrupt, foreign};

/// A checkpoint format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `torch.save` since PyTorch 1.6: a zip file of a pickle and one stored entry for each storage.
    PyTorchZip,
    /// `torch.save` before PyTorch 1.6: pickles, then the storages.
    PyTorchLegacy,
    /// One safetensors file.
    Safetensors,
    /// A set of safetensors files and the JSON index that names them.
    SafetensorsIndex,
    /// A directory of raw tensors written by torchsnapshot, with a manifest in YAML or JSON.
    TorchSnapshot,
}

/// What the first pickle of a legacy file holds.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Finds the format of a file by its first bytes.
pub(crate) fn detect(source: &Source) -> Result<Format, CheckpointError> {
    let mut head = [0; 32];
    let n = source.len().min(head.len() as u64) as usize;
    source.read(0, &mut head[..n], "the first bytes")?;
    let head = &head[..n];
    if head.is_empty() {
        return Err(source.corrupt(Corrupt::Empty));
    }
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Format::PyTorchZip);
    }
    // A pickle of protocol 2 or later, of one long number.
    if head.first() == Some(&0x80) && head.windows(LEGACY_MAGIC.len()).any(|w| w == LEGACY_MAGIC) {
        return Ok(Format::PyTorchLegacy);
    }
    if head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        return Ok(Format::Safetensors);
    }
    if let Some(kind) = foreign::of_file(source)? {
        return Err(kind.refused(source.path()));
    }
    let mut cursor = Cursor::new(source, 0, source.len().min(4096), "the first bytes");
    while cursor.left() > 0 {
        match cursor.byte()? {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // The byte order mark that some editors begin a file with.
            0xef | 0xbb | 0xbf if cursor.left() >= source.len().min(4096) - 3 => {}
            b'{' => return Ok(Format::SafetensorsIndex),
            _ => break,
        }
    }
    Err(CheckpointError::UnknownFormat { file: source.path().to_owned() })
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::PyTorchZip => "PyTorch (zip)",
            Format::PyTorchLegacy => "PyTorch (legacy stream)",
            Format::Safetensors => "safetensors",
            Format::SafetensorsIndex => "safetensors with an index",
            Format::TorchSnapshot => "torchsnapshot",
        })
    }
}
