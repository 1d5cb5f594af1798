//! NumPy's `.npz` archives: zip files of `.npy` arrays.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use crate::DataError;
use crate::npy::{Element, Header, HeaderError, read_header};

/// An `.npz` archive, read array by array. Members may be stored or deflated.
///
/// Arrays must be little-endian, in C order and of `.npy` version 1 to 3. Memory grows with the bytes that are read, not with
/// the size that a header claims; a deflated member has at most 1032 times its bytes in the file.
///
/// # Examples
///
/// ```no_run
/// let mut file = slackline_data::NpzFile::open("golden.npz")?;
/// let (shape, values) = file.f32("prob")?;
/// assert_eq!(shape.iter().product::<usize>(), values.len());
/// # Ok::<(), slackline_data::DataError>(())
/// ```
pub struct NpzFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    bytes: u64,
}

impl NpzFile {
    /// Opens an archive and reads its directory.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`], or [`DataError::Corrupt`] if this is not a complete zip archive.
    pub fn open(path: impl AsRef<Path>) -> Result<NpzFile, DataError> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|e| DataError::io(&path, "open", e))?;
        let bytes = file.metadata().map_err(|e| DataError::io(&path, "open", e))?.len();
        let archive = ZipArchive::new(BufReader::new(file)).map_err(|e| match e {
            ZipError::Io(e) if !is_damage(&e) => DataError::io(&path, "read", e),
            e => DataError::Corrupt { path: path.clone(), problem: e.to_string() },
        })?;
        Ok(NpzFile { path, archive, bytes })
    }

    /// The names of the arrays, without `.npy`, in the order of the archive.
    pub fn names(&self) -> Vec<String> {
        let names = self.archive.file_names_raw().map(String::from_utf8_lossy);
        names.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned()).collect()
    }

    /// Whether the archive has an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.archive.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// The shape and the elements, row-major, of a `float32` array, or of a `float64` array rounded to `f32`.
    ///
    /// # Errors
    ///
    /// [`DataError::Member`] if there is no such array, if it is damaged, or of another type, and [`DataError::Io`].
    pub fn f32(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), DataError> {
        self.load(name, "float32 or float64", Element::f32_decoder)
    }

    /// The shape and the elements, row-major, of an array of `bool` or of any integer type but `uint64`.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32).
    pub fn i64(&mut self, name: &str) -> Result<(Vec<usize>, Vec<i64>), DataError> {
        self.load(name, "an integer type", Element::i64_decoder)
    }

    /// The shape and the elements, row-major, of a `uint8` array.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32).
    pub fn u8(&mut self, name: &str) -> Result<(Vec<usize>, Vec<u8>), DataError> {
        self.load(name, "uint8", |element| (element == Element::U1).then_some(|bytes: &[u8]| bytes[0]))
    }

    /// The shape and the elements of a float or integer array, as `f32`.
    pub(crate) fn numbers(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), DataError> {
        if self.member(name)?.1.element.f32_decoder().is_some() {
            return self.f32(name);
        }
        let (shape, values) = self.i64(name)?;
        Ok((shape, values.into_iter().map(|value| value as f32).collect()))
    }

    /// The number of samples of an input archive: the length of its array `dense`.
    pub(crate) fn samples(&mut self) -> Result<usize, DataError> {
        let (_, header) = self.member("dense")?;
        match header.shape[..] {
            [samples, _] => Ok(samples),
            _ => Err(self.problem("dense", format!("shape {:?}, expected two dimensions", header.shape))),
        }
    }

    /// The size of the archive.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn problem(&self, name: &str, problem: impl Into<String>) -> DataError {
        DataError::member(&self.path, name, problem)
    }

    /// Opens an array and reads its header.
    fn member(&mut self, name: &str) -> Result<(ZipFile<'_, BufReader<File>>, Header), DataError> {
        let path = &self.path;
        let mut member = self.archive.by_name(&format!("{name}.npy")).map_err(|e| match e {
            ZipError::FileNotFound => DataError::member(path, name, "there is no such array"),
            ZipError::Io(e) => read_error(path, name, e),
            e => DataError::member(path, name, e.to_string()),
        })?;
        let header = read_header(&mut member).map_err(|e| match e {
            HeaderError::Io(e) => read_error(path, name, e),
            HeaderError::Malformed(problem) => DataError::member(path, name, problem),
        })?;
        let claimed = header.bytes + (header.count * header.element.bytes()) as u64;
        if claimed != member.size() {
            let problem = format!(
                "shape {:?} of {} needs {claimed} bytes with its header, the member has {}",
                header.shape,
                header.element.name(),
                member.size()
            );
            return Err(DataError::member(path, name, problem));
        }
        Ok((member, header))
    }

    fn load<T>(
        &mut self,
        name: &str,
        wanted: &str,
        decoder: impl FnOnce(Element) -> Option<fn(&[u8]) -> T>,
    ) -> Result<(Vec<usize>, Vec<T>), DataError> {
        // A whole number of elements of every type. No more is allocated before the first byte is read.
        const CHUNK: usize = 64 << 10;
        let path = self.path.clone();
        let (mut member, header) = self.member(name)?;
        let Some(decode) = decoder(header.element) else {
            let problem = format!("type {}, expected {wanted}", header.element.name());
            return Err(DataError::member(&path, name, problem));
        };
        let size = header.element.bytes();
        let mut values = Vec::with_capacity(header.count.min(CHUNK));
        let mut chunk = vec![0; CHUNK.min(header.count * size)];
        let mut left = header.count * size;
        while left > 0 {
            let part = left.min(CHUNK);
            member.read_exact(&mut chunk[..part]).map_err(|e| read_error(&path, name, e))?;
            values.extend(chunk[..part].chunks_exact(size).map(decode));
            left -= part;
        }
        // The checksum is compared at the end of the member.
        match member.read(&mut [0]).map_err(|e| read_error(&path, name, e))? {
            0 => Ok((header.shape, values)),
            _ => Err(DataError::member(&path, name, "more bytes than its header claims")),
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

fn read_error(path: &Path, name: &str, error: io::Error) -> DataError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return DataError::member(path, name, "truncated");
    }
    if is_damage(&error) {
        return DataError::member(path, name, format!("damaged: {error}"));
    }
    DataError::io(path, "read", error)
}
