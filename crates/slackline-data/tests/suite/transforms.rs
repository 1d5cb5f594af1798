//! Raw values into what a model takes: as the reference DLRM, TorchRec and MLPerf do it, and as the user says.

use std::io::{Cursor, Write};
use std::path::Path;

use slackline_data::{Batch, DataError, DenseTransform, Input, InputOptions, InputShape, SparseTransform};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const ROW: &str = "1\t-2\t20\t\t68fd1e64\t80e26c9b\n";

fn shape() -> InputShape {
    InputShape { dense_features: 3, table_rows: vec![1000, 7] }
}

fn options(dense: DenseTransform, sparse: SparseTransform) -> InputOptions {
    InputOptions { dense: Some(dense), sparse: Some(sparse), ..InputOptions::default() }
}

fn read(path: &Path, options: &InputOptions) -> Result<Batch, DataError> {
    let mut batch = Batch::default();
    Input::open_with(path, options, &shape())?.next_batch(9, &mut batch)?;
    Ok(batch)
}

#[test]
fn the_logarithms_of_the_reference_and_of_torchrec() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, ROW).unwrap();
    let dense = |transform| read(&path, &options(transform, SparseTransform::Modulo)).unwrap().dense;
    // numpy.log(numpy.maximum([-2, 20, 0], 0) + 1), numpy.log(numpy.array([-2, 20, 0]) + 3)
    assert_eq!(dense(DenseTransform::Ln1p), [0.0, 21f64.ln() as f32, 0.0]);
    assert_eq!(dense(DenseTransform::Ln3), [0.0, 23f64.ln() as f32, 3f64.ln() as f32]);
    assert_eq!(dense(DenseTransform::None), [-2.0, 20.0, 0.0]);
    let (low, signed) = (0x68fd_1e64_i64, 0x80e2_6c9b_i64 - (1 << 32));
    let rows = |transform| {
        let batch = read(&path, &options(DenseTransform::None, transform)).unwrap();
        [batch.tables[0].indices[0], batch.tables[1].indices[0]]
    };
    assert_eq!(rows(SparseTransform::Modulo), [low % 1000, 0x80e2_6c9b % 7]);
    assert_eq!(rows(SparseTransform::ModuloInt32), [low % 1000, signed.rem_euclid(7)]);
    let refused = read(&path, &options(DenseTransform::None, SparseTransform::None)).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:1: column C1: \"68fd1e64\" is not a row of its table"), "{refused}");
    std::fs::write(&path, "0\t-3\t1\t1\t1\t1\n").unwrap();
    let refused = read(&path, &options(DenseTransform::Ln3, SparseTransform::None)).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:1: column I1: \"-3\" is not a finite number above -3"), "{refused}");
}

/// `numpy.savez(name, unique=numbers)`.
fn dictionary(path: &Path, numbers: &[i32]) {
    let header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({},), }}\n", numbers.len());
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let length = (header.len() as u16).to_le_bytes();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer
        .start_file("unique.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated))
        .unwrap();
    writer.write_all(&[&b"\x93NUMPY\x01\0"[..], &length, header.as_bytes(), &data].concat()).unwrap();
    std::fs::write(path, writer.finish().unwrap().into_inner()).unwrap();
}

#[test]
fn a_dictionary_gives_the_position_of_a_category() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, format!("{ROW}0\t1\t1\t1\t\t80e26c9b\n")).unwrap();
    let dict = |table: usize| folder.path().join(format!("kaggle_fea_dict_{table}.npz"));
    let signed = 0x80e2_6c9b_u32 as i32;
    dictionary(&dict(0), &[5, 0, 0x68fd_1e64]);
    dictionary(&dict(1), &[signed, 3]);
    let mut options = options(DenseTransform::None, SparseTransform::Dictionary);
    let refused = read(&path, &options).unwrap_err().to_string();
    assert!(refused.contains("--sparse-transform dictionary:PREFIX"), "{refused}");
    options.dictionary = Some(folder.path().join("kaggle"));
    let batch = read(&path, &options).unwrap();
    assert_eq!((&batch.tables[0].indices[..], &batch.tables[1].indices[..]), (&[2, 1][..], &[0, 0][..]));

    dictionary(&dict(1), &[4, 3]);
    let refused = read(&path, &options).unwrap_err().to_string();
    assert!(refused.contains("a.tsv:1: column C2: \"80e26c9b\" is not a category of the dictionary"), "{refused}");
    dictionary(&dict(1), &[4, 3, 4]);
    let refused = read(&path, &options).unwrap_err().to_string();
    assert!(refused.contains("kaggle_fea_dict_1.npz: member unique: 4 appears twice"), "{refused}");
    dictionary(&dict(1), &[0, 1, 2, 3, 4, 5, 6, 7]);
    let refused = read(&path, &options).unwrap_err().to_string();
    assert!(refused.contains("member unique: 8 categories, but table 1 has 7 rows"), "{refused}");
    std::fs::remove_file(dict(1)).unwrap();
    let refused = read(&path, &options).unwrap_err().to_string();
    assert!(refused.contains("kaggle_fea_dict_1.npz: cannot open"), "{refused}");
}
