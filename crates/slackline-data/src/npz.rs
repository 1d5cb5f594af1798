//! NumPy's `.npz` archives: zip files of `.npy` arrays.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::DataError;
use crate::array::{Array, is_damage, read_error};
use crate::element::Element;
use crate::error::listed;
use crate::run::Place;

/// An `.npz` archive, read array by array. Members may be stored or deflated.
///
/// Arrays are of `.npy` version 1 to 3, in either byte order, and in C or Fortran order. Memory grows with the bytes that are
/// read, not with the size that a header claims; a deflated member has at most 1032 times its bytes in the file.
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
    file: Arc<File>,
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
        let again = file.try_clone().map_err(|e| DataError::io(&path, "open", e))?;
        let archive = ZipArchive::new(BufReader::new(again)).map_err(|e| match e {
            ZipError::Io(e) if !is_damage(&e) => DataError::io(&path, "read", e),
            e => DataError::Corrupt { path: path.clone(), problem: e.to_string() },
        })?;
        Ok(NpzFile { path, archive, file: Arc::new(file), bytes })
    }

    /// The names of the arrays, without `.npy`, in the order of the archive.
    pub fn names(&self) -> Vec<String> {
        let names = self.archive.file_names_raw().map(String::from_utf8_lossy);
        names.map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned()).collect()
    }

    /// Whether the archive has an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        [format!("{name}.npy"), name.to_owned()].iter().any(|file| self.archive.index_for_name(file).is_some())
    }

    /// The shape and the elements, row-major, of an array of numbers; those of a `float64` array are rounded to `f32`.
    ///
    /// # Errors
    ///
    /// [`DataError::Member`] if there is no such array, if it is damaged, or of another type; [`DataError::MemberValue`] for
    /// an integer that `f32` does not have; [`DataError::Io`].
    pub fn f32(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), DataError> {
        self.load(name, "a number that float32 has", Element::f32_decoder)
    }

    /// The shape and the elements, row-major, of an array of whole numbers.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32), for an element with a fraction or beyond `i64`.
    pub fn i64(&mut self, name: &str) -> Result<(Vec<usize>, Vec<i64>), DataError> {
        self.load(name, "a whole number that int64 has", Element::i64_decoder)
    }

    /// The shape and the elements, row-major, of a `uint8` array.
    ///
    /// # Errors
    ///
    /// As [`f32`](Self::f32).
    pub fn u8(&mut self, name: &str) -> Result<(Vec<usize>, Vec<u8>), DataError> {
        let array = self.array(name)?;
        if !array.element().is_byte() {
            return Err(array.problem(format!("type {}, expected uint8", array.element().name())));
        }
        self.load(name, "a byte", |_| |bytes: &[u8]| Some(bytes[0]))
    }

    /// The size of the archive.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn problem(&self, name: &str, problem: impl Into<String>) -> DataError {
        DataError::array(&self.path, name, problem)
    }

    /// An array, of which nothing but the header is read yet.
    pub(crate) fn array(&mut self, name: &str) -> Result<Array, DataError> {
        let names = self.names();
        let path = &self.path;
        // NumPy reads members without the ending, too.
        let file = match [format!("{name}.npy"), name.to_owned()].map(|file| self.archive.index_for_name(&file)) {
            [Some(_), Some(_)] => {
                return Err(DataError::array(
                    path,
                    name,
                    format!("{name} and {name}.npy are there; remove one of them"),
                ));
            }
            [None, Some(_)] => name.to_owned(),
            _ => format!("{name}.npy"),
        };
        let member = self.archive.by_name(&file).map_err(|e| match e {
            ZipError::FileNotFound => {
                DataError::array(path, name, format!("there is no such array; the archive holds {}", listed(&names)))
            }
            ZipError::Io(e) => read_error(path, name, e),
            e => DataError::array(path, name, e.to_string()),
        })?;
        let deflated = match member.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            other => {
                return Err(DataError::array(
                    path,
                    name,
                    format!("compressed by {other}, expected stored or deflated"),
                ));
            }
        };
        let Some(start) = member.data_start() else {
            return Err(DataError::array(path, name, "its place in the archive is not known"));
        };
        let (stored, size, sum) = (member.compressed_size(), member.size(), Some(member.crc32()));
        if !deflated && stored != size {
            return Err(DataError::array(path, name, format!("{stored} stored bytes, but a size of {size}")));
        }
        drop(member);
        Array::new(path, name, Place { file: Arc::clone(&self.file), start, stored, size, deflated, sum })
    }

    fn load<T: Copy>(
        &mut self,
        name: &str,
        expected: &str,
        decoder: impl FnOnce(Element) -> fn(&[u8]) -> Option<T>,
    ) -> Result<(Vec<usize>, Vec<T>), DataError> {
        const ELEMENTS: usize = 16 << 10;
        let mut array = self.array(name)?.flat();
        let (element, shape) = (array.element(), array.shape().to_vec());
        let (decode, size) = (decoder(element), element.bytes());
        let mut values = Vec::with_capacity(array.rows().min(ELEMENTS));
        let mut chunk = Vec::new();
        loop {
            array.next_rows(array.rows_left().min(ELEMENTS), &mut chunk)?;
            for bytes in chunk.chunks_exact(size) {
                let wrong =
                    || array.problem(format!("element {}: {} is not {expected}", values.len(), element.text(bytes)));
                values.push(decode(bytes).ok_or_else(wrong)?);
            }
            if array.rows_left() == 0 {
                break;
            }
        }
        if array.is_fortran() && shape.len() > 1 {
            values = row_major(&shape, &values);
        }
        Ok((shape, values))
    }
}

/// Elements of which the first index runs fastest, in the order in which the last one does.
fn row_major<T: Copy>(shape: &[usize], values: &[T]) -> Vec<T> {
    let mut strides = Vec::with_capacity(shape.len());
    shape.iter().fold(1, |stride, size| {
        strides.push(stride);
        stride * size
    });
    let mut index = vec![0; shape.len()];
    let place = |index: &[usize]| index.iter().zip(&strides).map(|(at, stride)| at * stride).sum::<usize>();
    (0..values.len())
        .map(|_| {
            let value = values[place(&index)];
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            value
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::row_major;

    #[test]
    fn the_last_index_runs_fastest() {
        assert_eq!(row_major(&[2, 3], &[1, 4, 2, 5, 3, 6]), [1, 2, 3, 4, 5, 6]);
        let fortran: Vec<usize> = (0..2 * 3 * 4).map(|at| (at % 2) * 100 + (at / 2 % 3) * 10 + at / 6).collect();
        let mut sorted = fortran.clone();
        sorted.sort_unstable();
        assert_eq!(row_major(&[2, 3, 4], &fortran), sorted);
        assert_eq!(row_major(&[0, 3], &[] as &[u8]), []);
    }
}
