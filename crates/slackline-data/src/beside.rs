//! The files of a day: dense features, categories and labels that lie beside each other.

use std::path::{Path, PathBuf};

use crate::DataError;
use crate::array::Array;
use crate::npz::NpzFile;

/// What a file of a day holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Dense,
    Sparse,
    Labels,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Dense => "dense",
            Role::Sparse => "sparse",
            Role::Labels => "labels",
        }
    }

    /// The option that names the file.
    fn option(self) -> &'static str {
        match self {
            Role::Dense => "--dense-file",
            Role::Sparse => "--input",
            Role::Labels => "--labels-file",
        }
    }
}

/// The file of a role beside another file of the same day: the one given, or the first that is there of the names
/// that are usual.
pub(crate) fn find(file: &Path, role: Role, given: Option<&Path>) -> Option<PathBuf> {
    match given {
        Some(given) => Some(given.to_owned()),
        None => candidates(file, role).into_iter().find(|candidate| candidate.is_file()),
    }
}

/// The name that the file of a role usually has.
pub(crate) fn usual(file: &Path, role: Role) -> PathBuf {
    candidates(file, role).swap_remove(0)
}

/// The same of a file that must be there.
pub(crate) fn required(file: &Path, role: Role, given: Option<&Path>) -> Result<PathBuf, DataError> {
    find(file, role, given).ok_or_else(|| {
        let names = candidates(file, role);
        let names = names.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let names = names.collect::<Vec<_>>().join(", ");
        let word = role.word();
        let kind = if role == Role::Dense { "multi-hot or npy input" } else { "npy input" };
        let option = role.option();
        let problem =
            format!("{kind}, but no file of the {word} features beside it (looked for {names}); name it with {option}");
        DataError::Request { problem: format!("{}: {problem}", file.display()) }
    })
}

/// The file of the categories, given any file of a day. `alone`: whether the given file may have any name.
pub(crate) fn sparse(file: &Path, alone: bool) -> Result<PathBuf, DataError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if name.contains(Role::Sparse.word()) || alone {
        return Ok(file.to_owned());
    }
    if name.contains(Role::Dense.word()) || name.contains(Role::Labels.word()) {
        return required(file, Role::Sparse, None);
    }
    let problem = "an array of a day, whose name must say which one it is (day_0_sparse.npy, day_0_dense.npy or \
                   day_0_labels.npy), or the dense features must be named with --dense-file";
    Err(DataError::Request { problem: format!("{}: {problem}", file.display()) })
}

/// The array in a file: a `.npy` file, or an archive of a single array or one named after the role.
pub(crate) fn array(file: &Path, role: Role) -> Result<Array, DataError> {
    if !crate::lines::Opened::open(file)?.is_zip() {
        return Array::open(file);
    }
    let mut archive = NpzFile::open(file)?;
    match &archive.names()[..] {
        [only] => archive.array(only),
        names => {
            let words = [role.word(), role.word().trim_end_matches('s')];
            let name = words.into_iter().find(|word| names.iter().any(|name| name == word));
            archive.array(name.unwrap_or(role.word()))
        }
    }
}

fn candidates(file: &Path, role: Role) -> Vec<PathBuf> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let mut stems = Vec::new();
    for word in ["sparse_multi_hot", "sparse", "dense", "labels"] {
        if let Some(at) = stem.rfind(word) {
            stems.push(format!("{}{}{}", &stem[..at], role.word(), &stem[at + word.len()..]));
            // Preprocessing of the categories alone adds to their name: day_0_sparse_contig_freq.npy.
            stems.push(format!("{}{}", &stem[..at], role.word()));
            break;
        }
    }
    stems.push(format!("{stem}_{}", role.word()));
    stems.dedup();
    let names = stems.iter().flat_map(|stem| ["npy", "npz"].map(|ending| format!("{stem}.{ending}")));
    names.map(|name| file.with_file_name(name)).filter(|candidate| candidate != file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_day() {
        let names = |file: &str, role| {
            let found = candidates(Path::new(file), role);
            found.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let found = names("a/day_23_sparse_multi_hot.npz", Role::Dense);
        assert_eq!(found[0], "a/day_23_dense.npy");
        assert_eq!(names("day_0_dense.npy", Role::Sparse)[0], "day_0_sparse.npy");
        assert!(names("day_0_sparse_contig_freq.npy", Role::Labels).contains(&"day_0_labels.npy".to_owned()));
        assert_eq!(names("day.npz", Role::Labels), ["day_labels.npy", "day_labels.npz"]);
    }
}
