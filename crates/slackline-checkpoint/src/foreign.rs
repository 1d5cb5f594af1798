//! Files and directories of other programs, told apart by content so that an error can say what to do with them.

use std::fs;
use std::path::Path;

use crate::CheckpointError;
use crate::source::Source;

/// What a file or directory is, and how its tensors can be brought into a format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    kind: &'static str,
    advice: &'static str,
}

impl Kind {
    pub(crate) fn refused(self, file: &Path) -> CheckpointError {
        CheckpointError::Foreign { file: file.to_owned(), kind: self.kind, advice: self.advice }
    }
}

const SCRIPT: Kind = Kind {
    kind: "a TorchScript archive (torch.jit.save)",
    advice: "in Python: torch.save(torch.jit.load(path).state_dict(), 'model.pt')",
};
const EXPORTED: Kind = Kind {
    kind: "an exported program (torch.export.save)",
    advice: "in Python: torch.save(torch.export.load(path).state_dict, 'model.pt')",
};
const PACKAGE: Kind = Kind {
    kind: "a package of code and data (torch.package)",
    advice: "load the model in Python and torch.save(model.state_dict(), 'model.pt')",
};
const SAVE_ARRAYS: &str = "in Python: torch.save({name: torch.from_numpy(array) for each array}, 'model.pt')";
const SAVE_STATE: &str = "load the model in Python and torch.save its state dict, with the names of the reference DLRM";

/// How the names of checkpoints end.
const CHECKPOINTS: [&str; 5] = [".pt", ".pth", ".bin", ".ckpt", ".safetensors"];

/// Zip archives that are not of `torch.save`, by the names of their entries.
pub(crate) fn of_archive<'n>(names: impl Iterator<Item = &'n str> + Clone) -> Option<Kind> {
    let below_root = |name: &'n str| name.split_once('/').map_or(name, |(_, below)| below);
    let has = |test: &dyn Fn(&str) -> bool| names.clone().any(|name| test(name) || test(below_root(name)));
    if has(&|name| name == "constants.pkl" || name.starts_with("code/")) {
        return Some(SCRIPT);
    }
    let exported = ["archive_format", "models/model.json", "serialized_exported_program.json"];
    if has(&|name| exported.contains(&name)) {
        return Some(EXPORTED);
    }
    if has(&|name| name == ".data/extern_modules") {
        return Some(PACKAGE);
    }
    if has(&|name| name == "data.pkl") {
        return None;
    }
    if has(&|name| name.starts_with("MAR-INF/")) {
        return Some(Kind { kind: "a TorchServe archive (.mar)", advice: "unpack it, and name the checkpoint in it" });
    }
    if has(&|name| CHECKPOINTS.iter().any(|end| name.ends_with(end))) {
        return Some(Kind { kind: "a zip file with a checkpoint in it", advice: "unpack it first" });
    }
    if has(&|name| name == "model.weights.h5") {
        return Some(Kind { kind: "a Keras model (.keras)", advice: SAVE_STATE });
    }
    if has(&|_| true) && names.clone().all(|name| name.ends_with(".npy")) {
        return Some(Kind { kind: "a file of NumPy arrays (.npz)", advice: SAVE_ARRAYS });
    }
    None
}

/// The first bytes of files of other kinds.
const HEADS: [(&[u8], &str, &str); 14] = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5)", SAVE_STATE),
    (b"\x93NUMPY", "a NumPy array (.npy)", SAVE_ARRAYS),
    (b"GGUF", "a GGUF file", SAVE_STATE),
    (b"\x1f\x8b", "compressed with gzip", "decompress it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first (unzstd)"),
    (b"\xfd7zXZ\0", "compressed with xz", "decompress it first (unxz)"),
    (b"BZh", "compressed with bzip2", "decompress it first (bunzip2)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"PK\x05\x06", "an empty zip file", "check the path, or save the checkpoint again"),
    (b"PAR1", "a Parquet file", "name the checkpoint, not data"),
    (b"model_checkpoint_path:", "the list of a TensorFlow checkpoint", SAVE_STATE),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the file itself", "fetch it: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
];

/// Where a tar archive says that it is one.
const TAR_AT: u64 = 257;
/// The last bytes of a LevelDB table, which the index of a TensorFlow checkpoint is.
const LEVELDB_END: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();

/// What a file is that is in no format of checkpoints.
pub(crate) fn of_file(source: &Source) -> Result<Option<Kind>, CheckpointError> {
    let part = |at: u64, most: u64| -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = vec![0; source.len().saturating_sub(at).min(most) as usize];
        source.read(at, &mut bytes, "the first bytes")?;
        Ok(bytes)
    };
    let head = part(0, 64)?;
    if let Some((_, kind, advice)) = HEADS.iter().find(|(bytes, ..)| head.starts_with(bytes)) {
        return Ok(Some(Kind { kind, advice }));
    }
    if source.len() > TAR_AT && part(TAR_AT, 5)? == b"ustar" {
        return Ok(Some(Kind { kind: "a tar archive", advice: "unpack it first, and name the checkpoint in it" }));
    }
    if part(source.len().saturating_sub(8), 8)? == LEVELDB_END {
        return Ok(Some(Kind { kind: "the index of a TensorFlow checkpoint", advice: SAVE_STATE }));
    }
    if head.get(4..8) == Some(b"TFL3") {
        return Ok(Some(Kind { kind: "a TensorFlow Lite model", advice: SAVE_STATE }));
    }
    // Protocol 2 and later begin with their number; it is no legacy file of torch.save, which the caller has looked for.
    if matches!(head[..], [0x80, 2..=5, ..]) {
        let kind = "a plain pickle, not a file of torch.save";
        return Ok(Some(Kind { kind, advice: "load it in Python and torch.save(model.state_dict(), 'model.pt')" }));
    }
    // Protocol buffers that begin with a small version: of ONNX the name of the producer follows, of TensorFlow a graph.
    Ok(match head[..] {
        [0x08, 1..=32, 0x12, 1..=64, first, ..] if first.is_ascii_alphanumeric() => {
            Some(Kind { kind: "an ONNX model", advice: SAVE_STATE })
        }
        [0x08, 1, 0x12, ..] => Some(Kind { kind: "a TensorFlow SavedModel", advice: SAVE_STATE }),
        _ => None,
    })
}

/// What a directory is that is no snapshot.
pub(crate) fn of_directory(path: &Path) -> Option<Kind> {
    let has = |name: &str| path.join(name).exists();
    if has(".metadata") {
        let advice = "in Python: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(path, 'model.pt')";
        return Some(Kind { kind: "a directory of torch.distributed.checkpoint", advice });
    }
    if has("saved_model.pb") {
        return Some(Kind { kind: "a TensorFlow SavedModel", advice: SAVE_STATE });
    }
    if has("model.safetensors.index.json") {
        let kind = "a directory of safetensors files";
        return Some(Kind { kind, advice: "name its model.safetensors.index.json" });
    }
    let mut names: Vec<String> =
        fs::read_dir(path).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    if names.is_empty() {
        return Some(Kind { kind: "an empty directory", advice: "check the path" });
    }
    names.retain(|name| !name.starts_with('.'));
    if names.iter().any(|name| name.contains(".data-0")) && names.iter().any(|name| name.ends_with(".index")) {
        return Some(Kind { kind: "a directory of a TensorFlow checkpoint", advice: SAVE_STATE });
    }
    let is_checkpoint = |name: &String| CHECKPOINTS.iter().any(|end| name.ends_with(end));
    if names.iter().any(is_checkpoint) {
        return Some(Kind { kind: "a directory with files that may be checkpoints", advice: "name one of its files" });
    }
    None
}
