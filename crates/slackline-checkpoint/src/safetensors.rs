//! Safetensors files and the index of a sharded set.
//!
//! A file is the length of its header (8 bytes), the header (JSON), and the tensors' bytes without holes. The header is
//! parsed here rather than by the `safetensors` crate: that one wants the whole file in memory, lets the last of two
//! tensors of one name win, and refuses a file for one element type that it does not know.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::{Found, Stored};
use crate::dtype::{MAX_DIMENSIONS, TensorInfo, elements};
use crate::layout::{Layout, row_major};
use crate::names::MAX_TENSORS;
use crate::source::{Cursor, Source};
use crate::{CheckpointError, Corrupt, DType};

/// Bytes of a header or an index: the limit of the format's own library.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Dimensions of all tensors of a file together.
pub(crate) const MAX_ALL_DIMENSIONS: usize = 1 << 21;
const MAX_SHARDS: usize = 4096;

/// The header's tensors by name, and what else is in it.
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
            let what = format!("its bytes {from}..{to} do not follow the tensor before it, which ends at {end}");
            return Err(source.corrupt(Corrupt::Tensor { tensor: name.clone(), what }));
        }
        end = to;
    }
    let have = source.len().saturating_sub(data);
    if have < end {
        let (wanted, what) = (end - have, "the last tensor");
        return Err(source.corrupt(Corrupt::Truncated { at: source.len(), wanted, what }));
    }
    if have > end {
        let what = format!("{} bytes follow the last tensor", have - end);
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

/// Opens all files that `index` names; they lie beside it. Tensors refer to them by number.
pub(crate) fn open_index(index: &Source) -> Result<(Vec<Source>, Found), CheckpointError> {
    if index.len() > MAX_HEADER {
        let what = "the index is too long";
        return Err(index.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_HEADER }));
    }
    let listed: Index = parse(index, 0, index.len(), IndexVisitor)?;
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
            let what = format!("file name {file:?} is not one of a file beside the index");
            return Err(index.corrupt(Corrupt::Header { what }));
        }
        let source = Source::open(&folder.join(file))?;
        let Found { tensors, .. } = open_file(&source, sources.len())?;
        let mut tensors: HashMap<String, Stored> = tensors.into_iter().collect();
        for name in names {
            match tensors.remove_entry(name) {
                Some(tensor) => found.tensors.push(tensor),
                None => {
                    let what = format!("is not in the file, though {} says so", index.path().display());
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
        let (wanted, what) = (end - source.len(), "the header");
        return Err(source.corrupt(Corrupt::Truncated { at: source.len(), wanted, what }));
    }
    let cursor = Cursor::new(source, at, end, "the header");
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(CursorReader(cursor)));
    let parsed = json.deserialize_map(visitor).and_then(|parsed| json.end().map(|()| parsed));
    parsed.map_err(|error| source.corrupt(Corrupt::Header { what: error.to_string() }))
}

pub(crate) struct CursorReader<'f>(pub(crate) Cursor<'f>);

impl Read for CursorReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.0.left().min(into.len() as u64) as usize;
        self.0.fill(&mut into[..n]).map_err(io::Error::other)?;
        Ok(n)
    }
}

struct Header {
    tensors: Vec<(String, HeaderEntry)>,
    metadata: bool,
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    #[serde(deserialize_with = "shape")]
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
            return Err(format!("shape {shape:?} of {dtype} does not take the {bytes} bytes that it has"));
        }
        let strides = row_major(&shape);
        // The size of an unknown type's elements does not matter, since they are not read.
        let layout = Layout { at: data + from, item: dtype.size().unwrap_or(1), shape: shape.clone(), strides };
        Ok(Stored::in_one(TensorInfo { dtype, shape, bytes }, number, layout, bytes))
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
                    "more than {MAX_ALL_DIMENSIONS} dimensions of all tensors together"
                )));
            }
            if tensors.len() >= MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if tensors.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
            }
            tensors.insert(name, entry);
        }
        Ok(Header { tensors: tensors.into_iter().collect(), metadata })
    }
}

/// A shape, refused while it is read once it has too many dimensions.
pub(crate) fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Shape;
    impl<'de> Visitor<'de> for Shape {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the lengths of a tensor's dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<usize>, A::Error> {
            let mut shape = Vec::new();
            while let Some(len) = items.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(A::Error::custom(format!("more than {MAX_DIMENSIONS} dimensions")));
                }
                shape.push(len);
            }
            Ok(shape)
        }
    }
    deserializer.deserialize_seq(Shape)
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
                return Err(A::Error::custom("`weight_map` is there twice"));
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
                return Err(A::Error::custom(format!("tensor `{tensor}` is there twice")));
            }
            files.insert(tensor, file);
        }
        Ok(files)
    }
}
