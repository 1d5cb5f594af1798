//! Finding and opening files of a model directory. They are untrusted: a name may be a link to somewhere else, a pipe that
//! nobody writes to, or larger than memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Map, Value};

use crate::{DirectoryDefect, DlrmError, Printable, Result};

/// The largest JSON file that is read. An index has about 80 bytes a tensor.
pub(super) const MAX_JSON: u64 = 64 << 20;

/// A directory: the path given, and the same path without links.
#[derive(Debug)]
pub(super) struct Root<'a> {
    path: &'a Path,
    real: PathBuf,
}

/// A regular file of the directory.
#[derive(Debug)]
pub(super) struct Found {
    /// The path for error messages.
    pub(super) path: PathBuf,
    /// The path without links.
    real: PathBuf,
    /// Its bytes.
    pub(super) length: u64,
}

impl<'a> Root<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self> {
        let real = fs::canonicalize(path).map_err(DlrmError::io(path, "open"))?;
        Ok(Root { path, real })
    }

    /// Finds a regular file of the directory by its plain name.
    pub(super) fn find(&self, name: &str) -> Result<Found> {
        let path = self.path.join(name);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DlrmError::corrupt(&path, DirectoryDefect::Missing));
            }
            Err(error) => return Err(DlrmError::io(&path, "open")(error)),
        };
        if !real.starts_with(&self.real) {
            return Err(DlrmError::corrupt(&path, DirectoryDefect::Escapes { target: real }));
        }
        let metadata = fs::metadata(&real).map_err(DlrmError::io(&path, "open"))?;
        if !metadata.is_file() {
            return Err(DlrmError::corrupt(&path, DirectoryDefect::NotAFile));
        }
        Ok(Found { path, real, length: metadata.len() })
    }

    /// Reads a JSON object from the file of that name.
    pub(super) fn read_json(&self, name: &str) -> Result<Map<String, Value>> {
        let found = self.find(name)?;
        let path = &found.path;
        let too_large = |found| Err(DlrmError::corrupt(path, DirectoryDefect::TooLarge { found, most: MAX_JSON }));
        let (file, length) = found.open()?;
        if length > MAX_JSON {
            return too_large(length);
        }
        let mut text = Vec::new();
        // The file may have grown since.
        let read = file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(DlrmError::io(path, "read"))? as u64;
        if read > MAX_JSON {
            return too_large(read);
        }
        let wrong = |why: String| DlrmError::corrupt(path, DirectoryDefect::Syntax { why });
        let text = slackline_data::utf8(&text).map_err(|what| wrong(what.to_owned()))?;
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))
    }
}

impl Found {
    /// Opens the file and returns its length. If it was replaced since it was found, a link is not followed, and a pipe is
    /// refused instead of waited for.
    pub(super) fn open(&self) -> Result<(File, u64)> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&self.real);
        let file = file.map_err(DlrmError::io(&self.path, "open"))?;
        let metadata = file.metadata().map_err(DlrmError::io(&self.path, "open"))?;
        if !metadata.is_file() {
            return Err(DlrmError::corrupt(&self.path, DirectoryDefect::NotAFile));
        }
        Ok((file, metadata.len()))
    }
}

/// Checks that a name in the index is a plain file name.
pub(super) fn check_name(index: &Path, tensor: &str, name: &str) -> Result<()> {
    // On the text: `Path` would quietly accept "./file" and "file/".
    let is_odd = name.contains(['/', '\\', '\0']) || name.contains(Printable::is_unprintable);
    if name.is_empty() || name == "." || name == ".." || is_odd {
        let defect = DirectoryDefect::FileName { tensor: tensor.to_owned(), name: name.to_owned() };
        return Err(DlrmError::corrupt(index, defect));
    }
    Ok(())
}
