//! How soon a large table answers after loading, by way of loading.
//!
//! A shard of one table is written to a disk. Every way of loading is then measured in a process of its own, in turns: cold,
//! with nothing of the file in the page cache, and warm, with all of it there. The first batches of every process are
//! compared bit for bit with sums that were computed without shard and kernel; only then is a time shown.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use slackline_data::{Access, Batch, Synthetic, SyntheticSpec};
use slackline_embedding::{Bags, Load, Pooling, RowFormat, Shard, ShardWriter, TableSpec, Verify};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::BenchError;
use crate::results::Spread;

const DIM: usize = 64;
const ROW_BYTES: u64 = (DIM * size_of::<f32>()) as u64;
const BATCH: usize = 128;
const BAG: usize = 20;
/// Batches after the first that are timed one by one, and compared.
const TIMED: usize = 100;
/// Batches after those, for the steady rate.
const STEADY: usize = 1000;
const TABLE: &str = "table";
const GIB: f64 = (1u64 << 30) as f64;
/// The path of the shard in a process that has it as its standard input.
const INHERITED: &str = "/proc/self/fd/0";

/// What to measure.
#[derive(Clone, Debug)]
pub struct LoadingOptions {
    /// Size of the table in GiB.
    pub gib: f64,
    /// A folder on the disk to measure.
    pub folder: PathBuf,
    /// Number of turns.
    pub turns: usize,
    /// Random seed of the indices.
    pub seed: u64,
}

/// One way of loading, cold or warm.
#[derive(Clone, Debug, Serialize)]
pub struct LoadingLine {
    /// The way.
    pub way: String,
    /// Whether nothing of the file was in the page cache, or all of it.
    pub cold: bool,
    /// Bytes of the table.
    pub table_bytes: u64,
    /// From the opening of the shard until the table is ready, in seconds.
    pub ready_seconds: Spread,
    /// From the opening of the shard until the first batch is answered, in seconds.
    pub first_answer_seconds: Spread,
    /// Median time of the next batches, in milliseconds.
    pub p50_ms: Spread,
    /// Their 99th percentile.
    pub p99_ms: Spread,
    /// Millions of rows per second after those.
    pub steady_mlookups: Spread,
    /// The runs, turn by turn.
    pub runs: Vec<LoadingRun>,
}

/// The measurements of one process.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LoadingRun {
    /// From the opening of the shard until the table was ready.
    pub ready_seconds: f64,
    /// From the opening of the shard until the first batch was answered.
    pub first_answer_seconds: f64,
    /// Median time of the next batches.
    pub p50_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
    /// Millions of rows per second after those.
    pub steady_mlookups: f64,
    /// Bytes read from the disk until the first answer: none if all were in the page cache.
    pub disk_bytes_first: u64,
    /// The same until the end.
    pub disk_bytes: u64,
    /// Page faults from the moment when the table was ready until the timed batches were answered.
    pub faults: u64,
    /// Largest resident memory, the file's pages included.
    pub peak_bytes: u64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
    /// Of that, anonymous huge pages.
    pub anonymous_huge_bytes: u64,
    /// Of that, huge pages of mapped files.
    pub file_huge_bytes: u64,
    /// XXH3-64 of the pooled vectors of all batches that were compared.
    pub answers: u64,
}

/// The exit code of a process that may not lock its table in memory.
pub const NO_RIGHT_TO_LOCK: u8 = 3;

/// Measures all ways; locking is left out if the user may not lock that much memory.
///
/// # Errors
///
/// [`BenchError::Settings`] for numbers that make no run; [`BenchError::Shard`] or [`BenchError::File`] where the disk
/// fails or is full; [`BenchError::Loading`] if a process fails or its answers are wrong.
pub fn loading(options: &LoadingOptions) -> Result<Vec<LoadingLine>, BenchError> {
    let rows = (options.gib * GIB / ROW_BYTES as f64) as u64;
    if options.turns == 0 || !(1..=1 << 40).contains(&rows) {
        return Err(BenchError::Settings("loading needs at least one turn and a table of at least one row".to_owned()));
    }
    let expected = expected(rows, options.seed)?;
    let shard = write_shard(&options.folder, rows)?;
    let mut lines = Vec::new();
    for way in Load::ALL {
        lines.extend([true, false].map(|cold| (way, cold, Vec::new())));
    }
    for turn in 0..options.turns {
        for (way, cold, runs) in &mut lines {
            let state = if *cold { "cold" } else { "warm" };
            crate::error::say(&format!("turn {} of {}: {way}, {state}", turn + 1, options.turns));
            if *cold {
                drop_cached(&shard)?
            } else {
                read_whole(&shard)?
            }
            let run = match run_child(&shard, *way, options.seed) {
                // The other ways can be measured all the same.
                Ok(None) => {
                    crate::error::say(&format!("{way}: left out"));
                    continue;
                }
                Ok(Some(run)) => run,
                Err(error) => return Err(error),
            };
            if run.answers != expected {
                let why = "wrong pooled vectors; no timing is shown".to_owned();
                return Err(BenchError::Loading { way: *way, why });
            }
            runs.push(run);
        }
    }
    lines.retain(|(_, _, runs)| !runs.is_empty());
    Ok(lines.into_iter().map(|(way, cold, runs)| LoadingLine::new(way, cold, rows * ROW_BYTES, runs)).collect())
}

/// The work of a process that [`loading`] starts: loads the shard that is its standard input, and measures.
///
/// # Errors
///
/// [`BenchError::Shard`] and [`BenchError::File`].
pub fn child(way: Load, seed: u64) -> Result<LoadingRun, BenchError> {
    // The batches come first: they are not part of loading.
    let rows = Shard::open(INHERITED, Verify::HeaderOnly)?.tables()[0].rows;
    let batches = draw(rows, seed)?;
    let (first, rest) = batches.split_first().expect("more than one");
    let (timed, steady) = rest.split_at(TIMED);
    let mut out = vec![0.0f32; BATCH * DIM];
    let mut answers = Xxh3::new();
    let before = disk_bytes()?;

    let begin = Instant::now();
    let table = Shard::open(INHERITED, Verify::HeaderOnly)?.load(TABLE, way, Verify::HeaderOnly)?;
    let ready = begin.elapsed();
    let faults_before = faults()?;
    let mut answer = |batch: &Batch| {
        let input = &batch.tables[0];
        let bags = Bags::new(TABLE, rows, &input.indices, &input.offsets, None).map_err(settings)?;
        table.pool(&bags, Pooling::Sum, &mut out).map_err(settings)?;
        Ok::<_, BenchError>(xxh3_64(bytemuck::cast_slice(&out)))
    };
    answers.update(&answer(first)?.to_le_bytes());
    let first_answer = begin.elapsed();
    let disk_bytes_first = disk_bytes()? - before;

    let mut times = Vec::with_capacity(TIMED);
    for batch in timed {
        let begin = Instant::now();
        let hash = answer(batch)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        answers.update(&hash.to_le_bytes());
    }
    let faults = faults()? - faults_before;
    let begin = Instant::now();
    for batch in steady {
        std::hint::black_box(answer(batch)?);
    }
    let steady_seconds = begin.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);

    let (status, rollup) = (proc_file("status")?, proc_file("smaps_rollup")?);
    Ok(LoadingRun {
        ready_seconds: ready.as_secs_f64(),
        first_answer_seconds: first_answer.as_secs_f64(),
        p50_ms: times[TIMED / 2 - 1],
        p99_ms: times[TIMED * 99 / 100 - 1],
        steady_mlookups: (STEADY * BATCH * BAG) as f64 / steady_seconds / 1e6,
        disk_bytes_first,
        disk_bytes: disk_bytes()? - before,
        faults,
        peak_bytes: kib(&status, "VmHWM:") << 10,
        resident_bytes: kib(&status, "VmRSS:") << 10,
        anonymous_huge_bytes: kib(&rollup, "AnonHugePages:") << 10,
        file_huge_bytes: kib(&rollup, "FilePmdMapped:") << 10,
        answers: answers.digest(),
    })
}

/// A readable table.
pub fn describe(lines: &[LoadingLine]) -> String {
    let mut text = format!(
        "{:<11} {:<5} {:>23} {:>23} {:>9} {:>9} {:>10} {:>15} {:>13} {:>13} {:>8}\n",
        "way",
        "cache",
        "ready s",
        "first answer s",
        "p50 ms",
        "p99 ms",
        "M rows/s",
        "disk GiB 1st/all",
        "RSS peak/end",
        "huge own/file",
        "faults"
    );
    let spread = |Spread { median, min, max }: Spread| format!("{median:.3} ({min:.3}-{max:.3})");
    let pair = |a: u64, b: u64| format!("{:.2}/{:.2}", a as f64 / GIB, b as f64 / GIB);
    for line in lines {
        // Memory is the same in all turns.
        let Some(last) = line.runs.last() else { continue };
        text += &format!(
            "{:<11} {:<5} {:>23} {:>23} {:>9.3} {:>9.3} {:>10.1} {:>15} {:>13} {:>13} {:>8}\n",
            line.way,
            if line.cold { "cold" } else { "warm" },
            spread(line.ready_seconds),
            spread(line.first_answer_seconds),
            line.p50_ms.median,
            line.p99_ms.median,
            line.steady_mlookups.median,
            pair(last.disk_bytes_first, last.disk_bytes),
            pair(last.peak_bytes, last.resident_bytes),
            pair(last.anonymous_huge_bytes, last.file_huge_bytes),
            last.faults,
        );
    }
    let gib = lines.first().map_or(0.0, |line| line.table_bytes as f64 / GIB);
    text + &format!(
        "one table of {gib:.2} GiB, f32 x {DIM}; batches of {BATCH} bags of {BAG} rows, drawn uniformly; medians of the turns\n\
         (smallest-largest); ready and first answer: since the opening of the shard; p50, p99: of the next {TIMED} batches;\n\
         M rows/s: of the {STEADY} batches after those; disk: GiB read until the first answer, and until the end; RSS and\n\
         huge pages: GiB; faults: page faults from ready to the last of the {TIMED} batches\n"
    )
}

impl LoadingLine {
    fn new(way: Load, cold: bool, table_bytes: u64, runs: Vec<LoadingRun>) -> Self {
        let spread = |value: fn(&LoadingRun) -> f64| Spread::of(runs.iter().map(value).collect());
        LoadingLine {
            way: way.to_string(),
            cold,
            table_bytes,
            ready_seconds: spread(|run| run.ready_seconds),
            first_answer_seconds: spread(|run| run.first_answer_seconds),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            steady_mlookups: spread(|run| run.steady_mlookups),
            runs,
        }
    }
}

/// A process that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// None if this user may not lock the table in memory; the process has reported that.
fn run_child(shard: &File, way: Load, seed: u64) -> Result<Option<LoadingRun>, BenchError> {
    let failed = |why: String| BenchError::Loading { way, why };
    let program = std::env::current_exe().map_err(BenchError::file("finding", "this program"))?;
    let input = shard.try_clone().map_err(BenchError::file("sharing", "the shard"))?;
    let mut command = Command::new(program);
    command.args(["loading-child", &way.to_string(), &seed.to_string()]);
    let child = command.stdin(input).stdout(Stdio::piped()).spawn();
    let mut child = Running(child.map_err(|error| failed(error.to_string()))?);
    let mut text = String::new();
    let mut said = child.0.stdout.take().expect("it is piped");
    said.read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    let status = child.0.wait().map_err(|error| failed(error.to_string()))?;
    if status.code() == Some(NO_RIGHT_TO_LOCK.into()) {
        return Ok(None);
    }
    if !status.success() {
        return Err(failed(format!("its process ended with {status}")));
    }
    let run = serde_json::from_str(&text);
    run.map(Some).map_err(|source| BenchError::Unreadable { what: format!("the result of {way}"), source })
}

/// Writes a shard and removes its name, so that nothing is left of it however this program ends.
fn write_shard(folder: &Path, rows: u64) -> Result<File, BenchError> {
    fs::create_dir_all(folder).map_err(BenchError::file("creating", folder))?;
    let folder = tempfile::Builder::new().prefix(".loading.").tempdir_in(folder);
    let folder = folder.map_err(BenchError::file("creating a folder in", "the folder for the table"))?;
    let path = folder.path().join("table.safetensors");

    // Until the name is gone, a signal ends the writing, which cleans up; after that it has its default action.
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let handled = flag::register_conditional_default(signal, Arc::clone(&written))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        handled.map_err(|error| BenchError::Settings(format!("cannot handle signals: {error}")))?;
    }
    crate::error::say(&format!("writing {:.2} GiB in {}", (rows * ROW_BYTES) as f64 / GIB, folder.path().display()));
    let mut writer = ShardWriter::create(&path, &[TableSpec::new(TABLE, rows, DIM, RowFormat::F32)])?;
    let mut block = Vec::new();
    for first in (0..rows).step_by(1 << 12) {
        if stop.load(Ordering::Relaxed) {
            return Err(BenchError::Settings("stopped by a signal while the table was written".to_owned()));
        }
        block.clear();
        (first..rows.min(first + (1 << 12))).for_each(|row| block.extend(row_values(row)));
        writer.write_rows(0, bytemuck::cast_slice(&block))?;
    }
    writer.finish()?;
    let file = File::open(&path).map_err(BenchError::file("opening", &path))?;
    let removed = folder.close().map_err(BenchError::file("removing", &path));
    written.store(true, Ordering::Relaxed);
    removed.map(|()| file)
}

/// The values of a row: cheap to compute, and different for each row.
fn row_values(row: u64) -> [f32; DIM] {
    std::array::from_fn(|column| {
        // Steps of splitmix64; 24 bits are what a single-precision number holds exactly.
        let mixed = (row * DIM as u64 + column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// The expected digest of the compared batches, from the values of the rows, summed in index order.
fn expected(rows: u64, seed: u64) -> Result<u64, BenchError> {
    let mut answers = Xxh3::new();
    for batch in &draw(rows, seed)?[..=TIMED] {
        let input = &batch.tables[0];
        let mut sums = vec![0.0f32; BATCH * DIM];
        for (sums, bag) in sums.chunks_exact_mut(DIM).zip(input.offsets.windows(2)) {
            for &row in &input.indices[bag[0] as usize..bag[1] as usize] {
                sums.iter_mut().zip(row_values(row as u64)).for_each(|(sum, value)| *sum += value);
            }
        }
        answers.update(&xxh3_64(bytemuck::cast_slice(&sums)).to_le_bytes());
    }
    Ok(answers.digest())
}

fn draw(rows: u64, seed: u64) -> Result<Vec<Batch>, BenchError> {
    let pooling = slackline_data::PoolingFactor::Fixed(BAG as u32);
    let table = slackline_data::SyntheticTable { rows, pooling, access: Access::Uniform };
    let spec = SyntheticSpec { samples_per_batch: BATCH, dense_features: 1, tables: vec![table], seed };
    let source = Synthetic::new(&spec).map_err(settings)?;
    let batch = |number| {
        let mut batch = Batch::default();
        source.fill(number, &mut batch);
        batch
    };
    Ok((0..(1 + TIMED + STEADY) as u64).map(batch).collect())
}

/// Drops the file from the page cache. The bytes that a process then reads from the disk show whether that worked.
fn drop_cached(shard: &File) -> Result<(), BenchError> {
    let failed = |error: rustix::io::Errno| BenchError::file("dropping from memory", "the table")(error.into());
    // Dirty pages are not dropped.
    shard.sync_all().map_err(BenchError::file("syncing", "the table"))?;
    fadvise(shard, 0, None, Advice::DontNeed).map_err(failed)
}

/// Reads the file into the page cache.
fn read_whole(shard: &File) -> Result<(), BenchError> {
    let read = |error| BenchError::file("reading", "the table")(error);
    let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(shard))).map_err(read)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read(error)),
        }
    }
}

/// Bytes that this process has read from disks.
fn disk_bytes() -> Result<u64, BenchError> {
    Ok(kib(&proc_file("io")?, "read_bytes:"))
}

/// Page faults of this process, minor and major.
fn faults() -> Result<u64, BenchError> {
    let text = proc_file("stat")?;
    // The program's name, in brackets, may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |place: usize| fields.get(place).and_then(|field| field.parse().ok()).unwrap_or(0u64);
    // `minflt` and `majflt`, the tenth and twelfth of all; the name is the second.
    Ok(number(7) + number(9))
}

fn proc_file(name: &str) -> Result<String, BenchError> {
    let path = format!("/proc/self/{name}");
    fs::read_to_string(&path).map_err(BenchError::file("reading", path))
}

/// The number after a name, which is in KiB (in `io`: bytes); 0 where it has none.
fn kib(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    value.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn settings(why: impl std::fmt::Display) -> BenchError {
    BenchError::Settings(why.to_string())
}

/// Prints the measurements of [`child`] as JSON.
///
/// # Errors
///
/// Those of [`child`]; [`BenchError::File`] if standard output cannot be written.
pub fn print_child(way: Load, seed: u64) -> Result<(), BenchError> {
    let run = serde_json::to_string(&child(way, seed)?).expect("numbers are JSON");
    io::stdout().write_all(run.as_bytes()).map_err(BenchError::file("writing to", "stdout"))
}
