//! Checkpoints that are directories: which kind one is, and what this build can open.

use std::path::{Path, PathBuf};

use crate::source::Source;
use crate::tensor::Found;
use crate::{CheckpointError, foreign};

/// The manifest of a torchsnapshot.
const MANIFEST: &str = ".snapshot_metadata";

/// The manifest, if the path is that of a torchsnapshot: the directory, or the manifest itself.
pub(crate) fn manifest_of(path: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    if path.file_name().is_some_and(|name| name == MANIFEST) {
        return Ok(Some(path.to_owned()));
    }
    if !path.is_dir() {
        return Ok(None);
    }
    let manifest = path.join(MANIFEST);
    if manifest.is_file() {
        return Ok(Some(manifest));
    }
    if let Some(kind) = foreign::of_directory(path) {
        return Err(kind.refused(path));
    }
    let file = path.to_owned();
    Err(CheckpointError::UnknownFormat { file })
}

/// Opens a torchsnapshot: its files, and its tensors, which refer to them by number.
pub(crate) fn open_snapshot(manifest: &Source) -> Result<(Vec<Source>, Found), CheckpointError> {
    #[cfg(feature = "torchsnapshot")]
    {
        crate::snapshot::open(manifest)
    }
    #[cfg(not(feature = "torchsnapshot"))]
    {
        Err(CheckpointError::MissingFeature { file: manifest.path().to_owned(), feature: "torchsnapshot" })
    }
}
