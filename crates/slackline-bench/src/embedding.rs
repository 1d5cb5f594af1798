//! Pooled lookups in large tables, in every row format, alone or beside PyTorch and FBGEMM on the same indices.
//!
//! All tables of a batch are pooled, then those of the next batch, with so many lookups that no cache holds the rows.
//! Slackline and each peer take turns, so that changes of the machine's memory speed affect both: compare the ratios within a
//! turn. Before anything is timed, one batch is compared bit for bit with the naive kernel.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use slackline_data::{Access, Batch, Synthetic, SyntheticSpec, SyntheticTable};
use slackline_embedding::{
    Bags, EmbeddingTable, HeapTable, Output, PoolJob, Pooling, RowFormat, Rows, kernels, pool_all,
};
use slackline_transport::cores;

use crate::BenchError;
use crate::peers::{self, Peer, PeersPlace};
use crate::results::Spread;

/// Different rows; a table repeats them. The content of a row costs nothing, its address does.
const TILE: usize = 1 << 12;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What to measure.
#[derive(Clone, Debug)]
pub struct EmbeddingOptions {
    /// Tables of a batch.
    pub tables: usize,
    /// Rows of a table.
    pub rows: u64,
    /// Columns of a row.
    pub dim: usize,
    /// Row formats, one after the other.
    pub formats: Vec<RowFormat>,
    /// Samples of a batch.
    pub batches: Vec<usize>,
    /// Rows of a bag.
    pub pools: Vec<usize>,
    /// Threads, each on a core of its own.
    pub threads: Vec<usize>,
    /// Zipf exponent of the indices; `None` for uniform.
    pub zipf: Option<f64>,
    /// Turns of each setting.
    pub turns: usize,
    /// Approximate number of lookups per turn.
    pub lookups: usize,
    /// Random seed of the indices.
    pub seed: u64,
    /// Where to find PyTorch and FBGEMM, if they take part.
    pub peers: Option<PeersPlace>,
}

/// One setting: the rates of Slackline and of a peer, turn by turn.
#[derive(Clone, Debug, Serialize)]
pub struct EmbeddingLine {
    /// How rows are stored.
    pub format: RowFormat,
    /// Samples of a batch.
    pub batch: usize,
    /// Rows of a bag.
    pub pool: usize,
    /// Threads.
    pub threads: usize,
    /// Millions of rows per second, by turn.
    pub ours: Vec<f64>,
    /// 10^9 bytes of rows per second in the median turn.
    pub gigabytes: f64,
    /// The peer.
    pub peer: Option<String>,
    /// Millions of rows per second of the peer, by turn.
    pub theirs: Vec<f64>,
}

/// Measures all settings and passes every line to `each` as soon as it is complete.
///
/// # Errors
///
/// [`BenchError::Settings`] for invalid settings, [`BenchError::WrongPooling`] before any timing of such a setting,
/// [`BenchError::Peer`], [`BenchError::File`].
pub fn embedding(options: &EmbeddingOptions, mut each: impl FnMut(&EmbeddingLine) + Send) -> Result<(), BenchError> {
    let some = [options.tables, options.dim, options.turns, options.lookups, options.rows as usize];
    let lists = [&options.batches, &options.pools, &options.threads];
    if some.contains(&0) || lists.iter().any(|list| list.contains(&0)) || options.rows > i32::MAX as u64 {
        return Err(BenchError::Settings(
            "every number must be at least 1, and the rows of a table less than 2^31".to_owned(),
        ));
    }
    let cores = cores::available();
    let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
    let python = options.peers.as_ref().map(PeersPlace::python).transpose()?;
    for &threads in &options.threads {
        if threads > cores.len() {
            return Err(BenchError::Settings(format!("{threads} threads, but {} cores", cores.len())));
        }
        // A thread can belong to one pool only.
        let all = || on_cores(options, &cores[..threads], python.as_deref(), folder.path(), &mut each);
        std::thread::scope(|scope| scope.spawn(all).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

/// All settings with one thread per core, of which this thread is one.
fn on_cores(
    options: &EmbeddingOptions,
    own: &[usize],
    python: Option<&Path>,
    folder: &Path,
    each: &mut impl FnMut(&EmbeddingLine),
) -> Result<(), BenchError> {
    let (places, threads) = (own.to_vec(), own.len());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
    let pool = pool.start_handler(move |at| cores::bind(&places[at..=at])).build();
    let pool = pool.map_err(|error| BenchError::Settings(error.to_string()))?;
    for &format in &options.formats {
        let tables = tables(options, format);
        // A peer starts on the same cores.
        cores::bind(own);
        let mut peer = python.map(|python| Peer::start(&peers::EMBEDDING, python, folder)).transpose()?;
        cores::bind(&own[..1]);
        let names = peer_names(&mut peer, format)?;
        for name in names {
            if let Some((implementation, _)) = &name {
                let build = json!({"do": "build", "impl": implementation, "format": format.to_string(),
                    "tables": options.tables, "rows": options.rows, "dim": options.dim, "threads": threads,
                    "split": threads > 1});
                peer.as_mut().expect("it has a name").ask(build)?;
            }
            for &batch in &options.batches {
                for &rows in &options.pools {
                    let setting = Setting { options, format, batch, rows, threads, tables: &tables, pool: &pool };
                    let peer = peer.as_mut().zip(name.as_ref().map(|(_, name)| name.as_str()));
                    each(&setting.measure(peer, folder)?);
                }
            }
        }
    }
    Ok(())
}

/// The peers that have this format: implementation and name. One `None` without peers.
fn peer_names(peer: &mut Option<Peer>, format: RowFormat) -> Result<Vec<Option<(&'static str, String)>>, BenchError> {
    let Some(peer) = peer else { return Ok(vec![None]) };
    let (torch, fbgemm) = peer.versions()?;
    let mut names = Vec::new();
    if let Some(version) = fbgemm
        && !matches!(format, RowFormat::Bf16)
    {
        names.push(Some(("fbgemm", format!("FBGEMM {version}"))));
    }
    if format == RowFormat::F32 {
        names.push(Some(("embedding_bag", format!("EmbeddingBag of PyTorch {torch}"))));
    }
    Ok(if names.is_empty() { vec![None] } else { names })
}

/// The tables, all rows in memory.
fn tables(options: &EmbeddingOptions, format: RowFormat) -> Vec<HeapTable> {
    let tile = (options.rows as usize).min(TILE);
    let table = |number: usize| {
        let values = HeapTable::random("tile", tile as u64, options.dim, number as u64);
        let tile_rows = values.to_format(format).expect("values within -1.0 .. 1.0 fit into every format");
        let row_bytes = format.row_bytes(options.dim);
        let mut bytes = tile_rows.stored().bytes().repeat((options.rows as usize).div_ceil(tile));
        bytes.truncate(options.rows as usize * row_bytes);
        HeapTable::from_rows(format!("table {number}"), Rows::new(format, options.dim, &bytes))
    };
    (0..options.tables).map(table).collect()
}

struct Setting<'a> {
    options: &'a EmbeddingOptions,
    format: RowFormat,
    batch: usize,
    rows: usize,
    threads: usize,
    tables: &'a [HeapTable],
    pool: &'a rayon::ThreadPool,
}

impl Setting<'_> {
    fn measure(&self, mut peer: Option<(&mut Peer, &str)>, folder: &Path) -> Result<EmbeddingLine, BenchError> {
        let a_batch = self.options.tables * self.batch * self.rows;
        let batches = self.draw((self.options.lookups / a_batch).clamp(6, 1200))?;
        // Outputs are aligned to cache lines, like the peers' and like the slots of an exchange.
        let a_table = self.batch * self.options.dim;
        let mut room = vec![0.0f32; self.options.tables * a_table + LINE];
        let begin = room.as_ptr().align_offset(LINE);
        let mut outs: Vec<&mut [f32]> = room[begin..][..self.options.tables * a_table].chunks_mut(a_table).collect();
        self.check(&batches[0], &mut outs)?;
        if let Some((peer, _)) = &mut peer {
            let file = folder.join("indices");
            let indices = batches.iter().flat_map(|batch| &batch.tables).flat_map(|table| &table.indices);
            let bytes: Vec<u8> = indices.flat_map(|index| (*index as i32).to_le_bytes()).collect();
            std::fs::write(&file, bytes).map_err(BenchError::file("writing", &file))?;
            peer.ask(json!({"do": "load", "file": file, "batch": self.batch, "pool": self.rows}))?;
        }
        let narrow = narrow(&batches);
        let millions = (a_batch * batches.len()) as f64 / 1e6;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // The first turn warms up.
        for turn in 0..=self.options.turns {
            let begin = Instant::now();
            for (batch, indices) in batches.iter().zip(&narrow) {
                self.sweep(batch, indices, &mut outs)?;
            }
            let seconds = begin.elapsed().as_secs_f64();
            let peers_seconds = peer.as_mut().map(|(peer, _)| peer.sweep(1)).transpose()?;
            if turn > 0 {
                ours.push(millions / seconds);
                theirs.extend(peers_seconds.map(|seconds| millions / seconds));
            }
        }
        let bytes = self.format.row_bytes(self.options.dim) as f64;
        Ok(EmbeddingLine {
            format: self.format,
            batch: self.batch,
            pool: self.rows,
            threads: self.threads,
            gigabytes: Spread::of(ours.clone()).median * bytes / 1e3,
            ours,
            peer: peer.map(|(_, name)| name.to_owned()),
            theirs,
        })
    }

    fn draw(&self, batches: usize) -> Result<Vec<Batch>, BenchError> {
        let access = self.options.zipf.map_or(Access::Uniform, Access::Zipf);
        let pooling = slackline_data::PoolingFactor::Fixed(self.rows as u32);
        let table = SyntheticTable { rows: self.options.rows, pooling, access };
        let spec = SyntheticSpec {
            samples_per_batch: self.batch,
            dense_features: 1,
            tables: vec![table; self.options.tables],
            seed: self.options.seed,
        };
        let source = Synthetic::new(&spec).map_err(|error| BenchError::Settings(error.to_string()))?;
        let draw = |number| {
            let mut batch = Batch::default();
            source.fill(number, &mut batch);
            batch
        };
        Ok((0..batches as u64).map(draw).collect())
    }

    /// Checks the indices of a batch and pools all its tables.
    fn sweep(&self, batch: &Batch, indices: &[Vec<i32>], outs: &mut [&mut [f32]]) -> Result<(), BenchError> {
        let mut jobs = Vec::with_capacity(self.tables.len());
        for (((table, input), indices), out) in self.tables.iter().zip(&batch.tables).zip(indices).zip(outs) {
            let bags = Bags::new(table.name(), table.rows(), indices, &input.offsets, None);
            let bags = bags.map_err(|error| BenchError::Settings(error.to_string()))?;
            jobs.push(PoolJob {
                table,
                bags,
                first_sample: 0,
                first_column: 0,
                pooling: Pooling::Sum,
                out: Output::F32(out),
            });
        }
        pool_all(self.pool, jobs).map_err(|error| BenchError::Settings(error.to_string()))
    }

    fn check(&self, batch: &Batch, outs: &mut [&mut [f32]]) -> Result<(), BenchError> {
        let indices = narrow(std::slice::from_ref(batch)).remove(0);
        self.sweep(batch, &indices, outs)?;
        for ((table, input), out) in self.tables.iter().zip(&batch.tables).zip(outs) {
            let bags = Bags::new(table.name(), table.rows(), &input.indices, &input.offsets, None);
            let bags = bags.map_err(|error| BenchError::Settings(error.to_string()))?;
            let mut expected = vec![f32::NAN; out.len()];
            kernels::naive::pool(table.stored(), &bags, Pooling::Sum, Output::F32(&mut expected));
            if out.iter().zip(&expected).any(|(ours, theirs)| ours.to_bits() != theirs.to_bits()) {
                return Err(BenchError::WrongPooling { table: table.name().to_owned(), format: self.format });
            }
        }
        Ok(())
    }
}

/// Indices of 32 bits, for FBGEMM.
fn narrow(batches: &[Batch]) -> Vec<Vec<Vec<i32>>> {
    let table = |indices: &Vec<i64>| indices.iter().map(|index| *index as i32).collect();
    batches.iter().map(|batch| batch.tables.iter().map(|input| table(&input.indices)).collect()).collect()
}

/// A readable line.
pub fn describe(line: &EmbeddingLine) -> String {
    let EmbeddingLine { format, batch, pool, threads, ours, gigabytes, peer, theirs } = line;
    let spread = |numbers: &[f64], digits: usize| {
        let Spread { median, min, max } = Spread::of(numbers.to_vec());
        format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
    };
    let setting = format!("{:11} B={batch:<5} L={pool:<3} threads={threads}", format.to_string());
    let mut text = format!("{setting}  {:<18} M rows/s {gigabytes:5.1} GB/s", spread(ours, 1));
    if let Some(peer) = peer {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        text += &format!("   {:>18}x {peer} ({})", spread(&ratios, 2), spread(theirs, 1));
    }
    text + "\n"
}
