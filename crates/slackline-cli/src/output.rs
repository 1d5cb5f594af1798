//! The file of predictions: complete under its name, or absent.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Writes a complete file, or none. `report` is called in between: if it fails, there is no file.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], report: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut file = PredictionFile::begin(path)?;
    file.write(bytes)?;
    file.settle()?;
    report()?;
    file.finish()
}

/// A CSV file `id,prediction` that is being written.
///
/// The file has no name until [`finish`](Self::finish), so nothing is left behind however the process ends. On file systems
/// without unnamed files it is `.<name>.<process>.partial` in the same folder until then, which is removed when this is
/// dropped. An existing file is replaced as a whole; a pipe or a device is written to directly.
pub(crate) struct PredictionFile {
    path: PathBuf,
    form: Form,
    writer: BufWriter<File>,
}

enum Form {
    Unnamed,
    Partial(PathBuf),
    Direct,
}

impl PredictionFile {
    /// Checks that `path` can be written, without creating it.
    pub(crate) fn check(path: &Path) -> Result<()> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // Opening a pipe would wait for its reader, and closing it would end the reader.
        if !is_direct(&target) {
            PredictionFile::create(path)?;
        }
        Ok(())
    }

    /// Creates the file and writes the header.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut file = Self::begin(path)?;
        file.write(b"id,prediction\n")?;
        Ok(file)
    }

    fn begin(path: &Path) -> Result<Self> {
        // A link stays a link; its target is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (file, form) = open(&path).with_context(|| format!("{}: cannot write", path.display()))?;
        Ok(PredictionFile { path, form, writer: BufWriter::with_capacity(1 << 18, file) })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).with_context(|| format!("{}: cannot write", self.path.display()))
    }

    /// Appends a row. Ids with a comma, a quote or a line end are quoted.
    pub(crate) fn row(&mut self, id: &str, prediction: f32) -> Result<()> {
        let quoted = id.contains([',', '"', '\n', '\r']);
        let id = if quoted { format!("\"{}\"", id.replace('"', "\"\"")) } else { id.to_owned() };
        self.write(format!("{id},{}\n", decimal(prediction)).as_bytes())
    }

    /// Syncs the file to disk and gives it its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        let path = self.path.clone();
        self.publish().with_context(|| format!("{}: cannot write", path.display()))
    }

    /// Brings what was written to the disk, so that hardly anything is left that can fail, and gives it no name yet.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.flush().with_context(|| format!("{}: cannot write", self.path.display()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        if matches!(self.form, Form::Direct) { Ok(()) } else { self.writer.get_ref().sync_all() }
    }

    fn publish(&mut self) -> io::Result<()> {
        self.flush()?;
        if matches!(self.form, Form::Direct) {
            return Ok(());
        }
        if matches!(self.form, Form::Unnamed) {
            use std::os::fd::AsRawFd;
            let partial = partial_name(&self.path);
            let open = format!("/proc/self/fd/{}", self.writer.get_ref().as_raw_fd());
            let _ = fs::remove_file(&partial);
            rustix::fs::linkat(CWD, open, CWD, &partial, AtFlags::SYMLINK_FOLLOW)?;
            self.form = Form::Partial(partial);
        }
        if let Form::Partial(partial) = &self.form {
            fs::rename(partial, &self.path)?;
            self.form = Form::Direct;
        }
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl Drop for PredictionFile {
    fn drop(&mut self) {
        if let Form::Partial(partial) = &self.form {
            let _ = fs::remove_file(partial);
        }
    }
}

/// A prediction as a plain decimal number of 9 significant digits: parsing it gives the same `f32`.
pub(crate) fn decimal(value: f32) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value:.8}");
    }
    let scientific = format!("{value:.8e}");
    let exponent: i32 =
        scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).expect("a number with an exponent");
    // Of a number below 1e9 the rounding above and this one fall on the same digit.
    format!("{value:.*}", (8 - exponent).max(0) as usize)
}

fn open(path: &Path) -> Result<(File, Form)> {
    if path.is_dir() {
        bail!("it is a folder");
    }
    if is_direct(path) {
        return Ok((File::options().write(true).open(path)?, Form::Direct));
    }
    if path.file_name().is_none() {
        bail!("the path has no file name");
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        bail!("there is no folder {}", folder.display());
    }
    // An unnamed file gets its name through this folder.
    if !Path::new("/proc/self/fd").is_dir() {
        return named(path);
    }
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
        Ok(unnamed) => Ok((File::from(unnamed), Form::Unnamed)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => named(path),
        Err(error) => Err(error.into()),
    }
}

/// For file systems that have no unnamed files.
fn named(path: &Path) -> Result<(File, Form)> {
    let partial = partial_name(path);
    Ok((File::create(&partial)?, Form::Partial(partial)))
}

/// Whether this is a pipe or a device.
fn is_direct(path: &Path) -> bool {
    let is_special = |kind: fs::FileType| kind.is_fifo() || kind.is_char_device() || kind.is_block_device();
    fs::metadata(path).is_ok_and(|metadata| is_special(metadata.file_type()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.{}.partial", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        fs::write(&path, "old").unwrap();
        let mut file = PredictionFile::create(&path).unwrap();
        file.row("1", 0.5).unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names_in(folder.path()), ["out.csv"]);
    }

    #[test]
    fn a_finished_file_replaces_the_old_one_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        fs::write(&path, "old and longer than what comes after it, so that a rest would show").unwrap();
        let old = File::open(&path).unwrap();
        let mut file = PredictionFile::create(&path).unwrap();
        file.row("7", 0.5).unwrap();
        file.row("a,\"b\"", 0.25).unwrap();
        file.finish().unwrap();
        let written = "id,prediction\n7,0.500000000\n\"a,\"\"b\"\"\",0.250000000\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), written);
        assert_eq!(names_in(folder.path()), ["out.csv"]);
        assert!(io::read_to_string(old).unwrap().starts_with("old"), "who had it open keeps it");
    }

    #[test]
    fn without_unnamed_files_it_is_whole_or_not_there_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let begin = || {
            let (file, form) = named(&path).unwrap();
            PredictionFile { path: path.clone(), form, writer: BufWriter::new(file) }
        };
        let mut unfinished = begin();
        unfinished.row("1", 0.5).unwrap();
        assert_ne!(names_in(folder.path()), [""; 0]);
        drop(unfinished);
        assert_eq!(names_in(folder.path()), [""; 0]);
        let mut finished = begin();
        finished.row("1", 0.5).unwrap();
        finished.finish().unwrap();
        assert_eq!(names_in(folder.path()), ["out.csv"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1,0.500000000\n");
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target.csv"), folder.path().join("link.csv"));
        fs::write(&target, "old").unwrap();
        symlink("target.csv", &link).unwrap();
        PredictionFile::create(&link).unwrap().finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "id,prediction\n");
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let mut file = PredictionFile::create(Path::new("/dev/null")).unwrap();
        file.row("1", 0.5).unwrap();
        file.finish().unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn folders_and_missing_folders_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| format!("{:#}", PredictionFile::create(path).err().unwrap());
        assert!(refused(folder.path()).ends_with("it is a folder"));
        let missing = folder.path().join("no/such/out.csv");
        let words = refused(&missing);
        assert!(
            words.contains("out.csv") && words.contains("there is no folder") && words.contains("no/such"),
            "{words}"
        );
    }

    #[test]
    fn predictions_are_plain_decimals_of_nine_digits() {
        assert_eq!(decimal(0.007_993_245), "0.00799324457");
        assert_eq!(decimal(0.811_479_87), "0.811479867");
        assert_eq!(decimal(1.0), "1.00000000");
        assert_eq!(decimal(0.0), "0.00000000");
        assert_eq!(decimal(1e-10), "0.000000000100000001");
        assert_eq!(decimal(f32::NAN), "NaN");
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
    }
}
