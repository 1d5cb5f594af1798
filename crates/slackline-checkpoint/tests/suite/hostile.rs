//! Files that are short, altered, or made to do harm: every one is refused with its cause, or read; none panics.

use crate::common::{
    Pickler, golden, legacy_head, one_tensor, open_bytes, read_all, refusal, torch_legacy, torch_zip, zip,
};
use proptest::prelude::*;
use slackline_checkpoint::{Checkpoint, CheckpointError, Corrupt};

const GOLDEN: [&str; 7] = [
    "fields.pt",
    "fields_legacy.pt",
    "bare_protocol4.pt",
    "bare_legacy_protocol4.pt",
    "odd.pt",
    "expected.safetensors",
    "model.safetensors.index.json",
];

fn golden_bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    for name in GOLDEN {
        let whole = golden_bytes(name);
        for part in 0..64 {
            let refused = open_bytes(&whole[..whole.len() * part / 64]).expect_err(name);
            assert!(!matches!(refused, CheckpointError::Io { .. }), "{name} {part}/64: {refused}");
        }
    }
}

#[test]
fn what_a_truncated_file_lacks_is_said() {
    for (bytes, said) in [
        (&b""[..], "the file is empty"),
        (b"\x08\0\0\0\0\0\0\0{\"a\":{}", "truncated at byte 15: the header needs 1 more byte"),
        (b"\x09\0\0\0\0\0\0\0{\"a\":{}", "truncated at byte 15: the header needs 2 more bytes"),
    ] {
        let text = refusal(bytes);
        assert!(text.ends_with(&format!(": {said}")), "{text}");
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_gives_an_error() {
    for name in ["fields.pt", "fields_legacy.pt", "expected.safetensors"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shrinks");
        std::fs::copy(golden(name), &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        for tensor in ["base", "transposed"] {
            let refused = checkpoint.read_f32(tensor).unwrap_err();
            let truncated = |cause: &Corrupt| matches!(cause, Corrupt::Truncated { .. });
            assert!(matches!(&refused, CheckpointError::Corrupt { cause, .. } if truncated(cause)), "{refused}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_file_with_altered_bytes_is_refused_or_read(
        name in prop::sample::select(&GOLDEN[..]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..8),
    ) {
        let mut bytes = golden_bytes(name);
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(checkpoint) = open_bytes(&bytes) {
            read_all(&checkpoint);
        }
    }

    #[test]
    fn any_instructions_in_any_order_are_refused_or_read(
        instructions in prop::collection::vec(instruction(), 0..60),
    ) {
        let pickle = Pickler::new().raw(&instructions.concat()).stop();
        if let Ok(checkpoint) = open_bytes(&torch_zip(&pickle, &[0.0; 16])) {
            read_all(&checkpoint);
        }
        if let Ok(checkpoint) = open_bytes(&torch_legacy(&pickle, "0", &[0.0; 16])) {
            read_all(&checkpoint);
        }
    }

    #[test]
    fn a_tensor_is_accepted_exactly_if_it_lies_within_its_storage(
        dimensions in prop::collection::vec((0i64..5, 0i64..9), 0..4),
        offset in 0i64..20,
    ) {
        let (shape, strides): (Vec<i64>, Vec<i64>) = dimensions.into_iter().unzip();
        let last: i64 = shape.iter().zip(&strides).map(|(len, stride)| (len - 1) * stride).sum();
        let fits = shape.contains(&0) || offset + last < 16;
        let floats: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let opened = open_bytes(&torch_zip(&one_tensor(16, offset, &shape, &strides), &floats));
        prop_assert_eq!(opened.is_ok(), fits);
        if let Ok(checkpoint) = opened {
            let mut expected = vec![offset as f32];
            for (&len, &stride) in shape.iter().zip(&strides) {
                expected = expected.iter().flat_map(|v| (0..len).map(move |i| v + (i * stride) as f32)).collect();
            }
            prop_assert_eq!(checkpoint.read_f32("w").unwrap(), expected);
        }
    }
}

/// One pickle instruction, most of them sensible.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let p = |pickler: Pickler| pickler.0;
    let whole = vec![
        p(Pickler::default().tensor(16, 0, &[2, 3], &[3, 1])),
        p(Pickler::default().storage("0", 16, None)),
        p(Pickler::default().storage("0", 16, Some((2, 4)))),
        p(Pickler::default().global("torch._utils", "_rebuild_tensor_v2")),
        p(Pickler::default().global("torch._utils", "_rebuild_tensor_v3")),
        p(Pickler::default().global("torch._utils", "_rebuild_parameter")),
        p(Pickler::default().global("torch._tensor", "_rebuild_from_type_v2")),
        p(Pickler::default().global("collections", "OrderedDict")),
        p(Pickler::default().global("os", "system")),
        p(Pickler::default().text("state_dict")),
        p(Pickler::default().text("module.w")),
        p(Pickler::default().ints(&[2, 3])),
        p(Pickler::default().int(-1)),
        b"q\0".to_vec(),
        b"h\0".to_vec(),
        b"q\x01".to_vec(),
        b"h\x01".to_vec(),
    ];
    let plain: Vec<Vec<u8>> =
        b"(012NQRabde]})tsul\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94oi".iter().map(|&b| vec![b]).collect();
    prop_oneof![
        4 => prop::sample::select(whole),
        4 => prop::sample::select(plain),
        1 => prop::collection::vec(any::<u8>(), 1..5),
    ]
}

#[test]
fn code_is_never_run_and_a_tensor_that_needs_it_is_refused() {
    // Beside a tensor it is opaque, and reported.
    let beside = Pickler::new().raw(b"}(").text("x").global("os", "system").text("false").raw(b"\x85R");
    let beside = beside.text("w").tensor(2, 0, &[2], &[1]).raw(b"u").stop();
    let checkpoint = open_bytes(&torch_zip(&beside, &[1.0, 2.0])).unwrap();
    assert_eq!(checkpoint.read_f32("w").unwrap(), [1.0, 2.0]);
    assert_eq!(checkpoint.skipped(), ["x (os.system)"]);

    let v2 = || Pickler::new().raw(b"}").text("w").global("torch._utils", "_rebuild_tensor_v2").raw(b"(");
    let call = |p: Pickler| p.global("os", "system").text("false").raw(b"\x85R");
    let as_storage = call(v2()).int(0).ints(&[1]).ints(&[1]).raw(b"\x89}tRs").stop();
    let as_shape = call(v2().storage("0", 2, None).int(0)).ints(&[1]).raw(b"\x89}tRs").stop();
    let as_class = v2().raw(b"(").text("storage").global("os", "system").text("0").text("cpu").int(2).raw(b"tQ").stop();
    let load = v2().global("torch.storage", "_load_from_bytes").raw(b"C\x01.\x85R");
    let nested = load.int(0).ints(&[1]).ints(&[1]).raw(b"\x89}tRs").stop();
    let function = Pickler::new().raw(b"}").text("w").global("torch._tensor", "_rebuild_from_type_v2");
    let function =
        function.raw(b"(").global("os", "system").global("torch", "Tensor").text("x").raw(b"\x85NtRs").stop();
    for (pickle, global) in [
        (as_storage, "os.system"),
        (as_shape, "os.system"),
        (as_class, "os.system"),
        (nested, "torch.storage._load_from_bytes"),
        (function, "os.system"),
    ] {
        let refused = open_bytes(&torch_zip(&pickle, &[1.0, 2.0])).unwrap_err();
        let CheckpointError::Corrupt { cause: Corrupt::ForbiddenGlobal { global: named, .. }, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(named, global);
    }
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    let cases: [(&[i64], &[i64], i64, &str); 8] = [
        (&[-1], &[1], 0, "negative"),
        (&[2], &[-1], 1, "negative"),
        (&[2], &[1], -1, "negative"),
        (&[i64::MAX, i64::MAX], &[0, 0], 0, "tensor `w`: shape"),
        (&[2], &[i64::MAX], 0, "tensor `w`: shape"),
        (&[1], &[1], i64::MAX, "tensor `w`: shape"),
        (&[5], &[1], 0, "tensor `w`: shape [5] with strides [1] from element 0 does not fit in the 16 bytes"),
        (&[2, 2], &[1], 0, "different numbers of dimensions and strides"),
    ];
    for (shape, strides, offset, cause) in cases {
        let text = refusal(&torch_zip(&one_tensor(4, offset, shape, strides), &[0.0; 4]));
        assert!(text.contains(cause), "{text}");
    }
    assert!(
        refusal(&torch_zip(&one_tensor(5, 0, &[1], &[1]), &[0.0; 4])).contains("has 16 bytes, but 20 are declared")
    );
    assert!(refusal(&torch_zip(&one_tensor(4, 0, &[1; 65], &[1; 65]), &[0.0; 4])).contains("dimensions"));
    let missing = zip(&[("m/data.pkl", &one_tensor(4, 0, &[1], &[1]))]);
    assert!(refusal(&missing).contains("zip entry `m/data/0`: missing"));
}

#[test]
fn a_tensor_that_repeats_itself_a_trillion_times_is_only_streamed() {
    let file = torch_zip(&one_tensor(1, 0, &[1 << 20, 1 << 20], &[0, 0]), &[7.0]);
    let checkpoint = open_bytes(&file).unwrap();
    assert_eq!(checkpoint.tensors()["w"].bytes, 4 << 40);
    assert!(matches!(checkpoint.read_f32("w"), Err(CheckpointError::TooLarge { stored: 4, .. })));
    assert!(matches!(checkpoint.read_bytes("w"), Err(CheckpointError::TooLarge { .. })));
    let mut seen = 0;
    let ended = checkpoint.stream_f32("w", |values| {
        assert!(values.iter().all(|&v| v == 7.0));
        seen += values.len();
        if seen > 1 << 20 { Err(checkpoint.read_f32("none").unwrap_err()) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(CheckpointError::NoSuchTensor { .. })));
}

#[test]
fn pickles_that_go_deep_or_round_in_circles_are_refused() {
    let wrapped = |depth: usize| {
        let open = (0..depth).fold(Pickler::new(), |p, _| p.raw(b"}").text("d"));
        open.tensor(1, 0, &[1], &[1]).raw(&b"s".repeat(depth)).stop()
    };
    let name = open_bytes(&torch_zip(&wrapped(60), &[1.0])).unwrap().tensors().keys().next().unwrap().clone();
    assert_eq!(name, vec!["d"; 60].join("."));
    assert!(open_bytes(&torch_zip(&wrapped(200_000), &[1.0])).is_err());

    // Containers without tensors may be of any depth, and hold themselves.
    let deep = |p: Pickler| p.raw(&b"]".repeat(200_000)).raw(&b"a".repeat(199_999));
    let harmless = deep(Pickler::new().raw(b"}(").text("deep")).text("self").raw(b"]q\x05h\x05a");
    let harmless = harmless.text("w").tensor(1, 0, &[1], &[1]).raw(b"u").stop();
    assert_eq!(open_bytes(&torch_zip(&harmless, &[1.0])).unwrap().skipped(), ["deep", "self"]);

    let circle = Pickler::new().raw(b"}q\x05(").text("w").tensor(1, 0, &[1], &[1]).text("c").raw(b"h\x05u").stop();
    assert!(refusal(&torch_zip(&circle, &[1.0])).contains("contain themselves"));

    // Each level holds the one before twice: 2^40 tensors.
    let laughs = Pickler::new().tensor(1, 0, &[1], &[1]).raw(&b"2\x86".repeat(40)).stop();
    assert!(refusal(&torch_zip(&laughs, &[1.0])).contains("limit"));
}

#[test]
fn lengths_beyond_the_file_are_refused_where_they_stand() {
    for huge in [
        &b"X\xff\xff\xff\xff"[..],
        b"T\xff\xff\xff\x7f",
        b"B\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x95\0\0",
    ] {
        let text = refusal(&torch_zip(&Pickler::new().raw(huge).0, &[]));
        assert!(text.contains("truncated at byte"), "{text}");
        let text = refusal(&[&legacy_head()[..], &Pickler::new().raw(huge).0].concat());
        assert!(text.contains("truncated at byte"), "{text}");
    }
    let text = refusal(&torch_zip(b"\x80\x02\xff", &[]));
    assert!(text.contains("pickle at byte 42: unknown opcode 0xff"), "{text}");
}

#[test]
fn instructions_without_their_values_are_refused() {
    for bad in [
        &b"."[..],
        b"a.",
        b"s.",
        b"u.",
        b"t.",
        b"R.",
        b"Q.",
        b"h\0.",
        b"q\0.",
        b"(N0R.",
        b"2.",
        b"b.",
        b"N(s.",
        b"(Nu.",
    ] {
        let text = refusal(&torch_zip(&Pickler::new().raw(bad).0, &[]));
        assert!(text.contains("pickle at byte"), "{bad:?}: {text}");
    }
}

#[test]
fn zip_files_that_torch_does_not_write_are_refused() {
    let pickle = one_tensor(1, 0, &[1], &[1]);
    let good = torch_zip(&pickle, &[1.0]);
    assert!(open_bytes(&good).is_ok());
    let altered = |find: &[u8], skip: usize, put: &[u8]| {
        let mut bytes = good.clone();
        let at = bytes.windows(find.len()).position(|w| w == find).unwrap() + skip;
        bytes[at..at + put.len()].copy_from_slice(put);
        refusal(&bytes)
    };
    assert!(altered(b"PK\x01\x02", 10, &[8]).contains("compressed"));
    assert!(altered(b"PK\x01\x02", 8, &[1]).contains("encrypted"));
    assert!(altered(b"PK\x01\x02", 24, &[255, 255, 0, 0]).contains("two different sizes"));
    assert!(altered(b"PK\x01\x02", 42, &[0, 0, 0, 0x7f]).contains("overlaps the directory"));
    assert!(altered(b"PK\x01\x02", 42, &[1]).contains("no local header"));
    assert!(altered(b"PK\x05\x06", 10, &[200]).contains("truncated"));
    assert!(altered(b"PK\x05\x06", 16, &[0, 0, 0, 0x7f]).contains("overlaps the end record"));
    assert!(altered(b"PK\x05\x06", 10, &[0xff, 0xff]).contains("64-bit locator"));

    assert!(refusal(&zip(&[("m/data.pkl", &pickle), ("m/data/0", &[0; 4]), ("m/data/0", &[0; 4])])).contains("twice"));
    assert!(refusal(&zip(&[("m/data.pkl", &pickle), ("n/data.pkl", &pickle)])).contains("the second `data.pkl`"));
    let other = refusal(&zip(&[("m/other", b"")]));
    assert!(other.ends_with(": a zip file without `data.pkl`: not a PyTorch checkpoint"), "{other}");
    let big = zip(&[("m/data.pkl", &pickle), ("m/byteorder", b"big"), ("m/data/0", &[0; 4])]);
    assert!(refusal(&big).contains("not supported: byte order `big`"));
}

#[test]
fn legacy_files_are_read_with_views_and_refused_with_contradictions() {
    let viewed = Pickler::new().raw(b"}").text("w").global("torch._utils", "_rebuild_tensor").raw(b"(");
    let viewed = viewed.storage("k", 5, Some((2, 3))).int(1).ints(&[2]).ints(&[1]).raw(b"tRs").stop();
    let floats = [0.0, 1.0, 2.0, 3.0, 4.0];
    let checkpoint = open_bytes(&torch_legacy(&viewed, "k", &floats)).unwrap();
    assert_eq!(checkpoint.read_f32("w").unwrap(), [3.0, 4.0]);
    assert!(refusal(&torch_legacy(&viewed, "k", &floats[..4])).contains("has 16 bytes, but 20 are declared"));
    assert!(refusal(&torch_legacy(&viewed, "other", &floats)).contains("storage `other`"));

    let plain = one_tensor(1, 0, &[1], &[1]);
    let keys = Pickler::new().raw(b"](").text("0").text("0").raw(b"e").stop();
    let one = [1i64.to_le_bytes().to_vec(), vec![0; 4]].concat();
    let twice = [&legacy_head()[..], &plain, &keys, &one, &one].concat();
    assert!(refusal(&twice).contains("appears twice"));
    let negative = [&legacy_head()[..], &plain, &keys, &(-1i64).to_le_bytes()].concat();
    assert!(refusal(&negative).contains("-1 elements"));
    let huge = [&legacy_head()[..], &plain, &keys, &(i64::MAX / 8).to_le_bytes()].concat();
    assert!(refusal(&huge).contains("truncated"));
    let mut big_endian = legacy_head();
    let at = big_endian.len() - 3;
    assert_eq!(big_endian[at], 0x88);
    big_endian[at] = 0x89;
    assert!(refusal(&big_endian).contains("big-endian"));
}

#[test]
fn two_tensors_of_one_name_and_two_models_are_refused() {
    let tensor = |p: Pickler, name: &str| p.text(name).tensor(1, 0, &[1], &[1]);
    let wrapped = tensor(tensor(Pickler::new().raw(b"}("), "w"), "module.w").raw(b"u").stop();
    assert!(refusal(&torch_zip(&wrapped, &[1.0])).contains("two tensors are named `w`"));
    let twice = tensor(tensor(Pickler::new().raw(b"}("), "w"), "w").raw(b"u").stop();
    assert!(refusal(&torch_zip(&twice, &[1.0])).contains("two tensors are named `w`"));
    // Only one `module.` is taken off.
    let module = tensor(Pickler::new().raw(b"}"), "module.module.w").raw(b"s").stop();
    assert!(open_bytes(&torch_zip(&module, &[1.0])).unwrap().tensors().contains_key("module.w"));

    let model = |p: Pickler, key: &str| tensor(p.text(key).raw(b"}"), "w").raw(b"s");
    for key in ["state_dict", "model_state_dict", "model", "module"] {
        let p = model(tensor(Pickler::new().raw(b"}("), "rng"), key).raw(b"u").stop();
        let checkpoint = open_bytes(&torch_zip(&p, &[1.0])).unwrap();
        assert_eq!(checkpoint.tensors().keys().collect::<Vec<_>>(), ["w"]);
        assert_eq!(checkpoint.skipped(), ["rng"]);
    }
    let two = model(model(Pickler::new().raw(b"}("), "model"), "state_dict").raw(b"u").stop();
    let refused = open_bytes(&torch_zip(&two, &[1.0])).unwrap_err();
    assert!(matches!(refused, CheckpointError::AmbiguousModel { first: "state_dict", second: "model", .. }));
    // A name of the model that is no dict is a training field.
    let named = model(Pickler::new().raw(b"}(").text("model").text("dlrm"), "state_dict").raw(b"u").stop();
    assert_eq!(open_bytes(&torch_zip(&named, &[1.0])).unwrap().skipped(), ["model"]);
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_headers_that_contradict_the_file_are_refused() {
    let entry = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let file = |entries: &[String], data| safetensors(&format!("{{{}}}", entries.join(",")), data);
    let good = file(&[entry("b", "F32", "[2]", 4, 12), entry("a", "I8", "[4]", 0, 4)], 12);
    assert_eq!(open_bytes(&good).unwrap().tensors().len(), 2);
    let cases = [
        (file(&[entry("a", "F32", "[2]", 0, 4)], 4), "shape [2] of f32 does not have 4 bytes"),
        (file(&[entry("a", "F32", "[1]", 0, 4)], 3), "truncated"),
        (file(&[entry("a", "F32", "[1]", 0, 4)], 5), "1 bytes after the last tensor"),
        (file(&[entry("a", "F32", "[1]", 4, 8)], 8), "do not follow"),
        (file(&[entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 2, 6)], 6), "do not follow"),
        (file(&[entry("a", "F32", "[1]", 4, 0)], 0), "do not follow"),
        (file(&[entry("a", "F32", "[1]", 0, 4), entry("a", "F32", "[1]", 4, 8)], 8), "tensor `a` appears twice"),
        (file(&[entry("a", "F32", "[9223372036854775807,9]", 0, 4)], 4), "more elements"),
        (file(&[entry("a", "F32", "[-1]", 0, 4)], 4), "tensor `a`: invalid value"),
        (file(&[entry("a", "F32", &format!("[1{}]", ",1".repeat(64)), 0, 4)], 4), "more than 64 dimensions"),
        (file(&[entry("a", "F32", "[1]", 0, u64::MAX)], 4), "truncated"),
        (
            file(&[entry("w", "F32", "[1]", 0, 4), entry("module.w", "F32", "[1]", 4, 8)], 8),
            "two tensors are named `w`",
        ),
        (safetensors("{} {}", 0), "trailing characters"),
        (safetensors(&"{\"a\":".repeat(100_000), 0), "header: "),
        ([&(1u64 << 31).to_le_bytes()[..], b"{}"].concat(), "the limit is 100000000"),
        ([&99_000_000u64.to_le_bytes()[..], b"{}"].concat(), "truncated"),
    ];
    for (bytes, cause) in cases {
        let text = refusal(&bytes);
        assert!(text.contains(cause), "{text} lacks {cause}");
    }
    // A type of tomorrow is listed.
    let other = open_bytes(&file(&[entry("a", "F4", "[2]", 0, 1), entry("b", "U8", "[1]", 1, 2)], 2)).unwrap();
    assert!(other.read_bytes("a").unwrap_err().to_string().contains("`a` has elements of type F4"));
    assert_eq!(other.read_bytes("b").unwrap(), [0]);
}

#[test]
fn an_index_opens_only_files_beside_it_that_hold_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let shard =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    write("one", &safetensors(shard, 2));
    let open = |map: &str| {
        write("index.json", format!("{{\"metadata\":{{}},\"weight_map\":{map}}}").as_bytes());
        Checkpoint::open(folder.path().join("index.json"))
    };
    let checkpoint = open(r#"{"a":"one"}"#).unwrap();
    assert_eq!(checkpoint.tensors().keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(checkpoint.skipped(), ["metadata", "b (one, not in the index)"]);
    for (map, cause) in [
        (r#"{"a":"../one"}"#, "in the folder of the index"),
        (r#"{"a":"/etc/passwd"}"#, "in the folder of the index"),
        (r#"{"a":".."}"#, "in the folder of the index"),
        (r#"{"a":"one/"}"#, "in the folder of the index"),
        (r#"{"a":""}"#, "in the folder of the index"),
        (r#"{"c":"one"}"#, "tensor `c`: not in the file"),
        (r#"{"a":"one","a":"one"}"#, "tensor `a` appears twice"),
        (r#"{"a":"two"}"#, "two: "),
        (r#"{"a":1}"#, "header: "),
    ] {
        let text = open(map).unwrap_err().to_string();
        assert!(text.contains(cause), "{text} lacks {cause}");
    }
    write("index.json", b"{\"metadata\":{}}");
    assert!(Checkpoint::open(folder.path().join("index.json")).unwrap_err().to_string().contains("no `weight_map`"));
    assert!(matches!(Checkpoint::open(folder.path()), Err(CheckpointError::UnknownFormat { .. })));
    assert!(matches!(open_bytes(b"hello, world: no checkpoint"), Err(CheckpointError::UnknownFormat { .. })));
}
