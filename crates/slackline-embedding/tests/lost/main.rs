//! Shard files that are cut short while they are mapped and looked up: errors of the lookups, and nothing else.

mod mmap;

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Load, PoolError, Pooling, RowFormat, Shard, ShardError, ShardWriter, TableSpec,
    Verify, guard,
};

const ROWS: u64 = 20_000;
const DIM: usize = 16;

fn values(name: &str) -> HeapTable {
    HeapTable::random(name, ROWS, DIM, name.len() as u64)
}

/// A shard of two tables, and the guard.
fn write(folder: &Path, name: &str) -> PathBuf {
    guard::install().unwrap();
    write_unguarded(folder, name)
}

fn write_unguarded(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let specs = ["first", "second"].map(|name| TableSpec::new(name, ROWS, DIM, RowFormat::F32));
    let mut writer = ShardWriter::create(&path, &specs).unwrap();
    for (at, table) in ["first", "second"].into_iter().enumerate() {
        writer.write_rows(at, values(table).stored().bytes()).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Every row once.
fn pool(table: &dyn EmbeddingTable) -> Result<Vec<f32>, PoolError> {
    let indices: Vec<i64> = (0..ROWS as i64).map(|at| at * 7919 % ROWS as i64).collect();
    let offsets: Vec<i64> = (0..=100).map(|sample| sample * ROWS as i64 / 100).collect();
    let bags = Bags::new(table.name(), ROWS, &indices, &offsets, None).unwrap();
    let mut out = vec![0.0; 100 * DIM];
    table.pool(&bags, Pooling::Sum, &mut out).map(|()| out)
}

/// A table, unless the user of these tests may not lock so much memory.
fn load(shard: &Shard, how: Load) -> Option<Arc<dyn EmbeddingTable>> {
    match shard.load("second", how, Verify::HeaderOnly) {
        Err(ShardError::Lock { .. }) => {
            eprintln!("skipped: no right to lock the table in memory");
            None
        }
        table => Some(table.unwrap()),
    }
}

fn assert_lost(error: PoolError, file: &Path, table: &str) {
    let PoolError::Lost { table: found, why } = &error else { panic!("{error}") };
    assert!(found == table && why.contains(file.to_str().unwrap()) && why.contains("short"), "{error}");
}

#[test]
fn lookups_of_a_file_that_was_cut_short_are_errors_that_name_it_and_other_files_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (write(folder.path(), "cut"), write(folder.path(), "whole"));
    let whole = fs::metadata(&path).unwrap().len();
    let expected = pool(&values("second")).unwrap();
    for load in [Load::Mapped, Load::Prefaulted, Load::Locked] {
        for length in [0, 1, 4096, whole / 2, whole - 4096] {
            fs::copy(&other, &path).unwrap();
            let shard = Shard::open(&path, Verify::Checksums).unwrap();
            let Some(table) = self::load(&shard, load) else { continue };
            let first = shard.table("first").unwrap();
            assert_eq!(pool(table.as_ref()).unwrap(), expected);
            cut(&path, length);
            assert_lost(pool(table.as_ref()).unwrap_err(), &path, "second");
            // The whole file is given up, also where it could still be read, and for good.
            assert_lost(pool(&first).unwrap_err(), &path, "first");
            fs::write(&path, fs::read(&other).unwrap()).unwrap();
            assert_lost(pool(table.as_ref()).unwrap_err(), &path, "second");
            assert!(first.check().is_err());
            // Opened again, it is as it was.
            let again = Shard::open(&path, Verify::Checksums).unwrap().table("second").unwrap();
            assert_eq!(pool(&again).unwrap(), expected);
            let other = Shard::open(&other, Verify::HeaderOnly).unwrap().table("second").unwrap();
            assert_eq!(pool(&other).unwrap(), expected);
        }
    }
}

#[test]
fn a_cut_within_the_last_page_is_seen_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "shard");
    let table =
        Shard::open(&path, Verify::HeaderOnly).unwrap().load("second", Load::Mapped, Verify::HeaderOnly).unwrap();
    table.intact().unwrap();
    let whole = fs::metadata(&path).unwrap().len();
    cut(&path, whole - 1);
    // The rest of a page reads as zeros, and no signal comes.
    pool(table.as_ref()).unwrap();
    assert_lost(table.intact().unwrap_err(), &path, "second");
}

#[test]
fn threads_that_look_up_while_a_file_is_cut_short_get_right_answers_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    let expected = pool(&values("first")).unwrap();
    for round in 0..30 {
        let name = format!("shard {round}");
        let path = write(folder.path(), &name);
        let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let look_up = || {
                let table = shard.table("first").unwrap();
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) || answers == 0 {
                    match pool(&table) {
                        Ok(answer) => assert_eq!(answer, expected),
                        Err(error) => return assert_lost(error, &path, "first"),
                    }
                    answers += 1;
                }
                panic!("{answers} answers, and none was an error");
            };
            let threads = [scope.spawn(look_up), scope.spawn(look_up), scope.spawn(look_up)];
            // Others are mapped and unmapped meanwhile.
            for _ in 0..round {
                let other = Shard::open(&path, Verify::HeaderOnly).unwrap();
                assert_eq!(other.tables().len(), 2);
            }
            cut(&path, 4096 + round * 1000);
            for thread in threads {
                thread.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn loading_a_file_that_was_cut_short_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    for load in [Load::Prefaulted, Load::Locked, Load::Copied] {
        let path = write(folder.path(), "shard");
        let shard = Shard::open(&path, Verify::HeaderOnly).unwrap();
        cut(&path, 100_000);
        let error = shard.load("second", load, Verify::HeaderOnly).unwrap_err().to_string();
        assert!(error.contains("shard: the file is short"), "{load}: {error}");
    }
}

#[test]
fn progress_adds_up_to_the_bytes_that_were_read() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::open(write(folder.path(), "shard"), Verify::HeaderOnly).unwrap();
    let bytes = ROWS * DIM as u64 * 4;
    for (load, verify, expected) in [
        (Load::Mapped, Verify::HeaderOnly, 0),
        (Load::Mapped, Verify::Checksums, bytes),
        (Load::Prefaulted, Verify::HeaderOnly, bytes),
        (Load::Locked, Verify::HeaderOnly, bytes),
        (Load::Copied, Verify::Checksums, bytes),
    ] {
        let mut done = 0;
        if self::load(&shard, load).is_none() {
            continue;
        }
        let table = shard.load_part("second", 0..ROWS, 0..DIM, load, verify, &mut |newly| done += newly).unwrap();
        assert_eq!(done, expected, "{load}, {verify:?}");
        if load != Load::Mapped {
            let residency = table.residency().unwrap();
            assert_eq!((residency.bytes, residency.resident), (bytes, bytes), "{load}");
        }
    }
}

const SIGBUS: i32 = 7;

/// What the children of the tests below do, by the name in this variable.
const CHILD: &str = "SLACKLINE_LOST_TEST";

fn child(what: &str, test: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, what);
    command.output().unwrap()
}

/// In a child: a guarded mapping.
fn guarded(folder: &Path) -> Shard {
    Shard::open(write(folder, "guarded"), Verify::HeaderOnly).unwrap()
}

/// Whether this process has a handler for SIGBUS, as proc(5) has it.
fn catches_sigbus() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("every Linux has this line");
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (SIGBUS - 1) & 1 == 1
}

#[allow(unconditional_recursion, reason = "it is to overflow")]
fn overflow(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + std::hint::black_box(room)[(depth % 512) as usize]
}

#[test]
fn a_fault_in_memory_of_others_ends_the_process_as_before() {
    const NAME: &str = "a_fault_in_memory_of_others_ends_the_process_as_before";
    match std::env::var(CHILD).as_deref() {
        Ok("foreign") => {
            let folder = tempfile::tempdir().unwrap();
            let shard = guarded(folder.path());
            // What is mapped through another library is not ours to mend.
            let path = write(folder.path(), "foreign");
            let file = OpenOptions::new().read(true).open(&path).unwrap();
            let map = mmap::map(&file);
            cut(&path, 0);
            println!("before {}", shard.tables().len());
            println!("after {}", std::hint::black_box(&map)[8192]);
        }
        Ok(what @ ("sent" | "sent without a guard")) => {
            let folder = tempfile::tempdir().unwrap();
            let shard = (what == "sent").then(|| guarded(folder.path()));
            // Rust's own handler lets the first one pass and makes the default of the next. Two that come before a thread has
            // taken the first would be one.
            for begin in [Instant::now(); 2] {
                let sent = Command::new("kill").args(["-BUS", &std::process::id().to_string()]).status().unwrap();
                println!("{sent} {}", shard.is_some());
                while catches_sigbus() && begin.elapsed() < Duration::from_secs(10) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            // The last one has not been taken yet, perhaps.
            thread::sleep(Duration::from_secs(10));
        }
        Ok("overflow") => {
            let folder = tempfile::tempdir().unwrap();
            let shard = guarded(folder.path());
            println!("{} {}", overflow(0), shard.tables().len());
        }
        _ => {
            let foreign = child("foreign", NAME);
            let said = String::from_utf8_lossy(&foreign.stdout);
            assert_eq!(foreign.status.signal(), Some(SIGBUS), "{foreign:?}");
            assert!(said.contains("before 2") && !said.contains("after"), "{said}");
            for what in ["sent", "sent without a guard"] {
                let sent = child(what, NAME);
                assert_eq!(sent.status.signal(), Some(SIGBUS), "{sent:?}");
            }
            let overflow = child("overflow", NAME);
            assert!(String::from_utf8_lossy(&overflow.stderr).contains("overflow"), "{overflow:?}");
            assert!(overflow.status.signal().is_some());
        }
    }
}

#[test]
fn without_the_guard_a_cut_file_is_a_signal_unless_its_table_was_copied() {
    const NAME: &str = "without_the_guard_a_cut_file_is_a_signal_unless_its_table_was_copied";
    let Ok(how) = std::env::var(CHILD) else {
        for how in [Load::Mapped, Load::Prefaulted] {
            let mapped = child(&how.to_string(), NAME);
            let said = String::from_utf8_lossy(&mapped.stdout);
            assert_eq!(mapped.status.signal(), Some(SIGBUS), "{mapped:?}");
            assert!(said.contains("before") && !said.contains("after"), "{said}");
        }
        let copied = child("copied", NAME);
        assert!(copied.status.success() && String::from_utf8_lossy(&copied.stdout).contains("after"), "{copied:?}");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = write_unguarded(folder.path(), "shard");
    let shard = Shard::open(&path, Verify::Checksums).unwrap();
    let table = shard.load("second", how.parse().unwrap(), Verify::HeaderOnly).unwrap();
    let expected = pool(table.as_ref()).unwrap();
    assert_eq!(guard::state(), guard::State::Absent);
    cut(&path, 0);
    println!("before");
    assert_eq!(pool(table.as_ref()).unwrap(), expected);
    println!("after");
}

#[test]
fn the_guard_covers_shards_that_were_open_before_it() {
    const NAME: &str = "the_guard_covers_shards_that_were_open_before_it";
    if std::env::var(CHILD).is_err() {
        let child = child("open before", NAME);
        assert!(child.status.success(), "{child:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = write_unguarded(folder.path(), "shard");
    let table = Shard::open(&path, Verify::Checksums).unwrap().table("second").unwrap();
    guard::install().unwrap();
    guard::install().unwrap();
    assert_eq!(guard::state(), guard::State::InPlace);
    cut(&path, 0);
    assert_lost(pool(&table).unwrap_err(), &path, "second");
}

#[test]
fn a_handler_that_comes_later_is_told_and_nothing_more_is_mapped() {
    const NAME: &str = "a_handler_that_comes_later_is_told_and_nothing_more_is_mapped";
    if std::env::var(CHILD).is_err() {
        let child = child("displaced", NAME);
        assert!(child.status.success(), "{child:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "shard");
    let shard = Shard::open(&path, Verify::Checksums).unwrap();
    assert_eq!(guard::state(), guard::State::InPlace);
    mmap::take_sigbus();
    assert_eq!(guard::state(), guard::State::Displaced);
    let error = guard::install().unwrap_err();
    assert!(matches!(error, guard::GuardError::Displaced) && error.to_string().contains("after all other"), "{error}");
    for how in [Load::Mapped, Load::Prefaulted, Load::Locked] {
        let error = shard.load("second", how, Verify::HeaderOnly).unwrap_err();
        assert!(matches!(&error, ShardError::Unguarded { file } if *file == path), "{error}");
    }
    assert!(matches!(shard.table("second").unwrap_err(), ShardError::Unguarded { .. }));
    let copied = shard.load("second", Load::Copied, Verify::Checksums).unwrap();
    assert_eq!(pool(copied.as_ref()).unwrap(), pool(&values("second")).unwrap());
}
