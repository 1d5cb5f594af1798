//! The command line of the benchmark.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slackline_bench::embedding::{self, EmbeddingOptions};
use slackline_bench::exchange::{self, ExchangeOptions};
use slackline_bench::loading::{self, LoadingOptions};
use slackline_bench::planning::{self, PlanningOptions};
use slackline_bench::run::{self, RunOptions, Transport};
use slackline_bench::scenario::{self, Scenario, WorkKind};
use slackline_bench::{BenchError, render, report, results};
use slackline_collective::Delivery;
use slackline_embedding::{Load, RowFormat, ShardError};
use slackline_transport::cores;

/// Measures what bounded lag gains on this machine.
///
/// Without a subcommand it does `run`: four rank processes do distributed DLRM inference synchronously and with bounded
/// lag, under injected delays.
#[derive(Parser)]
#[command(name = "slackline-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Sub {
    /// Throughput and latency by lag, in scenarios of delays (the default)
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// The bare alltoallv between processes, alone or beside MPI
    #[command(after_help = EXCHANGE_EXAMPLES)]
    Exchange(ExchangeArgs),
    /// Pooled lookups of large tables, alone or beside PyTorch and FBGEMM
    #[command(after_help = EMBEDDING_EXAMPLES)]
    Embedding(EmbeddingArgs),
    /// Placements of skewed tables on ranks: predicted beside measured lookup times, and the reference's split
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// How soon a large table answers, by the way in which it is loaded, with a cold and a warm page cache
    #[command(after_help = LOADING_EXAMPLES)]
    Loading(LoadingArgs),
    /// What `loading` starts, with the shard for its input
    #[command(hide = true)]
    LoadingChild {
        /// The way.
        way: Load,
        /// Of the indices.
        seed: u64,
    },
    /// What `run` and `exchange` start
    #[command(hide = true)]
    Rank {
        /// The folder with the task.
        folder: PathBuf,
    },
}

const RUN_EXAMPLES: &str = "Examples:
  slackline-bench                                            all scenarios, 4 processes, under 3 minutes
  slackline-bench run --scenario turn --lags 0,4             one scenario, two lags
  slackline-bench run --scenario mine.toml                   a scenario of your own
  slackline-bench run --work slept --bytes 65536 --ranks 8   the exchange alone, more ranks than cores
  slackline-bench run --transport mpi --work slept --baselines
                                                             over MPI, beside MPI_Alltoallv and MPI_Ialltoallv
  mpirun -n 8 --hostfile hosts slackline-bench run --transport mpi --ranks 8
  slackline-bench run --ranks 2 --pin --json > results.json  one rank a core, results on stdout

A scenario file has the keys name, words, delay, expect and, if wanted, work:
  name = \"bursts\"
  words = \"Now and then a rank is late by four iterations.\"
  delay = \"spikes:0.1x4\"   # none, turn:0..2, random:0..2, spikes:P x SIZE, slow:rank=0,x1, trace:FILE
  expect = \"gain\"          # or none: a negative control
  work = \"slept\"           # or model";

const EXCHANGE_EXAMPLES: &str = "Examples:
  slackline-bench exchange                       two processes, 64 B to 16 MiB
  slackline-bench exchange --mpi                 beside MPI_Alltoallv and MPI_Ialltoallv, in turns
  slackline-bench exchange --transport mpi       in one MPI job: over MPI, over shared memory, and MPI's own calls
  slackline-bench exchange --lag 4 --read --json --sizes 1024,65536";

const EMBEDDING_EXAMPLES: &str = "Examples:
  slackline-bench embedding                                   26 tables of 1M x 64, in all formats, 1 and 2 threads
  slackline-bench embedding --peers                           beside PyTorch and FBGEMM, set up in target/peers
  slackline-bench embedding --peers --python venv/bin/python  an interpreter that has torch and fbgemm_gpu already
  slackline-bench embedding --formats int8 --batch 128 --pool 1 --threads 1 --json";

const PLAN_EXAMPLES: &str = "Examples:
  slackline-bench plan                          MLPerf's tables a hundredth as large, 4 ranks
  slackline-bench plan --ranks 8 --zipf 0.8
  slackline-bench plan --format int8 --json";

const LOADING_EXAMPLES: &str = "Examples:
  slackline-bench loading                           a table of 1 GiB under target/
  slackline-bench loading --gib 8 --turns 3         needs 8 GiB of disk, and of memory for a copy beside the page cache
  slackline-bench loading --dir /mnt/nvme --json    on another disk, for machines

The table has no name once it is written: nothing is left of it however this ends.";

#[derive(Args)]
struct LoadingArgs {
    /// GiB of the table, which has rows of 64 columns in single precision
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// A folder on the disk to be measured
    #[arg(long, value_name = "DIR", default_value = "target")]
    dir: PathBuf,
    /// Turns
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Of the indices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct PlanArgs {
    /// Ranks of each placement
    #[arg(long, default_value_t = 4)]
    ranks: usize,
    /// By how much large tables are smaller than MLPerf's
    #[arg(long, default_value_t = 100)]
    scale: u64,
    /// Columns of a row
    #[arg(long, default_value_t = 128)]
    dim: usize,
    /// How rows are stored
    #[arg(long, default_value_t = RowFormat::F32)]
    format: RowFormat,
    /// Samples of a batch
    #[arg(long, default_value_t = 1024)]
    batch: usize,
    /// Batches of the trace, and as many others to measure
    #[arg(long, default_value_t = 8)]
    batches: usize,
    /// Zipf's exponent of the indices
    #[arg(long, default_value_t = 1.05)]
    zipf: f64,
    /// Turns
    #[arg(long, default_value_t = 7)]
    turns: usize,
    /// Of the indices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct EmbeddingArgs {
    /// Tables of a batch
    #[arg(long, default_value_t = 26)]
    tables: usize,
    /// Rows of a table
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Columns of a row
    #[arg(long, default_value_t = 64)]
    dim: usize,
    /// Row formats
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,int8,int4")]
    formats: Vec<RowFormat>,
    /// Samples of a batch
    #[arg(long, value_delimiter = ',', default_value = "128,2048")]
    batch: Vec<usize>,
    /// Rows of a bag
    #[arg(long, value_delimiter = ',', default_value = "1,20")]
    pool: Vec<usize>,
    /// Threads, each on a core of its own [default: 1, and 2 if there are as many cores]
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Zipf's exponent of the indices [default: uniform]
    #[arg(long)]
    zipf: Option<f64>,
    /// Turns of each setting
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Lookups of a turn, about: more than any cache holds
    #[arg(long, default_value_t = 20_000_000)]
    lookups: usize,
    /// Of the indices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Take turns with PyTorch and FBGEMM, in a Python environment of their own (needs python3-venv and the network once)
    #[arg(long)]
    peers: bool,
    /// Where that is set up
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers_in: PathBuf,
    /// An interpreter that has them already
    #[arg(long, value_name = "FILE", requires = "peers")]
    python: Option<PathBuf>,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct RunArgs {
    /// Ranks of the group
    #[arg(long, default_value_t = 4)]
    ranks: usize,
    /// Rounds of a run
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Runs of each lag
    #[arg(long, default_value_t = 5)]
    reps: usize,
    /// Undelayed rounds on which the unit of the delays is measured
    #[arg(long, default_value_t = 50)]
    warmup: usize,
    /// Lags, lag 0 always among them
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,4,8")]
    lags: Vec<usize>,
    /// A built-in scenario (balanced, turn, random, spikes, slow) or a TOML file; may be given again [default: all]
    #[arg(long, value_name = "NAME|FILE.toml")]
    scenario: Vec<String>,
    /// Work of a round, where the scenario does not say
    #[arg(long, value_enum, default_value = "model")]
    work: WorkArg,
    /// Samples of a batch (work model)
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Most rows of a table (work model)
    #[arg(long, default_value_t = 100_000)]
    table_rows: usize,
    /// Bytes to each rank (work slept)
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    /// Microseconds that a round sleeps before its messages go (work slept)
    #[arg(long, default_value_t = 1000)]
    unit_us: u64,
    /// Microseconds that a round sleeps after they have gone, like the bottom MLP of a model (work slept)
    #[arg(long, default_value_t = 0)]
    own_unit_us: u64,
    /// Ranks are processes over shared memory, threads, or processes of an MPI job
    #[arg(long, value_enum, default_value = "shm")]
    transport: TransportArg,
    #[command(flatten)]
    mpi: MpiArgs,
    /// Hand out rounds as soon as they are complete (elastic), or exactly `lag` calls later (fixed)
    #[arg(long, default_value = "elastic")]
    delivery: Delivery,
    /// Arrivals of the open loop, as a share of what lag 0 does: above 1 it cannot keep up
    #[arg(long, default_value_t = 0.9)]
    load: f64,
    /// Bind each rank to a core, if there are as many
    #[arg(long)]
    pin: bool,
    /// Of delays, model and data
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the results file on stdout and nothing else
    #[arg(long)]
    json: bool,
    /// Where results.json and report.html go
    #[arg(long, visible_alias = "out", value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
    /// Falsify one bit of the last output of this rank, to test that it is found
    #[arg(long, hide = true, value_name = "RANK")]
    flip_bit: Option<usize>,
}

#[derive(Args)]
struct ExchangeArgs {
    /// Processes
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Bytes to each peer [default: 64 B to 16 MiB]
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// The lag; MPI gets as many calls of MPI_Ialltoallv at once
    #[arg(long, default_value_t = 0)]
    lag: usize,
    /// Read one byte of every cache line that was received (MPI too)
    #[arg(long)]
    read: bool,
    /// Do not bind each rank to a core
    #[arg(long)]
    no_pin: bool,
    /// Timed blocks of a turn
    #[arg(long, default_value_t = 9)]
    blocks: usize,
    /// Turns of each size [default: 1, with --mpi 3]
    #[arg(long)]
    turns: Option<usize>,
    /// The ranks' transport: shm, or mpi, which is then measured over MPI, over shared memory, and beside MPI's own calls
    #[arg(long, value_enum, default_value = "shm")]
    transport: TransportArg,
    /// Compile the same exchange over MPI with mpicc, and take turns with it
    #[arg(long)]
    mpi: bool,
    /// Print lines of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct MpiArgs {
    /// What carries messages between ranks of one node with --transport mpi: auto (shared memory where it can be reached),
    /// mpi, or nodes:N (as if every N ranks were a node)
    #[arg(long, value_name = "PEERS", default_value = "auto")]
    peers: String,
    /// Beside it, MPI's own alltoallv under the same work and delays: blocking, overlapped, and several rounds at once
    /// (--transport mpi with --work slept)
    #[arg(long)]
    baselines: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum WorkArg {
    /// Inference with a synthetic recommendation model
    Model,
    /// Sleep, then exchange
    Slept,
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportArg {
    /// Processes over shared memory
    Shm,
    /// Threads of one process
    Threads,
    /// Processes of an MPI job; started with mpirun if they have not been
    Mpi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = slackline_embedding::guard::install() {
        eprintln!("slackline-bench: {error}");
        return ExitCode::FAILURE;
    }
    let done = match cli.command {
        None => with_transport(cli.run.transport, &cli.run.mpi.peers, cli.run.ranks, |transport| {
            run_all(&cli.run, transport)
        }),
        Some(Sub::Run(args)) => {
            with_transport(args.transport, &args.mpi.peers, args.ranks, |transport| run_all(&args, transport))
        }
        Some(Sub::Exchange(args)) => {
            with_transport(args.transport, "mpi", args.ranks, |transport| run_exchange(&args, transport))
        }
        Some(Sub::Embedding(args)) => run_embedding(&args),
        Some(Sub::Plan(args)) => run_planning(&args),
        Some(Sub::Loading(args)) => run_loading(&args),
        Some(Sub::LoadingChild { way, seed }) => loading::print_child(way, seed),
        Some(Sub::Rank { folder }) => run::rank(&folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slackline-bench: {error}");
            ExitCode::from(match error {
                BenchError::NoMpi { .. } => 2,
                BenchError::Shard(ShardError::Lock { .. }) => loading::NO_RIGHT_TO_LOCK,
                _ => 1,
            })
        }
    }
}

/// Calls `work` with the transport, in an MPI job if that is what it takes.
fn with_transport(
    transport: TransportArg,
    peers: &str,
    ranks: usize,
    work: impl FnOnce(Transport) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    match transport {
        TransportArg::Shm => work(Transport::Shm),
        TransportArg::Threads => work(Transport::Threads),
        #[cfg(feature = "mpi")]
        TransportArg::Mpi => slackline_bench::job::within(peers, ranks, |job| work(Transport::Mpi(job))),
        #[cfg(not(feature = "mpi"))]
        TransportArg::Mpi => {
            let _ = (peers, ranks);
            Err(BenchError::BuiltWithoutMpi)
        }
    }
}

fn run_all(args: &RunArgs, transport: Transport) -> Result<(), BenchError> {
    let names = args.scenario.iter().map(String::as_str);
    let scenarios: Result<Vec<Scenario>, BenchError> = match args.scenario.is_empty() {
        true => scenario::built_in().map(Scenario::load).collect(),
        false => names.map(Scenario::load).collect(),
    };
    let options = RunOptions {
        ranks: args.ranks,
        rounds: args.rounds,
        repetitions: args.reps,
        warmup: args.warmup,
        lags: args.lags.clone(),
        scenarios: scenarios?,
        work: match args.work {
            WorkArg::Model => WorkKind::Model,
            WorkArg::Slept => WorkKind::Slept,
        },
        batch: args.batch,
        table_rows: args.table_rows,
        bytes: args.bytes,
        unit: Duration::from_micros(args.unit_us),
        own_unit: Duration::from_micros(args.own_unit_us),
        transport,
        baselines: args.mpi.baselines,
        delivery: args.delivery,
        load: args.load,
        pin: args.pin,
        seed: args.seed,
        progress: std::io::stderr().is_terminal(),
        flip: args.flip_bit,
    };
    let results = run::run(&options, std::env::args().collect())?;
    if !options.transport.reports() {
        return Ok(());
    }
    let (json, html) = (args.output.join("results.json"), args.output.join("report.html"));
    results::write_whole(&json, &results.to_json())?;
    results::write_whole(&html, &report(&results))?;
    if args.json {
        return print(&format!("{}\n", results.to_json()));
    }
    let files = format!("\nresults: {}\nreport:  {}\n", json.display(), html.display());
    print(&format!("{}{files}", render(&results)))
}

fn run_exchange(args: &ExchangeArgs, transport: Transport) -> Result<(), BenchError> {
    let options = ExchangeOptions {
        ranks: args.ranks,
        sizes: if args.sizes.is_empty() { exchange::SIZES.to_vec() } else { args.sizes.clone() },
        lag: args.lag,
        read: args.read,
        pin: !args.no_pin,
        blocks: args.blocks,
        turns: args.turns.unwrap_or(if args.mpi || transport.name() == "mpi" { 3 } else { 1 }),
        mpi: args.mpi,
        transport,
    };
    let reports = options.transport.reports();
    let mut failed = None;
    exchange::exchange(&options, |lines| {
        if !reports {
            return;
        }
        let text = match args.json {
            true => lines.iter().map(|line| format!("{}\n", line.to_json())).collect(),
            false => exchange::describe(&lines),
        };
        failed = print(&text).err().or(failed.take());
    })?;
    failed.map_or(Ok(()), Err)
}

fn run_embedding(args: &EmbeddingArgs) -> Result<(), BenchError> {
    let threads = if args.threads.is_empty() { (1..=cores::count().min(2)).collect() } else { args.threads.clone() };
    let options = EmbeddingOptions {
        tables: args.tables,
        rows: args.rows,
        dim: args.dim,
        formats: args.formats.clone(),
        batches: args.batch.clone(),
        pools: args.pool.clone(),
        threads,
        zipf: args.zipf,
        turns: args.turns,
        lookups: args.lookups,
        seed: args.seed,
        peers: args.peers.then(|| args.peers_in.clone()),
        python: args.python.clone(),
    };
    let mut failed = None;
    embedding::embedding(&options, |line| {
        let text = match args.json {
            true => serde_json::to_string(line).expect("numbers and strings are JSON") + "\n",
            false => embedding::describe(line),
        };
        failed = print(&text).err().or(failed.take());
    })?;
    failed.map_or(Ok(()), Err)
}

fn run_planning(args: &PlanArgs) -> Result<(), BenchError> {
    let &PlanArgs { ranks, scale, dim, format, batch, batches, zipf, turns, seed, json } = args;
    let options = PlanningOptions { ranks, scale, dim, format, batch, batches, zipf, turns, seed };
    let lines = planning::planning(&options)?;
    if !json {
        return print(&planning::describe(&lines));
    }
    lines
        .iter()
        .try_for_each(|line| print(&(serde_json::to_string(line).expect("numbers and strings are JSON") + "\n")))
}

fn run_loading(args: &LoadingArgs) -> Result<(), BenchError> {
    let &LoadingArgs { gib, turns, seed, json, .. } = args;
    let lines = loading::loading(&LoadingOptions { gib, folder: args.dir.clone(), turns, seed })?;
    if !json {
        return print(&loading::describe(&lines));
    }
    lines
        .iter()
        .try_for_each(|line| print(&(serde_json::to_string(line).expect("numbers and strings are JSON") + "\n")))
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who closes the pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|source| BenchError::File { action: "writing to", file: "stdout".into(), source }),
    }
}
