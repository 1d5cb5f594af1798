//! Paths that are given as model directories and are something else.

use std::fs;
use std::path::Path;

use super::format::{CONFIG_FILE, INDEX_FILE};
use crate::{DlrmError, Result};

/// Refuses what is not a model directory, saying what it is. A directory with both JSON files passes, and a path that does not
/// exist, which opening it finds.
pub(super) fn check(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let refused = |what: String, advice: String| Err(DlrmError::NotAModel { path: path.to_owned(), what, advice });
    let made = "`slackline import` makes one of a checkpoint, `slackline init` one with random weights";
    if !metadata.is_dir() {
        let folder = path.parent().filter(|folder| is_model(folder));
        let (what, advice) = kind(path).unwrap_or_else(|| ("a file".to_owned(), made.to_owned()));
        return refused(what, folder.map_or(advice, |folder| format!("name the directory, {}", folder.display())));
    }
    if is_model(path) {
        return Ok(());
    }
    let (config, index) = (has(path, CONFIG_FILE), has(path, INDEX_FILE));
    match (config, index) {
        (true, _) => refused(
            format!("a directory with {CONFIG_FILE}, but without {}", path.join(INDEX_FILE).display()),
            made.to_owned(),
        ),
        (_, true) => {
            let index = path.join(INDEX_FILE);
            let advice =
                format!("`slackline import {} --config CONFIG.json --output DIR` makes one of it", index.display());
            refused(format!("a directory with {INDEX_FILE}, but without {}", path.join(CONFIG_FILE).display()), advice)
        }
        _ => match kind(path) {
            Some((what, advice)) => refused(what, advice),
            None => refused(format!("a directory without {CONFIG_FILE} and {INDEX_FILE}"), made.to_owned()),
        },
    }
}

fn is_model(folder: &Path) -> bool {
    has(folder, CONFIG_FILE) && has(folder, INDEX_FILE)
}

/// Whether there is a file of that name, or a link to anywhere.
fn has(folder: &Path, name: &str) -> bool {
    fs::symlink_metadata(folder.join(name)).is_ok()
}

/// What is at a path, if it is known to be something else, and what to do.
#[cfg(feature = "import")]
fn kind(path: &Path) -> Option<(String, String)> {
    use slackline_checkpoint::{CheckpointError, Format};

    match Format::of(path) {
        Ok(Format::SafetensorsIndex) if !path.to_string_lossy().ends_with(".index.json") => None,
        Ok(format) => {
            let from = path.display();
            let advice =
                format!("`slackline import {from} --config CONFIG.json --output DIR` makes a model directory of it");
            Some((format!("a checkpoint ({format})"), advice))
        }
        Err(CheckpointError::Foreign { kind, advice, .. }) => {
            let advice = format!("`slackline import` makes one of a checkpoint ({advice})");
            Some((kind.to_owned(), advice))
        }
        Err(_) => None,
    }
}

#[cfg(not(feature = "import"))]
fn kind(_path: &Path) -> Option<(String, String)> {
    None
}
