//! Files that are read at positions, and a buffered walk over a part of one. No length that a file gives is trusted.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{CheckpointError, Corrupt};

/// A file, with the length that it had when it was opened.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    /// `None` for a file that is opened again for every read: there may be more of them than a process can have open.
    file: Option<File>,
    len: u64,
    modified: SystemTime,
    /// Device and inode: they tell whether a file that is opened again is still the one that was checked.
    identity: (u64, u64),
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let failed = |cause| CheckpointError::Io { file: path.to_owned(), cause };
        // Asked before opening: opening a pipe would wait for its writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            len: metadata.len(),
            modified: metadata.modified().map_err(failed)?,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// The same for a file that is not kept open.
    #[cfg_attr(not(feature = "torchsnapshot"), expect(dead_code, reason = "only a snapshot has so many files"))]
    pub(crate) fn closed(path: &Path) -> Result<Self, CheckpointError> {
        Ok(Self { file: None, ..Self::open(path)? })
    }

    pub(crate) fn modified(&self) -> SystemTime {
        self.modified
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn corrupt(&self, cause: Corrupt) -> CheckpointError {
        CheckpointError::Corrupt { file: self.path.clone(), cause }
    }

    /// Fills `into` with the bytes from `at` on.
    pub(crate) fn read(&self, at: u64, into: &mut [u8], what: &'static str) -> Result<(), CheckpointError> {
        let wanted = into.len() as u64;
        if at.checked_add(wanted).is_none_or(|end| end > self.len) {
            let missing = wanted - self.len.saturating_sub(at).min(wanted);
            return Err(self.corrupt(Corrupt::Truncated { at: self.len, missing, what }));
        }
        let again;
        let file = match &self.file {
            Some(file) => file,
            None => {
                let now = Self::open(&self.path)?;
                if (now.identity, now.len) != (self.identity, self.len) {
                    return Err(self.corrupt(Corrupt::Replaced));
                }
                again = now.file;
                again.as_ref().expect("opening keeps it open")
            }
        };
        file.read_exact_at(into, at).map_err(|cause| match cause.kind() {
            // The file has become shorter since it was opened.
            io::ErrorKind::UnexpectedEof => self.corrupt(Corrupt::Truncated { at, missing: wanted, what }),
            _ => CheckpointError::Io { file: self.path.clone(), cause },
        })
    }

    /// Like [`read`](Self::read), into an array.
    pub(crate) fn array<const N: usize>(&self, at: u64, what: &'static str) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes, what)?;
        Ok(bytes)
    }
}

/// The files of a checkpoint, by number. One file, or those that an index or a manifest names.
#[derive(Debug)]
pub(crate) struct Sources {
    opened: Source,
    named: Vec<Source>,
}

impl Sources {
    /// The file that was opened, and the files that it names, if it is an index or a manifest.
    pub(crate) fn new(opened: Source, named: Vec<Source>) -> Self {
        Self { opened, named }
    }

    pub(crate) fn opened(&self) -> &Source {
        &self.opened
    }

    /// The file of a number that the reader of a format gave.
    pub(crate) fn get(&self, number: usize) -> &Source {
        self.named.get(number).unwrap_or(&self.opened)
    }

    /// All files, the one that was opened first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.opened).chain(&self.named)
    }
}

/// Bytes that a [`Cursor`] reads at once.
const WINDOW: usize = 64 << 10;

/// A forward walk over the bytes `at .. end` of a file.
pub(crate) struct Cursor<'f> {
    source: &'f Source,
    at: u64,
    end: u64,
    window: Vec<u8>,
    used: usize,
    what: &'static str,
}

impl<'f> Cursor<'f> {
    /// A walk that ends at `end` or at the end of the file. `what` names the part in errors.
    pub(crate) fn new(source: &'f Source, at: u64, end: u64, what: &'static str) -> Self {
        Self { source, at, end: end.min(source.len), window: Vec::new(), used: 0, what }
    }

    /// Position of the next byte, from the start of the file.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    pub(crate) fn corrupt(&self, cause: Corrupt) -> CheckpointError {
        self.source.corrupt(cause)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CheckpointError> {
        if self.used == self.window.len() {
            self.need(1)?;
            self.refill()?;
        }
        let byte = self.window[self.used];
        self.used += 1;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `n` bytes; the caller has bounded `n`.
    pub(crate) fn take(&mut self, n: usize) -> Result<Vec<u8>, CheckpointError> {
        self.need(n as u64)?;
        let mut bytes = vec![0; n];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Skips `n` bytes without reading them.
    pub(crate) fn skip(&mut self, n: u64) -> Result<(), CheckpointError> {
        self.need(n)?;
        self.at += n;
        match usize::try_from(n) {
            Ok(n) if n <= self.window.len() - self.used => self.used += n,
            _ => {
                self.window.clear();
                self.used = 0;
            }
        }
        Ok(())
    }

    /// The bytes up to the next newline, which is skipped; at most `limit` of them.
    pub(crate) fn line(&mut self, limit: usize) -> Result<Vec<u8>, CheckpointError> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(line),
                byte if line.len() < limit => line.push(byte),
                _ => {
                    let (at, limit) = (self.at, limit as u64);
                    return Err(self.corrupt(Corrupt::Limit { at, what: "a line is too long", limit }));
                }
            }
        }
    }

    pub(crate) fn fill(&mut self, into: &mut [u8]) -> Result<(), CheckpointError> {
        self.need(into.len() as u64)?;
        let mut done = 0;
        while done < into.len() {
            if self.used == self.window.len() {
                self.refill()?;
            }
            let n = (into.len() - done).min(self.window.len() - self.used);
            into[done..done + n].copy_from_slice(&self.window[self.used..self.used + n]);
            self.used += n;
            self.at += n as u64;
            done += n;
        }
        Ok(())
    }

    fn need(&self, n: u64) -> Result<(), CheckpointError> {
        match n.checked_sub(self.left()) {
            None | Some(0) => Ok(()),
            Some(missing) => {
                Err(self.corrupt(Corrupt::Truncated { at: self.end.max(self.at), missing, what: self.what }))
            }
        }
    }

    /// Reads the next window; at least one byte is left.
    fn refill(&mut self) -> Result<(), CheckpointError> {
        let n = self.left().min(WINDOW as u64) as usize;
        self.window.resize(n, 0);
        self.used = 0;
        self.source.read(self.at, &mut self.window, self.what)
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.left().min(into.len() as u64) as usize;
        self.fill(&mut into[..n])?;
        Ok(n)
    }
}
