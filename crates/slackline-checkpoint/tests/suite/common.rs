//! Writers of checkpoint files, valid and invalid, byte by byte.

use std::path::{Path, PathBuf};

use slackline_checkpoint::{Checkpoint, CheckpointError};

/// A file of the folder `golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Writes `bytes` to a new file and opens it as a checkpoint.
pub(crate) fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    // The checkpoint keeps the file open when its name is removed.
    Checkpoint::open(file.path())
}

/// The message of the error of opening `bytes`.
pub(crate) fn refusal(bytes: &[u8]) -> String {
    open_bytes(bytes).expect_err("a file that must be refused").to_string()
}

/// Reads every tensor of less than 1 MiB; nothing may panic.
pub(crate) fn read_all(checkpoint: &Checkpoint) {
    for (name, info) in checkpoint.tensors() {
        if info.bytes < 1 << 20 {
            let _ = checkpoint.read_f32(name);
            let _ = checkpoint.read_bytes(name);
        }
    }
}

/// Writes pickles instruction by instruction.
#[derive(Clone, Default)]
pub(crate) struct Pickler(pub(crate) Vec<u8>);

impl Pickler {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(crate) fn int(self, value: i64) -> Self {
        self.raw(&[0x8a, 8]).raw(&value.to_le_bytes())
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Self {
        self.raw(b"c").raw(module.as_bytes()).raw(b"\n").raw(name.as_bytes()).raw(b"\n")
    }

    pub(crate) fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.raw(b"("), |p, &v| p.int(v)).raw(b"t")
    }

    /// A reference to a storage of floats; `view` is the legacy format's sixth field.
    pub(crate) fn storage(self, key: &str, elements: i64, view: Option<(i64, i64)>) -> Self {
        let p = self.raw(b"(").text("storage").global("torch", "FloatStorage").text(key).text("cpu").int(elements);
        match view {
            Some((first, len)) => p.raw(b"(").text("view").int(first).int(len).raw(b"t"),
            None => p.raw(b"N"),
        }
        .raw(b"tQ")
    }

    /// A tensor of floats in storage "0".
    pub(crate) fn tensor(self, elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"(")
            .storage("0", elements, None)
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89}tR")
    }

    pub(crate) fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

/// A pickle of `{"w": tensor}` over storage "0".
pub(crate) fn one_tensor(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    Pickler::new().raw(b"}").text("w").tensor(elements, offset, shape, strides).raw(b"s").stop()
}

/// A zip file of stored entries, as `torch.save` writes it but for alignment.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let (at, size) = (file.len() as u32, (content.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        file.extend_from_slice(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        for part in [&size[..], &size, &name_len, &[0, 0], name.as_bytes(), content] {
            file.extend_from_slice(part);
        }
        directory.extend_from_slice(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        for part in [&size[..], &size, &name_len, &[0; 12], &at.to_le_bytes(), name.as_bytes()] {
            directory.extend_from_slice(part);
        }
    }
    let (at, size, count) = (file.len() as u32, directory.len() as u32, (entries.len() as u16).to_le_bytes());
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for part in [&count[..], &count, &size.to_le_bytes(), &at.to_le_bytes(), &[0, 0]] {
        file.extend_from_slice(part);
    }
    file
}

/// A zip checkpoint of this pickle and these floats as storage "0".
pub(crate) fn torch_zip(pickle: &[u8], floats: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
    zip(&[("m/data.pkl", pickle), ("m/byteorder", b"little"), ("m/data/0", &data)])
}

/// The pickles before the model's in a legacy file.
pub(crate) fn legacy_head() -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let system = Pickler::new().raw(b"}").text("little_endian").raw(b"\x88s").stop();
    [&magic[..], &system].concat()
}

/// A legacy checkpoint of this pickle and these floats as storage `key`.
pub(crate) fn torch_legacy(pickle: &[u8], key: &str, floats: &[f32]) -> Vec<u8> {
    let keys = Pickler::new().raw(b"](").text(key).raw(b"e").stop();
    let data: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
    [&legacy_head()[..], pickle, &keys, &(floats.len() as i64).to_le_bytes(), &data].concat()
}
