//! The lines of a file, gzipped or not, in bounded memory.

use std::fs::File;
#[cfg(feature = "gzip")]
use std::io::BufReader;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

#[cfg(feature = "gzip")]
use flate2::read::MultiGzDecoder;

use crate::DataError;

/// The longest line that is read, in bytes. A row of a hundred columns has about a thousand.
pub const MAX_LINE: usize = 1 << 20;

const FIRST_BUFFER: usize = 256 << 10;
const MAGIC_BYTES: usize = 4;

/// A file whose first bytes have been read, once: pipes cannot be read again.
pub(crate) struct Opened {
    path: PathBuf,
    file: File,
    magic: Vec<u8>,
    total: Option<u64>,
}

/// The lines of a text that are not blank.
pub(crate) struct Lines {
    path: PathBuf,
    source: Source,
    total: Option<u64>,
    buffer: Vec<u8>,
    /// The unread part of `buffer`.
    start: usize,
    end: usize,
    /// Whether the source has no more bytes.
    ended: bool,
    /// Lines taken from the buffer so far, blank ones included.
    taken: u64,
    /// `start` and `taken` before the last line, for [`peek`](Lines::peek).
    before: (usize, u64),
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let mut file = File::open(path).map_err(|e| DataError::io(path, "open", e))?;
        let metadata = file.metadata().map_err(|e| DataError::io(path, "open", e))?;
        if metadata.is_dir() {
            return Err(DataError::io(path, "open", io::ErrorKind::IsADirectory.into()));
        }
        let mut magic = Vec::with_capacity(MAGIC_BYTES);
        let mut head = Read::by_ref(&mut file).take(MAGIC_BYTES as u64);
        head.read_to_end(&mut magic).map_err(|e| DataError::io(path, "read", e))?;
        let total = metadata.is_file().then_some(metadata.len());
        Ok(Opened { path: path.to_owned(), file, magic, total })
    }

    pub(crate) fn is_zip(&self) -> bool {
        self.magic.starts_with(b"PK\x03\x04") || self.magic.starts_with(b"PK\x05\x06")
    }

    /// The lines, decompressed if the file is gzipped.
    pub(crate) fn lines(self) -> Result<Lines, DataError> {
        let gzip = self.magic.starts_with(&[0x1f, 0x8b]);
        let counted = Counted { inner: Cursor::new(self.magic).chain(self.file), bytes: 0 };
        let source = if gzip { gzip_source(counted, &self.path)? } else { Source::Plain(counted) };
        Ok(Lines {
            path: self.path,
            source,
            total: self.total,
            buffer: vec![0; FIRST_BUFFER],
            start: 0,
            end: 0,
            ended: false,
            taken: 0,
            before: (0, 0),
        })
    }
}

impl Lines {
    /// The next line that is not blank, without its line end, and its number, from 1; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>, DataError> {
        let (from, to) = loop {
            let Some((from, mut to)) = self.take()? else { return Ok(None) };
            if to > from && self.buffer[to - 1] == b'\r' {
                to -= 1;
            }
            if to > from {
                break (from, to);
            }
        };
        Ok(Some((self.taken, &self.buffer[from..to])))
    }

    /// The line that [`next`](Self::next) will return.
    pub(crate) fn peek(&mut self) -> Result<Option<(u64, &[u8])>, DataError> {
        let Some((number, line)) = self.next()? else { return Ok(None) };
        let length = line.len();
        (self.start, self.taken) = self.before;
        Ok(Some((number, &self.buffer[self.start..self.start + length])))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read from the file (compressed ones, if it is gzipped), at most a buffer ahead of the lines.
    pub(crate) fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Plain(counted) => counted.bytes,
            #[cfg(feature = "gzip")]
            Source::Gzip(decoder) => decoder.get_ref().get_ref().bytes,
        }
    }

    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total
    }

    /// Takes one line, blank or not, and returns its range in the buffer.
    fn take(&mut self) -> Result<Option<(usize, usize)>, DataError> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.start..self.end];
            let (length, step) = match memchr::memchr(b'\n', &unread[searched..]) {
                Some(at) => (searched + at, searched + at + 1),
                None if self.ended && unread.is_empty() => return Ok(None),
                None if self.ended || unread.len() > MAX_LINE => (unread.len(), unread.len()),
                None => {
                    searched = unread.len();
                    self.refill()?;
                    continue;
                }
            };
            if length > MAX_LINE {
                return Err(DataError::LineTooLong { path: self.path.clone(), line: self.taken + 1, limit: MAX_LINE });
            }
            self.before = (self.start, self.taken);
            let from = self.start;
            self.start += step;
            self.taken += 1;
            return Ok(Some((from, from + length)));
        }
    }

    /// Moves the unread part to the front and reads more behind it.
    fn refill(&mut self) -> Result<(), DataError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            // At most one line is unread here: the buffer stays smaller than two of the longest lines.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => break other,
            }
        };
        let read = read.map_err(|e| self.read_error(e))?;
        self.end += read;
        self.ended = read == 0;
        Ok(())
    }

    fn read_error(&self, error: io::Error) -> DataError {
        #[cfg(feature = "gzip")]
        if let Source::Gzip(_) = self.source {
            use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
            let corrupt = |problem| DataError::Corrupt { path: self.path.clone(), problem };
            match error.kind() {
                UnexpectedEof => return corrupt(format!("gzip stream is truncated after line {}", self.taken)),
                InvalidData | InvalidInput => {
                    return corrupt(format!("gzip stream is invalid after line {}: {error}", self.taken));
                }
                _ => {}
            }
        }
        DataError::io(&self.path, "read", error)
    }
}

enum Source {
    Plain(Counted),
    #[cfg(feature = "gzip")]
    Gzip(Box<MultiGzDecoder<BufReader<Counted>>>),
}

#[cfg(feature = "gzip")]
fn gzip_source(counted: Counted, _: &Path) -> Result<Source, DataError> {
    Ok(Source::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, counted)))))
}

#[cfg(not(feature = "gzip"))]
fn gzip_source(_: Counted, path: &Path) -> Result<Source, DataError> {
    Err(DataError::missing(path, "gzip"))
}

struct Counted {
    inner: io::Chain<Cursor<Vec<u8>>, File>,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(counted) => counted.read(buffer),
            #[cfg(feature = "gzip")]
            Source::Gzip(decoder) => decoder.read(buffer),
        }
    }
}
