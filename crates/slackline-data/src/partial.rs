//! Unfinished files of a conversion, and how far they are.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::planned::{PlannedFile, WrittenFile};
use crate::{DataError, PartialFolder};

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) samples: u64,
}

/// The files of a conversion that is under way.
pub(crate) struct Partial {
    pub(crate) files: Vec<WrittenFile>,
    pub(crate) journal: Journal,
    /// Samples that an earlier attempt has brought to the disk.
    pub(crate) done: u64,
}

/// Where the progress is kept: behind the end of the first file, until the file is whole. It is the number of samples, the
/// length of the identity, and the identity.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    at: u64,
}

/// Longer identities are no conversion's.
const MOST_IDENTITY: u64 = 1 << 20;

impl Partial {
    /// Takes over what an earlier attempt at the same conversion left, or starts afresh.
    pub(crate) fn begin(planned: Vec<PlannedFile>, identity: &str) -> Result<Partial, DataError> {
        let mut files = Vec::with_capacity(planned.len());
        let mut journal = None;
        for planned in planned {
            let partial = PartialFolder::beside(&planned.path);
            if partial.is_dir() {
                let (path, partial) = (planned.path.display(), partial.display());
                let problem = format!("{path}: another command left {partial}; finish that, or remove the folder");
                return Err(DataError::Request { problem });
            }
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial);
            let file = open.map_err(|e| DataError::io(&planned.path, "write", e))?;
            lock(&file, &planned.path)?;
            if journal.is_none() {
                journal = Some(file.try_clone().map_err(|e| DataError::io(&partial, "open", e))?);
            }
            files.push(planned.place(partial, file));
        }
        let first = files.first().expect("a conversion writes a file");
        let file = journal.expect("of the first file");
        let mut journal = Journal { file, path: first.partial.clone(), at: first.length };
        let whole = |file: &WrittenFile| fs::metadata(&file.partial).is_ok_and(|found| found.len() >= file.length);
        let done = if files.iter().all(whole) { journal.read(identity) } else { None };
        if done.is_none() {
            for (number, file) in files.iter().enumerate() {
                let length = if number == 0 { 0 } else { file.length };
                let opened = OpenOptions::new().write(true).open(&file.partial);
                let emptied = opened.and_then(|opened| opened.set_len(0).and_then(|()| opened.set_len(length)));
                emptied.map_err(|e| DataError::io(&file.partial, "write", e))?;
                file.begin()?;
                file.sync()?;
            }
            journal.start(identity)?;
        }
        Ok(Partial { files, journal, done: done.unwrap_or(0) })
    }

    /// Completes all files, and gives them their names.
    pub(crate) fn finish(files: Vec<WrittenFile>, journal: Journal) -> Result<(), DataError> {
        files.iter().try_for_each(WrittenFile::complete)?;
        // The one with the journal last: while it has its other name, the conversion is not done.
        for file in files.iter().rev() {
            fs::rename(&file.partial, &file.path).map_err(|e| DataError::io(&file.path, "write", e))?;
        }
        drop(journal);
        let folder = files[0].path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| DataError::io(folder, "write", e))
    }
}

impl Journal {
    /// Records how far the files are, which have been synced.
    pub(crate) fn keep(&mut self, progress: Progress) -> Result<(), DataError> {
        let written = self.file.write_all_at(&progress.samples.to_le_bytes(), self.at);
        written.and_then(|()| self.file.sync_data()).map_err(|e| DataError::io(&self.path, "write", e))
    }

    fn start(&mut self, identity: &str) -> Result<(), DataError> {
        let bytes = [&0u64.to_le_bytes(), &(identity.len() as u64).to_le_bytes(), identity.as_bytes()].concat();
        let written = self.file.write_all_at(&bytes, self.at);
        written.and_then(|()| self.file.sync_data()).map_err(|e| DataError::io(&self.path, "write", e))
    }

    /// The samples of the same conversion that are on the disk.
    fn read(&self, identity: &str) -> Option<u64> {
        let mut head = [0; 16];
        self.file.read_exact_at(&mut head, self.at).ok()?;
        let [samples, length] =
            [&head[..8], &head[8..]].map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        if length > MOST_IDENTITY {
            return None;
        }
        let mut found = vec![0; length as usize];
        self.file.read_exact_at(&mut found, self.at + 16).ok()?;
        (found == identity.as_bytes()).then_some(samples)
    }
}

fn lock(file: &File, path: &Path) -> Result<(), DataError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let problem = format!("{}: another conversion is writing it", path.display());
            Err(DataError::Request { problem })
        }
        Err(TryLockError::Error(error)) => Err(DataError::io(path, "lock", error)),
    }
}
