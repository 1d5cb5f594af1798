//! Safetensors files and the index of a sharded set.
//!
//! A file is the length of its header (8 bytes), the header (JSON), and the bytes of the tensors without gaps. The crate
//! `safetensors` is not used: it needs the whole file in memory, keeps the last of two tensors of one name, and refuses a
//! file for one unknown element type.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::BufReader;
use std::path::{Component, Path};

use serde_core::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::layout::{Layout, Piece};
use crate::limits::{MAX_ALL_DIMENSIONS, MAX_HEADER, MAX_TENSORS};
use crate::shape::{Dimensions, elements, row_major};
use crate::source::{Cursor, Source};
use crate::tensor::{Found, Place, Stored, TensorInfo};
use crate::{CheckpointError, Corrupt, DType};

/// Files that an index may name.
const MAX_SHARDS: usize = 4096;

/// The tensors of a safetensors file by name, and what else its header has.
pub(crate) fn open_file(source: &Source, number: usize) -> Result<Found, CheckpointError> {
    let header_len = u64::from_le_bytes(source.array(0, "the length of the header")?);
    if header_len > MAX_HEADER {
        let what = "the header is too long";
        return Err(source.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_HEADER }));
    }
    let data = 8 + header_len;
    let header: Header = parse(source, 8, data, HeaderVisitor)?;

    let mut order: Vec<usize> = (0..header.tensors.len()).collect();
    order.sort_by_key(|&i| header.tensors[i].1.data_offsets);
    let mut end = 0;
    for &i in &order {
        let (name, entry) = &header.tensors[i];
        let [from, to] = entry.data_offsets;
        if from != end || to < from {
            let what = format!("its bytes {from}..{to} do not follow the previous tensor, which ends at {end}");
            return Err(source.corrupt(Corrupt::Tensor { tensor: name.clone(), what }));
        }
        end = to;
    }
    let have = source.len().saturating_sub(data);
    if have < end {
        let (missing, what) = (end - have, "the last tensor");
        return Err(source.corrupt(Corrupt::Truncated { at: source.len(), missing, what }));
    }
    if have > end {
        let what = format!("{} bytes after the last tensor", have - end);
        return Err(source.corrupt(Corrupt::Header { what }));
    }
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, entry) in header.tensors {
        let stored = entry.stored(data, number).map_err(|what| {
            let tensor = name.clone();
            source.corrupt(Corrupt::Tensor { tensor, what })
        })?;
        tensors.push((name, stored));
    }
    let skipped = if header.metadata { vec!["__metadata__".to_owned()] } else { Vec::new() };
    Ok(Found { tensors, skipped })
}

/// Opens all files that `index` names; they must be in its folder. Tensors refer to them by number.
pub(crate) fn open_index(index: &Source) -> Result<(Vec<Source>, Found), CheckpointError> {
    if index.len() > MAX_HEADER {
        let what = "the index is too long";
        return Err(index.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_HEADER }));
    }
    // Some editors begin a file with a byte order mark.
    let marked = index.len() >= 3 && index.array(0, "the index")? == *b"\xef\xbb\xbf";
    let listed: Index = parse(index, if marked { 3 } else { 0 }, index.len(), IndexVisitor)?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in &listed.weight_map {
        shards.entry(file).or_default().push(tensor);
    }
    if shards.len() > MAX_SHARDS {
        let what = "the index names too many files";
        return Err(index.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_SHARDS as u64 }));
    }
    let folder = index.path().parent().unwrap_or(Path::new(""));
    let (mut sources, mut found) = (Vec::new(), Found { tensors: Vec::new(), skipped: listed.other });
    for (file, names) in shards {
        let mut components = Path::new(file).components();
        if !matches!((components.next(), components.next()), (Some(Component::Normal(name)), None) if name == file) {
            let what = format!("{file:?} does not name a file in the folder of the index");
            return Err(index.corrupt(Corrupt::Header { what }));
        }
        let source = Source::open(&folder.join(file))?;
        let Found { tensors, .. } = open_file(&source, sources.len())?;
        let mut tensors: HashMap<String, Stored> = tensors.into_iter().collect();
        for name in names {
            match tensors.remove_entry(name) {
                Some(tensor) => found.tensors.push(tensor),
                None => {
                    let what = format!("not in the file, contrary to {}", index.path().display());
                    return Err(source.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what }));
                }
            }
        }
        let mut unlisted: Vec<String> =
            tensors.into_keys().map(|name| format!("{name} ({file}, not in the index)")).collect();
        unlisted.sort();
        found.skipped.append(&mut unlisted);
        sources.push(source);
    }
    Ok((sources, found))
}

fn parse<T>(
    source: &Source,
    at: u64,
    end: u64,
    visitor: impl for<'de> Visitor<'de, Value = T>,
) -> Result<T, CheckpointError> {
    if end > source.len() {
        let (missing, what) = (end - source.len(), "the header");
        return Err(source.corrupt(Corrupt::Truncated { at: source.len(), missing, what }));
    }
    let cursor = Cursor::new(source, at, end, "the header");
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(cursor));
    let parsed = json.deserialize_map(visitor).and_then(|parsed| json.end().map(|()| parsed));
    parsed.map_err(|error| source.corrupt(Corrupt::Header { what: error.to_string() }))
}

struct Header {
    tensors: Vec<(String, HeaderEntry)>,
    metadata: bool,
}

struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl HeaderEntry {
    fn stored(self, data: u64, number: usize) -> Result<Stored, String> {
        let dtype = match &*self.dtype {
            "F64" => DType::F64,
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "I64" => DType::I64,
            "I32" => DType::I32,
            "I16" => DType::I16,
            "I8" => DType::I8,
            "U64" => DType::U64,
            "U32" => DType::U32,
            "U16" => DType::U16,
            "U8" => DType::U8,
            "BOOL" => DType::Bool,
            _ => DType::Other(self.dtype),
        };
        let [from, to] = self.data_offsets;
        let (bytes, shape) = (to - from, self.shape);
        let count = elements(&shape);
        if count.is_none() {
            return Err(format!("shape {shape:?} has more elements than any machine can address"));
        }
        if let Some(size) = dtype.size()
            && count.and_then(|n| n.checked_mul(size as u64)) != Some(bytes)
        {
            return Err(format!("shape {shape:?} of {dtype} does not have {bytes} bytes"));
        }
        let strides = row_major(&shape);
        // Elements of an unknown type are not read: any size will do.
        let layout = Layout { at: data + from, item: dtype.size().unwrap_or(1), shape: shape.clone(), strides };
        let place = Place::One(Piece { source: number, layout, extent: bytes });
        Ok(Stored { info: TensorInfo { dtype, shape, bytes }, place })
    }
}

/// Read by hand: the derive macro would cost every user of this crate more time to compile than the rest of the JSON.
impl<'de> Deserialize<'de> for HeaderEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = HeaderEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with `dtype`, `shape` and `data_offsets`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderEntry, A::Error> {
                let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match &*key {
                        "dtype" => dtype.replace(map.next_value()?).is_some(),
                        "shape" => shape.replace(map.next_value::<Dimensions>()?).is_some(),
                        "data_offsets" => data_offsets.replace(map.next_value()?).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    };
                    if twice {
                        return Err(A::Error::custom(format!("`{key}` appears twice")));
                    }
                }
                let missing = A::Error::missing_field;
                Ok(HeaderEntry {
                    dtype: dtype.ok_or_else(|| missing("dtype"))?,
                    shape: shape.ok_or_else(|| missing("shape"))?.0,
                    data_offsets: data_offsets.ok_or_else(|| missing("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tensors of a safetensors file by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors: BTreeMap<String, HeaderEntry> = BTreeMap::new();
        let (mut metadata, mut dimensions) = (false, 0);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                metadata = true;
                continue;
            }
            let entry: HeaderEntry = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
            dimensions += entry.shape.len();
            if dimensions > MAX_ALL_DIMENSIONS {
                return Err(A::Error::custom(format!(
                    "more than {MAX_ALL_DIMENSIONS} dimensions in all tensors together"
                )));
            }
            if tensors.len() >= MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if tensors.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` appears twice")));
            }
            tensors.insert(name, entry);
        }
        Ok(Header { tensors: tensors.into_iter().collect(), metadata })
    }
}

struct Index {
    weight_map: BTreeMap<String, String>,
    other: Vec<String>,
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index with a `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut weight_map = None;
        let mut other = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
                if other.len() < 100 {
                    other.push(key);
                }
            } else if weight_map.replace(map.next_value_seed(WeightMap)?).is_some() {
                return Err(A::Error::custom("`weight_map` appears twice"));
            }
        }
        let weight_map = weight_map.ok_or_else(|| A::Error::custom("no `weight_map`"))?;
        Ok(Index { weight_map, other })
    }
}

struct WeightMap;

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = BTreeMap<String, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file of every tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut files = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if files.len() >= MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if files.contains_key(&tensor) {
                return Err(A::Error::custom(format!("tensor `{tensor}` appears twice")));
            }
            files.insert(tensor, file);
        }
        Ok(files)
    }
}
