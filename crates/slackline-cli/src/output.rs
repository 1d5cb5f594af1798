//! The file of predictions: it grows in a folder of its own, and appears under its name when it is whole.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use slackline_collective::Terms;
use slackline_data::WholeFile;

const HEADER: &[u8] = b"id,prediction\n";

/// The longest that a row waits for the next ones before both are written. What is not written is lost if the process is
/// killed.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Ranks that are processes end a moment after a command that is killed.
const LAST_OF_KILLED: Duration = Duration::from_millis(500);

/// How many rows are looked at between two calls for [patience](PredictionFile::resume).
pub(crate) const PATIENCE_ROWS: u64 = 1 << 20;

/// Writes a complete file, or none. `report` is called in between: if it fails, there is no file.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], report: impl FnOnce() -> Result<()>) -> Result<()> {
    let cannot = || format!("{}: cannot write", path.display());
    let mut file = WholeFile::create(path).with_context(cannot)?;
    file.write_all(bytes).and_then(|()| file.settle()).with_context(cannot)?;
    report()?;
    file.finish().with_context(cannot)
}

/// Checks that a file can be written, without changing anything.
pub(crate) fn check(path: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        match WholeFile::check(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < LAST_OF_KILLED => {
                std::thread::sleep(LAST_OF_KILLED / 50);
            }
            checked => return checked.with_context(|| format!("{}: cannot write", path.display())),
        }
    }
}

/// A CSV file `id,prediction` that is being written, a [`WholeFile`] whose rows are kept if the run ends before it is whole.
pub(crate) struct PredictionFile {
    path: PathBuf,
    writer: BufWriter<WholeFile>,
    line: Vec<u8>,
    flushed: Instant,
    /// Whether there is a row that would be lost.
    has_rows: bool,
}

/// The rows that an earlier run has kept, from the first.
pub(crate) struct KeptRows {
    /// How many.
    pub(crate) rows: u64,
    records: Records<BufReader<File>>,
}

impl PredictionFile {
    /// Begins the file of a run that computes `terms`.
    pub(crate) fn create(path: &Path, terms: &Terms) -> Result<Self> {
        let cannot = || format!("{}: cannot write", path.display());
        Self::begin(path, WholeFile::create(path).with_context(cannot)?, terms).with_context(cannot)
    }

    fn begin(path: &Path, mut whole: WholeFile, terms: &Terms) -> io::Result<Self> {
        if let Some(file) = whole.terms() {
            fs::write(file, terms.to_bytes())?;
        }
        whole.write_all(HEADER)?;
        Ok(Self::over(path, whole))
    }

    fn over(path: &Path, whole: WholeFile) -> Self {
        let writer = BufWriter::with_capacity(1 << 18, whole);
        PredictionFile { path: path.to_owned(), writer, line: Vec::new(), flushed: Instant::now(), has_rows: false }
    }

    /// Goes on with the rows that a run of the same `terms` has kept, or begins if there are none. A last row that is not
    /// whole is cut off.
    ///
    /// Reads all rows that are there, and calls `patience` every [`PATIENCE_ROWS`]: other ranks wait meanwhile.
    pub(crate) fn resume(
        path: &Path,
        terms: &Terms,
        patience: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(Self, Option<KeptRows>)> {
        let cannot = || format!("{}: cannot write", path.display());
        let mut whole = WholeFile::reopen(path).with_context(cannot)?;
        let (Some(folder), Some(left)) = (whole.folder().map(Path::to_owned), whole.terms()) else {
            bail!("{}: a pipe or a device keeps no rows; leave out --resume", path.display());
        };
        let left = match fs::read(left) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            left => Some(left.with_context(cannot)?),
        };
        let header = Records::of(whole.file()).and_then(|mut records| records.next()).with_context(cannot)?;
        let (Some(left), Some(HEADER)) = (left, header.as_deref()) else {
            // Ended before it had begun to write rows.
            drop(whole);
            return Ok((Self::create(path, terms)?, None));
        };
        let again = "leave out --resume to start over";
        if let Err(differing) = Terms::compare(&[&left, &terms.to_bytes()]) {
            let of = |difference: &slackline_collective::Difference, run| {
                let value = difference.values.iter().find(|(_, runs)| runs.contains(&run));
                value.map_or_else(String::new, |(value, _)| value.clone())
            };
            let differing = differing.differing.iter();
            let differing: Vec<String> =
                differing.map(|what| format!("{} was {} and is {}", what.name, of(what, 0), of(what, 1))).collect();
            bail!("{}: left by another run ({}); {again}", folder.display(), differing.join("; "));
        }
        let mut records = Records::of(whole.file()).with_context(cannot)?;
        records.next().with_context(cannot)?;
        let (mut rows, mut end) = (0, records.at);
        while let Some(record) = records.next().with_context(cannot)? {
            if parse(&record).is_none() {
                break;
            }
            (rows, end) = (rows + 1, records.at);
            if rows % PATIENCE_ROWS == 0 {
                patience()?;
            }
        }
        whole.file().set_len(end).with_context(cannot)?;
        let mut records = Records::of(&File::open(folder.join(WholeFile::CONTENT)).with_context(cannot)?)?;
        records.next().with_context(cannot)?;
        whole.file().seek(SeekFrom::Start(end)).with_context(cannot)?;
        whole.keep(true);
        Ok((Self::over(path, whole), (rows > 0).then_some(KeptRows { rows, records })))
    }

    /// Appends a row. Ids with a comma, a quote or a line end are quoted.
    pub(crate) fn row(&mut self, id: &[u8], prediction: f32) -> Result<()> {
        self.line.clear();
        append_id(&mut self.line, id);
        self.line.push(b',');
        append_decimal(&mut self.line, prediction);
        self.line.push(b'\n');
        self.has_rows = true;
        self.writer.write_all(&self.line).with_context(|| format!("{}: cannot write", self.path.display()))
    }

    /// Writes out what has waited long enough, which is then kept. Called after each batch.
    pub(crate) fn turn(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.has_rows && now - self.flushed >= FLUSH_EVERY {
            self.flushed = now;
            self.writer.flush().with_context(|| format!("{}: cannot write", self.path.display()))?;
            self.writer.get_mut().keep(true);
        }
        Ok(())
    }

    /// Brings all rows to the disk, so that hardly anything is left that can fail, and gives the file no name yet.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let settled = self.writer.flush().and_then(|()| self.writer.get_ref().settle());
        settled.with_context(|| format!("{}: cannot write", self.path.display()))
    }

    /// Syncs the file to the disk and gives it its name.
    pub(crate) fn finish(self) -> Result<()> {
        let whole = self.writer.into_inner().map_err(io::IntoInnerError::into_error);
        whole.and_then(WholeFile::finish).with_context(|| format!("{}: cannot write", self.path.display()))
    }
}

impl KeptRows {
    /// The next row's prediction, if its id is `id`.
    pub(crate) fn next(&mut self, id: &[u8]) -> Result<f32> {
        let record = self.records.next()?.unwrap_or_default();
        let (found, prediction) = parse(&record).context("the rows that were kept have changed meanwhile")?;
        let mut expected = Vec::new();
        append_id(&mut expected, id);
        if found != expected {
            let [found, id] = [found, id].map(String::from_utf8_lossy);
            bail!(
                "a row that was kept has the id {found:?} and the input's has {id:?}; leave out --resume to start over"
            );
        }
        Ok(prediction)
    }
}

/// Lines of CSV, where a line end within quotes belongs to the line.
struct Records<R> {
    from: R,
    /// Where the next one begins.
    at: u64,
}

impl Records<BufReader<File>> {
    fn of(file: &File) -> io::Result<Self> {
        let mut file = file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Records { from: BufReader::with_capacity(1 << 18, file), at: 0 })
    }
}

impl<R: BufRead> Records<R> {
    /// The next record with its line end; `None` at the end, and for one that is not whole.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut record = Vec::new();
        loop {
            let before = record.len();
            self.from.read_until(b'\n', &mut record)?;
            if record.len() == before || record.last() != Some(&b'\n') {
                return Ok(None);
            }
            if record.iter().filter(|byte| **byte == b'"').count() % 2 == 0 {
                self.at += record.len() as u64;
                return Ok(Some(record));
            }
        }
    }
}

/// Id and prediction of a record, the id as it was written.
fn parse(record: &[u8]) -> Option<(&[u8], f32)> {
    let record = record.strip_suffix(b"\n")?;
    let comma = record.iter().rposition(|byte| *byte == b',')?;
    let prediction = std::str::from_utf8(&record[comma + 1..]).ok()?.parse().ok()?;
    Some((&record[..comma], prediction))
}

fn append_id(line: &mut Vec<u8>, id: &[u8]) {
    if !id.iter().any(|byte| b",\"\n\r".contains(byte)) {
        return line.extend_from_slice(id);
    }
    line.push(b'"');
    for &byte in id {
        line.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
    }
    line.push(b'"');
}

/// A prediction as a plain decimal number of 9 significant digits: parsing it gives the same `f32`.
fn append_decimal(line: &mut Vec<u8>, value: f32) {
    let put = "a Vec takes all";
    if value == 0.0 || !value.is_finite() {
        return write!(line, "{value:.8}").expect(put);
    }
    // d.dddddddde-N
    let mut room = [0; 16];
    let mut rest = &mut room[..];
    write!(rest, "{:.8e}", value.abs()).expect("at most 14 bytes");
    let unused = rest.len();
    let (digits, exponent) = room[..room.len() - unused].split_at(10);
    let exponent = std::str::from_utf8(&exponent[1..]).ok().and_then(|e| e.parse().ok());
    let exponent: i32 = exponent.expect("a number with an exponent");
    if exponent >= 0 {
        // Of a number below 1e9 the rounding above and this one fall on the same digit.
        return write!(line, "{value:.*}", (8 - exponent).max(0) as usize).expect(put);
    }
    line.extend_from_slice(if value < 0.0 { b"-0." } else { b"0." });
    line.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
    line.push(digits[0]);
    line.extend_from_slice(&digits[2..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(model: &str) -> Terms {
        Terms::new().with("the model (digest)", model).with("--wire", "f32")
    }

    fn decimal(value: f32) -> String {
        let mut line = Vec::new();
        append_decimal(&mut line, value);
        String::from_utf8(line).unwrap()
    }

    /// A file of which these bytes were kept.
    fn kept(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let mut whole = WholeFile::create(&path).unwrap();
        fs::write(whole.terms().unwrap(), terms("a").to_bytes()).unwrap();
        whole.write_all(bytes).unwrap();
        whole.keep(true);
        (folder, path)
    }

    #[test]
    fn rows_are_quoted_where_they_have_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let mut file = PredictionFile::create(&path, &terms("a")).unwrap();
        file.row(b"7", 0.5).unwrap();
        file.row(b"a,\"b\"", 0.25).unwrap();
        file.finish().unwrap();
        let written = "id,prediction\n7,0.500000000\n\"a,\"\"b\"\"\",0.250000000\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
    }

    #[test]
    fn rows_that_are_kept_are_gone_on_with_and_a_torn_one_is_written_anew() {
        let whole = b"id,prediction\n1,0.500000000\n\"x\ny\",0.250000000\n3,0.125000000\n";
        let rows: [&[u8]; 3] = [b"1", b"x\ny", b"3"];
        for length in 0..=whole.len() {
            let (_folder, path) = kept(&whole[..length]);
            let (mut file, kept) = PredictionFile::resume(&path, &terms("a"), &mut || Ok(())).unwrap();
            let mut count = 0;
            if let Some(mut kept) = kept {
                count = kept.rows as usize;
                let values: Vec<f32> = rows[..count].iter().map(|id| kept.next(id).unwrap()).collect();
                assert_eq!(values, [0.5, 0.25, 0.125][..count]);
            }
            // Every row that is whole is kept.
            assert_eq!(count, [28, 46, 60].iter().filter(|end| **end <= length).count(), "{length} bytes");
            for (id, value) in rows.iter().zip([0.5, 0.25, 0.125]).skip(count) {
                file.row(id, value).unwrap();
            }
            file.finish().unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole, "{length} bytes");
            assert!(!path.with_file_name(".out.csv.partial").exists());
        }
    }

    #[test]
    fn rows_of_another_computation_or_input_are_refused_and_stay() {
        let bytes = b"id,prediction\n1,0.500000000\n";
        let (_folder, path) = kept(bytes);
        let error = format!("{:#}", PredictionFile::resume(&path, &terms("b"), &mut || Ok(())).err().unwrap());
        assert!(error.contains(".out.csv.partial: left by another run"), "{error}");
        assert!(error.ends_with("(the model (digest) was a and is b); leave out --resume to start over"), "{error}");
        let (_, kept) = PredictionFile::resume(&path, &terms("a"), &mut || Ok(())).unwrap();
        let error = kept.unwrap().next(b"2").unwrap_err().to_string();
        assert!(error.contains("\"1\"") && error.contains("\"2\""), "{error}");
        assert_eq!(fs::read(path.with_file_name(".out.csv.partial").join(WholeFile::CONTENT)).unwrap(), bytes);
    }

    #[test]
    fn a_device_keeps_nothing() {
        let error =
            PredictionFile::resume(Path::new("/dev/null"), &terms("a"), &mut || Ok(())).err().unwrap().to_string();
        assert!(error.contains("keeps no rows"), "{error}");
    }

    #[test]
    fn predictions_are_plain_decimals_of_nine_digits() {
        assert_eq!(decimal(0.007_993_245), "0.00799324457");
        assert_eq!(decimal(0.811_479_87), "0.811479867");
        assert_eq!(decimal(1.0), "1.00000000");
        assert_eq!(decimal(0.0), "0.00000000");
        assert_eq!(decimal(1e-10), "0.000000000100000001");
        assert_eq!(decimal(f32::NAN), "NaN");
        assert_eq!(
            (decimal(-0.25), decimal(-12.5), decimal(1e10)),
            ("-0.250000000".into(), "-12.5000000".into(), "10000000000".into())
        );
    }

    proptest! {
        #[test]
        fn every_prediction_can_be_read_back(bits in 0u32..=0x3f80_0000) {
            let value = f32::from_bits(bits);
            let text = decimal(value);
            prop_assert_eq!(text.parse::<f32>().unwrap().to_bits(), bits, "{}", text);
            prop_assert!(!text.contains('e'));
            let digits = text.chars().filter(char::is_ascii_digit).skip_while(|&digit| digit == '0').count();
            prop_assert!(digits >= 9 || value == 0.0, "{}", text);
        }

        #[test]
        fn numbers_of_any_size_can_be_read_back(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let again = decimal(value).parse::<f32>().unwrap();
            prop_assert!(again.to_bits() == bits || value.is_nan() && again.is_nan(), "{}", decimal(value));
        }
    }
}
