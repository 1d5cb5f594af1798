//! Criteo click logs: what is written is read back, however it is cut, and what is malformed is named.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use slackline_data::{Batch, DataError, Input, InputFormat, InputOptions, InputShape, MAX_LINE, ids};
#[cfg(feature = "generate")]
use slackline_data::{CriteoRow, CriteoWriter, DenseTransform};
use tempfile::TempDir;

fn shape(dense_features: usize, table_rows: &[usize]) -> InputShape {
    InputShape { dense_features, table_rows: table_rows.to_vec() }
}

/// A file of this name and content; the folder goes when it is dropped.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The whole input as one batch, read in batches of at most `max_samples`.
fn read(path: &Path, format: Option<InputFormat>, shape: &InputShape, max_samples: usize) -> Result<Batch, DataError> {
    let mut input = Input::open(path, format, shape)?;
    let mut whole = Batch::default();
    whole.tables.resize_with(shape.table_rows.len(), Default::default);
    let mut batch = Batch::default();
    while input.next_batch(max_samples, &mut batch)? {
        assert_eq!(batch.first_sample, whole.samples as u64);
        assert!(batch.samples <= max_samples);
        whole.samples += batch.samples;
        whole.dense.extend_from_slice(&batch.dense);
        whole.labels.extend_from_slice(&batch.labels);
        for (whole, table) in whole.tables.iter_mut().zip(&batch.tables) {
            assert_eq!(table.offsets, (0..=batch.samples as i64).collect::<Vec<_>>());
            whole.indices.extend_from_slice(&table.indices);
            assert!(table.weights.is_empty());
        }
    }
    assert_eq!((batch.samples, batch.dense.len(), batch.labels.len()), (0, 0, 0));
    assert!(!input.next_batch(max_samples, &mut batch)?, "the end stays the end");
    assert_eq!(Some(input.bytes_read()), input.total_bytes());
    assert_eq!(input.has_labels() && whole.samples > 0, !whole.labels.is_empty());
    Ok(whole)
}

fn problem(content: impl AsRef<[u8]>, shape: &InputShape) -> String {
    let (_folder, path) = file("clicks", content);
    let text = read(&path, None, shape, 10).unwrap_err().to_string();
    let name = path.display().to_string();
    text.strip_prefix(&name).unwrap_or_else(|| panic!("{text} does not name the file")).to_owned()
}

#[cfg(feature = "generate")]
fn rows(dense: usize, tables: usize) -> impl Strategy<Value = Vec<CriteoRow>> {
    let row = (
        any::<bool>(),
        prop::collection::vec(prop::option::of(prop_oneof![any::<i64>(), -3i64..1000]), dense),
        prop::collection::vec(prop::option::of(prop_oneof![any::<u64>(), any::<u32>().prop_map(u64::from)]), tables),
    );
    prop::collection::vec(row.prop_map(|(label, dense, sparse)| CriteoRow { label, dense, sparse }), 0..40)
}

/// What a reader must make of the rows.
/// Whether rows of this format are written with ids.
#[cfg(feature = "generate")]
fn has_ids(format: InputFormat) -> bool {
    format == InputFormat::CriteoCsv
}

#[cfg(feature = "generate")]
fn expected(rows: &[CriteoRow], shape: &InputShape) -> Batch {
    let mut batch = Batch { samples: rows.len(), ..Batch::default() };
    batch.tables.resize_with(shape.table_rows.len(), Default::default);
    for row in rows {
        batch.labels.push(f32::from(u8::from(row.label)));
        batch.dense.extend(
            row.dense.iter().map(|value| value.map_or(0.0, |value| DenseTransform::Ln1p.apply(value as f64).unwrap())),
        );
        for ((table, category), rows) in batch.tables.iter_mut().zip(&row.sparse).zip(&shape.table_rows) {
            table.indices.push((category.unwrap_or(0) % *rows as u64) as i64);
        }
    }
    batch
}

#[cfg(feature = "generate")]
proptest! {
    #[test]
    fn what_is_written_is_read_back_in_batches_of_any_size(
        (shape, rows) in (0usize..4, prop::collection::vec(1usize..=i64::MAX as usize, 2..5))
            .prop_flat_map(|(dense, tables)| (Just(shape(dense, &tables)), rows(dense, tables.len()))),
        name in prop::sample::select(&["a.tsv", "a.csv", "a.tsv.gz", "a.csv.gz"][..if cfg!(feature = "gzip") { 4 } else { 2 }]),
        max_samples in 1usize..50,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let mut writer = CriteoWriter::create(&path, &shape).unwrap();
        rows.iter().for_each(|row| writer.write(row).unwrap());
        prop_assert_eq!(writer.finish().unwrap(), rows.len() as u64);
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");

        let format = if name.contains("csv") { InputFormat::CriteoCsv } else { InputFormat::CriteoTsv };
        if format == InputFormat::CriteoCsv || !rows.is_empty() {
            prop_assert_eq!(InputFormat::detect(&path).unwrap(), format);
        }
        let expected = expected(&rows, &shape);
        prop_assert_eq!(&read(&path, Some(format), &shape, max_samples).unwrap(), &expected);
        prop_assert_eq!(&read(&path, Some(format), &shape, usize::MAX).unwrap(), &expected);
        // Rows that are passed over have labels and ids, and those after them are as they would be.
        let mut input = Input::open(&path, Some(format), &shape);
        let mut batch = Batch::default();
        let id_of = |row: usize| has_ids(format).then(|| row.to_string());
        let ids_are_right = |batch: &Batch| {
            let found = |row| batch.ids.get(row).map(|id| String::from_utf8(id.to_vec()).unwrap());
            (0..batch.samples).all(|row| found(row) == id_of(batch.first_sample as usize + row))
        };
        if let Ok(input) = &mut input && input.skip_batch(max_samples, &mut batch).unwrap() {
            let passed = batch.samples;
            prop_assert!(passed == max_samples.min(rows.len()) && ids_are_right(&batch));
            prop_assert_eq!(&batch.labels[..], &expected.labels[..passed]);
            prop_assert!(batch.dense.is_empty() && batch.tables.iter().all(|table| table.indices.is_empty()));
            if input.next_batch(usize::MAX, &mut batch).unwrap() {
                prop_assert!(batch.first_sample == passed as u64 && ids_are_right(&batch));
                prop_assert_eq!(&batch.dense[..], &expected.dense[passed * shape.dense_features..]);
            }
        }
        let ids: Vec<String> = ids(&path, &InputOptions { format: Some(format), ..Default::default() }, &shape).unwrap().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(ids, (0..rows.len()).map(|row| row.to_string()).collect::<Vec<_>>());
    }
}

proptest! {

    #[test]
    fn no_bytes_make_a_reader_panic(
        content in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "(Id|Label|I1|C1|,|\t|\r|\n|-|\\.|e|[0-9a-f]){0,80}".prop_map(String::into_bytes),
        ],
        compressed in any::<bool>(),
        format in prop::sample::select(vec![None, Some(InputFormat::CriteoTsv), Some(InputFormat::CriteoCsv)]),
    ) {
        let (_folder, path) = file("a", if compressed && cfg!(feature = "gzip") { gzip(&content) } else { content });
        if let Ok(batch) = read(&path, format, &shape(1, &[10]), 3) {
            prop_assert_eq!(batch.dense.len(), batch.samples);
            prop_assert_eq!(batch.tables[0].indices.len(), batch.samples);
            let ids = ids(&path, &InputOptions { format, ..Default::default() }, &shape(1, &[10])).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            prop_assert_eq!(ids.len(), batch.samples);
        }
    }

}

#[cfg(feature = "gzip")]
proptest! {
    #[test]
    fn a_flipped_or_missing_byte_of_a_gzip_stream_is_an_error_or_harmless(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let content = "1\t5\tff\n0\t6\tfe\n1\t\t\n".repeat(20);
        let whole = gzip(content.as_bytes());
        let at = at.index(whole.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        let good = { let (_folder, path) = file("a.gz", &whole); read(&path, None, &shape(1, &[256]), 7).unwrap() };
        let (_folder, path) = file("a.gz", flipped);
        if let Ok(batch) = read(&path, None, &shape(1, &[256]), 7) {
            // Only the header (time, system) may change unnoticed.
            prop_assert_eq!(batch, good);
        }
        if at > 0 {
            let (_folder, path) = file("a.gz", &whole[..at]);
            prop_assert!(read(&path, None, &shape(1, &[256]), 7).is_err());
        }
    }
}

#[test]
fn missing_values_line_ends_and_blank_lines() {
    let content = "\n1\t5\t\tff\r\n\r\n0\t\t-2\t\n\n\n1\t0.5\t7\tA";
    let (_folder, path) = file("clicks.txt", content);
    let batch = read(&path, None, &shape(2, &[16]), 2).unwrap();
    assert_eq!(batch.labels, [1.0, 0.0, 1.0]);
    assert_eq!(batch.dense, [6f32.ln(), 0.0, 0.0, 0.0, 1.5f32.ln(), 8f32.ln()]);
    assert_eq!(batch.tables[0].indices, [15, 0, 10]);
    let ids: Vec<String> =
        ids(&path, &InputOptions::default(), &shape(1, &[10])).unwrap().map(Result::unwrap).collect();
    assert_eq!(ids, ["0", "1", "2"]);
}

#[test]
fn a_test_set_without_labels() {
    let (_folder, path) = file("test.txt", "3\tff\n\t\n");
    let mut input = Input::open(&path, None, &shape(1, &[256])).unwrap();
    assert!(!input.has_labels() && !input.has_ids());
    assert_eq!(input.samples_total(), None);
    let mut batch = Batch::default();
    assert!(input.next_batch(10, &mut batch).unwrap());
    assert_eq!((batch.samples, batch.labels.len()), (2, 0));
    assert_eq!(batch.tables[0].indices, [255, 0]);
}

#[test]
fn csv_columns_are_found_by_name() {
    let (_folder, path) = file("a.csv", "C2,time,I1,id,C1\r\n2,x,3,row-a,1\r\n4,,,row-b,\r\n");
    let input = Input::open(&path, None, &shape(1, &[10, 10])).unwrap();
    assert_eq!((input.format(), input.has_labels(), input.has_ids()), (InputFormat::CriteoCsv, false, true));
    let batch = read(&path, None, &shape(1, &[10, 10]), 5).unwrap();
    assert_eq!(batch.dense, [4f32.ln(), 0.0]);
    assert_eq!((&batch.tables[0].indices[..], &batch.tables[1].indices[..]), (&[1, 0][..], &[2, 4][..]));
    let ids: Vec<String> =
        ids(&path, &InputOptions::default(), &shape(1, &[10])).unwrap().map(Result::unwrap).collect();
    assert_eq!(ids, ["row-a", "row-b"]);
}

#[cfg(feature = "gzip")]
#[test]
fn several_gzip_members_are_one_text() {
    let content = [gzip(b"1\t5\tff\n0\t6"), gzip(b"\tfe\n")].concat();
    let (_folder, path) = file("a.gz", content);
    assert_eq!(read(&path, None, &shape(1, &[256]), 9).unwrap().tables[0].indices, [255, 254]);
}

#[test]
fn malformed_rows_are_named() {
    let small = shape(1, &[10]);
    for (content, expected) in [
        ("1\t\t\t\t\n", ":1: 5 columns, expected 3 (label, 1 dense feature and 1 table) or 2 (no label)"),
        ("1\t2\t3\t4\n", ":1: 4 columns, expected 3 (label, 1 dense feature and 1 table) or 2 (no label)"),
        ("0\t1\t2\n\n0\t1\n", ":3: 2 columns, expected 3 (label, 1 dense feature and 1 table)"),
        ("0\t1\t2\n0\t1\t2\t\n", ":2: 4 columns, expected 3 (label, 1 dense feature and 1 table)"),
        ("1\t2\n0\t1\t2\n", ":2: 3 columns, expected 2 (1 dense feature and 1 table, as in the first row)"),
        ("0\t1\t2\n0\tabc\t2\n", ":2: column I1: \"abc\" is not a finite number"),
        ("0\tNaN\t2\n", ":1: column I1: \"NaN\" is not a finite number"),
        ("0\t1\txyz\n", ":1: column C1: \"xyz\" is not a hexadecimal number of at most 16 digits"),
        ("0\t1\t00000000000000001\n", ":1: column C1: \"00000000000000001\" is not a hexadecimal number"),
        ("2\t1\t2\n", ":1: column Label: \"2\" is not a label from 0 to 1"),
        ("\t1\t2\n", ":1: column Label: \"\" is not a label from 0 to 1"),
        ("Label,I1,C1\n1,2,3\n1,2\n", ":3: 2 columns, expected 3 (as in the header)"),
        ("Label,I1\n", ":1: header: no column C1, but the model has 1 dense feature and 1 table"),
        ("Label,C1\n", ":1: header: no column I1, but the model has"),
        ("\nLabel,I1,I2,C1\n", ":2: header: column I2, but the model has 1 dense feature and 1 table"),
        ("I1,C1,I1\n", ":1: header: column I1 appears twice"),
        ("0,1,2\n", ":1: header: no column I1"),
        ("", ": format not recognised: the file is empty"),
        ("hello\n", ": format not recognised: no tab or comma in the first line \"hello\""),
    ] {
        let found = problem(content, &small);
        assert!(found.starts_with(expected), "{content:?}\n  found    {found}\n  expected {expected}");
    }
    let long = format!("0\t{}\t1\n", "9x".repeat(100));
    assert!(problem(&long, &small).contains(&format!("\"{}…\" is not", "9x".repeat(20))));
}

#[test]
fn long_lines_are_bounded() {
    let mut content = b"0\t1\t2\n0\t".to_vec();
    content.resize(content.len() + MAX_LINE, b'1');
    let contents = [content.clone(), [&content[..], b"\t5\n"].concat(), gzip(&content)];
    for content in &contents[..if cfg!(feature = "gzip") { 3 } else { 2 }] {
        assert_eq!(problem(content, &shape(1, &[10])), format!(":2: line is longer than {MAX_LINE} bytes"));
    }
    // A line of exactly the bound is read.
    let mut content = b"Label,I1,C1,note\n".to_vec();
    content.extend_from_slice(b"1,2,3,");
    content.resize(content.len() + MAX_LINE - 6, b'x');
    content.extend_from_slice(b"\n1,2,3,\n");
    let (_folder, path) = file("a.csv", content);
    assert_eq!(read(&path, None, &shape(1, &[10]), 10).unwrap().samples, 2);
}

#[cfg(feature = "gzip")]
#[test]
fn truncated_gzip_is_damage() {
    let whole = gzip("1\t5\tff\n".repeat(50_000).as_bytes());
    let found = problem(&whole[..whole.len() / 2], &shape(1, &[256]));
    assert!(found.starts_with(": damaged: gzip stream is truncated after line "), "{found}");
    let found = problem(&whole[..whole.len() - 1], &shape(1, &[256]));
    assert!(found.starts_with(": damaged: gzip stream is truncated after line "), "{found}");
    let (_folder, path) = file("a.gz", [&whole[..], b"tail"].concat());
    assert!(matches!(read(&path, None, &shape(1, &[256]), 999), Err(DataError::Corrupt { .. })));
}

#[test]
fn nothing_is_read_after_an_error() {
    let (_folder, path) = file("a.tsv", "1\t2\t3\nx\t2\t3\n1\t2\t3\n");
    let mut input = Input::open(&path, None, &shape(1, &[10])).unwrap();
    let mut batch = Batch::default();
    assert!(matches!(input.next_batch(0, &mut batch), Err(DataError::Request { .. })));
    assert!(input.next_batch(1, &mut batch).unwrap());
    assert!(matches!(input.next_batch(9, &mut batch), Err(DataError::Value { line: 2, .. })));
    assert_eq!((batch.samples, batch.labels.len(), batch.dense.len()), (0, 0, 0));
    assert!(matches!(input.next_batch(9, &mut batch), Err(DataError::Spent { .. })));
}

#[test]
fn ids_end_after_an_error() {
    let (_folder, path) = file("a.csv", "I1,C1,Id\n1,2,a\n1,2\n1,2,b\n");
    let found: Vec<_> = ids(&path, &InputOptions::default(), &shape(1, &[10])).unwrap().collect();
    assert_eq!(found.len(), 2);
    assert!(matches!(found[1], Err(DataError::Columns { line: 3, found: 2, .. })));
}

#[test]
fn impossible_shapes_and_missing_files() {
    let (_folder, path) = file("a.tsv", "1\t2\t3\n");
    for shape in [shape(1, &[0]), shape(1, &[usize::MAX]), shape(1, &[]), shape(0, &[5])] {
        assert!(matches!(Input::open(&path, None, &shape), Err(DataError::Request { .. })), "{shape:?}");
    }
    let missing = path.with_file_name("no such file");
    for error in [
        Input::open(&missing, None, &shape(1, &[5])).err(),
        ids(&missing, &InputOptions::default(), &shape(1, &[10])).err(),
    ] {
        assert!(error.unwrap().to_string().contains("no such file: cannot open: "));
    }
    assert!(matches!(InputFormat::detect(path.parent().unwrap()), Err(DataError::Io { .. })));
}

#[cfg(feature = "generate")]
#[test]
fn a_writer_leaves_an_old_file_until_it_is_whole() {
    let (folder, path) = file("a.tsv", "old");
    let mut writer = CriteoWriter::create(&path, &shape(1, &[10])).unwrap();
    let row = CriteoRow { label: true, dense: vec![Some(-1)], sparse: vec![Some(10)] };
    writer.write(&row).unwrap();
    let error = writer.write(&CriteoRow::default()).unwrap_err().to_string();
    assert!(error.contains("row 1 has 0 dense features and 0 categories, but the file has 1 and 1"), "{error}");
    drop(writer);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let mut writer = CriteoWriter::create(&path, &shape(1, &[10])).unwrap();
    writer.write(&row).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"1\t-1\t0000000a\n");
}

#[cfg(all(feature = "generate", feature = "gzip"))]
#[test]
fn generated_files_depend_on_the_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let shape = shape(13, &[7, 1000, 1 << 20, 1 << 40, i64::MAX as usize]);
    let make = |name: &str, seed| {
        let path = folder.path().join(name);
        let mut progress = Vec::new();
        slackline_data::generate_criteo(&shape, 5000, seed, &path, |rows| progress.push(rows)).unwrap();
        assert_eq!(progress, [4096, 5000]);
        path
    };
    let first = make("a.tsv", 1);
    let bytes = std::fs::read(&first).unwrap();
    assert_eq!(bytes, std::fs::read(make("b.tsv", 1)).unwrap());
    assert_ne!(bytes, std::fs::read(make("c.tsv", 2)).unwrap());
    let batch = read(&first, None, &shape, 512).unwrap();
    assert_eq!(batch, read(&make("d.csv.gz", 1), None, &shape, 999).unwrap());
    assert_eq!(batch.samples, 5000);
    assert!(batch.tables[4].indices.iter().any(|&index| index > 1 << 61), "wide categories reach all rows");
}

#[test]
fn formats_have_names() {
    for name in InputFormat::NAMES {
        assert_eq!(name.parse::<InputFormat>().unwrap().to_string(), name);
    }
    let error = "parquet".parse::<InputFormat>().unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown input format \"parquet\": expected one of criteo-tsv, criteo-csv, npz, multi-hot, npy, dlrm-npz, dlrm-bin"
    );
}
