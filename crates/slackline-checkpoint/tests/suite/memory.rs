//! Memory is bounded, whatever a file contains or claims. The test reads the peak of its process, so it runs in a process of
//! its own: this program again, with that test alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::common::{Pickler, one_tensor, open_bytes, torch_zip};
use slackline_checkpoint::{Checkpoint, CheckpointError};

/// The peak memory of this process, in MiB; `None` where the system does not tell.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn assert_peak_below(mib: u64, what: &str) {
    if let Some(peak) = peak() {
        println!("{what}: peak {peak} MiB");
        assert!(peak < mib, "{what}: peak {peak} MiB");
    }
}

/// A zip checkpoint with 64-bit sizes, of one storage of `elements` floats, all zero but the last, which is 1. The file
/// is sparse: it takes no room on the disk.
fn large_zip(path: &Path, pickle: &[u8], elements: u64) {
    let file = File::create(path).unwrap();
    let (mut at, mut directory) = (0u64, Vec::new());
    for (name, content, size) in [("m/data.pkl", pickle, pickle.len() as u64), ("m/data/0", &[], elements * 4)] {
        let header = [
            &b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            &[name.len() as u8, 0, 0, 0],
        ];
        let header = [&header.concat()[..], name.as_bytes(), content].concat();
        file.write_all_at(&header, at).unwrap();
        directory.extend_from_slice(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        directory.extend_from_slice(&[
            name.len() as u8,
            0,
            28,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
        ]);
        directory.extend_from_slice(name.as_bytes());
        directory.extend_from_slice(&[1, 0, 24, 0]);
        [size, size, at].iter().for_each(|n| directory.extend_from_slice(&n.to_le_bytes()));
        at += header.len() as u64 - content.len() as u64 + size;
    }
    file.write_all_at(&1f32.to_le_bytes(), at - 4).unwrap();
    file.write_all_at(&directory, at).unwrap();
    let end = at + directory.len() as u64;
    let mut record = b"PK\x06\x06\x2c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    [2, 2, directory.len() as u64, at].iter().for_each(|n: &u64| record.extend_from_slice(&n.to_le_bytes()));
    record.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    record.extend_from_slice(&end.to_le_bytes());
    record.extend_from_slice(b"\x01\0\0\0PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    file.write_all_at(&record, end).unwrap();
}

/// Set in the child process.
const CHILD: &str = "SLACKLINE_CHECKPOINT_MEMORY_TEST";

#[test]
fn memory_stays_small_for_large_tensors_and_bounded_for_bombs() {
    if std::env::var_os(CHILD).is_none() {
        let test = "memory::memory_stays_small_for_large_tensors_and_bounded_for_bombs";
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program).args([test, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let errors = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && said.contains("1 passed"), "{said}{errors}");
        println!("{said}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.pt");
    // 20 GiB of floats, of which the last 256 MiB are read; then as a transposed matrix, of which 32 MiB are.
    let (all, last) = (5i64 << 30, 1i64 << 26);
    large_zip(&path, &one_tensor(all, all - last, &[last], &[1]), all as u64);
    let (mut values, mut sum) = (0, 0.0);
    let streamed = Checkpoint::open(&path).unwrap().stream_f32("w", |part| {
        values += part.len();
        sum += part.iter().sum::<f32>();
        Ok::<(), CheckpointError>(())
    });
    streamed.unwrap();
    assert_eq!((values, sum), (1 << 26, 1.0));
    assert_peak_below(64, "streaming a tensor of 256 MiB");

    let (rows, columns) = (1i64 << 21, all >> 21);
    large_zip(&path, &one_tensor(all, 0, &[rows, columns], &[1, rows]), all as u64);
    let mut left = 32 << 20;
    let ended = Checkpoint::open(&path).unwrap().stream("w", 1 << 20, |part| {
        left -= part.len() as i64;
        if left <= 0 { Err(CheckpointError::NoSuchTensor { file: "".into(), tensor: "enough".into() }) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(CheckpointError::NoSuchTensor { .. })));
    assert_peak_below(96, "streaming a transposed tensor");

    let flood = |one: &[u8], times: usize| Pickler::new().raw(&one.repeat(times)).stop();
    let memo: Vec<u8> = (0..5_000_000u32).flat_map(|n| [&b"r"[..], &n.to_le_bytes()].concat()).collect();
    let tuples = b"((((((((((tttttttttt0".repeat(1_000_000);
    let shared = Pickler::new().raw(b"}").tensor(1, 0, &[1], &[1]).raw(b"q\x010");
    let shared = (0..3_000_000u32).fold(shared, |p, n| p.raw(b"J").raw(&n.to_le_bytes()).raw(b"h\x01s"));
    let pairs = Pickler::new().raw(b"NN\x86q\x010](").raw(&b"h\x01".repeat(500_000)).raw(b"eq\x02");
    let pairs = pairs.raw(&b"ccollections\nOrderedDict\nh\x02\x85R0".repeat(100));
    let bombs = [
        ("values", flood(b"N", 20_000_000)),
        ("marks", flood(b"(", 20_000_000)),
        ("lists", flood(b"]0", 10_000_000)),
        ("dicts in the memo", Pickler::new().raw(b"}").raw(&memo).stop()),
        ("tuples", Pickler::new().raw(&tuples).stop()),
        ("strings", flood(&[&b"X\xff\xff\0\0"[..], &[b'x'; 0xffff], b"0"].concat(), 1000)),
        ("globals", flood(b"ca\nb\n0cc\nd\n0", 3_000_000)),
        ("one tensor under many names", shared.stop()),
        ("one list made into many dicts", pairs.stop()),
    ];
    for (name, pickle) in bombs {
        let bytes = torch_zip(&pickle, &[1.0]);
        drop(pickle);
        let refused = open_bytes(&bytes).expect_err(name).to_string();
        println!("{name}: {refused}");
    }
    let names: String =
        (0..400_000).map(|n| format!(r#","{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let header = format!("{{{}}}", &names[1..]);
    let refused =
        open_bytes(&[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap_err().to_string();
    assert!(refused.contains("more than 262144 tensors"), "{refused}");
    if cfg!(feature = "torchsnapshot") {
        open_manifest_bombs(folder.path());
    }
    assert_peak_below(768, "all bombs");
}

fn open_manifest_bombs(folder: &Path) {
    let tensor = "{type: Tensor, location: a, serializer: x, dtype: y, shape: []}";
    let shard = format!("{{offsets: [], sizes: [], tensor: {tensor}}},");
    let entries: String = (0..200_000).map(|n| format!("0/{n}: {{type: int}},")).collect();
    for (name, inner) in [
        ("nodes", format!("0/a: {{type: list, keys: [{}]}}", "0,".repeat(14_000_000))),
        ("parts", format!("0/a: {{type: ShardedTensor, shards: [{}]}}", shard.repeat(300_000))),
        ("dimensions", format!("0/a: {{type: Tensor, shape: [{}]}}", "1,".repeat(5_000_000))),
        ("depth", format!("0/a: {{type: list, keys: {}}}", "[".repeat(1_000_000))),
        ("a name", format!("0/a: {{type: {}}}", "x".repeat(90_000_000))),
        ("entries without a tensor", entries),
    ] {
        std::fs::write(folder.join(".snapshot_metadata"), format!("manifest: {{{inner}}}\n")).unwrap();
        drop(inner);
        let refused = Checkpoint::open(folder).expect_err(name).to_string();
        println!("{name}: {}", refused.chars().take(200).collect::<String>());
    }
}
