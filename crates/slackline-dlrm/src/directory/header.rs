//! The header of a safetensors file: JSON that names tensors, their types, shapes and places in the data.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A header whose tensors fill the data without gaps or overlaps.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(default, rename = "__metadata__")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Tensor>,
    #[serde(skip)]
    data_bytes: u64,
}

/// One tensor. Its shape and type account for exactly its bytes.
#[derive(Debug, Deserialize)]
pub(super) struct Tensor {
    /// The name that safetensors gives the element type.
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// Its first byte within the data, and the first one after it.
    #[serde(rename = "data_offsets")]
    pub(super) bytes: [u64; 2],
}

impl Header {
    /// Parses and checks a header; the error says what is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let mut header: Header = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut in_order: Vec<(&String, &Tensor)> = header.tensors.iter().collect();
        in_order.sort_by_key(|(_, tensor)| tensor.bytes);
        let mut next = 0;
        for (name, tensor) in in_order {
            let [begin, end] = tensor.bytes;
            if begin != next || end < begin {
                return Err(format!("tensor {name} has the bytes {begin} to {end}; the one before it ends at {next}"));
            }
            let Some(size) = size_of_dtype(&tensor.dtype) else {
                return Err(format!("tensor {name} has the unknown type {:?}", tensor.dtype));
            };
            let bytes = tensor.shape.iter().try_fold(size, |bytes, n| bytes.checked_mul(*n as u64));
            if bytes != Some(end - begin) {
                let (shape, dtype) = (&tensor.shape, &tensor.dtype);
                return Err(format!("tensor {name} has {} bytes, not those of {shape:?} {dtype}", end - begin));
            }
            next = end;
        }
        header.data_bytes = next;
        Ok(header)
    }

    /// Bytes of the data after the header.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// A tensor by its name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// A value of `__metadata__`.
    pub(super) fn metadata(&self, key: &str) -> Option<&String> {
        self.metadata.get(key)
    }
}

/// Bytes of one element.
fn size_of_dtype(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        _ => return None,
    })
}
