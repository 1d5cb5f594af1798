//! The manifest of a snapshot: a document in YAML, or in JSON (which is YAML) since version 0.1.0, with one entry for each
//! path of each rank.
//!
//! The YAML reader limits values and nesting. The limits here bound the memory of what is kept.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::limits::{MAX_ALL_DIMENSIONS, MAX_HEADER, MAX_NAME_BYTES};
use crate::shape::Dimensions;
use crate::source::Source;
use crate::{CheckpointError, Corrupt, yaml};

/// Parts of all tensors together.
const MAX_PARTS: usize = 1 << 18;
/// Entries of all ranks together.
const MAX_ENTRIES: usize = 1 << 19;
/// Values in the document. A part has about thirty.
const MAX_NODES: usize = 12 << 20;
/// Levels of nesting. A part of a tensor is at the seventh.
const MAX_DEPTH: usize = 16;

/// The entries by their path without the rank, each with its rank.
pub(super) type Entries = BTreeMap<String, Vec<(u32, Entry)>>;

/// One entry, with the fields of all types of entries.
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
    /// The parts of a sharded tensor.
    pub(super) shards: Option<Vec<Shard>>,
    /// The parts of a tensor that is too large for one file.
    pub(super) chunks: Option<Vec<Shard>>,
}

/// A part of a tensor.
#[derive(Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) offsets: Dimensions,
    pub(super) sizes: Dimensions,
    pub(super) tensor: Tensor,
}

/// The place of a tensor or a part.
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

/// Reads the manifest.
pub(super) fn read(source: &Source) -> Result<Entries, CheckpointError> {
    if source.len() > MAX_HEADER {
        let what = "the manifest is too long";
        return Err(source.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_HEADER }));
    }
    let wrong = |what: String| source.corrupt(Corrupt::Manifest { what });
    let mut bytes = vec![0; source.len() as usize];
    source.read(0, &mut bytes, "the manifest")?;
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(format!("not UTF-8: {error}")))?;
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Manifest(entries) = yaml::from_str(text, MAX_NODES, MAX_DEPTH)
        .map_err(|error| wrong(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")))?;
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
        f.write_str("the metadata of a snapshot, with a `manifest`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Manifest, A::Error> {
        let mut entries = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "manifest" {
                map.next_value::<IgnoredAny>()?;
            } else if entries.replace(map.next_value_seed(EntriesSeed)?).is_some() {
                return Err(A::Error::custom("`manifest` appears twice"));
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
                return Err(A::Error::custom(format!("path `{path}` appears twice")));
            }
            of_path.push((rank, entry));
        }
        Ok(entries)
    }
}
