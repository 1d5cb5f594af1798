//! One checkpoint, whatever its format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::archive::Archive;
use crate::convert::{overflow, to_f32};
use crate::format::{Format, detect};
use crate::names::without_wrapper;
use crate::reader::TensorReader;
use crate::shape::position;
use crate::source::{Source, Sources};
use crate::tensor::{Found, Place, Stored, TensorInfo};
use crate::{CheckpointError, DType, directory, foreign, safetensors, torch};

/// A file of a checkpoint as it was when the checkpoint was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceFile {
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last modified.
    pub modified: SystemTime,
}

/// The tensors of a checkpoint by name, read from its files when asked for.
///
/// Opening a checkpoint reads the headers and the pickle and checks the place of every tensor against the length of its
/// file. It keeps names and shapes in memory, no elements. Threads can share a checkpoint, and their reads do not wait for
/// each other.
///
/// # Which tensors, and their names
///
/// If the top level of a PyTorch file is a dict, and exactly one of its entries `state_dict`, `model_state_dict`, `model`
/// and `module` is a dict that contains tensors, then that entry is the model. Everything beside it (training fields,
/// optimizer state) is [skipped](Self::skipped). Otherwise all tensors in the file are listed. The name of a tensor is its
/// path of dict keys and list positions, joined by dots; a tensor saved alone is named `tensor`. The same rules hold for the
/// application state in a torchsnapshot.
///
/// A tensor that several ranks saved in parts is one tensor. Of a tensor that each rank saved for itself, the lowest rank's
/// copy is listed.
///
/// In every format one leading `module.`, which `DataParallel` adds, is removed from a name; a file in which that gives two
/// tensors the same name is refused. Shared storages and views are supported.
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
    sources: Sources,
    infos: BTreeMap<String, TensorInfo>,
    places: BTreeMap<String, Place>,
    skipped: Vec<String>,
}

/// Elements that [`Checkpoint::stream_f32`] hands over at a time, at most.
const F32_CHUNK: usize = 64 << 10;

/// The largest chunk of [`Checkpoint::stream`].
const MAX_CHUNK: usize = 64 << 20;

/// Bytes that a [`TensorReader`] and [`Checkpoint::read_bytes`] read at a time.
const READ_CHUNK: usize = 1 << 20;

/// A tensor that repeats elements may be read in one piece up to this size in bytes.
const MAX_EXPANDED: u64 = 64 << 20;

impl Checkpoint {
    /// Opens a checkpoint and finds its format by content. An index opens all files that it names. A directory is a
    /// torchsnapshot if it has a `.snapshot_metadata`.
    ///
    /// Cost: reads the headers and the pickle once. Memory is at most half a gigabyte, whatever the file claims, and
    /// typically some hundred bytes for each tensor.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is of no known format, is [corrupt](CheckpointError::Corrupt), uses compression,
    /// encryption or big-endian numbers, has two tensors of one name, or (PyTorch) has no tensors; a torchsnapshot in a
    /// program that was built without the feature `torchsnapshot`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let manifest = directory::manifest_of(path)?;
        let opened = Source::open(manifest.as_deref().unwrap_or(path))?;
        let format = if manifest.is_some() { Format::TorchSnapshot } else { detect(&opened)? };
        let (named, Found { tensors, skipped }) = match format {
            Format::PyTorchZip => (Vec::new(), torch::open_zip(&opened, 0)?),
            Format::PyTorchLegacy => (Vec::new(), torch::open_legacy(&opened, 0)?),
            Format::Safetensors => (Vec::new(), safetensors::open_file(&opened, 0)?),
            Format::SafetensorsIndex => safetensors::open_index(&opened)?,
            Format::TorchSnapshot => directory::open_snapshot(&opened)?,
        };
        let (mut infos, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (name, Stored { info, place }) in without_wrapper(tensors, &opened)? {
            infos.insert(name.clone(), info);
            places.insert(name, place);
        }
        Ok(Self { format, sources: Sources::new(opened, named), infos, places, skipped })
    }

    /// The format of the checkpoint.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files of the checkpoint: first the one that was opened (of a torchsnapshot, its manifest).
    pub fn files(&self) -> impl Iterator<Item = SourceFile> {
        self.sources.iter().map(|source| SourceFile {
            path: source.path().to_owned(),
            bytes: source.len(),
            modified: source.modified(),
        })
    }

    /// The element type, shape and size of every tensor, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.infos
    }

    /// What else the files contain, for a report: the names of training fields and of everything else that is not among the
    /// [tensors](Self::tensors), followed in parentheses by the name of its Python class where that class is unknown.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Reads a floating-point tensor in row-major order, as `f32`: exact from `f16` and `bf16`, rounded to the nearest from
    /// `f64`.
    ///
    /// Cost: the vector, and the memory of [`stream_f32`](Self::stream_f32).
    ///
    /// # Errors
    ///
    /// No tensor of that name, a tensor that is not floating-point, one that repeats few elements so often that it can only
    /// be streamed, one with a finite `f64` that is infinite as `f32`, or a file that cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (info, place) = self.find(name)?;
        self.check_expansion(name, info, place)?;
        let mut values = Vec::new();
        if info.dtype.is_float() {
            values.reserve_exact((info.bytes / info.dtype.size().unwrap_or(1) as u64) as usize);
        }
        self.stream_f32(name, |part| {
            values.extend_from_slice(part);
            Ok::<(), CheckpointError>(())
        })?;
        Ok(values)
    }

    /// Reads a tensor of any type but [`DType::Other`] in row-major order, as little-endian bytes.
    ///
    /// Cost: the vector, and the memory of [`stream`](Self::stream).
    ///
    /// # Errors
    ///
    /// As [`read_f32`](Self::read_f32).
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let (info, place) = self.find(name)?;
        self.check_expansion(name, info, place)?;
        let mut bytes = Vec::new();
        if info.dtype.size().is_some() {
            bytes.reserve_exact(info.bytes as usize);
        }
        self.stream(name, READ_CHUNK, |part| {
            bytes.extend_from_slice(part);
            Ok::<(), CheckpointError>(())
        })?;
        Ok(bytes)
    }

    /// A reader of the elements of a tensor in row-major order, as little-endian bytes, for code that takes an
    /// [`io::Read`](std::io::Read).
    ///
    /// Cost: as [`stream`](Self::stream) in chunks of 1 MiB.
    ///
    /// # Errors
    ///
    /// No tensor of that name, or one of type [`DType::Other`]. Reading gives the error of a file that cannot be read as an
    /// [`io::Error`](std::io::Error) around the [`CheckpointError`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn main() -> std::io::Result<()> {
    /// let checkpoint = slackline_checkpoint::Checkpoint::open("dlrm.pt")?;
    /// let mut file = std::fs::File::create("emb_0.raw")?;
    /// std::io::copy(&mut checkpoint.reader("emb_l.0.weight")?, &mut file)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reader(&self, name: &str) -> Result<TensorReader<'_>, CheckpointError> {
        let (_, place) = self.find_readable(name)?;
        Ok(TensorReader::new(place.walk(&self.sources, 0, READ_CHUNK)))
    }

    /// Passes the elements of a tensor to `sink` in row-major order, as little-endian bytes, in chunks of at most
    /// `chunk_bytes` (at least one element, at most 64 MiB). A chunk holds whole elements, and its buffer is reused once
    /// `sink` returns. For a tensor without elements `sink` is not called.
    ///
    /// The error type is that of `sink`: any type that a [`CheckpointError`] can be converted to, among them
    /// [`io::Error`](std::io::Error) and `Box<dyn Error>`.
    ///
    /// Cost: memory for one chunk, and one read for each. If the elements are not in row-major order in the file, or the
    /// tensor is in parts, 9 MiB of memory (64 MiB if one of its rows is larger than 8 MiB); a transposed matrix then takes
    /// one read for each run of its elements in 8 MiB of output, some KiB each.
    ///
    /// # Errors
    ///
    /// No tensor of that name, one of type [`DType::Other`], a file that cannot be read, or an error of `sink`, which ends
    /// the stream.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::io::Write;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let checkpoint = slackline_checkpoint::Checkpoint::open("dlrm.pt")?;
    /// let mut file = std::fs::File::create("emb_0.raw")?;
    /// checkpoint.stream("emb_l.0.weight", 1 << 20, |chunk| file.write_all(chunk))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream<E: From<CheckpointError>>(
        &self,
        name: &str,
        chunk_bytes: usize,
        sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream_from(name, 0, chunk_bytes, sink)
    }

    /// The same, from index `first` of the first dimension on. From past its end there are no elements. A scalar has no
    /// dimension and is always passed whole.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream).
    pub fn stream_from<E: From<CheckpointError>>(
        &self,
        name: &str,
        first: usize,
        chunk_bytes: usize,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (info, place) = self.find_readable(name)?;
        let item = info.dtype.size().unwrap_or(1);
        let chunk = (chunk_bytes.min(MAX_CHUNK) / item).max(1) * item;
        let (mut walk, mut block) = (place.walk(&self.sources, first, chunk), Vec::new());
        while walk.next_block(&mut block)? {
            for part in block.chunks(chunk) {
                sink(part)?;
            }
        }
        Ok(())
    }

    /// Passes the elements of a floating-point tensor to `sink` in row-major order, converted as by
    /// [`read_f32`](Self::read_f32), at most 65536 at a time.
    ///
    /// # Errors
    ///
    /// As [`stream`](Self::stream), and a tensor that is not floating-point.
    pub fn stream_f32<E: From<CheckpointError>>(
        &self,
        name: &str,
        sink: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.stream_f32_from(name, 0, sink)
    }

    /// The same, from index `first` of the first dimension on; see [`stream_from`](Self::stream_from).
    ///
    /// # Errors
    ///
    /// As [`stream_f32`](Self::stream_f32).
    pub fn stream_f32_from<E: From<CheckpointError>>(
        &self,
        name: &str,
        first: usize,
        mut sink: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (info, _) = self.find(name)?;
        let convert = to_f32(&info.dtype).ok_or_else(|| self.wrong_type(name, info, "f32"))?;
        let (mut values, mut before) = (Vec::new(), 0);
        self.stream_from(name, first, F32_CHUNK * info.dtype.size().unwrap_or(1), |bytes| {
            values.clear();
            convert(bytes, &mut values);
            if let Some((at, value)) = overflow(&info.dtype, bytes, &values) {
                let file = self.sources.opened().path().to_owned();
                let row: usize = info.shape.iter().skip(1).product();
                let position = position(&info.shape, first * row + before + at);
                return Err(CheckpointError::Overflow { file, tensor: name.to_owned(), position, value }.into());
            }
            before += values.len();
            sink(&values)
        })
    }

    fn find(&self, name: &str) -> Result<(&TensorInfo, &Place), CheckpointError> {
        self.infos.get(name).zip(self.places.get(name)).ok_or_else(|| CheckpointError::NoSuchTensor {
            file: self.sources.opened().path().to_owned(),
            tensor: name.to_owned(),
        })
    }

    fn find_readable(&self, name: &str) -> Result<(&TensorInfo, &Place), CheckpointError> {
        let (info, place) = self.find(name)?;
        match info.dtype {
            DType::Other(_) => Err(self.wrong_type(name, info, "little-endian bytes")),
            _ => Ok((info, place)),
        }
    }

    /// Refuses a tensor that is much larger than what it takes in the file.
    fn check_expansion(&self, name: &str, info: &TensorInfo, place: &Place) -> Result<(), CheckpointError> {
        let stored = place.extent();
        if info.bytes <= stored.max(MAX_EXPANDED) {
            return Ok(());
        }
        let (file, tensor) = (self.sources.opened().path().to_owned(), name.to_owned());
        Err(CheckpointError::TooLarge { file, tensor, bytes: info.bytes, stored })
    }

    fn wrong_type(&self, name: &str, info: &TensorInfo, wanted: &'static str) -> CheckpointError {
        let (file, tensor) = (self.sources.opened().path().to_owned(), name.to_owned());
        CheckpointError::WrongType { file, tensor, dtype: info.dtype.clone(), wanted }
    }
}

impl Format {
    /// The format of a checkpoint, by the content of its first bytes (of a zip file, by the names of its entries). The rest is
    /// not looked at.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Foreign`] for a file or directory of another program,
    /// [`UnknownFormat`](CheckpointError::UnknownFormat) for one that is not known, or a file that cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        if directory::manifest_of(path)?.is_some() {
            return Ok(Format::TorchSnapshot);
        }
        let source = Source::open(path)?;
        let format = detect(&source)?;
        if format == Format::PyTorchZip
            && let Some(kind) = foreign::of_archive(Archive::open(&source)?.names())
        {
            return Err(kind.refused(path));
        }
        Ok(format)
    }
}
