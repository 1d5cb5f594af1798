//! A file that is removed unless it gets its name.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};

/// The name `.<name>.<random>.partial` of a file. Dropping it removes the file.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Creates a file beside `path`, with the usual mode of a new file.
    pub(super) fn beside(path: &Path) -> io::Result<(File, Self)> {
        loop {
            let mut name = OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            // Each `RandomState` has other keys.
            name.push(format!(".{:016x}.partial", RandomState::new().hash_one(std::process::id())));
            let name = path.with_file_name(name);
            match File::options().read(true).write(true).create_new(true).open(&name) {
                Ok(file) => return Ok((file, Temporary(name))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the file its name; what stood under it is replaced. If that fails, the file is removed.
    pub(super) fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)?;
        self.0 = PathBuf::new();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Nobody is left who could be told.
            let _ = fs::remove_file(&self.0);
        }
    }
}
