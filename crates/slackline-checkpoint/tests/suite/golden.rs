//! Real files, written by PyTorch 2.8 and the safetensors library (see `golden/make_golden.py`), and real models where
//! `SLACKLINE_SHARED_DATA` names a folder that has them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use crate::common::golden;
use safetensors::SafeTensors;
use slackline_checkpoint::{Checkpoint, CheckpointError, DType, Format};

/// What a file must hold, by the reference library's own reader.
fn by_the_library(file: &str) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(golden(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn everything(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let tensor = |(name, info): (&String, &slackline_checkpoint::TensorInfo)| {
        let bytes = checkpoint.read_bytes(name).unwrap();
        assert_eq!(bytes.len() as u64, info.bytes, "{name}");
        // The same in chunks that fit no row, each of whole elements.
        let (size, mut chunks) = (info.dtype.size().unwrap(), Vec::new());
        let streamed = checkpoint.stream(name, 7, |chunk: &[u8]| {
            assert!(chunk.len() <= size.max(7) && chunk.len().is_multiple_of(size), "{name}: {}", chunk.len());
            chunks.extend_from_slice(chunk);
            Ok::<(), CheckpointError>(())
        });
        streamed.unwrap();
        assert_eq!(chunks, bytes, "{name}");
        let mut read = Vec::new();
        checkpoint.reader(name).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes, "{name}");
        (name.clone(), (info.shape.clone(), bytes))
    };
    checkpoint.tensors().iter().map(tensor).collect()
}

#[test]
fn every_format_gives_the_same_tensors() {
    let expected = by_the_library("expected.safetensors");
    assert_eq!(expected.len(), 19);
    let files = [
        ("expected.safetensors", Format::Safetensors),
        ("model.safetensors.index.json", Format::SafetensorsIndex),
        ("fields.pt", Format::PyTorchZip),
        ("fields_legacy.pt", Format::PyTorchLegacy),
        ("bare_protocol4.pt", Format::PyTorchZip),
        ("bare_legacy_protocol4.pt", Format::PyTorchLegacy),
        ("parallel.pt", Format::PyTorchZip),
    ];
    for (file, format) in files {
        let checkpoint = Checkpoint::open(golden(file)).unwrap();
        assert_eq!(checkpoint.format(), format, "{file}");
        assert_eq!(everything(&checkpoint), expected, "{file}");
    }
}

#[test]
fn element_types_are_told_and_floats_converted() {
    for file in ["expected.safetensors", "fields.pt", "fields_legacy.pt"] {
        let checkpoint = Checkpoint::open(golden(file)).unwrap();
        let dtype = |name: &str| checkpoint.tensors()[name].dtype.clone();
        let types = ["f64", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"];
        assert!(types.iter().all(|name| dtype(name).to_string() == *name), "{file}");
        assert_eq!(dtype("base"), DType::F32);
        assert_eq!(checkpoint.tensors()["scalar"].shape, [0usize; 0]);
        assert_eq!(checkpoint.read_f32("scalar").unwrap(), [2.5]);
        assert_eq!(checkpoint.read_f32("empty").unwrap(), [0.0; 0]);

        let raw = |name| checkpoint.read_bytes(name).unwrap();
        let halves: Vec<f32> = raw("f16").as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect();
        assert_eq!(checkpoint.read_f32("f16").unwrap(), halves);
        // A bf16 is the upper half of an f32.
        let brains: Vec<f32> = raw("bf16").chunks(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect();
        assert_eq!(checkpoint.read_f32("bf16").unwrap(), brains);
        let doubles: Vec<f32> = raw("f64").as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect();
        assert_eq!(checkpoint.read_f32("f64").unwrap(), doubles);

        let refused = checkpoint.read_f32("i32").unwrap_err();
        assert!(matches!(&refused, CheckpointError::WrongType { tensor, dtype: DType::I32, .. } if tensor == "i32"));
        assert!(matches!(checkpoint.read_f32("none"), Err(CheckpointError::NoSuchTensor { .. })));
    }
}

#[test]
fn training_fields_are_reported_by_name() {
    for file in ["fields.pt", "fields_legacy.pt"] {
        let skipped = Checkpoint::open(golden(file)).unwrap().skipped().to_vec();
        let named = |start: &str| skipped.iter().filter(|s| s.starts_with(start)).count();
        for field in
            ["epoch", "losses", "opt_state_dict", "args (argparse.Namespace)", "test_auc (numpy", "iter (numpy"]
        {
            assert_eq!(named(field), 1, "{field} in {skipped:?}");
        }
        assert_eq!(skipped.len(), 6, "{skipped:?}");
    }
    assert!(Checkpoint::open(golden("parallel.pt")).unwrap().skipped().is_empty());
    assert_eq!(Checkpoint::open(golden("expected.safetensors")).unwrap().skipped(), ["__metadata__"]);
}

#[test]
fn what_cannot_be_read_is_listed_or_reported_and_harms_nothing_else() {
    let checkpoint = Checkpoint::open(golden("odd.pt")).unwrap();
    for (name, (shape, bytes)) in by_the_library("odd_expected.safetensors") {
        assert_eq!(checkpoint.tensors()[&name].shape, shape);
        assert_eq!(checkpoint.read_bytes(&name).unwrap(), bytes, "{name}");
    }
    for (name, dtype, bytes) in [("complex", "torch.complex64", 32), ("float8", "torch.float8_e4m3fn", 4)] {
        let info = &checkpoint.tensors()[name];
        assert_eq!((&info.dtype, info.bytes), (&DType::Other(dtype.to_owned()), bytes));
        let refused = checkpoint.read_bytes(name).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains(dtype), "{refused}");
        assert!(matches!(checkpoint.read_f32(name), Err(CheckpointError::WrongType { .. })));
    }
    let expected = ["quantised (torch._utils._rebuild_qtensor)", "sparse (torch._utils._rebuild_sparse_tensor)"];
    let mut skipped = checkpoint.skipped().to_vec();
    skipped.sort();
    assert_eq!(skipped, expected);
}

#[test]
fn a_whole_pickled_module_is_refused_with_advice() {
    let refused = Checkpoint::open(golden("module.pt")).unwrap_err();
    assert!(matches!(refused, CheckpointError::NoTensors { .. }));
    let text = refused.to_string();
    assert!(text.contains("torch.nn.modules.linear.Linear") && text.contains("state_dict()"), "{text}");
}

#[test]
fn a_sink_that_fails_ends_the_stream_with_its_own_error() {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    enum Mine {
        Full(u32),
        Checkpoint(#[from] CheckpointError),
    }
    let checkpoint = Checkpoint::open(golden("fields.pt")).unwrap();
    for name in ["base", "transposed"] {
        let mut calls = 0;
        let ended = checkpoint.stream(name, 16, |_| {
            calls += 1;
            if calls == 3 { Err(Mine::Full(3)) } else { Ok(()) }
        });
        assert!(matches!(ended, Err(Mine::Full(3))));
        assert_eq!(calls, 3);
    }
    assert!(matches!(checkpoint.stream("none", 16, |_| Ok(())), Err(Mine::Checkpoint(_))));
}

#[test]
fn a_sink_may_be_an_ordinary_write() {
    fn copy(checkpoint: &Checkpoint, name: &str, mut to: impl Write) -> io::Result<()> {
        checkpoint.stream(name, 16, |chunk| to.write_all(chunk))?;
        to.flush()
    }
    let checkpoint = Checkpoint::open(golden("fields.pt")).unwrap();
    let mut bytes = Vec::new();
    copy(&checkpoint, "base", &mut bytes).unwrap();
    assert_eq!(bytes, checkpoint.read_bytes("base").unwrap());
    let full = copy(&checkpoint, "base", &mut [0; 20][..]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WriteZero);
    // The checkpoint's own error stays inside of the other one.
    let missing = copy(&checkpoint, "none", io::sink()).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let inner = missing.get_ref().and_then(|error| error.downcast_ref::<CheckpointError>());
    assert!(matches!(inner, Some(CheckpointError::NoSuchTensor { .. })));
}

#[test]
fn a_reader_is_buffered_and_says_what_it_cannot_read() {
    let checkpoint = Checkpoint::open(golden("fields.pt")).unwrap();
    let (mut reader, expected) =
        (checkpoint.reader("transposed").unwrap(), checkpoint.read_bytes("transposed").unwrap());
    let first = reader.fill_buf().unwrap()[..4].to_vec();
    reader.consume(4);
    let mut rest = vec![0; expected.len() - 4];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!([first, rest].concat(), expected);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    assert!(matches!(checkpoint.reader("none"), Err(CheckpointError::NoSuchTensor { .. })));
    let odd = Checkpoint::open(golden("odd.pt")).unwrap();
    assert!(matches!(odd.reader("complex"), Err(CheckpointError::WrongType { .. })));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shrinks");
    std::fs::copy(golden("fields.pt"), &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let mut reader = checkpoint.reader("base").unwrap();
    for _ in 0..2 {
        assert_eq!(reader.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[cfg(not(feature = "torchsnapshot"))]
#[test]
fn a_snapshot_needs_its_feature_and_says_so() {
    let refused = Checkpoint::open(golden("snapshot_ranks")).unwrap_err();
    assert!(matches!(refused, CheckpointError::MissingFeature { feature: "torchsnapshot", .. }));
    assert!(refused.to_string().contains("built without feature `torchsnapshot` of slackline-checkpoint"), "{refused}");
}

#[test]
fn a_checkpoint_is_shared_between_threads() {
    let checkpoint = Checkpoint::open(golden("fields.pt")).unwrap();
    let expected = everything(&checkpoint);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| everything(&checkpoint))).collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), expected));
    });
}

/// A file of the folder that `SLACKLINE_SHARED_DATA` names.
fn shared(file: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("SLACKLINE_SHARED_DATA") else {
        println!("not run: SLACKLINE_SHARED_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join(file))
}

#[test]
fn a_real_dlrm_is_the_same_in_all_three_formats() {
    let Some(zip) = shared("golden/dlrm_tiny.pt") else { return };
    let zip = Checkpoint::open(zip).unwrap();
    let legacy = Checkpoint::open(shared("golden/dlrm_tiny_legacy.pt").unwrap()).unwrap();
    let safe = Checkpoint::open(shared("golden/dlrm_tiny.safetensors").unwrap()).unwrap();
    assert_eq!(zip.tensors(), legacy.tensors());
    assert_eq!(zip.tensors(), safe.tensors());
    assert_eq!(zip.tensors()["emb_l.0.weight"].shape, [1000, 16]);
    assert_eq!(zip.tensors().keys().filter(|name| name.starts_with("emb_l.")).count(), 26);
    assert_eq!(zip.skipped(), ["nepochs", "test_acc"]);
    let expected = everything(&safe);
    assert_eq!(everything(&zip), expected);
    assert_eq!(everything(&legacy), expected);
}

#[test]
fn real_trained_models_open_with_the_names_of_their_authors() {
    let Some(kaggle) = shared("criteo-trained/kaggle16.pt") else { return };
    let kaggle = Checkpoint::open(kaggle).unwrap();
    let shape = |checkpoint: &Checkpoint, name: &str| checkpoint.tensors()[name].shape.clone();
    assert_eq!(kaggle.tensors().len(), 40);
    assert_eq!(shape(&kaggle, "emb_l.0.weight"), [1460, 16]);
    assert_eq!(shape(&kaggle, "top_l.2.weight"), [256, 512]);
    assert_eq!(shape(&kaggle, "top_l.4.bias"), [1]);
    assert!(kaggle.skipped().contains(&"test_auc".to_owned()));

    let dcn = Checkpoint::open(shared("golden/torchrec_dcn.pt").unwrap()).unwrap();
    assert_eq!(dcn.tensors().len(), 45);
    let table = "sparse_arch.embedding_bag_collection.embedding_bags.t_cat_0.weight";
    assert_eq!(shape(&dcn, table), [1000, 16]);
    assert!(dcn.tensors().contains_key("inter_arch.crossnet.W_kernels.0"));
    let dlrm = Checkpoint::open(shared("golden/torchrec_dlrm.pt").unwrap()).unwrap();
    assert_eq!(shape(&dlrm, table), [1000, 16]);
    for checkpoint in [&kaggle, &dcn, &dlrm] {
        for name in checkpoint.tensors().keys() {
            assert!(checkpoint.read_f32(name).unwrap().iter().all(|v| v.is_finite()), "{name}");
        }
    }
}
