//! The command line.

mod placement;
mod reading;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slackline_collective::Delivery;
use slackline_data::Preprocessing;
use slackline_dlrm::{RowChoice, Wire};
use slackline_embedding::{Load, RowFormat};
use slackline_transport::delay::DelayProfile;

pub(crate) use placement::{PlanArgs, ProfileArgs};
pub(crate) use reading::{ConvertInputArgs, FORMATS, ReadingArgs};

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error; 128 + n if the command, or a rank \
that it started, was ended by signal n.";

/// Distributed inference for deep learning recommendation models (DLRM) with a bounded lag between ranks: a slow rank does
/// not hold up the others at once.
#[derive(Debug, Parser)]
#[command(name = "slackline", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(ImportArgs),
    Convert(ConvertArgs),
    Init(InitArgs),
    Inspect(InspectArgs),
    Profile(ProfileArgs),
    Plan(PlanArgs),
    Infer(Box<InferArgs>),
    ConvertInput(Box<ConvertInputArgs>),
    Generate(GenerateArgs),
}

impl Command {
    /// Whether this process is a rank of an MPI job.
    pub(crate) fn joins_mpi(&self) -> bool {
        matches!(self, Command::Infer(args) if args.transport == Transport::Mpi)
    }
}

/// Import a checkpoint of the reference DLRM or of TorchRec into a model directory
///
/// Reads a PyTorch checkpoint (.pt, zip or legacy), safetensors (a file or an index) or a torchsnapshot directory, and
/// checks every tensor's shape against the configuration. The model directory is ready to be memory-mapped, and appears
/// only when it is complete. If the import is killed or the disk is full, .NAME.partial is left beside it: run the same
/// command again to resume.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct ImportArgs {
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// Model configuration: a JSON object with the argument names of the reference DLRM (arch_embedding_size,
    /// arch_mlp_bot, …)
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// Model directory to write; it must not exist
    #[arg(long, visible_alias = "out", value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Number of files to spread the tables over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
    /// Row format: f32, f16, bf16, int8 or int4 (PyTorch's bytes and arithmetic), int8-fbgemm or int4-fbgemm (FBGEMM's).
    /// FORMAT is for all tables, PATTERN=FORMAT for tables whose names match. May be repeated; the last match wins
    /// [default: f32; rows that are quantised in the checkpoint keep their format]
    #[arg(long, value_name = "[PATTERN=]FORMAT")]
    pub(crate) rows: Vec<RowChoice>,
    /// Row format of the checkpoint's uint8 tables: int8, int4, int8-fbgemm or int4-fbgemm (FBGEMM's rows may be padded to
    /// 16 bytes). Required for such tables, since the format is never guessed. Patterns match the model's table names, as
    /// in --rows
    #[arg(long, value_name = "[PATTERN=]FORMAT", value_parser = quantised)]
    pub(crate) from_rows: Vec<RowChoice>,
    /// Tensors of the checkpoint that do not change predictions, by a pattern of their names: they are left out. May be
    /// repeated. Tensors that are neither known nor the state of a training are refused without it
    #[arg(long, value_name = "PATTERN")]
    pub(crate) ignore: Vec<glob::Pattern>,
    /// What was done to raw inputs when the model was trained, recorded for `slackline infer`: DENSE,SPARSE with the names of
    /// its --dense-transform and --sparse-transform, such as ln1p,modulo; or dlrm (ln1p,dictionary), torchrec
    /// (ln3,modulo-int32) or mlperf (ln3,none) [default: not recorded]
    #[arg(long, value_name = "PREPROCESSING")]
    pub(crate) preprocessing: Option<Preprocessing>,
    /// Discard what an unfinished import left behind, and start again
    #[arg(long)]
    pub(crate) restart: bool,
    /// Sync the disk and record progress after every MIB MiB of rows: the most that a resumed import repeats
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) keep_every: u64,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

const IMPORT_HELP: &str = "\
Examples:
  slackline import kaggle.pt --config kaggle.json --output model
  slackline import torchrec.pt --config torchrec.json --preprocessing torchrec --output model
  slackline import snapshot/ --config terabyte.json --output model --rows int8 --shards 8
  slackline import quantised.pt --config kaggle.json --output model --from-rows int8
  slackline import fbgemm.pt --config kaggle.json --output model --from-rows int8-fbgemm --rows int4
  slackline import kaggle.pt --config kaggle.json --output model --rows int8 --rows 'emb_l.[0-3].*=f16'
  slackline import model.safetensors --config kaggle.json --output model --shards 8

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";

/// Copy a model directory with other row formats or another number of files
///
/// Rows that keep their format are copied unchanged. For tables whose format changes, the loss is reported.
#[derive(Args, Debug)]
#[command(after_help = CONVERT_HELP)]
pub(crate) struct ConvertArgs {
    /// Model directory to read
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Model directory to write; it must not exist
    #[arg(long, visible_alias = "out", value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Row format, as in `slackline import` [default: unchanged]
    #[arg(long, value_name = "[PATTERN=]FORMAT")]
    pub(crate) rows: Vec<RowChoice>,
    /// Number of files to spread the tables over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
}

/// A choice of one of the formats that rows of a checkpoint may have.
fn quantised(text: &str) -> Result<RowChoice, String> {
    let choice: RowChoice = text.parse()?;
    match choice.format() {
        RowFormat::Int8 | RowFormat::Int4 | RowFormat::Int8Fbgemm | RowFormat::Int4Fbgemm => Ok(choice),
        other => Err(format!(
            "{other} rows are recognised without this option, which takes int8, int4, int8-fbgemm or int4-fbgemm"
        )),
    }
}

const CONVERT_HELP: &str = "\
Examples:
  slackline convert model --output narrow --rows int8
  slackline convert model --output mixed --rows int4 --rows 'emb_l.1?.*=f16'
  slackline convert model --output spread --shards 8

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";

/// Create a model directory with random weights, to try things out without a checkpoint
#[derive(Args, Debug)]
#[command(after_help = INIT_HELP)]
pub(crate) struct InitArgs {
    /// Model configuration: a JSON object with the argument names of the reference DLRM
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// Random seed; equal seeds give equal weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// What is done to raw inputs, as in `slackline import`
    #[arg(long, value_name = "PREPROCESSING")]
    pub(crate) preprocessing: Option<Preprocessing>,
    /// Model directory to write; it must not exist
    #[arg(long, visible_alias = "out", value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Number of files to spread the tables over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    pub(crate) shards: usize,
}

const INIT_HELP: &str = "\
Examples:
  slackline init --config examples/kaggle-small.json --seed 1 --output model
  slackline init --config examples/kaggle-small.json --output model --shards 4

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";

/// Show a model directory: architecture, tables, placement and checksums
#[derive(Args, Debug)]
#[command(after_help = INSPECT_HELP)]
pub(crate) struct InspectArgs {
    /// Model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Read every byte and verify the checksums
    #[arg(long)]
    pub(crate) verify: bool,
    /// Show how much of each table is in the page cache
    #[arg(long)]
    pub(crate) residency: bool,
    /// Show how the tables would be placed on N ranks
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

Exit codes: 0 success; 1 failure, such as a truncated or altered file, with the reason on standard error; 2 usage error.";

/// Predict every row of a file, on one rank or on many
///
/// The number of ranks, transport, lag and delivery do not change a bit of the predictions; --wire and a plan that splits
/// tables by rows change their rounding. If the input has labels, AUC and log loss are computed too.
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{FORMATS}\n{INFER_HELP}"))]
pub(crate) struct InferArgs {
    /// Model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Rows to predict
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Samples per batch, divided among the ranks
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = batch())]
    pub(crate) batch: usize,
    /// Placement of the tables, written by `slackline plan --output` [default: whole tables, balanced by typical costs]
    #[arg(long, value_name = "FILE.json")]
    pub(crate) plan: Option<PathBuf>,
    /// Number of ranks [default: that of the plan, or 1; with --transport mpi, the number of processes of the job]
    #[arg(long, value_name = "N", value_parser = ranks())]
    pub(crate) ranks: Option<usize>,
    /// What a rank is and how ranks communicate
    #[arg(long, value_enum, default_value_t = Transport::Threads)]
    pub(crate) transport: Transport,
    /// How ranks of one node communicate with --transport mpi: auto (shared memory where possible), mpi, or nodes:N (treat
    /// every N ranks as one node, for testing)
    #[arg(long, value_name = "PEERS", default_value = "auto")]
    pub(crate) peers: String,
    /// Threads per rank that pool its tables, the rank's main thread included; used for batches of about 1,000 lookups or
    /// more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = threads())]
    pub(crate) threads: usize,
    /// Rounds (batches) that a slow rank may fall behind before the others wait for it; 0 is fully synchronous
    #[arg(long, value_name = "K", default_value_t = 2, value_parser = lag(), allow_negative_numbers = true)]
    pub(crate) lag: usize,
    /// When a round is handed out: elastic (as soon as it is complete) or fixed (always K rounds later)
    #[arg(long, value_name = "MODE", default_value = "elastic")]
    pub(crate) delivery: Delivery,
    /// Precision of pooled vectors sent between ranks: f32 (exact), f16 or bf16 (half the bytes)
    #[arg(long, value_name = "PRECISION", default_value_t = Wire::F32)]
    pub(crate) wire: Wire,
    /// Write `id,prediction` lines in input order; row numbers from 0 if the input has no ids. They are written while the
    /// run goes on, to .FILE.csv.partial, and replace an existing file when all are there
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) output: Option<PathBuf>,
    /// Go on where a run with the same --output has ended early, if there is one; the file is the same to the byte as that
    /// of a run that was not interrupted. Number of ranks, transport, lag and batch may differ
    #[arg(long, requires = "output")]
    pub(crate) resume: bool,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to wait for a rank before the run fails with an error that names it
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) deadline: Duration,
    /// How tables are loaded: mapped (pages are read when first looked up), prefaulted (mapped, and read whole before the
    /// start), locked (prefaulted, and locked in memory), copied (read into the rank's own memory, in huge pages; changes
    /// to the files cannot harm the run)
    #[arg(long, value_name = "WAY", default_value_t = Load::Mapped)]
    pub(crate) load: Load,
    /// Don't verify table checksums before the start
    #[arg(long)]
    pub(crate) skip_verify: bool,
    /// Delay ranks on purpose, for experiments: none, turn:LOW..HIGH, random:LOW..HIGH, spikes:PROBABILITYxSIZE,
    /// slow:rank=RANK,xSIZE or trace:FILE, in units of --delay-unit
    #[arg(long, value_name = "PROFILE", default_value_t = DelayProfile::None)]
    pub(crate) delay: DelayProfile,
    /// Length of one unit of --delay
    #[arg(long, value_name = "MILLISECONDS", default_value = "1", value_parser = milliseconds)]
    pub(crate) delay_unit: Duration,
    /// Bind rank r to the r-th available core
    #[arg(long)]
    pub(crate) pin: bool,
}

const INFER_HELP: &str = "\
Examples:
  slackline infer model --input clicks.tsv
  slackline infer model --input clicks.csv.gz --output predictions.csv
  slackline infer model --input clicks.csv.gz --output predictions.csv --resume
  slackline infer model --input day_23_sparse_multi_hot.npz --dense-file day_23_dense.npy --labels-file day_23_labels.npy
  slackline infer model --input clicks.tsv --dense-transform ln3 --sparse-transform modulo-int32
  slackline infer model --input clicks.tsv --ranks 4 --transport shm --lag 4 --json
  slackline infer model --input clicks.tsv --ranks 4 --delay turn:0..2 --delay-unit 5
  slackline infer model --input clicks.tsv --load copied
  slackline infer model --input clicks.tsv --plan plan.json
  mpirun -n 4 slackline infer model --input clicks.tsv --transport mpi --lag 4

With --transport mpi, every process opens DIR and FILE under these names; rank 0 writes the output and prints the report. \
This transport needs the feature mpi: cargo build --release -p slackline-cli --features mpi.

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error; 128 + n if the command, or a rank \
that it started, was ended by signal n. After a failure the output file is unchanged, and rows that were predicted are \
kept for --resume; without it, the next run throws them away.";

/// Generate random rows in Criteo's format, with labels that depend on the features
#[derive(Args, Debug)]
#[command(after_help = GENERATE_HELP)]
pub(crate) struct GenerateArgs {
    /// Model configuration: a JSON object with the argument names of the reference DLRM
    #[arg(long, value_name = "CONFIG.json")]
    pub(crate) config: PathBuf,
    /// Number of rows
    #[arg(long, value_name = "N")]
    pub(crate) rows: u64,
    /// Random seed; equal seeds give equal rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// File to write, or to replace; its name sets the format: .tsv or .csv, with .gz appended to compress
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    pub(crate) output: PathBuf,
}

const GENERATE_HELP: &str = "\
Examples:
  slackline generate --config examples/kaggle-small.json --rows 10000 --seed 1 --output clicks.tsv
  slackline generate --config examples/kaggle-small.json --rows 10000 --output clicks.csv.gz

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";

/// What a rank is, and how ranks communicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Ranks are threads of this process
    Threads,
    /// Ranks are processes on this machine, started by this command, that share memory
    Shm,
    /// Ranks are the processes of an MPI job, started by mpirun, on one or many machines
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

fn number_in(low: usize, high: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ if high == usize::MAX => Err(format!("expected a whole number of at least {low}")),
        _ => Err(format!("expected a whole number from {low} to {high}")),
    }
}

fn at_least_one() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in(1, usize::MAX)
}

/// More ranks than this on one machine are a typing mistake.
fn ranks() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in(1, 1024)
}

fn threads() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in(1, 1024)
}

fn batch() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in(1, 1 << 24)
}

fn lag() -> impl Fn(&str) -> Result<usize, String> + Clone {
    number_in(0, 1024)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let positive = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
    let wrong = || "expected a number of seconds above 0, such as 30 or 0.5".to_owned();
    positive.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(wrong)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|milliseconds: &f64| *milliseconds >= 0.0);
    let wrong = || "expected a number of milliseconds, such as 5 or 0.5".to_owned();
    number.and_then(|milliseconds| Duration::try_from_secs_f64(milliseconds / 1e3).ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn infer(words: &[&str]) -> Result<InferArgs, clap::Error> {
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
    fn out_is_another_name_of_output() {
        for name in ["--output", "--out"] {
            let words = ["slackline", "convert", "model", name, "narrow"];
            match Cli::try_parse_from(words).unwrap().command {
                Command::Convert(convert) => assert_eq!(convert.output, PathBuf::from("narrow")),
                other => panic!("convert became {other:?}"),
            }
        }
    }

    #[test]
    fn defaults_of_infer() {
        let defaults = infer(&[]).unwrap();
        assert_eq!((defaults.batch, defaults.ranks, defaults.lag), (128, None, 2));
        assert_eq!((defaults.transport, defaults.delivery), (Transport::Threads, Delivery::Elastic));
        assert_eq!((defaults.reading.format, defaults.deadline), (None, Duration::from_secs(30)));
        assert_eq!(defaults.delay, DelayProfile::None);
    }

    #[test]
    fn values_are_read_and_checked() {
        let words = ["--format", "criteo-csv", "--deadline", "0.5", "--delay", "turn:0..2", "--delivery", "fixed"];
        let parsed = infer(&words).unwrap();
        assert_eq!(
            (parsed.reading.format, parsed.deadline),
            (Some(slackline_data::InputFormat::CriteoCsv), Duration::from_millis(500))
        );
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
            (["--dense-transform", "log"], "ln1p, ln3, none"),
            (["--sparse-transform", "hash"], "modulo, modulo-int32"),
            (["--sparse-transform", "dictionary"], "dictionary:PREFIX"),
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
