//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slackline_bench::PeersPlace;
use slackline_bench::dense::Shape;
use slackline_collective::Delivery;
use slackline_embedding::{Load, RowFormat};

/// Measure what bounded lag gains on this machine
///
/// Without a subcommand this is `run`: four rank processes run distributed DLRM inference, synchronously and with bounded
/// lag, under injected delays.
#[derive(Parser)]
#[command(name = "slackline-bench", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Throughput and latency by lag, under several kinds of delays (the default)
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// The alltoallv alone, between processes; on request beside MPI
    #[command(after_help = EXCHANGE_EXAMPLES)]
    Exchange(ExchangeArgs),
    /// Requests and answers as they come, between ranks of which one is late every time
    #[command(after_help = REQUESTS_EXAMPLES)]
    Requests(RequestsArgs),
    /// The dense part of a model on one core; on request beside PyTorch
    #[command(after_help = DENSE_EXAMPLES)]
    Dense(DenseArgs),
    /// Pooled lookups in large tables; on request beside PyTorch and FBGEMM
    #[command(after_help = EMBEDDING_EXAMPLES)]
    Embedding(EmbeddingArgs),
    /// Plans for skewed tables: estimated and measured lookup times, beside the reference's split
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// How soon a large table answers after loading, by way of loading, with cold and warm page cache
    #[command(after_help = LOADING_EXAMPLES)]
    Loading(LoadingArgs),
    /// A process that `loading` starts, with the shard as its standard input
    #[command(hide = true)]
    LoadingChild {
        /// The way of loading
        way: Load,
        /// Random seed of the indices
        seed: u64,
    },
    /// A rank process that `run` starts
    #[command(hide = true)]
    RunRank {
        /// The folder with the task
        folder: PathBuf,
    },
    /// A rank process that `exchange` starts
    #[command(hide = true)]
    ExchangeRank {
        /// The folder with the task
        folder: PathBuf,
    },
    /// A rank process that `requests` starts
    #[command(hide = true)]
    RequestsRank {
        /// The folder with the task
        folder: PathBuf,
    },
}

impl Command {
    /// Whether this process is, or starts, a rank of an MPI job.
    pub(crate) fn joins_mpi(&self) -> bool {
        let (Command::Run(RunArgs { transport, .. })
        | Command::Exchange(ExchangeArgs { transport, .. })
        | Command::Requests(RequestsArgs { transport, .. })) = self
        else {
            return false;
        };
        matches!(transport, TransportArg::Mpi)
    }
}

const RUN_EXAMPLES: &str = "Examples:
  slackline-bench                                            all scenarios, 4 processes, under 3 minutes
  slackline-bench run --scenario turn --lags 0,4             one scenario, two lags
  slackline-bench run --scenario mine.toml                   a scenario of your own
  slackline-bench run --work slept --bytes 65536 --ranks 8   the exchange alone, more ranks than cores
  slackline-bench run --scenario turn --lags 0,4 --baselines beside the synchronous oracle, the same outputs
  slackline-bench run --transport mpi --baselines            over MPI, beside MPI_Alltoallv and MPI_Ialltoallv as well
  mpirun -n 8 --hostfile hosts slackline-bench run --transport mpi --ranks 8
  slackline-bench run --ranks 2 --pin --json > results.json  one rank per core, results on stdout

A scenario file has the keys name, words, delay, expect and, optionally, work:
  name = \"bursts\"
  words = \"Now and then a rank is late by four iterations.\"
  delay = \"spikes:0.1x4\"   # none, turn:0..2, random:0..2, spikes:PxSIZE, slow:rank=0,x1, trace:FILE
  expect = \"gain\"          # or none: a negative control
  work = \"slept\"           # or model";

const EXCHANGE_EXAMPLES: &str = "Examples:
  slackline-bench exchange                       two processes, 64 B to 16 MiB
  slackline-bench exchange --mpi                 beside MPI_Alltoallv and MPI_Ialltoallv, in turns
  slackline-bench exchange --transport mpi       in one MPI job: over MPI, over shared memory, and MPI's own calls
  slackline-bench exchange --lag 4 --read --json --sizes 1024,65536";

const REQUESTS_EXAMPLES: &str = "Examples:
  slackline-bench requests                               four processes, one 100 ms late every time
  slackline-bench requests --late-ms 0                   nobody late, to compare with
  slackline-bench requests --ranks 8 --bytes 65536 --every-us 5000
  slackline-bench requests --transport threads --json
  slackline-bench requests --transport mpi --peers mpi   messages over MPI also within a node";

const DENSE_EXAMPLES: &str = "Examples:
  slackline-bench dense                                   three shapes, batches of 1 to 2048
  slackline-bench dense --peers                           beside PyTorch, installed in target/peers
  slackline-bench dense --peers --python venv/bin/python  an interpreter that has torch
  slackline-bench dense --shape kaggle --batch 128 --json";

const EMBEDDING_EXAMPLES: &str = "Examples:
  slackline-bench embedding                                   26 tables of 1M x 64, four formats, 1 and 2 threads
  slackline-bench embedding --peers                           beside PyTorch and FBGEMM, installed in target/peers
  slackline-bench embedding --peers --python venv/bin/python  an interpreter that has torch and fbgemm_gpu
  slackline-bench embedding --formats int8 --batch 128 --pool 1 --threads 1 --json";

const PLAN_EXAMPLES: &str = "Examples:
  slackline-bench plan                          MLPerf's tables at a hundredth of their size, 4 ranks
  slackline-bench plan --ranks 8 --zipf 0.8
  slackline-bench plan --format int8 --json";

const LOADING_EXAMPLES: &str = "Examples:
  slackline-bench loading                           a table of 1 GiB under target/
  slackline-bench loading --gib 8 --turns 3         needs 8 GiB of disk, and memory for page cache and a copy
  slackline-bench loading --dir /mnt/nvme --json    on another disk, machine-readable

The table is an unnamed file: the system removes it when the benchmark ends, however it ends.";

/// What all benchmarks of lookups have in common.
#[derive(Args)]
pub(crate) struct LookupArgs {
    /// Random seed of the indices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct LoadingArgs {
    /// Size of the table in GiB; its rows have 64 single-precision columns
    #[arg(long, default_value_t = 1.0)]
    pub(crate) gib: f64,
    /// A folder on the disk to measure
    #[arg(long, value_name = "DIR", default_value = "target")]
    pub(crate) dir: PathBuf,
    /// Number of turns
    #[arg(long, default_value_t = 3, value_parser = number(1, 1_000_000))]
    pub(crate) turns: usize,
    #[command(flatten)]
    pub(crate) common: LookupArgs,
}

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Number of ranks
    #[arg(long, default_value_t = 4, value_parser = number(1, 4_096))]
    pub(crate) ranks: usize,
    /// Divide the rows of MLPerf's large tables by this
    #[arg(long, default_value_t = 100, value_parser = long(1, 2_147_483_648))]
    pub(crate) scale: u64,
    /// Columns per row
    #[arg(long, default_value_t = 128, value_parser = number(1, 65_536))]
    pub(crate) dim: usize,
    /// Row format
    #[arg(long, default_value_t = RowFormat::F32)]
    pub(crate) format: RowFormat,
    /// Samples per batch
    #[arg(long, default_value_t = 1024, value_parser = number(1, 16_777_216))]
    pub(crate) batch: usize,
    /// Batches of the trace; as many others are measured
    #[arg(long, default_value_t = 8, value_parser = number(1, 1_000_000))]
    pub(crate) batches: usize,
    /// Zipf exponent of the indices
    #[arg(long, default_value_t = 1.05)]
    pub(crate) zipf: f64,
    /// Number of turns
    #[arg(long, default_value_t = 7, value_parser = number(1, 1_000_000))]
    pub(crate) turns: usize,
    #[command(flatten)]
    pub(crate) common: LookupArgs,
}

/// What is measured beside Slackline.
#[derive(Args)]
pub(crate) struct PeersArgs {
    /// Take turns with PyTorch and FBGEMM in a Python environment of their own (needs python3-venv, and the network once)
    #[arg(long)]
    peers: bool,
    /// Where to install that environment
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers_in: PathBuf,
    /// Use this interpreter, which has torch (and fbgemm_gpu for lookups)
    #[arg(long, value_name = "FILE", requires = "peers")]
    python: Option<PathBuf>,
}

impl PeersArgs {
    /// Where to find the peers, if they take part.
    pub(crate) fn place(&self) -> Option<PeersPlace> {
        let installed = || PeersPlace::Environment(self.peers_in.clone());
        self.peers.then(|| self.python.clone().map_or_else(installed, PeersPlace::Interpreter))
    }
}

#[derive(Args)]
pub(crate) struct DenseArgs {
    /// Shapes of models: kaggle, terabyte, mlperf
    #[arg(long, value_delimiter = ',', default_value = "kaggle,terabyte,mlperf")]
    pub(crate) shape: Vec<Shape>,
    /// Samples per batch
    #[arg(long, value_delimiter = ',', default_value = "1,16,128,2048", value_parser = number(1, 1_048_576))]
    pub(crate) batch: Vec<usize>,
    /// Turns per setting
    #[arg(long, default_value_t = 5, value_parser = number(1, 1_000_000))]
    pub(crate) turns: usize,
    #[command(flatten)]
    pub(crate) peers: PeersArgs,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct EmbeddingArgs {
    /// Number of tables
    #[arg(long, default_value_t = 26, value_parser = number(1, 100_000))]
    pub(crate) tables: usize,
    /// Rows per table
    #[arg(long, default_value_t = 1_000_000, value_parser = long(1, 2_147_483_647))]
    pub(crate) rows: u64,
    /// Columns per row
    #[arg(long, default_value_t = 64, value_parser = number(1, 65_536))]
    pub(crate) dim: usize,
    /// Row formats
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,int8,int4")]
    pub(crate) formats: Vec<RowFormat>,
    /// Samples per batch
    #[arg(long, value_delimiter = ',', default_value = "128,2048", value_parser = number(1, 16_777_216))]
    pub(crate) batch: Vec<usize>,
    /// Rows per bag
    #[arg(long, value_delimiter = ',', default_value = "1,20", value_parser = number(1, 1_000_000))]
    pub(crate) pool: Vec<usize>,
    /// Threads, each on a core of its own [default: 1, and 2 if there are two cores]
    #[arg(long, value_delimiter = ',', value_parser = number(1, 4_096))]
    pub(crate) threads: Vec<usize>,
    /// Zipf exponent of the indices [default: uniform]
    #[arg(long)]
    pub(crate) zipf: Option<f64>,
    /// Turns per setting
    #[arg(long, default_value_t = 5, value_parser = number(1, 1_000_000))]
    pub(crate) turns: usize,
    /// Approximate number of lookups per turn; their rows should not fit into any cache
    #[arg(long, default_value_t = 20_000_000, value_parser = number(1, 1_000_000_000_000))]
    pub(crate) lookups: usize,
    #[command(flatten)]
    pub(crate) peers: PeersArgs,
    #[command(flatten)]
    pub(crate) common: LookupArgs,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// Number of ranks
    #[arg(long, default_value_t = 4, value_parser = number(1, 4_096))]
    pub(crate) ranks: usize,
    /// Rounds per run
    #[arg(long, default_value_t = 100, value_parser = number(1, 10_000_000))]
    pub(crate) rounds: usize,
    /// Runs per lag
    #[arg(long, default_value_t = 5, value_parser = number(1, 100_000))]
    pub(crate) reps: usize,
    /// Undelayed rounds to measure the unit of the delays
    #[arg(long, default_value_t = 50, value_parser = number(2, 1_000_000))]
    pub(crate) warmup: usize,
    /// Lags to measure; 0 is always included
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,4,8", value_parser = number(0, 65_535))]
    pub(crate) lags: Vec<usize>,
    /// A built-in scenario (balanced, turn, random, spikes, slow) or a TOML file; may be repeated [default: all built-in]
    #[arg(long, value_name = "NAME|FILE.toml")]
    pub(crate) scenario: Vec<String>,
    /// Work of a round, unless the scenario sets it
    #[arg(long, value_enum, default_value = "model")]
    pub(crate) work: WorkArg,
    /// Samples per batch (work model)
    #[arg(long, default_value_t = 128, value_parser = number(1, 16_777_216))]
    pub(crate) batch: usize,
    /// Largest number of rows in a table (work model)
    #[arg(long, default_value_t = 100_000, value_parser = number(1, 2_147_483_648))]
    pub(crate) table_rows: usize,
    /// Bytes to each rank (work slept)
    #[arg(long, default_value_t = 4096, value_parser = number(0, 2_147_483_648))]
    pub(crate) bytes: usize,
    /// Microseconds that a round sleeps before it sends (work slept)
    #[arg(long, default_value_t = 1000, value_parser = long(0, 3_600_000_000))]
    pub(crate) unit_us: u64,
    /// Microseconds that a round sleeps after it has sent, in place of a model's bottom MLP (work slept)
    #[arg(long, default_value_t = 0, value_parser = long(0, 3_600_000_000))]
    pub(crate) own_unit_us: u64,
    /// What a rank is and how ranks communicate
    #[arg(long, value_enum, default_value = "shm")]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) mpi: MpiArgs,
    /// Run the same work and delays over what has no bounded lag as well, and compare outputs and times: the synchronous
    /// oracle and, with --transport mpi, MPI's own alltoallv (blocking, overlapped, and with lag + 1 rounds under way)
    #[arg(long)]
    pub(crate) baselines: bool,
    /// When a round is handed out: elastic (as soon as it is complete) or fixed (exactly `lag` calls later)
    #[arg(long, default_value = "elastic")]
    pub(crate) delivery: Delivery,
    /// Arrival rate of the open loop, as a share of the throughput at lag 0; above 1, batches queue up
    #[arg(long, default_value_t = 0.9)]
    pub(crate) load: f64,
    /// Bind each rank to a core if there are enough cores
    #[arg(long)]
    pub(crate) pin: bool,
    /// Random seed of delays, model and data
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print the results as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// Folder for results.json and report.html
    #[arg(long, visible_alias = "out", value_name = "DIR", default_value = "target/bench")]
    pub(crate) output: PathBuf,
    /// Flip one bit of this rank's last output, to test that the check finds it
    #[arg(long, hide = true, value_name = "RANK")]
    pub(crate) flip_bit: Option<usize>,
}

#[derive(Args)]
pub(crate) struct ExchangeArgs {
    /// Number of processes
    #[arg(long, default_value_t = 2, value_parser = number(1, 4_096))]
    pub(crate) ranks: usize,
    /// Bytes to each peer [default: 64 B to 16 MiB]
    #[arg(long, value_delimiter = ',', value_parser = number(0, 2_147_483_648))]
    pub(crate) sizes: Vec<usize>,
    /// The lag; MPI has lag + 1 calls of MPI_Ialltoallv under way
    #[arg(long, default_value_t = 0, value_parser = number(0, 65_535))]
    pub(crate) lag: usize,
    /// Read one byte of every cache line received (MPI too)
    #[arg(long)]
    pub(crate) read: bool,
    /// Do not bind ranks to cores
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// Timed blocks per turn
    #[arg(long, default_value_t = 9, value_parser = number(1, 1_000_000))]
    pub(crate) blocks: usize,
    /// Turns per size [default: 1; 3 beside MPI]
    #[arg(long, value_parser = number(1, 1_000_000))]
    pub(crate) turns: Option<usize>,
    /// shm, or mpi: one MPI job that measures Slackline over MPI and over shared memory, and MPI's own calls
    #[arg(long, value_enum, default_value = "shm")]
    pub(crate) transport: TransportArg,
    /// Compile the same exchange for MPI with mpicc, and take turns with it
    #[arg(long)]
    pub(crate) mpi: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct RequestsArgs {
    /// Number of ranks, at least 3
    #[arg(long, default_value_t = 4, value_parser = number(1, 4_096))]
    pub(crate) ranks: usize,
    /// Milliseconds that the late rank sleeps before it looks at what has come, every time
    #[arg(long, default_value_t = 100, value_parser = long(0, 3_600_000))]
    pub(crate) late_ms: u64,
    /// The late rank [default: the last]
    #[arg(long, value_name = "RANK")]
    pub(crate) late_rank: Option<usize>,
    /// Bytes of a request and of its answer
    #[arg(long, default_value_t = 64, value_parser = number(0, 2_147_483_648))]
    pub(crate) bytes: usize,
    /// Microseconds from one request of a rank to the next to the same rank, at least: the next one also waits for the answer
    #[arg(long, default_value_t = 1000, value_parser = long(0, 3_600_000_000))]
    pub(crate) every_us: u64,
    /// For how many seconds requests are sent
    #[arg(long, default_value_t = 5, value_parser = long(1, 86_400))]
    pub(crate) seconds: u64,
    /// What a rank is and how ranks communicate
    #[arg(long, value_enum, default_value = "shm")]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) mpi: MpiArgs,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct MpiArgs {
    /// How ranks of one node communicate with --transport mpi: auto (shared memory where possible), mpi, or nodes:N (treat
    /// every N ranks as one node)
    #[arg(long, value_name = "PEERS", default_value = "auto")]
    pub(crate) peers: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum WorkArg {
    /// Inference with a synthetic recommendation model
    Model,
    /// Sleep, then exchange
    Slept,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum TransportArg {
    /// Ranks are processes that share memory
    Shm,
    /// Ranks are threads of this process
    Threads,
    /// Ranks are the processes of an MPI job; mpirun is started if needed
    Mpi,
}

/// A number from `least` to `most`.
fn long(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("expected a number from {least} to {most}"))
    }
}

fn number(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    let parse = long(least as u64, most as u64);
    move |text| parse(text).map(|number| number as usize)
}
