//! Real files, where `SLACKLINE_SHARED_DATA` names a folder that has them; without it these tests pass at once.

use std::path::PathBuf;

#[cfg(feature = "npz")]
use slackline_data::NpzFile;
use slackline_data::{Batch, DenseTransform, Input, InputFormat, InputOptions, InputShape, ids};

fn shared(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SLACKLINE_SHARED_DATA")?;
    let path = PathBuf::from(folder).join(name);
    path.exists().then_some(path)
}

fn criteo() -> InputShape {
    InputShape { dense_features: 13, table_rows: vec![1000; 26] }
}

fn samples_and_clicks(path: &PathBuf) -> (usize, f32) {
    let mut input = Input::open(path, None, &criteo()).unwrap();
    let (mut batch, mut samples, mut clicks) = (Batch::default(), 0, 0.0);
    while input.next_batch(100, &mut batch).unwrap() {
        samples += batch.samples;
        clicks += batch.labels.iter().sum::<f32>();
        assert!(batch.tables.iter().flat_map(|table| &table.indices).all(|index| (0..1000).contains(index)));
    }
    (samples, clicks)
}

#[test]
fn criteo_rows_of_the_kaggle_challenge() {
    let Some(path) = shared("criteo-tiny/train.tiny.csv") else { return };
    assert_eq!(InputFormat::detect(&path).unwrap(), InputFormat::CriteoCsv);
    assert_eq!(samples_and_clicks(&path), (1999, 418.0));
    let ids: Vec<String> = ids(&path, &InputOptions::default(), &criteo()).unwrap().map(Result::unwrap).collect();
    assert_eq!((ids.len(), &ids[0][..], &ids[1998][..]), (1999, "10000000", "10001998"));
    let mut input = Input::open(&path, None, &criteo()).unwrap();
    assert!(input.has_labels() && input.has_ids());
    let mut batch = Batch::default();
    input.next_batch(1, &mut batch).unwrap();
    assert_eq!(batch.dense[..5], [1, 1, 5, 0, 1382].map(|value| DenseTransform::Ln1p.apply(f64::from(value)).unwrap()));
    assert_eq!(batch.dense[11], 0.0, "missing");
    assert_eq!(batch.tables[0].indices, [0x68fd_1e64 % 1000]);
    assert_eq!(batch.tables[21].indices, [0], "missing");
}

#[test]
fn criteo_rows_with_fractions_and_without_ids() {
    let Some(path) = shared("deepctr/criteo_sample.txt") else { return };
    assert_eq!(samples_and_clicks(&path).0, 200);
    assert!(!Input::open(&path, None, &criteo()).unwrap().has_ids());
}

#[test]
fn other_data_sets_are_refused_by_their_header() {
    for name in ["deepctr/avazu_sample.txt", "deepctr/movielens_sample.txt"] {
        let Some(path) = shared(name) else { return };
        let error = Input::open(&path, None, &criteo()).err().unwrap().to_string();
        assert!(error.contains(":1: header: "), "{error}");
    }
}

#[cfg(feature = "npz")]
#[test]
fn tensors_of_the_reference_models() {
    for name in ["dlrm_tiny", "torchrec_dlrm", "torchrec_dcn"] {
        let Some(path) = shared(&format!("golden/{name}_io.npz")) else { return };
        let mut file = NpzFile::open(&path).unwrap();
        let (shape, dense) = file.f32("dense").unwrap();
        let (prob_shape, prob) = file.f32("prob").unwrap();
        assert_eq!((shape[1], prob_shape[0], prob.len()), (13, shape[0], shape[0]));
        let tables = file.names().iter().filter(|name| name.starts_with("offsets_")).count();
        let table_rows = vec![1 << 40; tables];
        let mut input = Input::open(&path, None, &InputShape { dense_features: 13, table_rows }).unwrap();
        assert_eq!(input.samples_total(), Some(shape[0] as u64));
        assert!(!input.has_labels());
        let (mut batch, mut read, mut indices) = (Batch::default(), Vec::new(), vec![Vec::new(); tables]);
        while input.next_batch(5, &mut batch).unwrap() {
            read.extend_from_slice(&batch.dense);
            indices.iter_mut().zip(&batch.tables).for_each(|(all, table)| all.extend_from_slice(&table.indices));
        }
        assert_eq!(read, dense);
        for (table, indices) in indices.iter().enumerate() {
            assert_eq!(&file.i64(&format!("indices_{table}")).unwrap().1, indices);
        }
    }
    let Some(path) = shared("golden/dlrm_tiny_quant_rows.npz") else { return };
    let mut file = NpzFile::open(&path).unwrap();
    assert_eq!(file.u8("int8_0").unwrap().0[1], 24);
}
