//! Unfinished files of a conversion, and how far they are.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::planned::{PlannedFile, WrittenFile};
use crate::{DataError, PartialFolder, WholeFile};

/// The files of a conversion that is under way, each in the folder of unfinished work beside its name.
pub(crate) struct Partial {
    pub(crate) files: Vec<WrittenFile>,
    pub(crate) journal: Journal,
    /// Samples that an earlier attempt has brought to the disk.
    pub(crate) done: u64,
    folders: Vec<PartialFolder>,
}

/// Where the progress is kept, in the first file's folder: the number of samples, and what is converted.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

const JOURNAL: &str = "journal";

/// What a conversion puts into a folder.
const OURS: [&str; 2] = [WholeFile::CONTENT, JOURNAL];

impl Partial {
    /// Takes over what an earlier attempt at the same conversion left, or starts afresh.
    pub(crate) fn begin(planned: Vec<PlannedFile>, identity: &str) -> Result<Partial, DataError> {
        let (mut files, mut folders) = (Vec::with_capacity(planned.len()), Vec::with_capacity(planned.len()));
        for planned in planned {
            let failed = |e| DataError::io(&planned.path, "write", e);
            let folder = PartialFolder::lock(&planned.path).map_err(failed)?;
            folder.refuse_others(&OURS).map_err(failed)?;
            let content = folder.path().join(WholeFile::CONTENT);
            let file = open(&content)?;
            folders.push(folder);
            files.push(planned.place(content, file));
        }
        let path = folders.first().expect("a conversion writes a file").path().join(JOURNAL);
        let mut journal = Journal { file: open(&path)?, path };
        let whole = |file: &WrittenFile| fs::metadata(&file.partial).is_ok_and(|found| found.len() >= file.length);
        let done = if files.iter().all(whole) { journal.read(identity) } else { None };
        if done.is_none() {
            journal.file.set_len(0).map_err(|e| DataError::io(&journal.path, "write", e))?;
            for file in &files {
                file.begin()?;
                file.sync()?;
            }
            journal.start(identity)?;
        }
        Ok(Partial { files, journal, done: done.unwrap_or(0), folders })
    }

    /// Completes all files, and gives them their names.
    pub(crate) fn finish(self) -> Result<(), DataError> {
        self.files.iter().try_for_each(WrittenFile::complete)?;
        // The one with the journal last: while it has its other name, the conversion is not done.
        for (file, folder) in self.files.iter().zip(&self.folders).rev() {
            fs::rename(&file.partial, &file.path).map_err(|e| DataError::io(&file.path, "write", e))?;
            // It has its name: what may be left of the folder harms nobody.
            let _ = folder.discard(&OURS);
        }
        let parent = self.files[0].path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|e| DataError::io(parent, "write", e))
    }
}

impl Journal {
    /// Records how far the files are, which have been synced.
    pub(crate) fn keep(&mut self, samples: u64) -> Result<(), DataError> {
        self.put(&samples.to_le_bytes())
    }

    fn start(&mut self, identity: &str) -> Result<(), DataError> {
        self.put(&[&0u64.to_le_bytes(), identity.as_bytes()].concat())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let written = self.file.write_all_at(bytes, 0);
        written.and_then(|()| self.file.sync_data()).map_err(|e| DataError::io(&self.path, "write", e))
    }

    /// The samples of the same conversion that are on the disk.
    fn read(&self, identity: &str) -> Option<u64> {
        let length = size_of::<u64>() + identity.len();
        if self.file.metadata().ok()?.len() != length as u64 {
            return None;
        }
        let mut found = vec![0; length];
        self.file.read_exact_at(&mut found, 0).ok()?;
        let (samples, found) = found.split_first_chunk()?;
        (found == identity.as_bytes()).then_some(u64::from_le_bytes(*samples))
    }
}

fn open(path: &Path) -> Result<File, DataError> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|e| DataError::io(path, "write", e))
}
