//! The records of a text, gzipped or not, in bounded memory.

use std::fs::File;
#[cfg(feature = "gzip")]
use std::io::BufReader;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use crate::DataError;
#[cfg(feature = "gzip")]
use crate::gzip::Members;
use crate::quotes::Quotes;
use crate::utf8::{UTF_16, utf8};

/// The longest line that is read, in bytes; of a row whose quoted fields have line ends, all its lines together. A row of a hundred columns has about a thousand.
pub const MAX_LINE: usize = 1 << 20;

const FIRST_BUFFER: usize = 256 << 10;
const MAGIC_BYTES: usize = 6;
/// Where NUL bytes are looked for, which no text has.
const TEXT_BYTES: usize = 64;

/// A file whose first bytes have been read, once: pipes cannot be read again.
pub(crate) struct Opened {
    path: PathBuf,
    file: File,
    magic: Vec<u8>,
    total: Option<u64>,
}

/// The lines of a text that are not blank. Once a [separator](Lines::separated_by) is known, a quoted field may have line ends.
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
    /// Whether the start was looked at for a byte order mark.
    begun: bool,
    separator: Option<u8>,
    /// Lines taken from the buffer so far, blank ones included.
    taken: u64,
    /// `start` and `taken` before the last record, for [`peek`](Lines::peek).
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

    /// Whether this is the reference DLRM's binary, whose first number is a label: 0 or 1 as a little-endian `int32`. No text
    /// begins so.
    pub(crate) fn is_binary(&self) -> bool {
        matches!(self.magic[..], [0 | 1, 0, 0, 0, ..])
    }

    pub(crate) fn is_npy(&self) -> bool {
        is_npy(&self.magic)
    }

    pub(crate) fn is_zip(&self) -> bool {
        is_zip(&self.magic)
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
            begun: false,
            separator: None,
            taken: 0,
            before: (0, 0),
        })
    }
}

impl Lines {
    /// Lets quoted fields have line ends: a record then ends with the line in which its last quoted field is closed.
    pub(crate) fn separated_by(&mut self, separator: u8) {
        self.separator = Some(separator);
    }

    /// The next record that is not blank, without its line end, and the number of its first line, from 1; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>, DataError> {
        if !self.begun {
            self.begin()?;
        }
        let (from, to) = loop {
            let Some((from, mut to)) = self.take()? else { return Ok(None) };
            if to > from && self.buffer[to - 1] == b'\r' {
                to -= 1;
            }
            if to > from {
                break (from, to);
            }
        };
        Ok(Some((self.before.1 + 1, &self.buffer[from..to])))
    }

    /// The record that [`next`](Self::next) will return.
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
            Source::Gzip(members) => members.get_ref().get_ref().bytes,
        }
    }

    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total
    }

    /// Looks at the first bytes: a byte order mark of UTF-8 is passed over, what is no UTF-8 text is refused.
    fn begin(&mut self) -> Result<(), DataError> {
        self.begun = true;
        while self.end < TEXT_BYTES && !self.ended {
            self.refill()?;
        }
        let text = &self.buffer[..self.end];
        if text.starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
            return Ok(());
        }
        let head = &text[..text.len().min(TEXT_BYTES)];
        let problem = match utf8(head) {
            Err(UTF_16) => UTF_16,
            _ if is_zip(text) || is_npy(text) => {
                "a gzipped NumPy file, which is not read in place: decompress it first"
            }
            _ if head.contains(&0) => "bytes of 0 at the start, which no text has",
            _ => return Ok(()),
        };
        Err(DataError::UnknownFormat { path: self.path.clone(), problem: problem.to_owned() })
    }

    /// Takes one record, blank or not, and returns its range in the buffer.
    fn take(&mut self) -> Result<Option<(usize, usize)>, DataError> {
        let mut quotes = self.separator.map(Quotes::new);
        // Of the unread bytes: those without a line end, and those whose quotes were looked at.
        let (mut searched, mut seen) = (0, 0);
        let mut lines = 0;
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
            let open = quotes.as_mut().is_some_and(|quotes| quotes.open_after(&unread[seen..length]));
            if length > MAX_LINE {
                let (path, line, limit) = (self.path.clone(), self.taken + 1, MAX_LINE);
                return Err(DataError::LineTooLong { path, line, limit, quoted: open });
            }
            lines += 1;
            if open && step > length {
                (searched, seen) = (step, length);
                continue;
            }
            if open {
                let problem = "a quoted field is not closed by the end of the file";
                return Err(DataError::Quotes { path: self.path.clone(), line: self.taken + 1, problem });
            }
            self.before = (self.start, self.taken);
            let from = self.start;
            self.start += step;
            self.taken += lines;
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
                // Also where a member's checksum is wrong.
                InvalidData | InvalidInput => {
                    return corrupt(format!("gzip stream is invalid after line {}: {error}", self.taken));
                }
                _ => {}
            }
        }
        DataError::io(&self.path, "read", error)
    }
}

fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x93NUMPY")
}

enum Source {
    Plain(Counted),
    #[cfg(feature = "gzip")]
    Gzip(Box<Members<BufReader<Counted>>>),
}

#[cfg(feature = "gzip")]
fn gzip_source(counted: Counted, _: &Path) -> Result<Source, DataError> {
    Ok(Source::Gzip(Box::new(Members::new(BufReader::with_capacity(64 << 10, counted)))))
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
            Source::Gzip(members) => members.read(buffer),
        }
    }
}
