//! Making files and directories so that they survive a power failure, and never replacing what is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use slackline_data::PartialFolder;

use crate::{DlrmError, Result};

/// Where a directory grows until it is whole: `.NAME.partial/model` beside it, locked.
pub(super) struct Growing {
    folder: PartialFolder,
    /// What there may be in the folder.
    contents: &'static [&'static str],
}

impl Growing {
    /// The directory that grows.
    pub(super) const MODEL: &str = "model";

    /// Opens the folder, whatever is in it, and locks it.
    pub(super) fn lock(out: &Path, contents: &'static [&'static str]) -> Result<Self> {
        let path = PartialFolder::beside(out);
        match PartialFolder::lock(out) {
            Ok(folder) => Ok(Growing { folder, contents }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(DlrmError::Locked { path }),
            Err(error) => Err(DlrmError::io(&path, "create")(error)),
        }
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The directory in it.
    pub(super) fn model(&self) -> PathBuf {
        self.path().join(Self::MODEL)
    }

    /// Fails if there is anything at `out`. What an attempt has left that ended between giving the directory its name and
    /// removing the folder, which then holds no directory, is removed: no later attempt would get so far.
    pub(super) fn refuse_existing(out: &Path, contents: &'static [&'static str]) -> Result<()> {
        let refused = refuse_existing(out);
        if refused.is_err()
            && PartialFolder::beside(out).is_dir()
            && let Ok(growing) = Growing::lock(out, contents)
            && !growing.model().exists()
        {
            growing.discard();
        }
        refused
    }

    /// Removes what an earlier attempt has left, and begins the directory.
    pub(super) fn begin(&self) -> Result<PathBuf> {
        self.folder.clear(self.contents).map_err(DlrmError::io(self.path(), "begin a directory in it"))?;
        let model = self.model();
        fs::create_dir(&model).map_err(DlrmError::io(&model, "create"))?;
        Ok(model)
    }

    /// Gives the directory, of which every file is on the disk, its name.
    pub(super) fn publish(&self, out: &Path) -> Result<()> {
        sync(&self.model())?;
        rename(&self.model(), out)?;
        sync(place(out)?)
    }

    /// Removes the folder. If that fails, nothing is lost: the next attempt takes it over.
    pub(super) fn discard(&self) {
        let _ = self.folder.discard(self.contents);
    }
}

/// The parent directory of a directory to be made.
pub(super) fn place(out: &Path) -> Result<&Path> {
    if out.file_name().is_none() {
        return Err(DlrmError::io(out, "create")(io::Error::other("the path does not end in a name")));
    }
    Ok(out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Fails if there is anything at the path.
fn refuse_existing(out: &Path) -> Result<()> {
    // Not `exists`: that follows links, and a link to nowhere is something as well.
    match fs::symlink_metadata(out) {
        Ok(_) => Err(DlrmError::Exists { path: out.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DlrmError::io(out, "check whether it exists")(error)),
    }
}

/// Renames a directory, and fails if there is anything at the new name: a plain rename replaces an empty directory.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(DlrmError::Exists { path: to.to_owned() }),
        // File systems that don't know the flag.
        Err(Errno::INVAL | Errno::NOSYS) => {
            refuse_existing(to)?;
            fs::rename(from, to).map_err(DlrmError::io(to, "rename to it"))
        }
        Err(error) => Err(DlrmError::io(to, "rename to it")(error.into())),
    }
}

/// Syncs the entries of a directory to the disk.
pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(DlrmError::io(directory, "sync"))
}

/// Writes a new JSON file and syncs it to the disk.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_synced(path, &[text.as_bytes()])
}

/// Writes a new file and syncs it to the disk.
pub(super) fn write_synced(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = File::create_new(path).map_err(DlrmError::io(path, "create"))?;
    for part in parts {
        file.write_all(part).map_err(DlrmError::io(path, "write"))?;
    }
    file.sync_all().map_err(DlrmError::io(path, "sync"))
}
