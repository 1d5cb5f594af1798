//! The file of the dense weights: an ordinary safetensors file, with the XXH3-64 of every tensor's bytes in its metadata
//! under `xxh3:<tensor>`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::write_synced;
use super::files::Found;
use super::header::Header;
use super::tensors::TensorSpec;
use crate::{DirectoryDefect, DlrmError, Result};

/// The longest header that is read. A hundred layers take some 30 KB.
const MAX_HEADER: u64 = 16 << 20;

/// Writes the tensors in the order given. Equal models give equal files: the keys of the header are sorted.
pub(super) fn write(path: &Path, tensors: &[TensorSpec], values: &[Vec<f32>]) -> Result<()> {
    let mut header = BTreeMap::new();
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut end = 0;
    for (tensor, values) in tensors.iter().zip(values) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.len() as u64 != tensor.bytes() {
            let (expected, found) = (tensor.shape.clone(), vec![values.len()]);
            let (tensor, argument) = (tensor.name.clone(), tensor.argument);
            return Err(DlrmError::TensorShape { file: path.to_owned(), tensor, expected, found, argument });
        }
        let begin = end;
        end += bytes.len();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end] });
        header.insert(tensor.name.clone(), entry);
        metadata.insert(format!("xxh3:{}", tensor.name), format!("{:016x}", xxh3_64(bytes)));
    }
    header.insert("__metadata__".to_owned(), json!(metadata));
    let mut text = serde_json::to_string(&header)?.into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = (text.len() as u64).to_le_bytes();
    let data = values.iter().map(|values| bytemuck::cast_slice(values));
    let parts: Vec<&[u8]> = [&length[..], &text[..]].into_iter().chain(data).collect();
    write_synced(path, &parts)
}

/// An open file of dense weights, whose header has been read.
#[derive(Debug)]
pub(super) struct DenseFile {
    path: PathBuf,
    file: File,
    /// Where the data begins.
    data: u64,
    header: Header,
}

impl DenseFile {
    /// Reads and checks the header.
    pub(super) fn open(found: &Found) -> Result<Self> {
        let path = found.path.as_path();
        let io = |action| DlrmError::io(path, action);
        let corrupt = |defect| DlrmError::corrupt(path, defect);
        let syntax = |why: String| corrupt(DirectoryDefect::Syntax { why });
        let (file, found) = found.open()?;
        let mut prefix = [0; 8];
        if found < 8 {
            return Err(syntax(format!("{found} bytes are too few for a safetensors file")));
        }
        file.read_exact_at(&mut prefix, 0).map_err(io("read"))?;
        let length = u64::from_le_bytes(prefix);
        if length > MAX_HEADER {
            return Err(corrupt(DirectoryDefect::TooLarge { found: length, most: MAX_HEADER }));
        }
        if length > found - 8 {
            return Err(syntax(format!("a header of {length} bytes, but only {} bytes follow", found - 8)));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, 8).map_err(io("read its header"))?;
        let header = Header::parse(&text).map_err(syntax)?;
        let data = 8 + length;
        let expected = data.saturating_add(header.data_bytes());
        if expected != found {
            return Err(syntax(format!("the file has {found} bytes, but its header describes {expected}")));
        }
        Ok(Self { path: path.to_owned(), file, data, header })
    }

    /// Checks that the tensor is there, in the shape and type that the configuration asks for.
    pub(super) fn check(&self, tensor: &TensorSpec) -> Result<()> {
        let Some(info) = self.header.tensor(&tensor.name) else {
            let (file, argument) = (self.path.clone(), tensor.argument);
            return Err(DlrmError::TensorMissing { file, tensor: tensor.name.clone(), argument, hint: String::new() });
        };
        let name = || tensor.name.clone();
        if info.shape != tensor.shape {
            return Err(DlrmError::TensorShape {
                file: self.path.clone(),
                tensor: name(),
                expected: tensor.shape.clone(),
                found: info.shape.clone(),
                argument: tensor.argument,
            });
        }
        if info.dtype != "F32" {
            let found = info.dtype.clone();
            return Err(DlrmError::corrupt(&self.path, DirectoryDefect::Type { tensor: name(), found }));
        }
        Ok(())
    }

    /// The checksum that the file gives a tensor; empty if it gives none.
    pub(super) fn checksum(&self, tensor: &str) -> &str {
        self.header.metadata(&format!("xxh3:{tensor}")).map_or("", String::as_str)
    }

    /// The tensor's values, after its checksum was checked; it has passed [`check`](Self::check).
    pub(super) fn read(&self, tensor: &TensorSpec) -> Result<Vec<f32>> {
        let [begin, _] = self.header.tensor(&tensor.name).expect("checked").bytes;
        let mut values = vec![0f32; tensor.shape.iter().product()];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        self.file.read_exact_at(bytes, self.data + begin).map_err(DlrmError::io(&self.path, "read its weights"))?;
        let found = xxh3_64(bytes);
        let expected = self.checksum(&tensor.name);
        if expected != format!("{found:016x}") {
            let expected = if expected.is_empty() { "none" } else { expected }.to_owned();
            let defect = DirectoryDefect::Checksum { tensor: tensor.name.clone(), expected, found };
            return Err(DlrmError::corrupt(&self.path, defect));
        }
        Ok(values)
    }
}
