//! Converting an input into arrays of another format, as a stream, so that an interrupted conversion goes on where it was.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::beside::{self, Role};
use crate::partial::Partial;
use crate::planned::{Content, PlannedArray, PlannedFile};
use crate::{Batch, DataError, Input, InputFormat, InputOptions, InputShape, Transforms};

/// Samples read at a time.
const BATCH: usize = 2048;
/// Bytes between two syncs of the disk: the most that an interrupted conversion repeats.
const KEEP_EVERY: u64 = 256 << 20;

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Converted {
    /// The files written.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// The format of the input.
    pub from: InputFormat,
    /// Samples in the files.
    pub samples: u64,
    /// Those among them that an earlier, interrupted conversion had written.
    pub resumed: u64,
    /// What was done to the values.
    pub transforms: Transforms,
}

/// Converts an input into the arrays of another format: [`Npz`](InputFormat::Npz), [`MultiHot`](InputFormat::MultiHot) or
/// [`Npy`](InputFormat::Npy), which hold prepared values. Reading them gives the same batches as reading the input with these
/// options, bit for bit. Dense features and labels of the latter two lie in files beside `out`, whose name must then have
/// `sparse` in it.
///
/// The number of samples has to be known first: for text, the lines are counted in a pass of their own. Each file grows
/// in a [`PartialFolder`](crate::PartialFolder) and is renamed when all are whole. The same conversion of the same files takes what was synced
/// before it was interrupted, and goes on; another one starts afresh. Memory: a batch of 2048 samples, and the buffers of
/// [`Input`]. `progress` is told the samples done, and all.
///
/// # Errors
///
/// As [`Input::open_with`] and [`Input::next_batch`]; [`DataError::Request`] for a format that cannot hold the samples, an
/// `out` that is one of the input's files, a folder, a pipe or a device, labels of another input beside an `out` without
/// labels, [`DataError::Io`] if the disk is full, or while another run writes there.
pub fn convert_input(
    path: &Path,
    options: &InputOptions,
    shape: &InputShape,
    to: InputFormat,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted, DataError> {
    let refuse = |problem: String| DataError::Request { problem: format!("{}: {problem}", out.display()) };
    if !matches!(to, InputFormat::Npz | InputFormat::MultiHot | InputFormat::Npy) {
        return Err(refuse(format!("{to} is read only; expected npz, multi-hot or npy")));
    }
    let mut input = Input::open_with(path, options, shape)?;
    let samples = match input.samples_total() {
        Some(samples) => samples,
        None => Input::open_with(path, options, shape)?.skip(u64::MAX)?,
    };
    let mut planned = plan(&input, shape, to, out, samples).map_err(&refuse)?;
    planned.iter_mut().try_for_each(|file| refuse_no_file(&mut file.path))?;
    let targets: Vec<PathBuf> = planned.iter().map(|file| file.path.clone()).collect();
    // By all names, hard links among them.
    let identity_of = |file: &PathBuf| fs::metadata(file).map(|metadata| (metadata.dev(), metadata.ino()));
    for target in &targets {
        let same = |file: &PathBuf| matches!((identity_of(file), identity_of(target)), (Ok(a), Ok(b)) if a == b);
        if input.files().iter().any(same) {
            return Err(DataError::Request {
                problem: format!("{}: input and output are the same file", target.display()),
            });
        }
    }
    let identity = identity(&input, options, shape, to, samples)?;
    let mut partial = Partial::begin(planned, &identity)?;
    let done = partial.done;
    if input.skip(done)? != done {
        return Err(refuse("the input became shorter".to_owned()));
    }
    let (mut batch, mut at, mut unsynced) = (Batch::default(), done, 0);
    progress(at, samples);
    loop {
        let lookups = input.lookups_read();
        if !input.next_batch(BATCH, &mut batch)? {
            break;
        }
        for file in &mut partial.files {
            unsynced += file.write(&batch, &lookups)?;
        }
        at += batch.samples as u64;
        if at > samples {
            return Err(refuse("the input became longer".to_owned()));
        }
        if unsynced >= KEEP_EVERY {
            partial.files.iter().try_for_each(|file| file.sync())?;
            partial.journal.keep(at)?;
            unsynced = 0;
        }
        progress(at, samples);
    }
    if at != samples {
        return Err(refuse("the input became shorter".to_owned()));
    }
    let bytes = partial.files.iter().map(|file| file.length).sum();
    partial.finish()?;
    let (from, transforms) = (input.format(), input.transforms());
    Ok(Converted { files: targets, bytes, from, samples, resumed: done, transforms })
}

/// Follows links to the file that is to be written or replaced, and refuses what is no file, before anything is changed.
fn refuse_no_file(path: &mut PathBuf) -> Result<(), DataError> {
    if path.is_symlink()
        && let Ok(real) = fs::canonicalize(&*path)
    {
        *path = real;
    }
    let Ok(metadata) = fs::metadata(&*path) else { return Ok(()) };
    let what = match metadata.is_dir() {
        true => "it is a folder",
        false if metadata.is_file() => return Ok(()),
        false => "it is a pipe or a device, and arrays are written out of order; name a file",
    };
    Err(DataError::Request { problem: format!("{}: {what}", path.display()) })
}

/// The files of the output, with the places of all arrays.
fn plan(
    input: &Input,
    shape: &InputShape,
    to: InputFormat,
    out: &Path,
    samples: u64,
) -> Result<Vec<PlannedFile>, String> {
    let tables = shape.table_rows.len();
    let totals = input.lookups_total().unwrap_or_else(|| vec![samples; tables]);
    let dense = PlannedArray::new("dense", "<f4", vec![samples, shape.dense_features as u64], Content::Dense);
    let whole_labels = to != InputFormat::Npz;
    let labels = input.has_labels().then(|| {
        let descr = if whole_labels { "<i4" } else { "<f4" };
        PlannedArray::new("labels", descr, vec![samples], Content::Labels)
    });
    let numbers = |table: usize| if i32::try_from(shape.table_rows[table]).is_ok() { "<i4" } else { "<i8" };
    if to == InputFormat::Npz {
        let mut arrays = vec![dense];
        arrays.extend(labels);
        for (table, total) in totals.into_iter().enumerate() {
            let name = |kind: &str| format!("{kind}_{table}");
            arrays.push(PlannedArray::new(&name("offsets"), "<i8", vec![samples], Content::Offsets(table)));
            arrays.push(PlannedArray::new(&name("indices"), numbers(table), vec![total], Content::Indices(table)));
            if input.has_weights(table) {
                arrays.push(PlannedArray::new(&name("weights"), "<f4", vec![total], Content::Weights(table)));
            }
        }
        return Ok(vec![PlannedFile::archive(out.to_owned(), arrays)]);
    }
    if (0..tables).any(|table| input.has_weights(table)) {
        return Err(format!("the input has weights, which {to} has no place for; convert it to npz"));
    }
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("sparse") {
        return Err(format!(
            "the name of a file in format {to} must have `sparse` in it, in place of `dense` and `labels`"
        ));
    }
    let beside = |role| beside::usual(out, role);
    if let (None, Some(others)) = (&labels, beside::find(out, Role::Labels, None)) {
        return Err(format!(
            "the input has no labels, and {} would be read as its labels; remove it, or write to another folder",
            others.display()
        ));
    }
    let mut each = Vec::with_capacity(tables);
    for (table, total) in totals.into_iter().enumerate() {
        match total.checked_div(samples) {
            Some(lookups) if lookups * samples == total => each.push(lookups),
            None => each.push(1),
            Some(_) => return Err(uneven(to, table)),
        }
    }
    let sparse = if to == InputFormat::MultiHot {
        let member = |(table, lookups): (usize, u64)| {
            let content = Content::Matrix { first_table: table, tables: 1, lookups };
            PlannedArray::new(&table.to_string(), numbers(table), vec![samples, lookups], content)
        };
        PlannedFile::archive(out.to_owned(), each.into_iter().enumerate().map(member).collect())
    } else {
        if let Some(table) = each.iter().position(|lookups| *lookups != 1) {
            return Err(format!(
                "table {table} has {} lookups a sample, npy has one; convert it to multi-hot",
                each[table]
            ));
        }
        let descr = if (0..tables).all(|table| numbers(table) == "<i4") { "<i4" } else { "<i8" };
        let content = Content::Matrix { first_table: 0, tables, lookups: 1 };
        PlannedFile::array(out.to_owned(), PlannedArray::new("", descr, vec![samples, tables as u64], content))
    };
    let mut files = vec![sparse, PlannedFile::array(beside(Role::Dense), dense)];
    files.extend(labels.map(|labels| PlannedFile::array(beside(Role::Labels), labels)));
    Ok(files)
}

pub(crate) fn uneven(to: InputFormat, table: usize) -> String {
    format!("samples have different numbers of lookups in table {table}, {to} needs equally many; convert it to npz")
}

/// What makes two conversions the same: then one goes on with the files of the other.
fn identity(
    input: &Input,
    options: &InputOptions,
    shape: &InputShape,
    to: InputFormat,
    samples: u64,
) -> Result<String, DataError> {
    let Transforms { dense, sparse } = input.transforms();
    let mut text = format!(
        "{} {} to {to}, {dense},{sparse}, {samples} samples, {} features, tables of {:?} rows, dictionary {:?}",
        env!("CARGO_PKG_VERSION"),
        input.format(),
        shape.dense_features,
        shape.table_rows,
        options.dictionary
    );
    for file in input.files() {
        let metadata = fs::metadata(&file).map_err(|e| DataError::io(&file, "open", e))?;
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let file = fs::canonicalize(&file).unwrap_or(file);
        text += &format!("\n{} {} {modified:?}", file.display(), metadata.len());
    }
    Ok(text)
}
