//! Making files and directories so that they survive a power failure, and never replacing what is there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{DlrmError, Result};

/// The parent directory and the name of a directory to be made.
pub(super) fn place(out: &Path) -> Result<(&Path, String)> {
    let Some(name) = out.file_name() else {
        return Err(DlrmError::io(out, "create")(io::Error::other("the path does not end in a name")));
    };
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent, name.to_string_lossy().into_owned()))
}

/// Fails if there is anything at the path.
pub(super) fn refuse_existing(out: &Path) -> Result<()> {
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
