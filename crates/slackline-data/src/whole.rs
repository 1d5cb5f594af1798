//! Outputs that appear under their name when they are whole, and the folder in which they grow until then.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file that is written whole or not at all.
///
/// Its bytes are in [`.NAME.partial/content`](PartialFolder) until [`finish`](Self::finish) syncs them to the disk and gives
/// them their name; what stood there is replaced, and a link stays a link. Dropped before that, it leaves nothing behind unless
/// it was [kept](Self::keep). A killed process leaves the folder, which the next that writes the same file takes over. While
/// one process writes the file, others are refused. A pipe or a device is written to directly.
///
/// It is unbuffered.
#[derive(Debug)]
pub struct WholeFile {
    /// Without links.
    path: PathBuf,
    file: File,
    /// `None` for a pipe or a device, and once it is finished.
    folder: Option<PartialFolder>,
    kept: bool,
}

/// What writers of files put into the folder.
const OF_FILES: [&str; 2] = [WholeFile::CONTENT, WholeFile::TERMS];

impl WholeFile {
    /// The file in the folder that becomes this one.
    pub const CONTENT: &str = "content";

    /// A file in the folder that is there for who [keeps](Self::keep) the content: what a later run compares before it goes on.
    pub const TERMS: &str = "terms";

    /// Begins a file. What an earlier process has left of it is thrown away.
    ///
    /// # Errors
    ///
    /// Those of [`PartialFolder::lock`] and of the file system; if there is a folder at `path`.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::begin(path.as_ref(), |folder| folder.clear(&OF_FILES))
    }

    /// Opens what an earlier process has kept, if there is anything; read it through [`file`](Self::file).
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    pub fn reopen(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut whole = Self::begin(path.as_ref(), |folder| folder.refuse_others(&OF_FILES))?;
        whole.kept = true;
        Ok(whole)
    }

    fn begin(path: &Path, prepare: impl FnOnce(&PartialFolder) -> io::Result<()>) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.is_dir() {
            return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder"));
        }
        if is_direct(&path) {
            let file = File::options().write(true).open(&path)?;
            return Ok(WholeFile { path, file, folder: None, kept: false });
        }
        let folder = PartialFolder::lock(&path)?;
        let content = folder.path().join(Self::CONTENT);
        let opened = prepare(&folder).and_then(|()| {
            // Open for reading, too: who goes on with a file reads it first.
            File::options().read(true).write(true).create(true).truncate(false).open(content)
        });
        match opened {
            Ok(file) => Ok(WholeFile { path, file, folder: Some(folder), kept: false }),
            Err(error) => {
                folder.remove_if_empty();
                Err(error)
            }
        }
    }

    /// Checks that the file can be written, without changing anything.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    pub fn check(path: impl AsRef<Path>) -> io::Result<()> {
        let path = fs::canonicalize(path.as_ref()).unwrap_or_else(|_| path.as_ref().to_owned());
        // Opening a pipe would wait for its reader, and closing it would end the reader.
        if is_direct(&path) {
            return Ok(());
        }
        let whole = Self::reopen(&path)?;
        if whole.file.metadata()?.len() == 0 && !whole.terms().is_some_and(|terms| terms.exists()) {
            let _ = whole.folder.as_ref().map(|folder| folder.discard(&OF_FILES));
        }
        Ok(())
    }

    /// The bytes so far, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the [terms](Self::TERMS) are; `None` for a pipe or a device.
    pub fn terms(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join(Self::TERMS))
    }

    /// The folder of unfinished work; `None` for a pipe or a device.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(PartialFolder::path)
    }

    /// Leaves what is written in the folder, for [`reopen`](Self::reopen), or not, if this is dropped before it is finished.
    pub fn keep(&mut self, keep: bool) {
        self.kept = keep;
    }

    /// Brings what was written to the disk, so that hardly anything is left that can fail, and gives it no name yet.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn settle(&self) -> io::Result<()> {
        if self.folder.is_some() { self.file.sync_all() } else { Ok(()) }
    }

    /// Syncs the file to the disk and gives it its name.
    ///
    /// # Errors
    ///
    /// Those of the file system: then what stood under the name still does.
    pub fn finish(mut self) -> io::Result<()> {
        self.settle()?;
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::rename(folder.path().join(Self::CONTENT), &self.path)?;
        // It has its name: what may be left of the folder harms nobody.
        let _ = folder.discard(&OF_FILES);
        self.folder = None;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && !self.kept
        {
            // Nobody is left who could be told; the next writer takes it over.
            let _ = folder.discard(&OF_FILES);
        }
    }
}

/// The folder `.NAME.partial` beside an output `NAME`, locked: everything that is not whole yet is in it, so that a process
/// that is killed leaves this one name, which the next writer of the output takes over.
#[derive(Debug)]
pub struct PartialFolder {
    path: PathBuf,
    _lock: File,
}

impl PartialFolder {
    /// The path of the folder.
    pub fn beside(out: &Path) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(out.file_name().unwrap_or_default());
        name.push(".partial");
        out.with_file_name(name)
    }

    /// Creates the folder if needed, and locks it (`flock`) until this is dropped or the process ends.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](ErrorKind::WouldBlock) if another process has locked it, [`NotADirectory`](ErrorKind::NotADirectory) if
    /// there is something else under its name, those of the file system.
    pub fn lock(out: &Path) -> io::Result<Self> {
        if out.file_name().is_none() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the path does not end in a name"));
        }
        let parent = folder_of(out);
        if !parent.is_dir() {
            let why = format!("there is no folder {}", parent.display());
            return Err(io::Error::new(ErrorKind::NotFound, why));
        }
        let path = Self::beside(out);
        loop {
            match fs::create_dir(&path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let opened = match File::open(&path) {
                // Another process has removed it since.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            if !opened.metadata()?.is_dir() {
                let why = format!("{} is in the way: it is not a folder; remove it", path.display());
                return Err(io::Error::new(ErrorKind::NotADirectory, why));
            }
            match opened.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let why = format!("another run is writing it: {} is locked", path.display());
                    return Err(io::Error::new(ErrorKind::WouldBlock, why));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Between opening and locking, another process may have removed it, and a third one may have created it again.
            let held = opened.metadata()?;
            if fs::symlink_metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
                return Ok(PartialFolder { path, _lock: opened });
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a folder that holds anything but `ours`: what another command has left is not ours to throw away.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) with the name that was found; those of the file system.
    pub fn refuse_others(&self, ours: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !ours.iter().any(|own| name == **own) {
                let folder = self.path.display();
                let why =
                    format!("{folder} holds {name:?}, which another command left; finish that, or remove the folder");
                return Err(io::Error::new(ErrorKind::AlreadyExists, why));
            }
        }
        Ok(())
    }

    /// Removes `ours` from the folder, in this order.
    ///
    /// # Errors
    ///
    /// Those of [`refuse_others`](Self::refuse_others); then nothing is removed.
    pub fn clear(&self, ours: &[&str]) -> io::Result<()> {
        self.refuse_others(ours)?;
        for name in ours {
            let path = self.path.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// [Clears](Self::clear) the folder and removes it; the lock is held until this is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`clear`](Self::clear).
    pub fn discard(&self, ours: &[&str]) -> io::Result<()> {
        self.clear(ours)?;
        fs::remove_dir(&self.path)
    }

    fn remove_if_empty(&self) {
        // Fails if it is not empty.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Whether this is a pipe or a device.
fn is_direct(path: &Path) -> bool {
    let is_special = |kind: fs::FileType| kind.is_fifo() || kind.is_char_device() || kind.is_block_device();
    fs::metadata(path).is_ok_and(|metadata| is_special(metadata.file_type()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
