//! Files of arrays whose places are known before the first value is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use flate2::Crc;

use crate::{Batch, DataError};

/// What an array holds of every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Dense,
    Labels,
    Offsets(usize),
    Indices(usize),
    Weights(usize),
    /// The rows looked up in some tables, side by side: so many lookups in each.
    Matrix {
        first_table: usize,
        tables: usize,
        lookups: u64,
    },
}

/// An array that is going to be written.
pub(crate) struct PlannedArray {
    /// The name in an archive, without `.npy`.
    name: String,
    /// `<i4`, `<i8` or `<f4`.
    descr: &'static str,
    shape: Vec<u64>,
    content: Content,
}

/// A file that is going to be written: an array, or an archive of some.
pub(crate) struct PlannedFile {
    pub(crate) path: PathBuf,
    arrays: Vec<PlannedArray>,
    is_archive: bool,
}

/// A file that is being written, under another name.
pub(crate) struct WrittenFile {
    pub(crate) path: PathBuf,
    pub(crate) partial: PathBuf,
    file: File,
    /// Of the whole file.
    pub(crate) length: u64,
    members: Vec<Member>,
    is_archive: bool,
    /// Where an archive's directory begins.
    directory: u64,
    buffer: Vec<u8>,
}

struct Member {
    array: PlannedArray,
    /// Where its local header begins, and the array with its own header.
    header: u64,
    start: u64,
    /// Where its elements begin.
    data: u64,
    end: u64,
}

impl PlannedArray {
    pub(crate) fn new(name: &str, descr: &'static str, shape: Vec<u64>, content: Content) -> Self {
        PlannedArray { name: name.to_owned(), descr, shape, content }
    }

    fn element_bytes(&self) -> u64 {
        if self.descr == "<i8" { 8 } else { 4 }
    }

    /// The header of a `.npy` file of version 1, such that the elements begin at a multiple of 64 bytes.
    fn header(&self) -> Vec<u8> {
        let sizes: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let sizes = if sizes.len() == 1 { format!("{},", sizes[0]) } else { sizes.join(", ") };
        let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({sizes}), }}", self.descr);
        let text = format!("{text:<width$}\n", width = (text.len() + 11).next_multiple_of(64) - 11);
        [&b"\x93NUMPY\x01\0"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
    }
}

impl PlannedFile {
    pub(crate) fn array(path: PathBuf, array: PlannedArray) -> Self {
        PlannedFile { path, arrays: vec![array], is_archive: false }
    }

    pub(crate) fn archive(path: PathBuf, arrays: Vec<PlannedArray>) -> Self {
        PlannedFile { path, arrays, is_archive: true }
    }

    /// Gives every array its place.
    pub(crate) fn place(self, partial: PathBuf, file: File) -> WrittenFile {
        let PlannedFile { path, arrays, is_archive } = self;
        let mut at = 0;
        let mut members = Vec::with_capacity(arrays.len());
        for array in arrays {
            let header = at;
            let start = if is_archive { header + zip::local_header_bytes(&array.name) } else { header };
            let data = start + array.header().len() as u64;
            let end = data + array.shape.iter().product::<u64>() * array.element_bytes();
            at = end;
            members.push(Member { array, header, start, data, end });
        }
        let names: Vec<&str> = members.iter().map(|member| &member.array.name[..]).collect();
        let length = if is_archive { at + zip::directory_bytes(&names) } else { at };
        WrittenFile { path, partial, file, length, members, is_archive, directory: at, buffer: Vec::new() }
    }
}

impl WrittenFile {
    /// Empties the file, gives it its length, and writes the headers of the arrays.
    pub(crate) fn begin(&self) -> Result<(), DataError> {
        let sized = self.file.set_len(0).and_then(|()| self.file.set_len(self.length));
        sized.map_err(|e| DataError::io(&self.partial, "write", e))?;
        for member in &self.members {
            self.put(&member.array.header(), member.start)?;
        }
        Ok(())
    }

    /// Writes what the arrays hold of a batch, before which there were so many lookups in each table; returns the bytes.
    pub(crate) fn write(&mut self, batch: &Batch, lookups: &[u64]) -> Result<u64, DataError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut written = 0;
        for member in &self.members {
            buffer.clear();
            let first = encode(&member.array, batch, lookups, &mut buffer)
                .map_err(|problem| DataError::Request { problem: format!("{}: {problem}", self.path.display()) })?;
            let at = member.data + first * member.array.element_bytes();
            if at + buffer.len() as u64 > member.end {
                let problem = format!("{}: the input became longer", self.path.display());
                return Err(DataError::Request { problem });
            }
            self.put(&buffer, at)?;
            written += buffer.len() as u64;
        }
        self.buffer = buffer;
        Ok(written)
    }

    pub(crate) fn sync(&self) -> Result<(), DataError> {
        self.file.sync_data().map_err(|e| DataError::io(&self.partial, "write", e))
    }

    /// Writes the directory of an archive, with checksums of what is in the file, and brings all to the disk.
    pub(crate) fn complete(&self) -> Result<(), DataError> {
        let failed = |e| DataError::io(&self.partial, "write", e);
        if self.is_archive {
            let mut entries = Vec::with_capacity(self.members.len());
            for member in &self.members {
                let sum = self.sum(member.start, member.end).map_err(failed)?;
                let entry =
                    zip::Entry { name: &member.array.name, at: member.header, size: member.end - member.start, sum };
                self.put(&entry.local_header(), member.header)?;
                entries.push(entry);
            }
            self.put(&zip::directory(&entries, self.directory), self.directory)?;
        }
        self.file.set_len(self.length).map_err(failed)?;
        self.file.sync_all().map_err(failed)
    }

    fn sum(&self, mut at: u64, end: u64) -> io::Result<u32> {
        let mut sum = Crc::new();
        let mut block = vec![0; 1 << 20];
        while at < end {
            let part = (end - at).min(block.len() as u64) as usize;
            self.file.read_exact_at(&mut block[..part], at)?;
            sum.update(&block[..part]);
            at += part as u64;
        }
        Ok(sum.sum())
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<(), DataError> {
        self.file.write_all_at(bytes, at).map_err(|e| DataError::io(&self.partial, "write", e))
    }
}

/// Appends what an array holds of a batch, and returns the number of its first element.
fn encode(array: &PlannedArray, batch: &Batch, lookups: &[u64], out: &mut Vec<u8>) -> Result<u64, String> {
    let first = batch.first_sample;
    match array.content {
        Content::Dense => {
            out.extend(batch.dense.iter().flat_map(|value| value.to_le_bytes()));
            Ok(first * array.shape[1])
        }
        Content::Labels if array.descr == "<f4" => {
            out.extend(batch.labels.iter().flat_map(|value| value.to_le_bytes()));
            Ok(first)
        }
        Content::Labels => {
            for (sample, &label) in (first..).zip(&batch.labels) {
                if label != 0.0 && label != 1.0 {
                    return Err(format!("sample {sample}: the label {label} is not 0 or 1; convert it to npz"));
                }
                out.extend((label as i32).to_le_bytes());
            }
            Ok(first)
        }
        Content::Offsets(table) => {
            let offsets = &batch.tables[table].offsets[..batch.samples];
            out.extend(offsets.iter().flat_map(|offset| (lookups[table] as i64 + offset).to_le_bytes()));
            Ok(first)
        }
        Content::Indices(table) => {
            batch.tables[table].indices.iter().try_for_each(|&index| push(array.descr, index, out))?;
            Ok(lookups[table])
        }
        Content::Weights(table) => {
            out.extend(batch.tables[table].weights.iter().flat_map(|weight| weight.to_le_bytes()));
            Ok(lookups[table])
        }
        Content::Matrix { first_table, tables, lookups } => {
            for sample in 0..batch.samples {
                for (number, table) in (first_table..).zip(&batch.tables[first_table..first_table + tables]) {
                    let bag = table.offsets[sample] as usize..table.offsets[sample + 1] as usize;
                    if bag.len() as u64 != lookups {
                        let (sample, found) = (first + sample as u64, bag.len());
                        let uneven =
                            format!("sample {sample} has {found} lookups in table {number}, others have {lookups}");
                        return Err(format!("{uneven}; convert it to npz"));
                    }
                    table.indices[bag].iter().try_for_each(|&index| push(array.descr, index, out))?;
                }
            }
            Ok(first * tables as u64 * lookups)
        }
    }
}

fn push(descr: &str, index: i64, out: &mut Vec<u8>) -> Result<(), String> {
    if descr == "<i8" {
        out.extend(index.to_le_bytes());
    } else {
        let index = i32::try_from(index).map_err(|_| format!("row {index} is outside of its table"))?;
        out.extend(index.to_le_bytes());
    }
    Ok(())
}

/// Archives of stored members, always with the sizes of the format's 64-bit extension, as NumPy writes them.
mod zip {
    pub(super) struct Entry<'a> {
        pub(super) name: &'a str,
        /// Where its local header begins.
        pub(super) at: u64,
        pub(super) size: u64,
        pub(super) sum: u32,
    }

    const VERSION: u16 = 45;
    /// 1980-01-01, as in NumPy's archives.
    const DATE: u16 = 0x21;

    pub(super) fn local_header_bytes(name: &str) -> u64 {
        30 + full(name).len() as u64 + 20
    }

    /// The bytes of the central directory and its end records.
    pub(super) fn directory_bytes(names: &[&str]) -> u64 {
        names.iter().map(|name| 46 + full(name).len() as u64 + 28).sum::<u64>() + 56 + 20 + 22
    }

    fn full(name: &str) -> String {
        format!("{name}.npy")
    }

    fn put(out: &mut Vec<u8>, fields: &[(u64, usize)]) {
        for &(value, bytes) in fields {
            out.extend_from_slice(&value.to_le_bytes()[..bytes]);
        }
    }

    impl Entry<'_> {
        /// Version, flags, method, time, date, checksum, and the sizes, which are in the extra field.
        fn common(&self) -> [(u64, usize); 8] {
            let sum = (self.sum.into(), 4);
            [
                (VERSION.into(), 2),
                (0, 2),
                (0, 2),
                (0, 2),
                (DATE.into(), 2),
                sum,
                (u32::MAX.into(), 4),
                (u32::MAX.into(), 4),
            ]
        }

        pub(super) fn local_header(&self) -> Vec<u8> {
            let name = full(self.name);
            let mut out = b"PK\x03\x04".to_vec();
            put(&mut out, &self.common());
            put(&mut out, &[(name.len() as u64, 2), (20, 2)]);
            out.extend_from_slice(name.as_bytes());
            put(&mut out, &[(1, 2), (16, 2), (self.size, 8), (self.size, 8)]);
            out
        }

        fn central(&self) -> Vec<u8> {
            let name = full(self.name);
            let mut out = b"PK\x01\x02".to_vec();
            put(&mut out, &[(VERSION.into(), 2)]);
            put(&mut out, &self.common());
            // Name, extra field, comment, disk, attributes, and the place, which is in the extra field.
            put(&mut out, &[(name.len() as u64, 2), (28, 2), (0, 2), (0, 2), (0, 2), (0, 4), (u32::MAX.into(), 4)]);
            out.extend_from_slice(name.as_bytes());
            put(&mut out, &[(1, 2), (24, 2), (self.size, 8), (self.size, 8), (self.at, 8)]);
            out
        }
    }

    pub(super) fn directory(entries: &[Entry<'_>], at: u64) -> Vec<u8> {
        let mut out: Vec<u8> = entries.iter().flat_map(Entry::central).collect();
        let (count, bytes) = (entries.len() as u64, out.len() as u64);
        out.extend_from_slice(b"PK\x06\x06");
        let version = (VERSION.into(), 2);
        put(&mut out, &[(44, 8), version, version, (0, 4), (0, 4), (count, 8), (count, 8), (bytes, 8), (at, 8)]);
        out.extend_from_slice(b"PK\x06\x07");
        put(&mut out, &[(0, 4), (at + bytes, 8), (1, 4)]);
        out.extend_from_slice(b"PK\x05\x06");
        let most = (u16::MAX.into(), 2);
        put(&mut out, &[(0, 2), (0, 2), most, most, (u32::MAX.into(), 4), (u32::MAX.into(), 4), (0, 2)]);
        out
    }
}
