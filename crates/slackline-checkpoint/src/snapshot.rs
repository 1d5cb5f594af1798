//! Directories written by torchsnapshot: the format in which MLPerf publishes the weights of its DLRM.
//!
//! `.snapshot_metadata` lists the application state of every rank: containers, plain values, pickled objects, and tensors.
//! A tensor is whole (`Tensor`), cut because of its size (`ChunkedTensor`), or spread over ranks (`ShardedTensor`,
//! `DTensor`). Each part is raw little-endian bytes: a file, or a range of a file that several parts share. Complex and
//! quantised tensors are files of `torch.save`.

mod manifest;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use crate::format::{Format, detect};
use crate::layout::{Layout, Piece};
use crate::limits::MAX_TENSORS;
use crate::names::MODEL_KEYS;
use crate::parts::{Part, Parts};
use crate::shape::{Dimensions, elements, row_major};
use crate::source::Source;
use crate::tensor::{Found, Place, Stored, TensorInfo};
use crate::{CheckpointError, Corrupt, DType, torch};
use manifest::{Entry, Shard, Tensor};

/// The files of a snapshot, and its tensors, which refer to them by number.
pub(crate) fn open(metadata: &Source) -> Result<(Vec<Source>, Found), CheckpointError> {
    let entries = manifest::read(metadata)?;
    let folder = metadata.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = fs::canonicalize(folder).map_err(|cause| CheckpointError::Io { file: folder.to_owned(), cause })?;
    let mut snapshot = Snapshot { metadata, root, sources: Vec::new(), numbers: HashMap::new() };
    let (model, mut skipped) = choose_model(metadata, &entries)?;
    let (mut tensors, mut copies) = (Vec::new(), BTreeMap::<u32, usize>::new());
    for (path, mut of_ranks) in entries {
        of_ranks.sort_by_key(|(rank, _)| *rank);
        let name = name(&path);
        let (first, _) = of_ranks[0];
        let below = match model {
            // What is beside the model is in `skipped` already.
            Some(model) => match name.split_once('.') {
                Some((top, below)) if top == model => below.to_owned(),
                _ => continue,
            },
            None => name.clone(),
        };
        let stored = match Kind::of(&of_ranks[0].1) {
            Kind::Container => continue,
            Kind::Other => {
                skipped.push(format!("{name} ({})", described(&of_ranks[0].1)));
                continue;
            }
            Kind::Sharded => snapshot.sharded(&name, of_ranks.into_iter().map(|(_, entry)| entry).collect())?,
            Kind::Whole | Kind::Chunked => {
                for (rank, _) in of_ranks.iter().skip(1).filter(|(_, entry)| !entry.replicated) {
                    debug_assert!(*rank > first);
                    *copies.entry(*rank).or_default() += 1;
                }
                let (_, entry) = of_ranks.swap_remove(0);
                match Kind::of(&entry) {
                    Kind::Whole => snapshot.whole(&name, entry)?,
                    _ => snapshot.chunked(&name, entry)?,
                }
            }
        };
        if tensors.len() == MAX_TENSORS {
            let what = "too many tensors";
            return Err(metadata.corrupt(Corrupt::Limit { at: 0, what, limit: MAX_TENSORS as u64 }));
        }
        tensors.push((below, stored));
    }
    if tensors.is_empty() {
        return Err(CheckpointError::NoTensors { file: metadata.path().to_owned(), holds: skipped });
    }
    skipped.extend(copies.iter().map(|(rank, count)| format!("rank {rank}'s own copies of {count} tensors")));
    Ok((snapshot.sources, Found { tensors, skipped }))
}

/// How an entry is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Chunked,
    Sharded,
    Container,
    Other,
}

impl Kind {
    fn of(entry: &Entry) -> Self {
        match &*entry.kind {
            "Tensor" => Kind::Whole,
            "ChunkedTensor" => Kind::Chunked,
            "ShardedTensor" | "DTensor" => Kind::Sharded,
            "dict" | "OrderedDict" | "list" => Kind::Container,
            _ => Kind::Other,
        }
    }

    fn is_tensor(self) -> bool {
        matches!(self, Kind::Whole | Kind::Chunked | Kind::Sharded)
    }
}

/// The part of the application state that is the model, by the same rules as in a PyTorch file, and the names of the
/// other parts.
fn choose_model(
    metadata: &Source,
    entries: &manifest::Entries,
) -> Result<(Option<&'static str>, Vec<String>), CheckpointError> {
    let top = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let holders: BTreeSet<String> = entries
        .iter()
        .filter(|(_, of_ranks)| of_ranks.iter().any(|(_, entry)| Kind::of(entry).is_tensor()))
        .filter(|(path, _)| path.contains('/'))
        .map(|(path, _)| top(path))
        .collect();
    let mut models = MODEL_KEYS.into_iter().filter(|key| holders.contains(*key));
    let Some(model) = models.next() else { return Ok((None, Vec::new())) };
    if let Some(second) = models.next() {
        let file = metadata.path().to_owned();
        return Err(CheckpointError::AmbiguousModel { file, first: model, second });
    }
    let beside: BTreeSet<String> = entries.keys().map(|path| top(path)).filter(|top| top != model).collect();
    Ok((Some(model), beside.into_iter().filter(|name| !name.is_empty()).map(|path| name(&path)).collect()))
}

/// The name of a path: its parts, in which `%2F` and `%25` stand for `/` and `%`, joined by dots.
fn name(path: &str) -> String {
    path.split('/').map(|part| part.replace("%2F", "/").replace("%25", "%")).collect::<Vec<_>>().join(".")
}

fn described(entry: &Entry) -> &str {
    entry.obj_type.as_deref().unwrap_or(&entry.kind)
}

/// The directory while it is opened.
struct Snapshot<'m> {
    metadata: &'m Source,
    /// Its canonical path.
    root: PathBuf,
    sources: Vec<Source>,
    /// The number of each location's file.
    numbers: HashMap<String, usize>,
}

impl Snapshot<'_> {
    fn whole(&mut self, name: &str, entry: Entry) -> Result<Stored, CheckpointError> {
        let Entry {
            location: Some(location),
            serializer: Some(serializer),
            dtype: Some(dtype),
            shape: Some(shape),
            ..
        } = entry
        else {
            return Err(self.wrong(name, "its entry lacks location, serializer, dtype or shape".to_owned()));
        };
        let Entry { byte_range, replicated, .. } = entry;
        let info = self.info(name, &dtype, &shape.0)?;
        let tensor = Tensor { location, serializer, dtype, shape, byte_range, replicated };
        let place = match self.piece(name, &info, &tensor)? {
            Some(piece) => Place::One(piece),
            None => unread(&info),
        };
        Ok(Stored { info, place })
    }

    fn chunked(&mut self, name: &str, entry: Entry) -> Result<Stored, CheckpointError> {
        let Entry { dtype: Some(dtype), shape: Some(shape), chunks: Some(chunks), .. } = entry else {
            return Err(self.wrong(name, "its entry lacks dtype, shape or chunks".to_owned()));
        };
        self.put_together(name, &dtype, &shape.0, chunks)
    }

    /// A tensor of the parts of all ranks. They alone determine its shape.
    fn sharded(&mut self, name: &str, entries: Vec<Entry>) -> Result<Stored, CheckpointError> {
        let mut shards = Vec::new();
        for entry in entries {
            if Kind::of(&entry) != Kind::Sharded {
                return Err(self.wrong(name, format!("it is sharded on one rank and a {} on another", entry.kind)));
            }
            match entry.shards {
                Some(of_rank) => shards.extend(of_rank),
                None => return Err(self.wrong(name, "its entry lacks shards".to_owned())),
            }
        }
        // A part of a DTensor that several ranks hold is listed once by each of them.
        let mut seen = BTreeSet::new();
        shards.retain(|s| {
            let fresh = seen.insert((s.offsets.0.clone(), s.sizes.0.clone()));
            fresh || !s.tensor.replicated
        });
        let Some(first) = shards.first() else {
            return Err(self.wrong(name, "no rank has a part of it".to_owned()));
        };
        let dtype = first.tensor.dtype.clone();
        let mut shape = vec![0; first.offsets.0.len()];
        for Shard { offsets: Dimensions(offsets), sizes: Dimensions(sizes), .. } in &shards {
            if offsets.len() != shape.len() || sizes.len() != shape.len() {
                return Err(self.wrong(name, "its parts have different numbers of dimensions".to_owned()));
            }
            for ((len, offset), size) in shape.iter_mut().zip(offsets).zip(sizes) {
                let Some(end) = offset.checked_add(*size) else {
                    return Err(self.wrong(name, format!("a part begins at {offsets:?}")));
                };
                *len = (*len).max(end);
            }
        }
        self.put_together(name, &dtype, &shape, shards)
    }

    fn put_together(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        shards: Vec<Shard>,
    ) -> Result<Stored, CheckpointError> {
        let info = self.info(name, dtype, shape)?;
        let Some(item) = info.dtype.size() else {
            let place = unread(&info);
            return Ok(Stored { info, place });
        };
        let mut parts = Vec::with_capacity(shards.len());
        for Shard { offsets, sizes, tensor } in shards {
            if sizes != tensor.shape {
                let (sizes, shape) = (sizes.0, tensor.shape.0);
                return Err(self.wrong(name, format!("a part of shape {sizes:?} is a tensor of shape {shape:?}")));
            }
            if tensor.dtype != dtype {
                return Err(self.wrong(name, format!("it has parts of {dtype} and of {}", tensor.dtype)));
            }
            let of_part = self.info(name, &tensor.dtype, &tensor.shape.0)?;
            if let Some(piece) = self.piece(name, &of_part, &tensor)? {
                parts.push(Part { offsets: offsets.0, piece });
            }
        }
        if parts.len() == 1 && parts[0].piece.layout.shape == shape {
            return Ok(Stored { info, place: Place::One(parts.remove(0).piece) });
        }
        if shape.is_empty() {
            return Err(self.wrong(name, format!("it is a scalar in {} parts", parts.len())));
        }
        let parts = Parts::new(shape, item, parts).map_err(|what| self.wrong(name, what))?;
        Ok(Stored { info, place: Place::Parts(parts) })
    }

    fn info(&self, name: &str, dtype: &str, shape: &[usize]) -> Result<TensorInfo, CheckpointError> {
        let (dtype, size) = element_type(dtype);
        let Some(bytes) = elements(shape).and_then(|n| n.checked_mul(size)).filter(|n| i64::try_from(*n).is_ok())
        else {
            return Err(self.wrong(name, format!("shape {shape:?} has more elements than any machine can address")));
        };
        Ok(TensorInfo { dtype, shape: shape.to_vec(), bytes })
    }

    /// Where a tensor or a part is; `None` for element types that are not read.
    fn piece(&mut self, name: &str, info: &TensorInfo, tensor: &Tensor) -> Result<Option<Piece>, CheckpointError> {
        let Some(item) = info.dtype.size() else { return Ok(None) };
        let number = self.source(&tensor.location)?;
        let source = &self.sources[number];
        match &*tensor.serializer {
            "buffer_protocol" => {}
            "torch_save" if tensor.byte_range.is_none() => return self.saved(name, info, number).map(Some),
            other => {
                let range = if tensor.byte_range.is_some() { " in a range of a file" } else { "" };
                let what = format!("serializer {other:?}{range}, of tensor `{name}` in {}", tensor.location);
                return Err(CheckpointError::Unsupported { file: self.metadata.path().to_owned(), what });
            }
        }
        let (from, to) = tensor.byte_range.map_or((0, source.len()), |[from, to]| (from, to));
        if to > source.len() {
            let (missing, what) = (to - source.len(), "a tensor");
            return Err(source.corrupt(Corrupt::Truncated { at: source.len(), missing, what }));
        }
        if to.checked_sub(from) != Some(info.bytes) {
            let what = format!("shape {:?} of {} has {} bytes, not {from}..{to}", info.shape, info.dtype, info.bytes);
            return Err(source.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what }));
        }
        let layout = Layout { at: from, item, shape: info.shape.clone(), strides: row_major(&info.shape) };
        Ok(Some(Piece { source: number, layout, extent: info.bytes }))
    }

    /// A tensor that is the only one of a file of `torch.save`.
    fn saved(&self, name: &str, info: &TensorInfo, number: usize) -> Result<Piece, CheckpointError> {
        let source = &self.sources[number];
        let found = match detect(source)? {
            Format::PyTorchZip => torch::open_zip(source, number)?,
            Format::PyTorchLegacy => torch::open_legacy(source, number)?,
            other => {
                let what = format!("its file should be one of torch.save, but is {other}");
                return Err(source.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what }));
            }
        };
        match <[_; 1]>::try_from(found.tensors) {
            Ok([(_, Stored { info: found, place: Place::One(piece) })]) if found == *info => Ok(piece),
            _ => {
                let what = format!("its file is not one tensor of {} and shape {:?}", info.dtype, info.shape);
                Err(source.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what }))
            }
        }
    }

    /// The number of the file at a location, which must be inside of the snapshot.
    fn source(&mut self, location: &str) -> Result<usize, CheckpointError> {
        if let Some(&number) = self.numbers.get(location) {
            return Ok(number);
        }
        let escapes = || self.metadata.corrupt(Corrupt::Escapes { location: location.to_owned() });
        if location.is_empty() || !Path::new(location).components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(escapes());
        }
        let path = self.root.join(location);
        let failed = |cause: io::Error| CheckpointError::Io { file: path.clone(), cause };
        // Symbolic links are followed if they lead to a place inside.
        let path = fs::canonicalize(&path).map_err(failed)?;
        if !path.starts_with(&self.root) {
            return Err(escapes());
        }
        let number = self.sources.len();
        self.sources.push(Source::closed(&path)?);
        self.numbers.insert(location.to_owned(), number);
        Ok(number)
    }

    fn wrong(&self, name: &str, what: String) -> CheckpointError {
        self.metadata.corrupt(Corrupt::Tensor { tensor: name.to_owned(), what })
    }
}

/// The place of a tensor that is listed, not read.
fn unread(info: &TensorInfo) -> Place {
    let layout = Layout { at: 0, item: 1, shape: info.shape.clone(), strides: row_major(&info.shape) };
    Place::One(Piece { source: 0, layout, extent: 0 })
}

/// The type of a torchsnapshot name, and the size of its elements in bytes.
fn element_type(name: &str) -> (DType, u64) {
    let dtype = match name.strip_prefix("torch.").unwrap_or(name) {
        "float64" => DType::F64,
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        other => {
            let size = match other {
                "complex128" => 16,
                "complex64" => 8,
                "qint32" => 4,
                _ => 1,
            };
            return (DType::Other(name.to_owned()), size);
        }
    };
    let size = dtype.size().unwrap_or(1) as u64;
    (dtype, size)
}
