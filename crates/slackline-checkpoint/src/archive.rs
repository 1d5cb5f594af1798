//! The directory of a zip file whose entries are stored uncompressed: the container of PyTorch since 1.6.
//!
//! Zip crates read entries as streams and keep one of two entries of the same name. Here tensors are read at positions, and
//! duplicate names are refused, and the content of compressed entries.

use std::collections::BTreeMap;

use crate::source::{Cursor, Source};
use crate::{CheckpointError, Corrupt};

/// Where the bytes of an entry are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Position of its local header.
    header: u64,
    /// Bytes of content.
    pub(crate) size: u64,
    /// Why the content cannot be read at its position.
    packed: Option<&'static str>,
}

/// The entries of a zip file by name.
pub(crate) struct Archive<'f> {
    source: &'f Source,
    entries: BTreeMap<String, Entry>,
    /// Position of the central directory: all content is before it.
    directory: u64,
}

const MAX_ENTRIES: u64 = 1 << 20;
const MAX_NAME_BYTES: usize = 64 << 20;

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: usize = 22;
const END64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const END64_LOCATOR_LEN: u64 = 20;
const END64: &[u8; 4] = b"PK\x06\x06";
const END64_LEN: u64 = 56;
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";

impl<'f> Archive<'f> {
    pub(crate) fn open(source: &'f Source) -> Result<Self, CheckpointError> {
        let directory = find_directory(source)?;
        if directory.entries > MAX_ENTRIES {
            let what = "the zip file has too many entries";
            return Err(source.corrupt(Corrupt::Limit { at: directory.at, what, limit: MAX_ENTRIES }));
        }
        let mut cursor = Cursor::new(source, directory.at, directory.end, "the zip directory");
        let mut entries = BTreeMap::new();
        let mut name_bytes = 0;
        for _ in 0..directory.entries {
            let (name, entry) = central_entry(&mut cursor, directory.at)?;
            name_bytes += name.len();
            if name_bytes > MAX_NAME_BYTES {
                let (at, what, limit) =
                    (cursor.at(), "the names of the zip entries are too long", MAX_NAME_BYTES as u64);
                return Err(source.corrupt(Corrupt::Limit { at, what, limit }));
            }
            if entries.insert(name.clone(), entry).is_some() {
                return Err(source.corrupt(Corrupt::Entry { entry: name, what: "appears twice" }));
            }
        }
        Ok(Self { source, entries, directory: directory.at })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    /// Position of the first byte of content. All [`Entry::size`] bytes are before the directory.
    pub(crate) fn content(&self, name: &str, entry: Entry) -> Result<u64, CheckpointError> {
        if let Some(how) = entry.packed {
            let what = format!("zip entry `{name}` is {how}; torch.save writes entries uncompressed");
            return Err(CheckpointError::Unsupported { file: self.source.path().to_owned(), what });
        }
        let header: [u8; 30] = self.source.array(entry.header, "the local header of a zip entry")?;
        let wrong = |what| self.source.corrupt(Corrupt::Entry { entry: name.to_owned(), what });
        if &header[..4] != LOCAL {
            return Err(wrong("no local header at the position that the directory gives"));
        }
        let at = entry.header + 30 + u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        match at.checked_add(entry.size) {
            Some(end) if end <= self.directory => Ok(at),
            _ => Err(wrong("overlaps the directory")),
        }
    }
}

/// The central directory, as the end record describes it.
struct Directory {
    at: u64,
    end: u64,
    entries: u64,
}

fn find_directory(source: &Source) -> Result<Directory, CheckpointError> {
    let zip = |at, what| source.corrupt(Corrupt::Zip { at, what });
    // After the end record comes a comment of at most 65535 bytes, whose length the record has.
    let tail_len = source.len().min((END_LEN + 65_535) as u64);
    let tail_at = source.len() - tail_len;
    let mut tail = vec![0; tail_len as usize];
    source.read(tail_at, &mut tail, "the end of the zip file")?;
    let found = (0..tail.len().saturating_sub(END_LEN - 1))
        .rev()
        .find(|&i| &tail[i..i + 4] == END && i + END_LEN + usize::from(u16_at(&tail, i + 20)) == tail.len());
    let Some(found) = found else {
        return Err(zip(source.len(), "no end record: the file is truncated or not a zip file"));
    };
    let end_at = tail_at + found as u64;
    let record = &tail[found..found + END_LEN];
    let mut entries = u64::from(u16_at(record, 10));
    let mut size = u64::from(u32_at(record, 12));
    let mut at = u64::from(u32_at(record, 16));
    let mut end = end_at;
    if entries == 0xffff || size == 0xffff_ffff || at == 0xffff_ffff {
        // A number that does not fit is in a 64-bit record, and a locator just before this record has its position.
        let locator_at = end_at.checked_sub(END64_LOCATOR_LEN).ok_or_else(|| zip(end_at, "no 64-bit locator"))?;
        let locator: [u8; END64_LOCATOR_LEN as usize] = source.array(locator_at, "the 64-bit locator")?;
        if &locator[..4] != END64_LOCATOR {
            return Err(zip(locator_at, "no 64-bit locator"));
        }
        end = u64_at(&locator, 8);
        if end.checked_add(END64_LEN).is_none_or(|e| e > locator_at) {
            return Err(zip(locator_at, "the 64-bit end record is outside of the file"));
        }
        let record: [u8; END64_LEN as usize] = source.array(end, "the 64-bit end record")?;
        if &record[..4] != END64 {
            return Err(zip(end, "no 64-bit end record at the position that the locator gives"));
        }
        (entries, size, at) = (u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
    }
    match at.checked_add(size) {
        Some(directory_end) if directory_end <= end => Ok(Directory { at, end: directory_end, entries }),
        _ => Err(zip(end, "the directory overlaps the end record")),
    }
}

fn central_entry(cursor: &mut Cursor<'_>, directory: u64) -> Result<(String, Entry), CheckpointError> {
    let at = cursor.at();
    let record: [u8; 46] = cursor.array()?;
    if &record[..4] != CENTRAL {
        return Err(cursor.corrupt(Corrupt::Zip { at, what: "fewer directory entries than declared" }));
    }
    let (flags, method) = (u16_at(&record, 8), u16_at(&record, 10));
    let name = cursor.take(usize::from(u16_at(&record, 28)))?;
    let name = String::from_utf8(name)
        .map_err(|_| cursor.corrupt(Corrupt::Zip { at, what: "the name of an entry is not UTF-8" }))?;
    let extra = cursor.take(usize::from(u16_at(&record, 30)))?;
    cursor.skip(u64::from(u16_at(&record, 32)))?;

    let wrong = |cursor: &Cursor<'_>, what| cursor.corrupt(Corrupt::Entry { entry: name.clone(), what });
    let how = match (flags & 1 != 0, method != 0) {
        (true, _) => Some("encrypted"),
        (false, true) => Some("compressed"),
        (false, false) => None,
    };
    let packed = u64::from(u32_at(&record, 20));
    let size = u64::from(u32_at(&record, 24));
    let header = u64::from(u32_at(&record, 42));
    let Some([size, packed, header]) = widen(&extra, [size, packed, header]) else {
        return Err(wrong(cursor, "its 64-bit sizes are missing"));
    };
    if how.is_none() && size != packed {
        return Err(wrong(cursor, "uncompressed, but with two different sizes"));
    }
    if header.checked_add(30).and_then(|h| h.checked_add(packed)).is_none_or(|end| end > directory) {
        return Err(wrong(cursor, "overlaps the directory"));
    }
    Ok((name, Entry { header, size, packed: how }))
}

/// Takes from the zip64 extra field, in this order, the numbers that do not fit in 32 bits.
fn widen(mut extra: &[u8], mut numbers: [u64; 3]) -> Option<[u64; 3]> {
    if numbers.iter().all(|&n| n != 0xffff_ffff) {
        return Some(numbers);
    }
    loop {
        let (head, rest) = extra.split_at_checked(4)?;
        let (field, rest) = rest.split_at_checked(usize::from(u16_at(head, 2)))?;
        extra = rest;
        if u16_at(head, 0) == 1 {
            let mut wide = field.chunks_exact(8);
            for number in numbers.iter_mut().filter(|n| **n == 0xffff_ffff) {
                *number = u64_at(wide.next()?, 0);
            }
            return Some(numbers);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
