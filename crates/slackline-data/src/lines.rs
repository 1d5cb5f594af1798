//! Lines of a file, gzipped or not, in bounded memory.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::DataError;

/// The longest line that is read, in bytes. A row of a hundred columns has about a thousand.
pub const MAX_LINE: usize = 1 << 20;

const FIRST_BUFFER: usize = 256 << 10;
const MAGIC_BYTES: usize = 4;

/// A file whose first bytes have been looked at. Works for pipes, which can't be read twice.
pub(crate) struct Opened {
    path: PathBuf,
    file: File,
    magic: Vec<u8>,
    total: Option<u64>,
}

/// The lines of a text that aren't blank.
pub(crate) struct Lines {
    path: PathBuf,
    source: Source,
    total: Option<u64>,
    buffer: Vec<u8>,
    /// The unread part of `buffer`.
    start: usize,
    end: usize,
    /// The source has no more bytes.
    ended: bool,
    /// Lines taken from the buffer so far, blank ones included.
    taken: u64,
    /// `start` and `taken` before the last line, to go back by one.
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

    pub(crate) fn lines(self) -> Lines {
        let gzip = self.magic.starts_with(&[0x1f, 0x8b]);
        let counted = Counted { inner: Cursor::new(self.magic).chain(self.file), bytes: 0 };
        let source = if gzip {
            Source::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, counted))))
        } else {
            Source::Plain(counted)
        };
        Lines {
            path: self.path,
            source,
            total: self.total,
            buffer: vec![0; FIRST_BUFFER],
            start: 0,
            end: 0,
            ended: false,
            taken: 0,
            before: (0, 0),
        }
    }
}

impl Lines {
    /// The next line that isn't blank, without its line end, and its 1-based number; `None` at the end.
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

    /// Bytes read from the file, compressed if it is; up to a buffer ahead of the lines.
    pub(crate) fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Plain(counted) => counted.bytes,
            Source::Gzip(decoder) => decoder.get_ref().get_ref().bytes,
        }
    }

    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total
    }

    /// Takes one line, blank or not, and returns where it stands in the buffer.
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
            // At most one line is unread here, so this stays below twice the longest line.
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
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match (&self.source, error.kind()) {
            (Source::Gzip(_), UnexpectedEof) => DataError::Corrupt {
                path: self.path.clone(),
                problem: format!("gzip stream is truncated after line {}", self.taken),
            },
            (Source::Gzip(_), InvalidData | InvalidInput) => DataError::Corrupt {
                path: self.path.clone(),
                problem: format!("gzip stream is invalid after line {}: {error}", self.taken),
            },
            _ => DataError::io(&self.path, "read", error),
        }
    }
}

enum Source {
    Plain(Counted),
    Gzip(Box<MultiGzDecoder<BufReader<Counted>>>),
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
            Source::Gzip(decoder) => decoder.read(buffer),
        }
    }
}
