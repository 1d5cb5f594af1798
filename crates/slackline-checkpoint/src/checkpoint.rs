//! One checkpoint, whatever its format.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use half::{bf16, f16};

use crate::dtype::{DType, TensorInfo};
use crate::layout::Layout;
use crate::names::without_wrapper;
use crate::parts::Parts;
use crate::source::{Cursor, Source};
use crate::{CheckpointError, Corrupt, safetensors, snapshot, torch};

/// The formats that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `torch.save` since PyTorch 1.6: a zip file of a pickle and one stored entry a storage.
    PyTorchZip,
    /// `torch.save` before 1.6: pickles, then the storages.
    PyTorchLegacy,
    /// One safetensors file.
    Safetensors,
    /// A set of safetensors files and the JSON index that names them.
    SafetensorsIndex,
    /// A directory of raw tensors that torchsnapshot wrote, with a manifest in YAML or JSON.
    TorchSnapshot,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::PyTorchZip => "PyTorch (zip)",
            Format::PyTorchLegacy => "PyTorch (legacy stream)",
            Format::Safetensors => "safetensors",
            Format::SafetensorsIndex => "safetensors with an index",
            Format::TorchSnapshot => "torchsnapshot",
        })
    }
}

/// A file of a checkpoint as it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceFile {
    /// The path that it was opened by.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last written to.
    pub modified: SystemTime,
}

/// The tensors of a checkpoint that somebody else wrote, by name, read from the file when asked for.
///
/// Opening reads the headers and the pickle and checks every tensor's place against the size of the file; it holds names
/// and shapes, no elements. A checkpoint can be shared between threads, and reads do not wait for each other.
///
/// # Which tensors, and their names
///
/// If the top of a PyTorch file is a dict and exactly one of its entries `state_dict`, `model_state_dict`, `model` and
/// `module` is a dict with tensors in it, that entry is the model, and everything beside it is
/// [skipped](Self::skipped): training fields, optimizer state. Otherwise every tensor in the file is taken. Names are the
/// keys on the way to the tensor joined by dots (positions, in lists); a tensor saved alone is named `tensor`. The same
/// goes for the state of an application that torchsnapshot took. What ranks saved in parts is one tensor; of what each of
/// them saved for itself, the lowest rank's is taken. In every format one leading `module.`, as `DataParallel` writes it, is taken off; if that gives two tensors one name, the file is
/// refused. Shared storages and views are fine.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), slackline_checkpoint::CheckpointError> {
/// let checkpoint = slackline_checkpoint::Checkpoint::open("dlrm.pt")?;
/// for (name, tensor) in checkpoint.tensors() {
///     println!("{name}: {:?} {}, {} bytes", tensor.shape, tensor.dtype, tensor.bytes);
/// }
/// let bias = checkpoint.read_f32("bot_l.0.bias")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    format: Format,
    /// The file that was opened: the index, of a sharded set; the manifest, of a snapshot.
    opened: Source,
    /// The other files of a set; tensors of other formats have the number 0 and mean `opened`.
    shards: Vec<Source>,
    infos: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
    skipped: Vec<String>,
}

/// A tensor as the readers of the formats hand it over: its extent has been checked.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) info: TensorInfo,
    pub(crate) place: Place,
}

impl Stored {
    /// A tensor that is whole in one file.
    pub(crate) fn in_one(info: TensorInfo, source: usize, layout: Layout, extent: u64) -> Self {
        Stored { info, place: Place::One(Piece { source, layout, extent }) }
    }
}

/// Where a tensor is.
#[derive(Debug)]
pub(crate) enum Place {
    One(Piece),
    Parts(Parts),
}

/// A tensor, or a part of one, in one file.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Number of the file.
    pub(crate) source: usize,
    pub(crate) layout: Layout,
    /// Bytes of the file from its first to behind its last element.
    pub(crate) extent: u64,
}

/// What the reader of a format found in a file.
#[derive(Debug)]
pub(crate) struct Found {
    /// By the names that were written; the same name may come twice.
    pub(crate) tensors: Vec<(String, Stored)>,
    pub(crate) skipped: Vec<String>,
}

/// Elements that [`Checkpoint::stream_f32`] hands over at a time, at most.
const F32_CHUNK: usize = 64 << 10;

/// Bytes up to which a tensor that repeats its elements may be read in one piece.
const MAX_EXPANDED: u64 = 64 << 20;

impl Checkpoint {
    /// Opens a checkpoint, whose format is told from its content. An index opens all the files that it names; a directory
    /// is a snapshot if it has a `.snapshot_metadata`.
    ///
    /// Cost: reads the headers and the pickle once; at most half a gigabyte of memory, whatever the file claims, and in
    /// practice some hundred bytes a tensor.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is of no known format, is [corrupt](CheckpointError::Corrupt), uses compression,
    /// encryption or big-endian numbers, has two tensors of one name, or (PyTorch) none at all.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let manifest = snapshot::manifest_of(path)?;
        let opened = Source::open(manifest.as_deref().unwrap_or(path))?;
        let format = if manifest.is_some() { Format::TorchSnapshot } else { detect(&opened)? };
        let mut shards = Vec::new();
        let Found { tensors, skipped } = match format {
            Format::PyTorchZip => torch::open_zip(&opened, 0)?,
            Format::PyTorchLegacy => torch::open_legacy(&opened, 0)?,
            Format::Safetensors => safetensors::open_file(&opened, 0)?,
            Format::SafetensorsIndex => {
                let (sources, found) = safetensors::open_index(&opened)?;
                shards = sources;
                found
            }
            Format::TorchSnapshot => {
                let (sources, found) = snapshot::open(&opened)?;
                shards = sources;
                found
            }
        };
        let (mut infos, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (name, Stored { info, place }) in without_wrapper(tensors, &opened)? {
            infos.insert(name.clone(), info);
            places.insert(name, place);
        }
        Ok(Self { format, opened, shards, infos, places, skipped })
    }

    /// The format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files that it consists of: first the one that was opened, or a snapshot's manifest.
    pub fn files(&self) -> impl Iterator<Item = SourceFile> {
        std::iter::once(&self.opened).chain(&self.shards).map(|source| SourceFile {
            path: source.path().to_owned(),
            bytes: source.len(),
            modified: source.modified(),
        })
    }

    /// Every tensor's element type, shape and size, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    /// What is in the file and not among the [tensors](Self::tensors), for a report: names of training fields and of
    /// whatever else was left out, with the Python class in parentheses where it was one that is not known.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The elements of a floating-point tensor in row-major order, as `f32`: exact from `f16` and `bf16`, rounded to the
    /// nearest from `f64` (too large becomes infinite).
    ///
    /// Cost: the vector, and what [`stream_f32`](Self::stream_f32) takes.
    ///
    /// # Errors
    ///
    /// No such tensor, one that is not floating-point, one that repeats few elements so often that it can only be
    /// streamed, or a file that cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (info, place) = self.find(name)?;
        self.whole(name, info, place)?;
        let size = info.dtype.size().unwrap_or(1) as u64;
        let mut values = Vec::new();
        if info.dtype.is_float() {
            values.reserve_exact((info.bytes / size) as usize);
        }
        self.stream_f32(name, &mut |part: &[f32]| {
            values.extend_from_slice(part);
            Ok::<(), CheckpointError>(())
        })?;
        Ok(values)
    }

    /// The elements of a tensor of any listed type but [`DType::Other`], in row-major order, as little-endian bytes.
    ///
    /// Cost: the vector, and what [`stream`](Self::stream) takes.
    ///
    /// # Errors
    ///
    /// As [`read_f32`](Self::read_f32).
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let (info, place) = self.find(name)?;
        self.whole(name, info, place)?;
        let mut bytes = Vec::new();
        if info.dtype.size().is_some() {
            bytes.reserve_exact(info.bytes as usize);
        }
        self.stream(name, 1 << 20, &mut |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok::<(), CheckpointError>(())
        })?;
        Ok(bytes)
    }

    /// Hands a tensor's elements to `sink` in row-major order, as little-endian bytes, in chunks of at most `chunk_bytes`
    /// (taken to be between one element and 64 MiB). A chunk holds whole elements and may be overwritten once `sink`
    /// returns. A tensor without elements calls it not at all.
    ///
    /// Cost: memory for one chunk, and 9 MiB where the elements do not lie in row-major order or the tensor is in parts (64
    /// MiB if one of its rows is larger than 8); one read a chunk. A transposed matrix takes one read for every run of its
    /// elements in 8 MiB of output, so a few KiB each.
    ///
    /// # Errors
    ///
    /// No such tensor, one whose type is [`DType::Other`], a file that cannot be read, or what `sink` returned, which ends
    /// the stream.
    pub fn stream<E: From<CheckpointError>>(
        &self,
        name: &str,
        chunk_bytes: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream_from(name, 0, chunk_bytes, sink)
    }

    /// The same from index `first` of the first dimension on. There is nothing behind its end, and a scalar has no such
    /// dimension: it is handed over whole.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    pub fn stream_from<E: From<CheckpointError>>(
        &self,
        name: &str,
        first: usize,
        chunk_bytes: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (info, place) = self.find(name)?;
        if let DType::Other(_) = info.dtype {
            return Err(self.wrong_type(name, info, "little-endian bytes").into());
        }
        self.stream_place(place, first, chunk_bytes, sink)
    }

    /// Hands the elements of a floating-point tensor to `sink` in row-major order, as [`read_f32`](Self::read_f32) converts
    /// them, at most 65536 at a time.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream), and a tensor that is not floating-point.
    pub fn stream_f32<E: From<CheckpointError>>(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream_f32_from(name, 0, sink)
    }

    /// The same from index `first` of the first dimension on; see [`stream_from`](Self::stream_from).
    ///
    /// # Errors
    ///
    /// As [`stream_f32`](Self::stream_f32).
    pub fn stream_f32_from<E: From<CheckpointError>>(
        &self,
        name: &str,
        first: usize,
        sink: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (info, place) = self.find(name)?;
        let size = info.dtype.size().unwrap_or(1);
        let convert: fn(&[u8], &mut Vec<f32>) = match info.dtype {
            DType::F32 => |b, v| v.extend(b.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))),
            DType::F64 => |b, v| v.extend(b.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32)),
            DType::F16 => |b, v| v.extend(b.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32())),
            DType::BF16 => |b, v| v.extend(b.as_chunks().0.iter().map(|&x| bf16::from_le_bytes(x).to_f32())),
            _ => return Err(self.wrong_type(name, info, "f32").into()),
        };
        let mut values = Vec::new();
        self.stream_place(place, first, F32_CHUNK * size, &mut |bytes: &[u8]| {
            values.clear();
            convert(bytes, &mut values);
            sink(&values)
        })
    }

    fn find(&self, name: &str) -> Result<(&TensorInfo, &Place), CheckpointError> {
        self.infos.get(name).zip(self.places.get(name)).ok_or_else(|| CheckpointError::NoSuchTensor {
            file: self.opened.path().to_owned(),
            tensor: name.to_owned(),
        })
    }

    fn stream_place<E: From<CheckpointError>>(
        &self,
        place: &Place,
        first: usize,
        chunk_bytes: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match place {
            Place::One(Piece { source, layout, .. }) => match layout.shape.first() {
                Some(&rows) if first > 0 => {
                    layout.rows(first.min(rows), rows).stream(self.source(*source), chunk_bytes, sink)
                }
                _ => layout.stream(self.source(*source), chunk_bytes, sink),
            },
            Place::Parts(parts) => parts.stream(&|number| self.source(number), first, chunk_bytes, sink),
        }
    }

    fn source(&self, number: usize) -> &Source {
        self.shards.get(number).unwrap_or(&self.opened)
    }

    /// Refuses a tensor that is much larger than the file it comes from.
    fn whole(&self, name: &str, info: &TensorInfo, place: &Place) -> Result<(), CheckpointError> {
        let stored = match place {
            Place::One(piece) => piece.extent,
            Place::Parts(parts) => parts.extent(),
        };
        if info.bytes <= stored.max(MAX_EXPANDED) {
            return Ok(());
        }
        let (file, tensor) = (self.opened.path().to_owned(), name.to_owned());
        Err(CheckpointError::TooLarge { file, tensor, bytes: info.bytes, stored })
    }

    fn wrong_type(&self, name: &str, info: &TensorInfo, wanted: &'static str) -> CheckpointError {
        let (file, tensor) = (self.opened.path().to_owned(), name.to_owned());
        CheckpointError::WrongType { file, tensor, dtype: info.dtype.clone(), wanted }
    }
}

/// Tells the format from the first bytes.
pub(crate) fn detect(source: &Source) -> Result<Format, CheckpointError> {
    let mut head = [0; 32];
    let n = source.len().min(head.len() as u64) as usize;
    source.read(0, &mut head[..n], "the first bytes")?;
    let head = &head[..n];
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Format::PyTorchZip);
    }
    // A pickle of protocol 2 or later, of one long number.
    if head.first() == Some(&0x80) && head.windows(torch::LEGACY_MAGIC.len()).any(|w| w == torch::LEGACY_MAGIC) {
        return Ok(Format::PyTorchLegacy);
    }
    if head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        return Ok(Format::Safetensors);
    }
    let mut cursor = Cursor::new(source, 0, source.len().min(4096), "the first bytes");
    while cursor.left() > 0 {
        match cursor.byte()? {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => return Ok(Format::SafetensorsIndex),
            _ => break,
        }
    }
    match n {
        0 => Err(source.corrupt(Corrupt::Truncated { at: 0, wanted: 1, what: "the first bytes" })),
        _ => Err(CheckpointError::UnknownFormat { file: source.path().to_owned() }),
    }
}
