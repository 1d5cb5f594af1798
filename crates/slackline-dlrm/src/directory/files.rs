//! The one way in which files of a model directory are found and opened. All of them are untrusted: a name may be a link to
//! somewhere else, a pipe that nobody writes to, or larger than there is memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Map, Value};

use crate::{DirectoryDefect, DlrmError, Result};

/// The largest JSON file that is read. An index takes about 80 bytes a tensor.
pub(super) const MAX_JSON: u64 = 64 << 20;

/// A directory, by the path that it was opened by and the one without links.
#[derive(Debug)]
pub(super) struct Root<'a> {
    path: &'a Path,
    real: PathBuf,
}

/// A regular file of the directory.
#[derive(Debug)]
pub(super) struct Found {
    /// As people know it.
    pub(super) path: PathBuf,
    /// Without links.
    real: PathBuf,
    /// Its bytes.
    pub(super) length: u64,
}

impl<'a> Root<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self> {
        let real = fs::canonicalize(path).map_err(DlrmError::io(path, "opening it"))?;
        Ok(Root { path, real })
    }

    /// A file by its plain name: a regular one, which does not lead out of the directory.
    pub(super) fn find(&self, name: &str) -> Result<Found> {
        let path = self.path.join(name);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DlrmError::corrupt(&path, DirectoryDefect::Missing));
            }
            Err(error) => return Err(DlrmError::io(&path, "opening it")(error)),
        };
        if !real.starts_with(&self.real) {
            return Err(DlrmError::corrupt(&path, DirectoryDefect::Escapes { target: real }));
        }
        let metadata = fs::metadata(&real).map_err(DlrmError::io(&path, "opening it"))?;
        if !metadata.is_file() {
            return Err(DlrmError::corrupt(&path, DirectoryDefect::NotAFile));
        }
        Ok(Found { path, real, length: metadata.len() })
    }

    /// An object of JSON by its plain name.
    pub(super) fn read_json(&self, name: &str) -> Result<Map<String, Value>> {
        let found = self.find(name)?;
        let path = &found.path;
        let too_large = |found| Err(DlrmError::corrupt(path, DirectoryDefect::TooLarge { found, most: MAX_JSON }));
        let (file, length) = found.open()?;
        if length > MAX_JSON {
            return too_large(length);
        }
        let mut text = Vec::new();
        // It may have grown since.
        let read = file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(DlrmError::io(path, "reading it"))? as u64;
        if read > MAX_JSON {
            return too_large(read);
        }
        serde_json::from_slice(&text)
            .map_err(|error| DlrmError::corrupt(path, DirectoryDefect::Syntax { why: error.to_string() }))
    }
}

impl Found {
    /// The open file and its length. What was put into its place since it was found is refused as well: a link is not
    /// followed, and a pipe not waited for.
    pub(super) fn open(&self) -> Result<(File, u64)> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&self.real);
        let file = file.map_err(DlrmError::io(&self.path, "opening it"))?;
        let metadata = file.metadata().map_err(DlrmError::io(&self.path, "opening it"))?;
        if !metadata.is_file() {
            return Err(DlrmError::corrupt(&self.path, DirectoryDefect::NotAFile));
        }
        Ok((file, metadata.len()))
    }
}

/// Checks that a name of the index is a plain one.
pub(super) fn check_name(index: &Path, tensor: &str, name: &str) -> Result<()> {
    // On the text: `Path` would quietly accept "./file" and "file/".
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        let defect = DirectoryDefect::FileName { tensor: tensor.to_owned(), name: name.to_owned() };
        return Err(DlrmError::corrupt(index, defect));
    }
    Ok(())
}
