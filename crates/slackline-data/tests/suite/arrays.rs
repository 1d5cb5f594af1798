//! Arrays as NumPy and others write them, and the formats that are made of them: the same samples from all.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use slackline_data::{Batch, DataError, Input, InputFormat, InputOptions, InputShape, NpzFile, ids};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A `.npy` file of version 1 to 3.
fn npy(version: u8, descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({sizes}), }}\n");
    let length = match version {
        1 => u16::try_from(header.len()).unwrap().to_le_bytes().to_vec(),
        _ => u32::try_from(header.len()).unwrap().to_le_bytes().to_vec(),
    };
    [&b"\x93NUMPY"[..], &[version, 0], &length, header.as_bytes(), data].concat()
}

/// The bytes of a value as a type of NumPy.
fn cell(descr: &str, value: f64) -> Vec<u8> {
    let mut bytes = match &descr[1..] {
        // Whole numbers and halves up to 2048 only.
        "f2" => half_bits(value).to_le_bytes().to_vec(),
        "f4" => (value as f32).to_le_bytes().to_vec(),
        "f8" => value.to_le_bytes().to_vec(),
        "i1" => (value as i8).to_le_bytes().to_vec(),
        "i2" => (value as i16).to_le_bytes().to_vec(),
        "i4" => (value as i32).to_le_bytes().to_vec(),
        "i8" => (value as i64).to_le_bytes().to_vec(),
        "u1" | "b1" => vec![value as u8],
        "u2" => (value as u16).to_le_bytes().to_vec(),
        "u4" => (value as u32).to_le_bytes().to_vec(),
        "u8" => (value as u64).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    };
    if descr.starts_with('>') {
        bytes.reverse();
    }
    bytes
}

fn half_bits(value: f64) -> u16 {
    if value == 0.0 {
        return 0;
    }
    let exponent = value.abs().log2().floor();
    let mantissa = (value.abs() / exponent.exp2() - 1.0) * 1024.0;
    assert_eq!(mantissa.fract(), 0.0, "{value} is no half");
    (u16::from(value < 0.0) << 15) | (((exponent as i32 + 15) as u16) << 10) | mantissa as u16
}

/// A matrix as an array of this type and order.
pub(crate) fn matrix(descr: &str, fortran: bool, rows: &[Vec<f64>]) -> Vec<u8> {
    let columns = rows.first().map_or(0, Vec::len);
    let cells =
        |order: Vec<(usize, usize)>| order.iter().flat_map(|&(r, c)| cell(descr, rows[r][c])).collect::<Vec<_>>();
    let data = if fortran {
        cells((0..columns).flat_map(|c| (0..rows.len()).map(move |r| (r, c))).collect())
    } else {
        cells((0..rows.len()).flat_map(|r| (0..columns).map(move |c| (r, c))).collect())
    };
    npy(1, descr, fortran, &[rows.len(), columns], &data)
}

pub(crate) fn list(descr: &str, values: &[f64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| cell(descr, *value)).collect();
    npy(2, descr, false, &[values.len()], &data)
}

pub(crate) fn archive(members: &[(&str, Vec<u8>)], deflated: bool) -> Vec<u8> {
    let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

type Rows = Vec<Vec<f64>>;

const ROWS: [usize; 2] = [10, 3];

pub(crate) fn shape() -> InputShape {
    InputShape { dense_features: 3, table_rows: ROWS.to_vec() }
}

/// Everything that is left, in one batch, read in batches of at most `max_samples`.
fn rest(input: &mut Input, max_samples: usize) -> Result<Batch, DataError> {
    let mut whole = Batch::default();
    whole.tables.resize_with(ROWS.len(), Default::default);
    whole.tables.iter_mut().for_each(|table| table.offsets.push(0));
    let mut batch = Batch::default();
    let mut first = None;
    while input.next_batch(max_samples, &mut batch)? {
        whole.first_sample = *first.get_or_insert(batch.first_sample);
        assert_eq!(batch.first_sample, whole.first_sample + whole.samples as u64);
        whole.samples += batch.samples;
        whole.dense.extend_from_slice(&batch.dense);
        whole.labels.extend_from_slice(&batch.labels);
        for (whole, table) in whole.tables.iter_mut().zip(&batch.tables) {
            let base = whole.indices.len() as i64;
            whole.offsets.extend(table.offsets[1..].iter().map(|offset| base + offset));
            whole.indices.extend_from_slice(&table.indices);
            whole.weights.extend_from_slice(&table.weights);
        }
    }
    Ok(whole)
}

pub(crate) fn read(path: &Path, options: &InputOptions, max_samples: usize) -> Result<Batch, DataError> {
    rest(&mut Input::open_with(path, options, &shape())?, max_samples)
}

fn said(path: &Path, options: &InputOptions) -> String {
    let text = read(path, options, 2).unwrap_err().to_string();
    let name = path.display().to_string();
    assert!(text.starts_with(&name), "{text} does not name {name}");
    text[name.len()..].to_owned()
}

/// `dense`, and for each table two lookups a sample.
fn samples() -> (Rows, [Rows; 2], Vec<f64>) {
    let dense = (0..5).map(|s| (0..3).map(|c| f64::from(s * 3 + c) / 2.0).collect()).collect();
    let bags = |rows: usize| (0..5).map(|s| vec![(s * 7 % rows) as f64, (s * 3 % rows) as f64]).collect();
    (dense, [bags(ROWS[0]), bags(ROWS[1])], vec![1.0, 0.0, 0.0, 1.0, 1.0])
}

#[test]
fn any_type_and_order_gives_the_same_samples() {
    let (dense, [first, second], labels) = samples();
    let folder = Folder::new();
    let flat = |bags: &[Vec<f64>]| bags.concat();
    let bags = |dense: Vec<u8>, descr: &str, deflated| {
        let offsets = list(descr, &[0.0, 2.0, 4.0, 6.0, 8.0]);
        let closed = list(descr, &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let (indices_0, indices_1) = (list(descr, &flat(&first)), list(descr, &flat(&second)));
        let labels = list(if descr == ">i2" { "|b1" } else { descr }, &labels);
        let members = [
            ("dense", dense),
            ("offsets_0", offsets),
            ("indices_0", indices_0),
            ("offsets_1", closed),
            ("indices_1", indices_1),
            ("labels", labels),
        ];
        read(&folder.file("in.npz", &archive(&members, deflated)), &InputOptions::default(), 2).unwrap()
    };
    let expected = bags(matrix("<f4", false, &dense), "<i8", false);
    assert_eq!(expected.dense[..4], [0.0, 0.5, 1.0, 1.5]);
    assert_eq!(expected.tables[0].indices[..4], [0, 0, 7, 3]);
    assert_eq!(expected.tables[1].offsets, [0, 2, 4, 6, 8, 10]);
    for descr in ["|i1", "<i2", ">i2", "<i4", ">i4", ">i8", "|u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "<f8"] {
        assert_eq!(bags(matrix("<f4", false, &dense), descr, false), expected, "{descr}");
    }
    for descr in ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"] {
        for (fortran, deflated) in [(false, true), (true, false), (true, true)] {
            assert_eq!(bags(matrix(descr, fortran, &dense), "<i4", deflated), expected, "{descr} {fortran} {deflated}");
        }
    }
}

#[test]
fn integers_and_booleans_are_dense_features_where_nothing_is_lost() {
    let folder = Folder::new();
    let file = |dense: Vec<u8>| {
        let none = || (list("<i8", &[0.0, 0.0]), list("<i8", &[]));
        let (offsets, indices) = none();
        let members = [
            ("dense", dense),
            ("offsets_0", offsets.clone()),
            ("indices_0", indices.clone()),
            ("offsets_1", offsets),
            ("indices_1", indices),
        ];
        folder.file("in.npz", &archive(&members, false))
    };
    let rows = [vec![0.0, 1.0, 1.0], vec![1.0, 0.0, 1.0]];
    for descr in ["|b1", "|u1", "<i4", ">u8"] {
        let batch = read(&file(matrix(descr, true, &rows)), &InputOptions::default(), 9).unwrap();
        assert_eq!(batch.dense, [0.0, 1.0, 1.0, 1.0, 0.0, 1.0], "{descr}");
    }
    let rows = [vec![0.0; 3], vec![0.0, 16_777_217.0, 0.0]];
    let text = said(&file(matrix("<i4", false, &rows)), &InputOptions::default());
    assert_eq!(text, ": member dense: sample 1: 16777217 is not a number that float32 has");
    let rows = [vec![0.0; 3], vec![0.0, 1e39, 0.0]];
    let text = said(&file(matrix("<f8", true, &rows)), &InputOptions::default());
    assert!(text.starts_with(": member dense: sample 1: 1") && text.ends_with("is not a finite f32"), "{text}");
}

#[test]
fn single_arrays_are_row_major_whatever_their_order() {
    let folder = Folder::new();
    let rows = [vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]];
    let members =
        [("c", matrix("<f4", false, &rows)), ("f", matrix(">f2", true, &rows)), ("i", matrix(">u4", true, &rows))];
    let mut file = NpzFile::open(folder.file("a.npz", &archive(&members, true))).unwrap();
    let expected = (vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(file.f32("c").unwrap(), expected);
    assert_eq!(file.f32("f").unwrap(), expected);
    assert_eq!(file.i64("i").unwrap().1, [1, 2, 3, 4, 5, 6]);
}

/// The files of all formats that hold the same samples, with one lookup in each table.
pub(crate) fn files(folder: &Folder, rows: usize, fortran: bool, deflated: bool) -> Vec<(PathBuf, InputFormat)> {
    let numbers = |s: usize| [s % 4, s % 9, s * 5 % 7].map(|x| x as f64).to_vec();
    let ids = |s: usize| vec![(s * 7 % ROWS[0]) as f64, (s * 5 % ROWS[1]) as f64];
    let label = |s: usize| f64::from(u8::from(s % 3 == 1));
    let ints: Vec<Vec<f64>> = (0..rows).map(numbers).collect();
    let logs: Vec<Vec<f64>> =
        ints.iter().map(|row| row.iter().map(|x| f64::from((x + 1.0).ln() as f32)).collect()).collect();
    let sparse: Vec<Vec<f64>> = (0..rows).map(ids).collect();
    let labels: Vec<f64> = (0..rows).map(label).collect();
    let column = |table: usize| sparse.iter().map(|row| vec![row[table]]).collect::<Vec<_>>();
    let mut found = Vec::new();

    let members = [
        ("X_int", matrix("<i4", fortran, &ints)),
        ("X_cat", matrix("<f8", fortran, &sparse)),
        ("y", list("<i4", &labels)),
        ("counts", list("<i8", &[10.0, 3.0])),
    ];
    found.push((folder.file("day_0_reordered.npz", &archive(&members, deflated)), InputFormat::DlrmNpz));
    let bin = (0..rows).flat_map(|s| [vec![labels[s]], ints[s].clone(), sparse[s].clone()].concat());
    let bin: Vec<u8> = bin.flat_map(|value| (value as i32).to_le_bytes()).collect();
    found.push((folder.file("terabyte_processed_test.bin", &bin), InputFormat::DlrmBin));
    folder.file("day_0_dense.npy", &matrix("<f4", fortran, &logs));
    folder
        .file("day_0_labels.npy", &matrix("<i4", false, &labels.iter().map(|label| vec![*label]).collect::<Vec<_>>()));
    found.push((folder.file("day_0_sparse.npy", &matrix("<i4", fortran, &sparse)), InputFormat::Npy));
    let members = [("0", matrix("<i4", fortran, &column(0))), ("1", matrix("<i4", false, &column(1)))];
    found.push((folder.file("day_0_sparse_multi_hot.npz", &archive(&members, deflated)), InputFormat::MultiHot));
    let every: Vec<f64> = (0..rows).map(|s| s as f64).collect();
    let bags = |table: usize| list(">u4", &column(table).concat());
    let members = [
        ("dense", matrix("<f4", fortran, &logs)),
        ("offsets_0", list("<i8", &every)),
        ("indices_0", bags(0)),
        ("offsets_1", list("<u8", &every)),
        ("indices_1", bags(1)),
        ("labels", list("|b1", &labels)),
    ];
    found.push((folder.file("bags.npz", &archive(&members, deflated)), InputFormat::Npz));
    found
}

#[test]
fn every_format_gives_the_same_samples() {
    for (fortran, deflated) in [(false, false), (false, true), (true, false), (true, true)] {
        let folder = Folder::new();
        let files = files(&folder, 50, fortran, deflated);
        let options = InputOptions::default();
        let expected = read(&files[0].0, &options, 7).unwrap();
        assert_eq!((expected.samples, expected.labels.len(), expected.dense.len()), (50, 50, 150));
        assert_eq!(expected.dense[..4], [0.0, 0.0, 0.0, 2f32.ln()]);
        for (path, format) in &files {
            assert_eq!(InputFormat::detect(path).unwrap(), *format);
            let input = Input::open(path, None, &shape()).unwrap();
            assert_eq!((input.format(), input.samples_total(), input.has_labels()), (*format, Some(50), true));
            assert_eq!(
                input.files().len(),
                if *format == InputFormat::Npy || *format == InputFormat::MultiHot { 3 } else { 1 }
            );
            for max_samples in [1, 7, 64] {
                assert_eq!(read(path, &options, max_samples).unwrap(), expected, "{format} {max_samples}");
            }
            assert_eq!(ids(path, &options, &shape()).unwrap().count(), 50);
        }
        // Any file of a day names the day.
        let dense = files[2].0.with_file_name("day_0_dense.npy");
        assert_eq!(read(&dense, &options, 7).unwrap(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_follows_a_skip_is_what_would_have_come(
        rows in 1usize..40, skip in 0u64..45, max_samples in 1usize..9, fortran in any::<bool>(), deflated in any::<bool>(),
    ) {
        let folder = Folder::new();
        for (path, format) in files(&folder, rows, fortran, deflated) {
            let mut input = Input::open(&path, None, &shape()).unwrap();
            let read = rest(&mut input, max_samples).unwrap();
            let mut input = Input::open(&path, None, &shape()).unwrap();
            let skipped = input.skip(skip).unwrap();
            prop_assert_eq!(skipped, skip.min(rows as u64), "{}", format);
            let left = rest(&mut input, max_samples).unwrap();
            prop_assert_eq!(left.samples as u64, rows as u64 - skipped);
            let from = skipped as usize;
            prop_assert_eq!(&left.dense[..], &read.dense[from * 3..]);
            prop_assert_eq!(&left.labels[..], &read.labels[from..]);
            prop_assert_eq!(&left.tables[1].indices[..], &read.tables[1].indices[from..]);
            prop_assert!(left.samples == 0 || left.first_sample == skipped);
        }
    }

    #[test]
    fn a_flipped_bit_of_an_archive_is_found_or_harmless(
        at in any::<prop::sample::Index>(), bit in 0u8..8, which in 0usize..3, fortran in any::<bool>(), deflated in any::<bool>(),
    ) {
        let folder = Folder::new();
        let path = files(&folder, 30, fortran, deflated).swap_remove([0, 3, 4][which]).0;
        let good = read(&path, &InputOptions::default(), 4).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(found) = read(&path, &InputOptions::default(), 4) {
            // A changed name can hide optional labels.
            prop_assert_eq!((found.dense, found.tables), (good.dense, good.tables));
        }
    }
}

#[test]
fn what_does_not_fit_is_named_with_its_sample() {
    let folder = Folder::new();
    let files = files(&folder, 5, false, false);
    let none = InputOptions::default();
    let ints = |rows: &[[i32; 6]]| rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let bin = folder.file("a.bin", &ints(&[[0, 1, 2, 3, 4, 2], [1, 1, 2, 3, 4, 3]]));
    assert_eq!(
        said(&bin, &none),
        ": sample 1: 3 is not a row of its table (if these are raw categories, name their --sparse-transform): table 1 has \
         3 rows"
    );
    let bin = folder.file("a.bin", &ints(&[[0, 1, 2, 3, 4, 2], [2, 1, 2, 3, 4, 2]]));
    assert_eq!(said(&bin, &none), ": sample 1: 2 is not a label from 0 to 1");
    let bin = folder.file("a.bin", &ints(&[[0; 6]])[..23]);
    assert_eq!(said(&bin, &none), ": damaged: 23 bytes, which are not rows of 6 int32 (24 bytes)");

    let other =
        folder.file("other.npz", &archive(&[("arr_0", list("<i4", &[])), ("\u{1b}[31m", list("<i4", &[]))], false));
    let text = said(&other, &none);
    assert!(text.contains("holds arr_0, \\u{1b}[31m; expected dense, offsets_0"), "{text}");
    assert!(text.contains("0, 1, … (multi-hot)") && text.contains("X_int, X_cat and y"), "{text}");

    let hot = &files[3].0;
    let dense = hot.with_file_name("day_0_dense.npy");
    std::fs::write(&dense, matrix("<f4", false, &vec![vec![0.0; 3]; 4])).unwrap();
    let text = read(hot, &none, 2).unwrap_err().to_string();
    assert!(text.contains("day_0_dense.npy: 4 rows, but member 0 has 5"), "{text}");
    std::fs::write(&dense, matrix("<f4", false, &vec![vec![0.0; 2]; 5])).unwrap();
    let text = read(hot, &none, 2).unwrap_err().to_string();
    assert!(text.contains("day_0_dense.npy: shape [5, 2], but the model has 3 dense features and 2 tables"), "{text}");
    std::fs::write(&dense, matrix("<i4", false, &vec![vec![0.0; 3]; 5])).unwrap();
    let text = read(&files[2].0, &none, 2).unwrap_err().to_string();
    assert!(text.contains("day_0_dense.npy: type int32") && text.contains("--dense-transform"), "{text}");
    std::fs::remove_file(&dense).unwrap();
    let text = said(hot, &none);
    assert!(text.contains("looked for day_0_dense.npy, day_0_dense.npz") && text.contains("--dense-file"), "{text}");
    let elsewhere = folder.file("numbers.npy", &matrix("<f4", false, &vec![vec![0.0; 3]; 5]));
    let options = InputOptions { dense_file: Some(elsewhere.clone()), ..none.clone() };
    assert_eq!(read(hot, &options, 2).unwrap().dense, [0.0; 15]);
    let text = said(&elsewhere, &none);
    assert!(text.contains("day_0_sparse.npy"), "{text}");

    let few = folder.file("few.npz", &archive(&[("0", matrix("<i4", false, &[vec![1.0]]))], false));
    let text = said(&few, &options);
    assert_eq!(text, ": member 1: there is no such array; the archive holds 0");
    let bad = [
        ("0", matrix("<i4", false, &[vec![1.0, 2.0], vec![3.0, 10.0]])),
        ("1", matrix("<i4", false, &[vec![1.0], vec![2.0]])),
    ];
    let bad = folder.file("bad.npz", &archive(&bad, true));
    folder.file("bad_dense.npy", &matrix("<f4", false, &vec![vec![0.0; 3]; 2]));
    let text = said(&bad, &none);
    assert!(text.starts_with(": member 0: sample 1: 10 is not a row of its table"), "{text}");
    assert!(text.ends_with("table 0 has 10 rows, number 1 of its bag"), "{text}");
}

#[test]
fn headers_that_lie_make_no_large_allocation() {
    let folder = Folder::new();
    let huge = |descr: &str, fortran, shape: &[usize]| npy(3, descr, fortran, shape, &[0; 64]);
    let options = InputOptions { format: Some(InputFormat::MultiHot), ..InputOptions::default() };
    for bytes in [huge("<i4", false, &[1 << 40, 8]), huge("<i4", true, &[2, 1 << 40]), huge("<i4", true, &[0, 1 << 60])]
    {
        for deflated in [false, true] {
            let members = [("0", bytes.clone()), ("1", bytes.clone()), ("dense", bytes.clone())];
            assert!(read(&folder.file("a.npz", &archive(&members, deflated)), &options, 2).is_err());
        }
    }
}

#[test]
fn what_would_be_left_out_is_refused() {
    let folder = Folder::new();
    let lookups = matrix("<i4", false, &[vec![1.0]]);
    let [floats, integers] = ["<f4", "<i4"].map(|descr| matrix(descr, false, &[vec![3.0; 3]]));
    let (list_of_0, weights) = (list("<i8", &[0.0]), list("<f4", &[0.5]));
    let day = |dense: &[u8], more: &'static str| {
        let members =
            [("0", lookups.clone()), ("1", lookups.clone()), ("dense", dense.to_vec()), (more, weights.clone())];
        folder.file("day.npz", &archive(&members, false))
    };
    let bags = |more: &'static str| {
        let names = ["offsets_0", "indices_0", "offsets_1", "indices_1"].map(|name| (name, list_of_0.clone()));
        let members = [&names[..], &[("dense", floats.clone()), (more, weights.clone())]].concat();
        folder.file("bags.npz", &archive(&members, false))
    };
    let none = InputOptions::default();
    let elsewhere = Some(folder.file("elsewhere.npy", &floats));
    let options = |dense_file: bool| match dense_file {
        true => InputOptions { dense_file: elsewhere.clone(), ..none.clone() },
        false => InputOptions { labels_file: elsewhere.clone(), ..none.clone() },
    };
    assert_eq!(read(&day(&floats, "other"), &none, 1).unwrap().samples, 1);
    assert_eq!(read(&bags("weights_1"), &none, 1).unwrap().tables[1].weights, [0.5]);
    for (said, expected) in [
        (said(&day(&floats, "weights_0"), &none), "member weights_0: multi-hot has no weights"),
        (said(&day(&integers, "other"), &none), "member dense: type int32: TorchRec writes"),
        (said(&bags("weight_1"), &none), "member weight_1: weights of no table"),
        (said(&bags("weights_2"), &none), "member weights_2: weights of no table"),
        (said(&bags("weights_0"), &options(true)), "npz is read from one file; leave out --dense-file"),
        (said(&bags("weights_0"), &options(false)), "npz is read from one file; leave out --labels-file"),
        (said(&folder.file("a.tsv", b"1\t1\t1\t1\ta\ta\n"), &options(true)), "criteo-tsv is read from one file"),
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn members_are_found_with_and_without_their_ending_if_it_is_clear_which() {
    let folder = Folder::new();
    let values = list("<f4", &[1.5]);
    let zip = |names: &[&str]| {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for name in names {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(&values).unwrap();
        }
        NpzFile::open(folder.file("a.npz", &writer.finish().unwrap().into_inner())).unwrap()
    };
    for name in ["prob", "prob.npy"] {
        let mut file = zip(&[name]);
        assert!(file.contains("prob"));
        assert_eq!(file.f32("prob").unwrap().1, [1.5]);
    }
    let refused = zip(&["prob.npy", "prob"]).f32("prob").unwrap_err().to_string();
    assert!(refused.contains("prob and prob.npy are there"), "{refused}");
}
