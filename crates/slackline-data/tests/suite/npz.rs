//! `.npz` archives: tensors into batches, and archives that lie.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use slackline_data::{Batch, DataError, Input, InputFormat, InputOptions, InputShape, NpzFile, ids};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A `.npy` array.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), data].concat()
}

fn floats(shape: &str, values: &[f32]) -> Vec<u8> {
    npy("<f4", shape, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

fn longs(values: &[i64]) -> Vec<u8> {
    npy("<i8", &format!("({},)", values.len()), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

fn ints(values: &[i32]) -> Vec<u8> {
    npy("<i4", &format!("({},)", values.len()), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

type Members = Vec<(&'static str, Vec<u8>)>;

fn archive(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input.npz");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Three samples, two dense features, two tables, the second with weights and a closing offset.
fn good() -> Members {
    vec![
        ("dense", floats("(3, 2)", &[0.5, 1.0, 1.5, 2.0, 2.5, 3.0])),
        ("offsets_0", longs(&[0, 2, 2])),
        ("indices_0", longs(&[7, 8, 9])),
        ("offsets_1", ints(&[0, 0, 1, 4])),
        ("indices_1", ints(&[3, 2, 1, 0])),
        ("weights_1", floats("(4,)", &[0.25, 0.5, 0.75, 1.0])),
        ("labels", ints(&[1, 0, 1])),
        ("bottom", npy("|O", "(9,)", b"not looked at")),
    ]
}

fn with(name: &'static str, bytes: Vec<u8>) -> Members {
    let mut members = good();
    members.retain(|member| member.0 != name);
    members.push((name, bytes));
    members
}

fn shape() -> InputShape {
    InputShape { dense_features: 2, table_rows: vec![10, 10] }
}

fn read(path: &Path, max_samples: usize) -> Result<Vec<Batch>, DataError> {
    let mut input = Input::open(path, None, &shape())?;
    let mut batches = vec![Batch::default()];
    while input.next_batch(max_samples, batches.last_mut().unwrap())? {
        batches.push(Batch::default());
    }
    batches.pop();
    Ok(batches)
}

#[test]
fn stored_and_deflated_archives_in_batches() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let (_folder, path) = file(&archive(&good(), method));
        assert_eq!(InputFormat::detect(&path).unwrap(), InputFormat::Npz);
        let input = Input::open(&path, None, &shape()).unwrap();
        assert_eq!(input.samples_total(), Some(3));
        assert!(input.has_labels() && !input.has_ids());
        assert_eq!((input.bytes_read(), input.total_bytes()), (0, Some(std::fs::metadata(&path).unwrap().len())));
        assert_eq!(
            ids(&path, &InputOptions::default(), &shape()).unwrap().map(Result::unwrap).collect::<Vec<_>>(),
            ["0", "1", "2"]
        );

        let batches = read(&path, 2).unwrap();
        assert_eq!(
            batches.iter().map(|batch| (batch.first_sample, batch.samples)).collect::<Vec<_>>(),
            [(0, 2), (2, 1)]
        );
        let [first, last] = &batches[..] else { panic!("two batches") };
        assert_eq!((&first.dense[..], &first.labels[..]), (&[0.5, 1.0, 1.5, 2.0][..], &[1.0, 0.0][..]));
        assert_eq!((&first.tables[0].indices[..], &first.tables[0].offsets[..]), (&[7, 8][..], &[0, 2, 2][..]));
        assert_eq!((&first.tables[1].indices[..], &first.tables[1].offsets[..]), (&[3][..], &[0, 0, 1][..]));
        assert_eq!((&first.tables[0].weights[..], &first.tables[1].weights[..]), (&[][..], &[0.25][..]));
        assert_eq!((&last.tables[0].indices[..], &last.tables[0].offsets[..]), (&[9][..], &[0, 1][..]));
        assert_eq!((&last.tables[1].indices[..], &last.tables[1].offsets[..]), (&[2, 1, 0][..], &[0, 3][..]));
        assert_eq!(last.tables[1].weights, [0.5, 0.75, 1.0]);
    }
}

#[test]
fn arrays_by_name_and_type() {
    let members = [
        ("doubles", npy("<f8", "(2,)", &[0.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat())),
        ("bytes", npy("|u1", "(2, 2)", &[1, 2, 3, 255])),
        ("scalar", npy("<i2", "()", &(-5i16).to_le_bytes())),
        ("empty", npy("<f4", "(0, 7)", &[])),
    ];
    let (_folder, path) = file(&archive(&members, CompressionMethod::Deflated));
    let mut archive = NpzFile::open(&path).unwrap();
    assert_eq!(archive.names(), ["doubles", "bytes", "scalar", "empty"]);
    assert_eq!(archive.f32("doubles").unwrap(), (vec![2], vec![0.5, -2.0]));
    assert_eq!(archive.u8("bytes").unwrap(), (vec![2, 2], vec![1, 2, 3, 255]));
    assert_eq!(archive.i64("bytes").unwrap().1, [1, 2, 3, 255]);
    assert_eq!(archive.i64("scalar").unwrap(), (vec![], vec![-5]));
    assert_eq!(archive.f32("empty").unwrap(), (vec![0, 7], vec![]));
    let error = archive.i64("doubles").unwrap_err().to_string();
    assert!(
        error.ends_with("input.npz: member doubles: element 0: 0.5 is not a whole number that int64 has"),
        "{error}"
    );
    let error = archive.f32("nothing").unwrap_err().to_string();
    let expected = "input.npz: member nothing: there is no such array; the archive holds doubles, bytes, scalar, empty";
    assert!(error.ends_with(expected), "{error}");
    let error = archive.u8("scalar").unwrap_err().to_string();
    assert!(error.ends_with("input.npz: member scalar: type int16, expected uint8"), "{error}");
}

#[test]
fn header_versions() {
    let version_1 = npy("<i8", "(1,)", &7i64.to_le_bytes());
    let length = (version_1.len() - 10 - 8) as u32;
    let wide = |version| [&b"\x93NUMPY"[..], &[version, 0], &length.to_le_bytes(), &version_1[10..]].concat();
    let members = [("one", version_1.clone()), ("two", wide(2)), ("three", wide(3)), ("four", wide(4))];
    let (_folder, path) = file(&archive(&members, CompressionMethod::Stored));
    let mut archive = NpzFile::open(&path).unwrap();
    for name in ["one", "two", "three"] {
        assert_eq!(archive.i64(name).unwrap(), (vec![1], vec![7]), "{name}");
    }
    assert!(archive.i64("four").unwrap_err().to_string().contains("version 4"));
}

#[test]
fn archives_that_do_not_fit_are_named() {
    let huge = format!("({}, 2)", 1u64 << 40);
    let endless = format!("({0}, {0}, {0})", u32::MAX);
    for (members, expected) in [
        (
            with("dense", floats("(3, 3)", &[0.0; 9])),
            "member dense: shape [3, 3], but the model has 2 dense features and 2 tables",
        ),
        (with("dense", floats("(6,)", &[0.0; 6])), "member dense: shape [6], expected two dimensions"),
        (with("dense", floats("(3, 2)", &[0.0; 5])), "needs 152 bytes with its header, the member has 148"),
        (with("dense", floats(&huge, &[0.0; 6])), "member dense: shape [1099511627776, 2] of float32 needs"),
        (with("dense", floats(&endless, &[])), "member dense: shape [4294967295, 4294967295, 4294967295] is too large"),
        (with("dense", floats("(-3, 2)", &[])), "member dense: header has \"-3, 2), }"),
        (with("dense", longs(&[0; 6])), "member dense: shape [6], expected two dimensions"),
        (
            with("dense", npy("<i4", "(3, 2)", &[[0; 20], [1, 0, 0, 1].repeat(5).try_into().unwrap()].concat()[..24])),
            "member dense: sample 2: 16777217 is not a number that float32 has",
        ),
        (with("dense", npy("<c8", "(3, 2)", &[0; 48])), "member dense: type '<c8' is not supported"),
        (with("dense", b"\x93NUM".to_vec()), "member dense: truncated header"),
        (with("dense", b"hello world".to_vec()), "member dense: no .npy magic number"),
        (
            with("dense", floats("(3, 2)", &[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0])),
            "dense: sample 1: NaN is not a finite f32",
        ),
        (with("labels", ints(&[1, 2, 0])), "member labels: sample 1: 2 is not a label from 0 to 1"),
        (with("labels", ints(&[1, 0])), "member labels: shape [2], but dense has 3 samples"),
        (
            with("offsets_0", longs(&[])),
            "member offsets_0: shape [0], expected one dimension of 3 samples, or one more",
        ),
        (with("offsets_0", longs(&[0, 1])), "member offsets_0: shape [2], expected one dimension of 3"),
        (with("offsets_0", longs(&[1, 2, 3])), "member offsets_0: sample 0: 1 is not an offset from 0 to 0"),
        (with("offsets_0", longs(&[0, -1, 3])), "member offsets_0: sample 1: -1 is not an offset from 0 to 3"),
        (with("offsets_0", longs(&[0, 2, 1])), "member offsets_0: sample 2: 1 is not an offset from 2 to 3"),
        (with("offsets_0", longs(&[0, 2, 4])), "member offsets_0: sample 2: 4 is not an offset from 2 to 3"),
        (with("offsets_0", longs(&[0, 1, 2, 2])), "offsets_0: the bags do not cover the 3 indices of its table"),
        (with("indices_0", npy("<i8", "(3, 1)", &[0; 24])), "member indices_0: shape [3, 1], expected one dimension"),
        (
            with("indices_0", npy("<u8", "(3,)", &[[0; 16].as_slice(), &[255; 8]].concat())),
            "member indices_0: sample 2: 18446744073709551615 is not a whole number that int64 has",
        ),
        (
            with("indices_0", npy("<f8", "(3,)", &[1.0, 2.5, 3.0].map(f64::to_le_bytes).concat())),
            "member indices_0: sample 0: 2.5 is not a whole number",
        ),
        (with("weights_1", floats("(3,)", &[0.0; 3])), "member weights_1: shape [3], but indices_1 has 4 indices"),
        (
            with("weights_1", floats("(4,)", &[0.0, 1.0, f32::INFINITY, 1.0])),
            "weights_1: sample 2: inf is not a finite",
        ),
        (with("indices_2", ints(&[])), "member indices_2: the model has 2 dense features and 2 tables"),
        (
            good()[..3].to_vec(),
            "member indices_1: there is no such array; the archive holds dense, offsets_0, indices_0",
        ),
    ] {
        let (_folder, path) = file(&archive(&members, CompressionMethod::Stored));
        let found = read(&path, 2).unwrap_err().to_string();
        assert!(found.starts_with(&path.display().to_string()) && found.contains(expected), "{found}\n{expected}");
    }
}

#[test]
fn a_truncated_archive_is_damage() {
    let whole = archive(&good(), CompressionMethod::Stored);
    for length in 4..whole.len() {
        let (_folder, path) = file(&whole[..length]);
        let error = read(&path, 2).unwrap_err();
        assert!(matches!(error, DataError::Corrupt { .. } | DataError::Member { .. }), "{length}: {error}");
    }
}

proptest! {
    #[test]
    fn no_flipped_bits_make_a_reader_panic_or_pass_altered_numbers(
        deflated in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let mut bytes = archive(&good(), method);
        let good = { let (_folder, path) = file(&bytes); read(&path, 2).unwrap() };
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let (_folder, path) = file(&bytes);
        if let Ok(batches) = read(&path, 2) {
            // A changed name can hide an optional member; numbers that are there are protected by their checksum.
            for (batch, good) in batches.iter().zip(&good) {
                prop_assert_eq!(&batch.dense, &good.dense);
                for (table, good) in batch.tables.iter().zip(&good.tables) {
                    prop_assert_eq!((&table.indices, &table.offsets), (&good.indices, &good.offsets));
                }
            }
        }
    }

    #[test]
    fn no_npy_header_makes_a_reader_panic(header in prop::collection::vec(any::<u8>(), 0..200), text in "[{}'(),: a-z0-9<TF]{0,90}") {
        let raw = [&b"\x93NUMPY\x01\x00"[..], &header].concat();
        let length = (text.len() as u16).to_le_bytes();
        let written = [&b"\x93NUMPY\x01\x00"[..], &length, text.as_bytes()].concat();
        for bytes in [raw, written] {
            let (_folder, path) = file(&archive(&[("dense", bytes)], CompressionMethod::Stored));
            prop_assert!(read(&path, 2).is_err());
        }
    }
}
