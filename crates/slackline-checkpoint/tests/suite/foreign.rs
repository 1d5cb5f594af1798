//! Files of other programs, and tensors whose metadata changes what they are: each is named, and none is read as what it is not.

use slackline_checkpoint::{Checkpoint, CheckpointError, DType, Format};

use crate::common::{Pickler, open_bytes, refusal, torch_legacy, torch_zip, zip};

#[test]
fn archives_of_other_programs_are_named_with_what_to_do() {
    let cases: [(&[&str], &str, &str); 8] = [
        (&["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"], "TorchScript", "torch.jit.load"),
        (&["m/archive_format", "m/models/model.json", "m/data/weights/weight_0"], "torch.export", "state_dict"),
        (&["serialized_exported_program.json", "serialized_state_dict.pt"], "torch.export", "state_dict"),
        (&["m/.data/extern_modules", "m/m/m.pkl"], "torch.package", "state_dict()"),
        (&["dense.npy", "indices_0.npy"], "NumPy arrays (.npz)", "torch.from_numpy"),
        (&["config.json", "model.weights.h5"], "Keras", "state dict"),
        (&["MAR-INF/MANIFEST.json", "model.pt"], "TorchServe", "unpack"),
        (&["folder/model.pt"], "a zip file with a checkpoint", "unpack"),
    ];
    for (names, kind, advice) in cases {
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"x"[..])).collect();
        let mut bytes = zip(&entries);
        let text = refusal(&bytes);
        assert!(text.contains(kind) && text.contains(advice), "{names:?}: {text}");
        // The same with compressed entries, which are not why it is refused.
        let method = bytes.windows(4).rposition(|bytes| bytes == b"PK\x01\x02").unwrap() + 10;
        bytes[method] = 8;
        assert!(refusal(&bytes).contains(kind), "{names:?}");
    }
    let pickle = Pickler::new().raw(b"}").stop();
    let mut packed = zip(&[("m/data.pkl", &pickle)]);
    let method = packed.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap() + 10;
    packed[method] = 8;
    let text = refusal(&packed);
    assert!(text.contains("`m/data.pkl` is compressed") && !text.contains("encrypted"), "{text}");
}

#[test]
fn files_of_other_kinds_are_told_by_their_first_bytes() {
    let mut tar = vec![0; 300];
    tar[257..262].copy_from_slice(b"ustar");
    let cases: [(&[u8], &str); 13] = [
        (b"\x89HDF\r\n\x1a\n...", "HDF5"),
        (b"\x93NUMPY\x01\0", "NumPy array (.npy)"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (b"\x08\x01\x12\xe0\x03\x0a", "SavedModel"),
        (b"\x80\x04\x95\x05\0\0\0", "a plain pickle"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x1c\0\0\0TFL3....", "TensorFlow Lite"),
        (b"..........\x57\xfb\x80\x8b\x24\x75\x47\xdb", "TensorFlow checkpoint"),
        (&tar, "tar archive"),
        (b"PAR1....", "Parquet"),
    ];
    for (bytes, kind) in cases {
        let error = open_bytes(bytes).unwrap_err();
        assert!(matches!(error, CheckpointError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(kind), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    assert_eq!(Format::of(&path).unwrap(), Format::Safetensors);
    let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("name one of its files"), "{text}");
    std::fs::write(folder.path().join("saved_model.pb"), "").unwrap();
    assert!(Format::of(folder.path()).unwrap_err().to_string().contains("SavedModel"));
}

/// `{"w": …, "v": a plain tensor}`, with `w` over the arguments of `_rebuild_tensor_v2` and the metadata of its view.
fn viewed(metadata: &[u8]) -> Vec<u8> {
    let w = Pickler::new().raw(b"}(").text("w").global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
    let w = w.storage("0", 2, None).int(0).ints(&[2]).ints(&[1]).raw(b"\x89}").raw(metadata).raw(b"tR");
    w.text("v").tensor(2, 0, &[2], &[1]).raw(b"u").stop()
}

#[test]
fn a_view_that_changes_the_values_is_listed_and_not_read() {
    let flag = |key: &str, value: &[u8]| Pickler::default().raw(b"}").text(key).raw(value).raw(b"s").0;
    let cases = [
        (flag("neg", b"\x88"), Some("negates")),
        (flag("conj", b"\x88"), Some("conjugates")),
        (flag("of tomorrow", b"\x88"), Some("unknown metadata")),
        (flag("neg", b"\x89"), None),
        (b"}".to_vec(), None),
        (b"N".to_vec(), None),
    ];
    for (metadata, said) in cases {
        let pickle = viewed(&metadata);
        for bytes in [torch_zip(&pickle, &[1.0, 2.0]), torch_legacy(&pickle, "0", &[1.0, 2.0])] {
            let checkpoint = open_bytes(&bytes).unwrap();
            assert_eq!(checkpoint.read_f32("v").unwrap(), [1.0, 2.0]);
            match (checkpoint.read_f32("w"), said) {
                (Ok(values), None) => assert_eq!(values, [1.0, 2.0]),
                (Err(refused), Some(said)) => {
                    let text = refused.to_string();
                    assert!(text.contains("`w`") && text.contains(said), "{text}");
                }
                (found, _) => panic!("{said:?}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_tensor_of_another_class_is_listed_and_not_read() {
    let of_class = |module: &str, class: &str| {
        let w = Pickler::new().raw(b"}").text("w").global("torch._tensor", "_rebuild_from_type_v2").raw(b"(");
        let w = w.global("torch._utils", "_rebuild_tensor_v2").global(module, class).raw(b"(");
        let w = w.storage("0", 2, None).int(0).ints(&[2]).ints(&[1]).raw(b"\x89}t}tRs").stop();
        open_bytes(&torch_zip(&w, &[1.0, 2.0])).unwrap()
    };
    for (module, class) in [("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")]
    {
        assert_eq!(of_class(module, class).read_f32("w").unwrap(), [1.0, 2.0], "{class}");
    }
    let scaled = of_class("scaled", "Int8Tensor");
    assert!(matches!(&scaled.tensors()["w"].dtype, DType::Other(name) if name.contains("scaled.Int8Tensor")));
    assert!(scaled.read_f32("w").is_err() && scaled.read_bytes("w").is_err());
    // A wrapper has no elements of its own.
    let w = Pickler::new().raw(b"}(").text("w").global("torch._tensor", "_rebuild_from_type_v2").raw(b"(");
    let w = w.global("torch._utils", "_rebuild_wrapper_subclass").global("torch.distributed.tensor", "DTensor");
    let w = w.raw(b"(t}tR").text("v").tensor(2, 0, &[2], &[1]).raw(b"u").stop();
    let checkpoint = open_bytes(&torch_zip(&w, &[1.0, 2.0])).unwrap();
    assert_eq!(checkpoint.skipped(), ["w (torch.distributed.tensor.DTensor)"]);
}

#[test]
fn a_double_that_is_too_large_for_a_single_is_refused_where_it_stands() {
    let values = [0.5, f64::INFINITY, 1.0, -3.0, 1e300, 2.0];
    let header = br#"{"d":{"dtype":"F64","shape":[3,2],"data_offsets":[0,48]}}"#;
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let bytes = [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat();
    let checkpoint = open_bytes(&bytes).unwrap();
    for first in [0, 1, 2] {
        let refused = checkpoint.stream_f32_from("d", first, |_| Ok::<(), CheckpointError>(())).unwrap_err();
        let CheckpointError::Overflow { tensor, position, value, .. } = &refused else { panic!("{refused}") };
        assert_eq!((tensor.as_str(), &position[..], *value), ("d", &[2, 0][..], 1e300));
    }
    assert!(checkpoint.read_f32("d").unwrap_err().to_string().contains("[2, 0] is 1e300"));
}
