//! Bytes of a file that are read forwards, stored or deflated, without holding them in memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

/// Where an array lies in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) file: Arc<File>,
    /// Its first byte in the file.
    pub(crate) start: u64,
    /// Its bytes in the file.
    pub(crate) stored: u64,
    /// Its bytes, inflated.
    pub(crate) size: u64,
    pub(crate) deflated: bool,
    /// The checksum of its bytes, inflated.
    pub(crate) sum: Option<u32>,
}

/// Reads the bytes of a [`Place`] forwards.
pub(crate) struct Run {
    source: Source,
    /// `None` where there is none to compare it with, or bytes were passed over.
    sum: Option<Crc>,
}

enum Source {
    Stored(BufReader<Section>),
    Deflated(Box<DeflateDecoder<BufReader<Section>>>),
}

/// A part of a file. It has a position of its own, so that many can read one file in turns.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Run {
    /// From the first byte, with a buffer of `buffer` bytes.
    pub(crate) fn new(place: &Place, buffer: usize) -> Run {
        let section = Section { file: Arc::clone(&place.file), at: place.start, end: place.start + place.stored };
        let reader = BufReader::with_capacity(buffer, section);
        let source = if place.deflated {
            Source::Deflated(Box::new(DeflateDecoder::new(reader)))
        } else {
            Source::Stored(reader)
        };
        Run { source, sum: place.sum.map(|_| Crc::new()) }
    }

    /// Passes over bytes. Stored bytes are not read, and the checksum is then not known.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if let (Source::Stored(reader), 1..) = (&mut self.source, bytes) {
            self.sum = None;
            return reader.seek_relative(i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?);
        }
        match io::copy(&mut Read::by_ref(self).take(bytes), &mut io::sink())? {
            read if read == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Makes the checksum that of the bytes from here on.
    pub(crate) fn start_sum(&mut self) {
        self.sum = Some(Crc::new());
    }

    /// The checksum of the bytes read, if it is wanted and none was passed over.
    pub(crate) fn sum(&self) -> Option<&Crc> {
        self.sum.as_ref()
    }
}

impl Read for Run {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.source {
            Source::Stored(reader) => reader.read(buffer),
            Source::Deflated(decoder) => decoder.read(buffer),
        }?;
        if let Some(sum) = &mut self.sum {
            sum.update(&buffer[..read]);
        }
        Ok(read)
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let moved = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = moved.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
