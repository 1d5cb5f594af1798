//! An array in a file, read row by row in bounded memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Crc;

use crate::DataError;
use crate::element::Element;
use crate::npy::{Header, HeaderError, read_header};
use crate::run::{Place, Run};

/// No more than this is allocated ahead of what is read.
const CHUNK: usize = 64 << 10;
/// Columns of an array in Fortran order, each of which is read at a place of its own.
const MOST_COLUMNS: usize = 4096;
/// Deflate makes at most this many bytes of one.
const MOST_INFLATED: u64 = 1032;

/// A two-dimensional array, or one of one dimension as a single column, that is read from its first row on.
///
/// In C order its bytes are read one after the other; in Fortran order each column is read at its own place, so that no more
/// than a buffer for each is in memory. A column of a deflated array is found by inflating all that comes before it.
///
/// The checksum of an archive's member is compared once the last row has been read, unless rows were passed over.
pub(crate) struct Array {
    path: PathBuf,
    /// The member of an archive; empty for a file that is the array.
    name: String,
    header: Header,
    rows: usize,
    columns: usize,
    place: Place,
    /// One, or one for each column.
    runs: Vec<Run>,
    read: usize,
}

impl Array {
    /// The array of a `.npy` file.
    pub(crate) fn open(path: &Path) -> Result<Array, DataError> {
        let place = whole_file(path)?;
        Array::new(path, "", place)
    }

    /// A file that is nothing but rows of `columns` elements.
    pub(crate) fn headless(path: &Path, element: Element, columns: usize) -> Result<Array, DataError> {
        let place = whole_file(path)?;
        let width = (columns * element.bytes()) as u64;
        if place.size % width != 0 {
            let problem =
                format!("{} bytes, which are not rows of {columns} {} ({width} bytes)", place.size, element.name());
            return Err(DataError::Corrupt { path: path.to_owned(), problem });
        }
        let rows = usize::try_from(place.size / width).unwrap_or(usize::MAX);
        let shape = vec![rows, columns];
        let header = Header { element, shape, fortran: false, count: rows * columns, bytes: 0 };
        let runs = vec![Run::new(&place, CHUNK)];
        Ok(Array { path: path.to_owned(), name: String::new(), header, rows, columns, place, runs, read: 0 })
    }

    /// The array at a place of a file, with its header.
    pub(crate) fn new(path: &Path, name: &str, place: Place) -> Result<Array, DataError> {
        let problem = |problem: String| DataError::array(path, name, problem);
        let mut first = Run::new(&place, CHUNK);
        let header = read_header(&mut first).map_err(|e| match e {
            HeaderError::Io(e) => read_error(path, name, e),
            HeaderError::Malformed(what) => problem(what),
        })?;
        let claimed = header.bytes + (header.count * header.element.bytes()) as u64;
        let what = if name.is_empty() { "the file" } else { "the member" };
        if claimed != place.size {
            let Header { shape, element, .. } = &header;
            let (type_, size) = (element.name(), place.size);
            return Err(problem(format!(
                "shape {shape:?} of {type_} needs {claimed} bytes with its header, {what} has {size}"
            )));
        }
        if place.deflated && place.size / MOST_INFLATED > place.stored + 1 {
            return Err(problem(format!("damaged: {} bytes cannot be deflated to {}", place.size, place.stored)));
        }
        let (rows, columns) = match header.shape[..] {
            [] => (1, 1),
            [rows] => (rows, 1),
            [rows, ref rest @ ..] => (rows, rest.iter().product()),
        };
        let path = path.to_owned();
        Ok(Array { path, name: name.to_owned(), header, rows, columns, place, runs: vec![first], read: 0 })
    }

    /// Takes the elements in the order in which they lie in the file, whatever their shape: one to a row.
    pub(crate) fn flat(mut self) -> Self {
        (self.rows, self.columns) = (self.header.count, 1);
        self
    }

    /// Takes the array by rows.
    ///
    /// # Errors
    ///
    /// If it has more than two dimensions, or very many columns in Fortran order.
    pub(crate) fn by_rows(mut self) -> Result<Self, DataError> {
        let shape = &self.header.shape;
        if shape.len() > 2 {
            return Err(self.problem(format!("shape {shape:?}, expected at most two dimensions")));
        }
        let split = self.header.fortran && self.columns > 1 && self.rows > 1;
        if !split {
            return Ok(self);
        }
        if self.columns > MOST_COLUMNS {
            let columns = self.columns;
            return Err(self.problem(format!("{columns} columns in Fortran order; save np.ascontiguousarray of it")));
        }
        let column = (self.rows * self.header.element.bytes()) as u64;
        let buffer = ((1 << 20) / self.columns).clamp(4 << 10, CHUNK);
        for number in 1..self.columns as u64 {
            let mut run = Run::new(&self.place, buffer);
            let start = self.header.bytes + number * column;
            run.skip(start).map_err(|e| read_error(&self.path, &self.name, e))?;
            if !self.place.deflated {
                run.start_sum();
            }
            self.runs.push(run);
        }
        Ok(self)
    }

    pub(crate) fn element(&self) -> Element {
        self.header.element
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    pub(crate) fn is_fortran(&self) -> bool {
        self.header.fortran
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn rows_left(&self) -> usize {
        self.rows - self.read
    }

    /// Replaces `out` by the next `count` rows, row-major and little-endian.
    ///
    /// # Panics
    ///
    /// If there are fewer rows.
    pub(crate) fn next_rows(&mut self, count: usize, out: &mut Vec<u8>) -> Result<(), DataError> {
        assert!(count <= self.rows_left(), "{count} rows of {}", self.rows_left());
        out.clear();
        let size = self.header.element.bytes();
        let outcome = match &mut self.runs[..] {
            [run] => append(run, count * self.columns * size, out),
            runs => interleave(runs, count, size, out),
        };
        outcome.map_err(|e| read_error(&self.path, &self.name, e))?;
        self.header.element.to_little_endian(out);
        self.read += count;
        if self.rows_left() == 0 { self.finish() } else { Ok(()) }
    }

    /// Passes over rows.
    ///
    /// # Panics
    ///
    /// If there are fewer rows.
    pub(crate) fn skip_rows(&mut self, count: usize) -> Result<(), DataError> {
        assert!(count <= self.rows_left(), "{count} rows of {}", self.rows_left());
        let each = if self.runs.len() == 1 { self.columns } else { 1 };
        let bytes = (count * each * self.header.element.bytes()) as u64;
        for run in &mut self.runs {
            run.skip(bytes).map_err(|e| read_error(&self.path, &self.name, e))?;
        }
        self.read += count;
        if self.rows_left() == 0 { self.finish() } else { Ok(()) }
    }

    /// How the array is called in an error about another one.
    pub(crate) fn title(&self) -> String {
        if self.name.is_empty() { self.path.display().to_string() } else { format!("member {}", self.name) }
    }

    pub(crate) fn problem(&self, problem: impl Into<String>) -> DataError {
        DataError::array(&self.path, &self.name, problem)
    }

    /// An error about an element; samples count from the first row of the file.
    pub(crate) fn bad_value(&self, sample: usize, value: String, expected: impl Into<String>) -> DataError {
        let member = self.name.clone();
        DataError::MemberValue { path: self.path.clone(), member, sample, value, expected: expected.into() }
    }

    /// After the last row: there must be no more, and the checksum must be right.
    fn finish(&mut self) -> Result<(), DataError> {
        let last = self.runs.last_mut().expect("at least one");
        let more = if self.place.deflated { last.read(&mut [0]) } else { Ok(0) };
        if more.map_err(|e| read_error(&self.path, &self.name, e))? > 0 {
            return Err(self.problem("more bytes than its header claims"));
        }
        let Some(expected) = self.place.sum else { return Ok(()) };
        let parts = if self.place.deflated { &self.runs[self.runs.len() - 1..] } else { &self.runs[..] };
        let mut found = Crc::new();
        for part in parts {
            // Rows were passed over: their checksum is not known.
            let Some(sum) = part.sum() else { return Ok(()) };
            found.combine(sum);
        }
        if found.sum() != expected {
            return Err(self.problem("damaged: its bytes do not match their checksum"));
        }
        Ok(())
    }
}

fn whole_file(path: &Path) -> Result<Place, DataError> {
    let file = File::open(path).map_err(|e| DataError::io(path, "open", e))?;
    let metadata = file.metadata().map_err(|e| DataError::io(path, "open", e))?;
    if !metadata.is_file() {
        let problem = "not a regular file, which arrays are read from".to_owned();
        return Err(DataError::UnknownFormat { path: path.to_owned(), problem });
    }
    let size = metadata.len();
    Ok(Place { file: Arc::new(file), start: 0, stored: size, size, deflated: false, sum: None })
}

/// Appends bytes, in steps: a length that is not true does not make a large allocation.
fn append(run: &mut Run, bytes: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let (part, from) = (left.min(CHUNK), out.len());
        out.resize(from + part, 0);
        run.read_exact(&mut out[from..])?;
        left -= part;
    }
    Ok(())
}

/// Appends elements of all columns, row by row.
fn interleave(columns: &mut [Run], count: usize, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let width = columns.len() * size;
    let mut column = Vec::new();
    for (number, run) in columns.iter_mut().enumerate() {
        column.clear();
        append(run, count * size, &mut column)?;
        out.resize(count * width, 0);
        for (row, element) in out.chunks_exact_mut(width).zip(column.chunks_exact(size)) {
            row[number * size..(number + 1) * size].copy_from_slice(element);
        }
    }
    Ok(())
}

pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

pub(crate) fn read_error(path: &Path, name: &str, error: io::Error) -> DataError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return DataError::array(path, name, "truncated");
    }
    if is_damage(&error) {
        return DataError::array(path, name, format!("damaged: {error}"));
    }
    DataError::io(path, "read", error)
}
