//! The command line.

mod placement;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slackline_collective::Delivery;
use slackline_data::Format;
use slackline_dlrm::{RowChoice, Wire};
use slackline_embedding::{Load, RowFormat};
use slackline_transport::delay::DelayProfile;

pub(crate) use placement::{Plan, Profile};

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood; 128 + n \
if the command, or a rank that it started, was ended by signal n.";

/// Distributed inference with deep learning recommendation models (DLRM), in which slow ranks don't hold up the others at
/// once.
#[derive(Debug, Parser)]
#[command(name = "slackline", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(Import),
    Convert(Convert),
    Init(Init),
    Inspect(Inspect),
    Profile(Profile),
    Plan(Plan),
    Infer(Box<Infer>),
    Generate(Generate),
}

/// Turn a checkpoint of the reference DLRM, or of TorchRec's, into a model directory
///
/// Reads a PyTorch checkpoint (.pt, zip or legacy), safetensors (a file or an index) or a torchsnapshot directory, compares
/// every tensor's shape with the configuration, and writes a directory that maps straight into memory. The directory appears
/// only when it is whole. An import that is killed, or that a full disk ends, leaves .NAME.partial beside it: the same
/// command goes on from there.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct Import {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// The model's shape: a JSON object by the reference's argument names (arch_embedding_size, arch_mlp_bot, …)
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// The model directory to write; it must not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How many files the tables are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
    /// How rows are kept: f32, f16, bf16, int8 or int4 (PyTorch's bytes and arithmetic), int8-fbgemm or int4-fbgemm
    /// (FBGEMM's), for all tables or PATTERN=FORMAT for some; may be given again, and the last that fits counts
    /// [default: f32; rows that are quantised in the checkpoint stay as they are]
    #[arg(long, value_name = "[PATTERN=]FORMAT")]
    pub(crate) rows: Vec<RowChoice>,
    /// In which format the rows of uint8 tables are in the checkpoint: int8, int4, int8-fbgemm or int4-fbgemm (rows of
    /// FBGEMM may be padded to 16 bytes). It is never guessed; patterns are those of --rows, with the model's names
    #[arg(long, value_name = "[PATTERN=]FORMAT", value_parser = quantised)]
    pub(crate) from_rows: Vec<RowChoice>,
    /// Throw away what an import that did not come to its end has left, instead of going on with it
    #[arg(long)]
    pub(crate) restart: bool,
    /// After how many MiB of rows the disk is synced and progress written down: what a killed import may have to do again
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) keep_every: u64,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

const IMPORT_HELP: &str = "\
Examples:
  slackline import kaggle.pt --config kaggle.json --out model
  slackline import torchrec.pt --config torchrec.json --out model
  slackline import snapshot/ --config terabyte.json --out model --rows int8 --shards 8
  slackline import quantised.pt --config kaggle.json --out model --from-rows int8
  slackline import fbgemm.pt --config kaggle.json --out model --from-rows int8-fbgemm --rows int4
  slackline import kaggle.pt --config kaggle.json --out model --rows int8 --rows 'emb_l.[0-3].*=f16'
  slackline import model.safetensors --config kaggle.json --out model --shards 8

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood.";

/// Write a model directory once more, with rows in other formats or over other files
///
/// Rows that keep their format are copied as they are. What the others lose is reported by table.
#[derive(Args, Debug)]
#[command(after_help = CONVERT_HELP)]
pub(crate) struct Convert {
    /// The model directory to read
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The model directory to write; it must not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How rows are kept, as in `slackline import` [default: as they are]
    #[arg(long, value_name = "[PATTERN=]FORMAT")]
    pub(crate) rows: Vec<RowChoice>,
    /// How many files the tables are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
}

/// A choice of one of the formats that rows of a checkpoint may have.
fn quantised(text: &str) -> Result<RowChoice, String> {
    let choice: RowChoice = text.parse()?;
    match choice.format() {
        RowFormat::Int8 | RowFormat::Int4 | RowFormat::Int8Fbgemm | RowFormat::Int4Fbgemm => Ok(choice),
        other => Err(format!("{other} rows need not be named: int8, int4, int8-fbgemm and int4-fbgemm do")),
    }
}

const CONVERT_HELP: &str = "\
Examples:
  slackline convert model --out narrow --rows int8
  slackline convert model --out mixed --rows int4 --rows 'emb_l.1?.*=f16'
  slackline convert model --out spread --shards 8

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood.";

/// Make a model directory with random weights, to try things out without a checkpoint
#[derive(Args, Debug)]
#[command(after_help = INIT_HELP)]
pub(crate) struct Init {
    /// The model's shape: a JSON object by the reference's argument names
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// Equal seeds give equal weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// The model directory to write; it must not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// How many files the tables are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
}

const INIT_HELP: &str = "\
Examples:
  slackline init --config examples/kaggle-small.json --seed 1 --out model
  slackline init --config examples/kaggle-small.json --out model --shards 4

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood.";

/// Show a model directory: architecture, tables, placement and checksums
#[derive(Args, Debug)]
#[command(after_help = INSPECT_HELP)]
pub(crate) struct Inspect {
    /// The model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Read every byte and compare it with its checksum
    #[arg(long)]
    pub(crate) verify: bool,
    /// Show how much of each table is in memory, in the page cache that all processes share
    #[arg(long)]
    pub(crate) residency: bool,
    /// Show which rank of N would hold which table
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) ranks: usize,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

const INSPECT_HELP: &str = "\
Examples:
  slackline inspect model
  slackline inspect model --verify --ranks 4
  slackline inspect model --residency
  slackline inspect model --json

Exit codes: 0 success; 1 failure, such as a file that is short or altered, with the reason on standard error; 2 a \
command line that was not understood.";

/// Predict every row of a file, on one rank or on many
///
/// Predictions don't depend on ranks, transport, lag or delivery: the bits are the same (for each --wire). Where the input has labels, AUC
/// and log loss are computed as well.
#[derive(Args, Clone, Debug)]
#[command(after_help = INFER_HELP)]
pub(crate) struct Infer {
    /// The model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The rows
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The input's format: criteo-tsv, criteo-csv or npz [default: by the file's content]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Samples of a batch, which the ranks share
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = batch())]
    pub(crate) batch: usize,
    /// Where tables lie, as `slackline plan --output` wrote it [default: whole, by typical costs]
    #[arg(long, value_name = "FILE.json")]
    pub(crate) plan: Option<PathBuf>,
    /// How many ranks hold the tables [default: those of the plan, or 1; with --transport mpi the processes of the job]
    #[arg(long, value_name = "N", value_parser = ranks())]
    pub(crate) ranks: Option<usize>,
    /// What a rank is: a thread of this process, a process that this command starts, or a process that mpirun has started
    #[arg(long, value_enum, default_value_t = Transport::Threads)]
    pub(crate) transport: Transport,
    /// What carries messages between ranks of one node with --transport mpi: auto (shared memory where it can be reached),
    /// mpi, or nodes:N (as if every N ranks were a node, to try things out)
    #[arg(long, value_name = "PEERS", default_value = "auto")]
    pub(crate) peers: String,
    /// How many threads of each rank pool its tables, its own among them; used for batches of about a thousand lookups and more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = threads())]
    pub(crate) threads: usize,
    /// How many rounds (batches) a slow rank may fall behind before the others wait for it; 0 is fully synchronous
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = lag(), allow_negative_numbers = true)]
    pub(crate) lag: usize,
    /// When a round is handed out: elastic, as soon as it is complete; fixed, always K rounds later
    #[arg(long, value_name = "MODE", default_value = "elastic")]
    pub(crate) delivery: Delivery,
    /// The precision of pooled vectors between ranks: f32, which is exact, or f16 or bf16, which are half the bytes
    #[arg(long, value_name = "PRECISION", default_value_t = Wire::F32)]
    pub(crate) wire: Wire,
    /// Write `id,prediction` in input order; row numbers from 0 where the input has no ids
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// How long a rank may be waited for before the run fails and names it
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) deadline: Duration,
    /// Where tables are kept: mapped, in their files, read when first looked up; prefaulted, in their files, read whole before
    /// the start; locked, the same, and kept in memory; copied, in memory of the rank's own (huge pages), so that nothing
    /// that happens to the files does harm
    #[arg(long, value_name = "WAY", default_value_t = Load::Mapped)]
    pub(crate) load: Load,
    /// Trust the checksums of the tables instead of reading them whole before the start
    #[arg(long)]
    pub(crate) skip_verify: bool,
    /// Make ranks late on purpose, to try things out: none, turn:LOW..HIGH, random:LOW..HIGH, spikes:PROBABILITYxSIZE,
    /// slow:rank=RANK,xSIZE or trace:FILE, in units of --delay-unit
    #[arg(long, value_name = "PROFILE", default_value_t = DelayProfile::None)]
    pub(crate) delay: DelayProfile,
    /// How long one unit of --delay is
    #[arg(long, value_name = "MILLISECONDS", default_value = "1", value_parser = milliseconds)]
    pub(crate) delay_unit: Duration,
    /// Bind rank r to the r-th processor that this command may use
    #[arg(long)]
    pub(crate) pin: bool,
}

const INFER_HELP: &str = "\
Examples:
  slackline infer model --input clicks.tsv
  slackline infer model --input clicks.csv.gz --output predictions.csv
  slackline infer model --input clicks.tsv --ranks 4 --transport shm --lag 4 --json
  slackline infer model --input clicks.tsv --ranks 4 --delay turn:0..2 --delay-unit 5
  slackline infer model --input clicks.tsv --load copied
  slackline infer model --input clicks.tsv --plan plan.json
  mpirun -n 4 slackline infer model --input clicks.tsv --transport mpi --lag 4

With --transport mpi every process reads DIR and FILE by these names; rank 0 writes and reports. That transport is in \
builds with the feature mpi only: cargo build --release -p slackline-cli --features mpi.

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood; 128 + n \
if the command, or a rank that it started, was ended by signal n. After a failure the output file is as it was before.";

/// Write random rows in Criteo's format, with a planted relation between features and label
#[derive(Args, Debug)]
#[command(after_help = GENERATE_HELP)]
pub(crate) struct Generate {
    /// The model's shape: a JSON object by the reference's argument names
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// How many rows
    #[arg(long, value_name = "N")]
    pub(crate) rows: u64,
    /// Equal seeds give equal rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// The file; its name says what it becomes: .tsv or .csv, and .gz after it to compress
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

const GENERATE_HELP: &str = "\
Examples:
  slackline generate --config examples/kaggle-small.json --rows 10000 --seed 1 --out clicks.tsv
  slackline generate --config examples/kaggle-small.json --rows 10000 --out clicks.csv.gz

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 a command line that was not understood.";

/// What a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// A thread of this process
    Threads,
    /// A process of this machine, over shared memory
    Shm,
    /// A process of an MPI job, on this machine or others
    Mpi,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Transport::Threads => "threads",
            Transport::Shm => "shm",
            Transport::Mpi => "mpi",
        })
    }
}

fn number_in(name: &'static str, low: usize, high: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ if high == usize::MAX => Err(format!("{name} is a whole number of at least {low}")),
        _ => Err(format!("{name} is a whole number from {low} to {high}")),
    }
}

fn at_least_one() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in("it", 1, usize::MAX)
}

/// More ranks than this on one machine are a slip of the finger.
fn ranks() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in("the number of ranks", 1, 1024)
}

fn threads() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in("the number of threads", 1, 1024)
}

fn batch() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in("the size of a batch", 1, 1 << 24)
}

fn lag() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in("the lag", 0, 1024)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let positive = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
    let wrong = || "a number of seconds above 0, such as 30 or 0.5".to_owned();
    positive.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(wrong)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|milliseconds: &f64| *milliseconds >= 0.0);
    let wrong = || "a number of milliseconds, such as 5 or 0.5".to_owned();
    number.and_then(|milliseconds| Duration::try_from_secs_f64(milliseconds / 1e3).ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn infer(words: &[&str]) -> Result<Infer, clap::Error> {
        let words = [&["slackline", "infer", "model", "--input", "rows.tsv"], words].concat();
        match Cli::try_parse_from(words)?.command {
            Command::Infer(infer) => Ok(*infer),
            other => panic!("infer became {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_of_infer() {
        let defaults = infer(&[]).unwrap();
        assert_eq!((defaults.batch, defaults.ranks, defaults.lag), (128, None, 2));
        assert_eq!((defaults.transport, defaults.delivery), (Transport::Threads, Delivery::Elastic));
        assert_eq!((defaults.format, defaults.deadline), (None, Duration::from_secs(30)));
        assert_eq!(defaults.delay, DelayProfile::None);
    }

    #[test]
    fn values_are_read_and_checked() {
        let words = ["--format", "criteo-csv", "--deadline", "0.5", "--delay", "turn:0..2", "--delivery", "fixed"];
        let parsed = infer(&words).unwrap();
        assert_eq!((parsed.format, parsed.deadline), (Some(Format::CriteoCsv), Duration::from_millis(500)));
        assert_eq!((parsed.delay, parsed.delivery), (DelayProfile::Turn { low: 0.0, high: 2.0 }, Delivery::Fixed));
        for (words, said) in [
            (["--ranks", "0"], "from 1 to 1024"),
            (["--batch", "0"], "from 1 to 16777216"),
            (["--threads", "0"], "from 1 to 1024"),
            (["--lag", "-1"], "lag"),
            (["--deadline", "0"], "above 0"),
            (["--deadline", "soon"], "number of seconds"),
            (["--deadline", "1e300"], "number of seconds"),
            (["--format", "parquet"], "criteo-tsv"),
            (["--delivery", "late"], "elastic"),
            (["--transport", "pigeon"], "threads"),
            (["--delay", "turn:2"], "0..2"),
        ] {
            let error = infer(&words).unwrap_err().to_string();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }

    #[test]
    fn every_command_shows_examples_and_exit_codes() {
        for command in Cli::command().get_subcommands_mut() {
            for help in [command.render_help().to_string(), command.render_long_help().to_string()] {
                assert!(help.contains("Examples:\n  slackline "), "{}", command.get_name());
                assert!(help.contains("Exit codes: 0 success"), "{}", command.get_name());
            }
        }
    }
}
