//! The manifest of a snapshot: a YAML document (newer versions write JSON, which is YAML too) of one entry for each path
//! of each rank.
//!
//! The library that parses it keeps to a budget of nodes, aliases and depth; what the limits here add is the memory of
//! what is made of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::names::MAX_NAME_BYTES;
use crate::safetensors::{CursorReader, MAX_ALL_DIMENSIONS, MAX_HEADER, shape};
use crate::source::{Cursor, Source};
use crate::{CheckpointError, Corrupt};

/// Parts of all tensors together.
const MAX_PARTS: usize = 1 << 18;
/// Entries of all ranks.
const MAX_ENTRIES: usize = 1 << 19;
/// Nodes of the document. A part takes some thirty.
const MAX_NODES: usize = 12 << 20;

/// The entries by path below the rank, each with its rank.
pub(super) type Entries = BTreeMap<String, Vec<(u32, Entry)>>;

/// One entry: the fields of all types of entries, of which each has some.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) location: Option<String>,
    pub(super) serializer: Option<String>,
    pub(super) dtype: Option<String>,
    pub(super) shape: Option<Dimensions>,
    pub(super) byte_range: Option<[u64; 2]>,
    #[serde(default)]
    pub(super) replicated: bool,
    pub(super) obj_type: Option<String>,
    /// The parts of a tensor that is sharded.
    pub(super) shards: Option<Vec<Shard>>,
    /// The parts of a tensor that was only too large for one file.
    pub(super) chunks: Option<Vec<Shard>>,
}

/// A part of a tensor.
#[derive(Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) offsets: Dimensions,
    pub(super) sizes: Dimensions,
    pub(super) tensor: Tensor,
}

/// Where a tensor, or a part of one, is.
#[derive(Debug, Deserialize)]
pub(super) struct Tensor {
    pub(super) location: String,
    pub(super) serializer: String,
    pub(super) dtype: String,
    pub(super) shape: Dimensions,
    pub(super) byte_range: Option<[u64; 2]>,
    #[serde(default)]
    pub(super) replicated: bool,
}

/// Numbers along each dimension, of which there are not too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dimensions(pub(super) Vec<usize>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        shape(deserializer).map(Dimensions)
    }
}

/// Reads the manifest.
pub(super) fn read(source: &Source) -> Result<Entries, CheckpointError> {
    if source.len() > MAX_HEADER {
        let what = "the manifest is too long";
        return Err(source.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_HEADER }));
    }
    let budget = serde_saphyr::budget! {
        max_events: 2 * MAX_NODES,
        max_nodes: MAX_NODES,
        max_total_scalar_bytes: MAX_HEADER as usize,
        max_documents: 1,
        max_depth: 16,
        // torchsnapshot writes no anchors: it copies what it dumps.
        max_aliases: 0,
        max_anchors: 0,
        max_merge_keys: 0,
    };
    let options = serde_saphyr::options! { budget: budget, with_snippet: false };
    let reader = CursorReader(Cursor::new(source, 0, source.len(), "the manifest"));
    let Manifest(entries) = serde_saphyr::from_reader_with_options(reader, options).map_err(|error| {
        let what = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        source.corrupt(Corrupt::Manifest { what })
    })?;
    Ok(entries)
}

struct Manifest(Entries);

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ManifestVisitor)
    }
}

struct ManifestVisitor;

impl<'de> Visitor<'de> for ManifestVisitor {
    type Value = Manifest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a snapshot's metadata with a `manifest`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Manifest, A::Error> {
        let mut entries = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "manifest" {
                map.next_value::<IgnoredAny>()?;
            } else if entries.replace(map.next_value_seed(EntriesSeed)?).is_some() {
                return Err(A::Error::custom("`manifest` is there twice"));
            }
        }
        entries.map(Manifest).ok_or_else(|| A::Error::custom("no `manifest`"))
    }
}

struct EntriesSeed;

impl<'de> DeserializeSeed<'de> for EntriesSeed {
    type Value = Entries;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntriesSeed {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the entries of a snapshot by path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Entries::new();
        let (mut count, mut parts, mut dimensions, mut text) = (0, 0, 0, 0);
        while let Some(path) = map.next_key::<String>()? {
            let entry: Entry = map.next_value().map_err(|error| A::Error::custom(format!("`{path}`: {error}")))?;
            let shards = || entry.shards.iter().chain(&entry.chunks).flatten();
            count += 1;
            parts += shards().count();
            dimensions += entry.shape.as_ref().map_or(0, |shape| shape.0.len());
            dimensions += shards().map(|s| s.offsets.0.len() + s.sizes.0.len() + s.tensor.shape.0.len()).sum::<usize>();
            text += path.len() + entry.location.as_ref().map_or(0, String::len);
            text += shards().map(|s| s.tensor.location.len() + s.tensor.dtype.len()).sum::<usize>();
            let limits = [
                ("entries", count, MAX_ENTRIES),
                ("parts of tensors", parts, MAX_PARTS),
                ("dimensions of all parts together", dimensions, MAX_ALL_DIMENSIONS),
                ("bytes of names", text, MAX_NAME_BYTES),
            ];
            if let Some((what, _, most)) = limits.iter().find(|(_, found, most)| found > most) {
                return Err(A::Error::custom(format!("more than {most} {what}")));
            }
            let (rank, below) = path.split_once('/').unwrap_or((&path, ""));
            let Ok(rank) = rank.parse::<u32>() else {
                return Err(A::Error::custom(format!("path `{path}` does not begin with a rank")));
            };
            let of_path = entries.entry(below.to_owned()).or_default();
            if of_path.iter().any(|(other, _)| *other == rank) {
                return Err(A::Error::custom(format!("path `{path}` is there twice")));
            }
            of_path.push((rank, entry));
        }
        Ok(entries)
    }
}
