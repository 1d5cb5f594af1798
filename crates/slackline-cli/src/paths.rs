//! No command writes over what it reads.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;
use slackline_data::PartialFolder;

use crate::fail::Misuse;

/// Refuses an output that is one of the inputs, a file in one of them, or reached from there by a link, symbolic or hard; and
/// inputs in the folder in which the output grows. Inputs that don't exist are left to whoever opens them.
pub(crate) fn refuse_inputs<'p>(output: &Path, inputs: impl Iterator<Item = &'p Path>) -> Result<()> {
    let place = fs::metadata(output).ok().map(|metadata| identity(&metadata));
    // Where it grows: beside what a link leads to.
    let real = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
    let partial = fs::canonicalize(PartialFolder::beside(&real)).ok();
    for input in inputs {
        if place.is_some_and(|place| holds(input, place, &mut HashSet::new())) {
            let why = if input.is_dir() { "is part of the input" } else { "is the same file as the input" };
            return Err(Misuse(format!("{}: the output {why} {}", output.display(), input.display())).into());
        }
        if let (Some(partial), Ok(real)) = (&partial, fs::canonicalize(input))
            && real.starts_with(partial)
        {
            let (output, input, partial) = (output.display(), input.display(), partial.display());
            return Err(Misuse(format!("{output}: the input {input} is in {partial}, where the output grows")).into());
        }
    }
    Ok(())
}

/// Device and number: the same for all names of a file.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Whether a file or folder is `wanted`, or holds it.
fn holds(path: &Path, wanted: Identity, seen: &mut HashSet<Identity>) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    if identity(&metadata) == wanted {
        return true;
    }
    // A link may lead to a folder above it.
    if !metadata.is_dir() || !seen.insert(identity(&metadata)) {
        return false;
    }
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.flatten().any(|entry| holds(&entry.path(), wanted, seen))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_name_of_an_input_is_refused_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("model/deep")).unwrap();
        fs::write(path("model/deep/table"), "rows").unwrap();
        fs::write(path("rows.tsv"), "1").unwrap();
        symlink("rows.tsv", path("link.tsv")).unwrap();
        symlink("..", path("model/up")).unwrap();
        fs::hard_link(path("rows.tsv"), path("twin.tsv")).unwrap();
        fs::hard_link(path("model/deep/table"), path("twin")).unwrap();
        let inputs: [PathBuf; 3] = [path("model"), path("rows.tsv"), path("missing")];
        let refuse = |output: &str| refuse_inputs(&path(output), inputs.iter().map(PathBuf::as_path));
        for output in ["model", "model/deep", "model/deep/table", "twin", "rows.tsv", "link.tsv", "twin.tsv"] {
            let error = refuse(output).unwrap_err().to_string();
            assert!(error.contains("the output is "), "{output}: {error}");
        }
        for output in ["new.csv", "missing", "model/new.csv", "rows.tsv.csv"] {
            // A link in the model leads to the whole folder: only what is there is part of it.
            refuse(output).unwrap();
        }
        fs::create_dir(path(".out.csv.partial")).unwrap();
        fs::write(path(".out.csv.partial/content"), "1").unwrap();
        let input = [path(".out.csv.partial/content")];
        let error = refuse_inputs(&path("out.csv"), input.iter().map(PathBuf::as_path)).unwrap_err().to_string();
        assert!(error.contains("where the output grows"), "{error}");
    }
}
