//! Files that are not what they should be: each is an error that names file and cause, and never a wrong row.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{
    HeapTable, RowFormat, Shard, ShardDefect, ShardError, ShardTable, ShardWriter, TableSpec, Verify,
};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// A file in a folder of its own, which goes with it.
struct Sample {
    path: PathBuf,
    _folder: TempDir,
}

impl Sample {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.safetensors");
        fs::write(&path, bytes).unwrap();
        Sample { path, _folder: folder }
    }

    /// A sound shard of two tables, 7 rows of 4 columns and 5 rows of 3.
    fn shard() -> Self {
        let sample = Self::new(&[]);
        write(&sample.path, &[("user", 7, 4), ("item", 5, 3)]);
        sample
    }

    /// The defect found on opening; the message must name the file.
    #[track_caller]
    fn defect(&self, verify: Verify) -> ShardDefect {
        let error = Shard::open(&self.path, verify).expect_err("the damage was not seen");
        assert!(error.to_string().starts_with(&format!("{}: ", self.path.display())), "{error}");
        match error {
            ShardError::Corrupt { defect, .. } => *defect,
            error => panic!("not seen as damage of the file: {error}"),
        }
    }
}

fn write(path: &Path, tables: &[(&str, u64, usize)]) {
    let specs: Vec<_> =
        tables.iter().map(|&(name, rows, dim)| TableSpec::new(name, rows, dim, RowFormat::F32)).collect();
    let mut writer = ShardWriter::create(path, &specs).unwrap();
    for (number, &(name, rows, dim)) in tables.iter().enumerate() {
        let table = HeapTable::random(name, rows, dim, rows);
        writer.write_rows(number, bytemuck::cast_slice(table.data())).unwrap();
    }
    writer.finish().unwrap();
}

/// All that a reader sees of a shard.
fn contents(shard: &Shard) -> Vec<(ShardTable, Vec<u8>)> {
    let tables = shard.tables().iter();
    tables.map(|table| (table.clone(), shard.table(&table.tensor).unwrap().row_bytes().to_vec())).collect()
}

#[test]
fn what_is_no_file_is_said_to_be_none() {
    let sample = Sample::shard();
    let missing = sample.path.with_extension("gone");
    let error = Shard::open(&missing, Verify::Checksums).unwrap_err();
    assert!(matches!(error, ShardError::Missing { .. }));
    assert_eq!(error.to_string(), format!("{}: no such shard file", missing.display()));
    for path in [sample.path.parent().unwrap(), Path::new("/dev/null")] {
        let error = Shard::open(path, Verify::Checksums).unwrap_err();
        assert!(matches!(error, ShardError::NotAFile { .. }));
        assert_eq!(error.to_string(), format!("{}: not a regular file", path.display()));
    }
    let below = sample.path.join("below");
    assert!(matches!(Shard::open(below, Verify::Checksums), Err(ShardError::Io { .. })));
}

#[test]
fn a_file_cut_anywhere_is_short_and_one_that_goes_on_is_long() {
    let sample = Sample::shard();
    let whole = fs::metadata(&sample.path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&sample.path).unwrap();
    for length in (0..whole).rev() {
        file.set_len(length).unwrap();
        let expected = if length < 8 {
            8
        } else if length < 4096 {
            4096
        } else {
            whole
        };
        assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::Short { expected, found: length });
    }
    let sample = Sample::shard();
    let file = OpenOptions::new().write(true).open(&sample.path).unwrap();
    for more in [1, 3, 4, 4096, 1 << 40] {
        file.set_len(whole + more).unwrap();
        assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::Long { expected: whole, found: whole + more });
    }
    assert_eq!(
        ShardDefect::Short { expected: 5000, found: 4000 }.to_string(),
        "the file is short: 5000 bytes by its header, 4000 in the file"
    );
}

#[test]
fn no_single_flipped_bit_goes_unseen() {
    let sample = Sample::shard();
    let bytes = fs::read(&sample.path).unwrap();
    let file = OpenOptions::new().write(true).open(&sample.path).unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        // In the padding all places are alike.
        if at > 1500 && at < 4090 && at % 64 != 0 {
            assert_eq!(byte, b' ');
            continue;
        }
        for bit in 0..8 {
            file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
            let defect = sample.defect(Verify::Checksums);
            if at >= 4096 {
                let table = if at < 4096 + 7 * 16 { "user" } else { "item" };
                assert!(matches!(&defect, ShardDefect::Checksum { table: found, .. } if found == table), "{defect}");
            } else {
                assert_eq!(sample.defect(Verify::HeaderOnly), defect, "a header is always checked");
            }
        }
        file.write_all_at(&[byte], at as u64).unwrap();
    }
    Shard::open(&sample.path, Verify::Checksums).unwrap();
}

#[test]
fn a_rank_verifies_only_the_tables_it_uses() {
    let sample = Sample::shard();
    let shard = Shard::open(&sample.path, Verify::Checksums).unwrap();
    let expected = shard.tables()[1].xxh3;
    let at = shard.tables()[1].offset + 5;
    drop(shard);
    let file = OpenOptions::new().write(true).open(&sample.path).unwrap();
    file.write_all_at(&[0x55, 0x66], at).unwrap();
    let shard = Shard::open(&sample.path, Verify::HeaderOnly).unwrap();
    shard.verify("user").unwrap();
    let found = xxh3_64(shard.table("item").unwrap().row_bytes());
    assert_eq!(
        shard.verify("item").unwrap_err().to_string(),
        format!(
            "{}: table item was altered: its checksum is {found:016x}, it should be {expected:016x}",
            sample.path.display()
        )
    );
    assert_eq!(sample.defect(Verify::Checksums), ShardDefect::Checksum { table: "item".to_owned(), expected, found });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn damage_of_any_kind_is_seen_or_does_no_harm(
        shapes in vec((0..40u64, 1..20usize), 1..6),
        overwritten in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        near_start in any::<bool>(),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        verify in prop::sample::select(vec![Verify::Checksums, Verify::HeaderOnly]),
    ) {
        let sample = Sample::new(&[]);
        let names: Vec<_> = (0..shapes.len()).map(|at| format!("t{at}")).collect();
        let tables: Vec<_> = names.iter().zip(&shapes).map(|(name, &(rows, dim))| (&**name, rows, dim)).collect();
        write(&sample.path, &tables);
        let before = contents(&Shard::open(&sample.path, Verify::Checksums).unwrap());
        let mut bytes = fs::read(&sample.path).unwrap();
        for (at, byte) in overwritten {
            let within = if near_start { 1200 } else { bytes.len() };
            bytes[at.index(within)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&sample.path, &bytes).unwrap();
        match Shard::open(&sample.path, verify) {
            Err(ShardError::Corrupt { file, .. }) => prop_assert_eq!(file, sample.path),
            Err(error) => prop_assert!(false, "{error}"),
            Ok(shard) => {
                // Without verification rows may differ, but nothing else; and verifying finds out which.
                for (after, before) in contents(&shard).iter().zip(&before) {
                    prop_assert_eq!(&after.0, &before.0);
                    prop_assert_eq!(after.1 == before.1, shard.verify(&after.0.tensor).is_ok());
                    prop_assert!(verify == Verify::HeaderOnly || after.1 == before.1);
                }
                prop_assert_eq!(shard.tables().len(), before.len());
            }
        }
    }

    #[test]
    fn no_bytes_at_all_crash_the_reader(length in any::<u64>(), bytes in vec(any::<u8>(), 0..200), fits in any::<bool>()) {
        let length = if fits { bytes.len() as u64 } else { length };
        let sample = Sample::new(&[&length.to_le_bytes()[..], &bytes].concat());
        prop_assert!(Shard::open(&sample.path, Verify::Checksums).is_err());
    }
}

/// A file with this header, its own checksum filled in, padded so that the data start on a page unless told otherwise.
fn with_header(header: &str, data: &[u8], padded_to: usize) -> Sample {
    let mut header = header.as_bytes().to_vec();
    header.resize((header.len() + 8).next_multiple_of(padded_to) - 8, b' ');
    let field = b"\"header_xxh3\":\"";
    if let Some(at) = header.windows(field.len()).position(|bytes| bytes == field) {
        let checksum = format!("{:016x}", xxh3_64(&header));
        header[at + field.len()..][..16].copy_from_slice(checksum.as_bytes());
    }
    Sample::new(&[&(header.len() as u64).to_le_bytes()[..], &header, data].concat())
}

/// The header of a shard of one table `t`, 2 rows of 3 columns, with some of its text replaced.
fn altered(replacements: &[(&str, &str)]) -> ShardDefect {
    let data = [7u8; 24];
    let mut header = format!(
        concat!(
            r#"{{"__metadata__":{{"format":"slackline.shard","version":"1","header_xxh3":"0000000000000000","#,
            r#""table:t":"{{\"row_format\":\"f32\",\"table\":\"t\",\"first_row\":0,\"rows\":2,\"dim\":3,\"xxh3\":\"{:016x}\"}}"}},"#,
            r#""t":{{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}}}"#
        ),
        xxh3_64(&data)
    );
    Shard::open(&with_header(&header, &data, 4096).path, Verify::Checksums).expect("the header is sound as it is");
    for (from, to) in replacements {
        assert!(header.contains(from), "{from} is not in the header");
        header = header.replace(from, to);
    }
    with_header(&header, &data, 4096).defect(Verify::Checksums)
}

#[test]
fn each_defect_of_a_header_is_told_apart() {
    let text = |replacements: &[(&str, &str)]| altered(replacements).to_string();
    let cases = [
        (r#""format":"slackline.shard","#, "", "a safetensors file, but not a slackline.shard (format: none)"),
        ("slackline.shard", "pt", "a safetensors file, but not a slackline.shard (format: pt)"),
        (r#""version":"1""#, r#""version":"2""#, "shard version 2; this program reads version 1"),
        (r#""version":"1","#, "", "metadata version: missing"),
        (r#""header_xxh3":"0000000000000000","#, "", "metadata header_xxh3: missing"),
        ("header_xxh3\":\"", "header_xxh3\": \"", "metadata header_xxh3: not written in the one way it may be"),
        (r#""table:t""#, r#""table:u""#, "metadata table:t: missing"),
        (r#""t":{"dtype""#, r#""u":{"dtype""#, "metadata table:u: missing"),
        (r#""table:t":"#, r#""table:u":"","table:t":"#, "metadata table:u: there is no such tensor"),
        (
            r#"\"f32\""#,
            r#"\"f8\""#,
            "table t: unknown row format \"f8\"; known: f32, f16, bf16, int8, int4, int8-fbgemm, int4-fbgemm",
        ),
        (r#""F32""#, r#""F16""#, "table t: its dtype is F16 by the tensor's entry, but F32 by the metadata"),
        ("[2,3]", "[3,2]", "table t: its shape is [3, 2] by the tensor's entry, but [2, 3] by the metadata"),
        ("[2,3]", "[2,3,1]", "table t: its shape is [2, 3, 1] by the tensor's entry, but [2, 3] by the metadata"),
        (
            r#"\"rows\":2"#,
            r#"\"rows\":1"#,
            "table t: its shape is [2, 3] by the tensor's entry, but [1, 3] by the metadata",
        ),
        (
            "[0,24]",
            "[0,20]",
            "table t: its data is bytes 0 to 20 by the tensor's entry, but 24 bytes long by the metadata",
        ),
        (
            "[0,24]",
            "[24,0]",
            "table t: its data is bytes 24 to 0 by the tensor's entry, but 24 bytes long by the metadata",
        ),
        ("[0,24]", "[8,32]", "table t starts at byte 8 of the data, but 0 is the first byte not used: a hole"),
        (
            r#"\"first_row\":0"#,
            r#"\"first_row\":18446744073709551615"#,
            "table t: 2 rows from row 18446744073709551615 on, 3 columns: impossible",
        ),
    ];
    for (from, to, message) in cases {
        assert_eq!(text(&[(from, to)]), message);
    }
    let shape = |rows: &str, dim: &str| {
        let (metadata, entry) = (format!(r#"\"rows\":{rows},\"dim\":{dim}"#), format!("[{rows},{dim}]"));
        text(&[(r#"\"rows\":2,\"dim\":3"#, &metadata), ("[2,3]", &entry)])
    };
    assert_eq!(shape("2", "0"), "table t: 2 rows from row 0 on, 0 columns: impossible");
    assert_eq!(shape("2", "1048577"), "table t: 2 rows from row 0 on, 1048577 columns: impossible");
    let rows = "18446744073709551615";
    assert_eq!(shape(rows, "3"), format!("table t: {rows} rows from row 0 on, 3 columns: impossible"));

    assert!(matches!(altered(&[("[0,24]", "[-1,23]")]), ShardDefect::HeaderSyntax { .. }));
    assert!(matches!(altered(&[("\"dtype\"", "\"type\"")]), ShardDefect::HeaderSyntax { .. }));
    assert!(matches!(altered(&[(r#"\"dim\":3,"#, "")]), ShardDefect::Metadata { .. }));
    assert!(matches!(altered(&[("}\"}", "\"}")]), ShardDefect::Metadata { .. }));
    let xxh3 = format!("{:016x}", xxh3_64(&[7; 24]));
    for wrong in ["", "+123456789abcdef", "0123456789abcdeF", "0123456789abcdef0"] {
        let message = format!("metadata table:t: {wrong:?} is no checksum of 16 lowercase hexadecimal digits");
        assert_eq!(text(&[(&xxh3, wrong)]), message);
    }
    let other = altered(&[(&xxh3, "0123456789abcdef")]);
    let found = xxh3_64(&[7; 24]);
    assert_eq!(other, ShardDefect::Checksum { table: "t".to_owned(), expected: 0x0123456789abcdef, found });
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    for (once, twice) in [
        (r#""dtype":"F32""#, r#""dtype":"U8","dtype":"F32""#),
        (r#""version":"1""#, r#""version":"2","version":"1""#),
        (r#"\"rows\":2"#, r#"\"rows\":1,\"rows\":2"#),
    ] {
        let defect = altered(&[(once, twice)]).to_string();
        assert!(defect.contains("stands twice"), "{defect}");
    }
}

#[test]
fn tensors_that_share_bytes_or_leave_some_out_are_refused() {
    let header = |first: &str, second: &str| {
        let xxh3 = format!("{:016x}", xxh3_64(&[7; 8]));
        let described = |name: &str| {
            format!(
                r#""table:{name}":"{{\"row_format\":\"f32\",\"table\":\"{name}\",\"first_row\":0,\"rows\":1,\"dim\":2,\"xxh3\":\"{xxh3}\"}}""#
            )
        };
        let entry = |name: &str, at: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1,2],"data_offsets":[{at}]}}"#);
        format!(
            r#"{{"__metadata__":{{"format":"slackline.shard","version":"1","header_xxh3":"0000000000000000",{},{}}},{},{}}}"#,
            described("a"),
            described("b"),
            entry("a", first),
            entry("b", second)
        )
    };
    let open = |first, second| with_header(&header(first, second), &[7; 16], 4096);
    for (first, second) in [("0,8", "8,16"), ("8,16", "0,8")] {
        let shard = Shard::open(&open(first, second).path, Verify::Checksums).unwrap();
        assert_eq!(shard.tables()[0].offset, 4096);
    }
    let b = || "b".to_owned();
    assert_eq!(
        open("0,8", "4,12").defect(Verify::HeaderOnly),
        ShardDefect::Overlap { table: b(), expected: 8, found: 4 }
    );
    assert_eq!(
        open("0,8", "0,8").defect(Verify::HeaderOnly),
        ShardDefect::Overlap { table: b(), expected: 8, found: 0 }
    );
    assert_eq!(
        open("0,8", "12,20").defect(Verify::HeaderOnly),
        ShardDefect::Hole { table: b(), expected: 8, found: 12 }
    );
}

#[test]
fn headers_of_impossible_length_are_refused_before_anything_is_read() {
    let sample = Sample::new(&[&100_000_001u64.to_le_bytes()[..], b"{}"].concat());
    assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::HeaderTooLarge { found: 100_000_001 });
    let sample = Sample::new(&u64::MAX.to_le_bytes());
    assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::HeaderTooLarge { found: u64::MAX });
    let sample = Sample::new(&[&100_000_000u64.to_le_bytes()[..], b"{}"].concat());
    assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::Short { expected: 100_000_008, found: 10 });
}

#[test]
fn data_that_do_not_start_on_a_page_are_refused() {
    let header = r#"{"__metadata__":{"format":"slackline.shard","version":"1","header_xxh3":"0000000000000000"}}"#;
    assert!(Shard::open(&with_header(header, &[], 4096).path, Verify::Checksums).is_ok());
    let sample = with_header(header, &[], 64);
    assert_eq!(sample.defect(Verify::HeaderOnly), ShardDefect::Alignment { at: 128 });
}

#[test]
fn an_ordinary_safetensors_file_is_told_from_a_shard() {
    let data = [0; 16];
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &data).unwrap();
    let bytes = safetensors::serialize([("weight", tensor)], None).unwrap();
    assert_eq!(Sample::new(&bytes).defect(Verify::Checksums), ShardDefect::Format { found: None });
}

#[test]
fn a_header_nested_without_end_is_a_syntax_error() {
    let nested = format!("{{\"t\":{}", "[".repeat(100_000));
    let sample = with_header(&nested, &[], 4096);
    assert!(matches!(sample.defect(Verify::HeaderOnly), ShardDefect::HeaderSyntax { .. }));
}
