//! The benchmark as a program: from the command line to options, from results to text.
#![forbid(unsafe_code)]

mod args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use slackline_bench::dense::{self, DenseOptions};
use slackline_bench::embedding::{self, EmbeddingOptions};
use slackline_bench::exchange::{self, ExchangeOptions};
use slackline_bench::loading::{self, LoadingOptions};
use slackline_bench::planning::{self, PlanningOptions};
use slackline_bench::requests::{self, RequestsOptions};
use slackline_bench::run::{self, RunOptions};
use slackline_bench::scenario::{self, Scenario, WorkKind};
use slackline_bench::{BenchError, Transport, render, report, results};
use slackline_embedding::ShardError;
use slackline_transport::cores;

use crate::args::{
    Cli, Command, DenseArgs, EmbeddingArgs, ExchangeArgs, LoadingArgs, LookupArgs, PlanArgs, RequestsArgs, RunArgs,
    TransportArg, WorkArg,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Run(cli.run));
    if !command.joins_mpi()
        && let Err(error) = guard()
    {
        slackline_bench::say(&format!("slackline-bench: {error}"));
        return ExitCode::FAILURE;
    }
    let done = match command {
        Command::Run(args) => {
            with_transport(args.transport, &args.mpi.peers, args.ranks, |transport| run_scenarios(&args, transport))
        }
        Command::Exchange(args) => {
            with_transport(args.transport, "mpi", args.ranks, |transport| run_exchange(&args, transport))
        }
        Command::Requests(args) => {
            with_transport(args.transport, &args.mpi.peers, args.ranks, |transport| run_requests(&args, transport))
        }
        Command::Dense(args) => run_dense(&args),
        Command::Embedding(args) => run_embedding(&args),
        Command::Plan(args) => run_planning(&args),
        Command::Loading(args) => run_loading(&args),
        Command::LoadingChild { way, seed } => loading::print_child(way, seed),
        Command::RunRank { folder } => run::rank(&folder),
        Command::ExchangeRank { folder } => exchange::rank(&folder),
        Command::RequestsRank { folder } => requests::rank(&folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            slackline_bench::say(&format!("slackline-bench: {error}"));
            ExitCode::from(match error {
                BenchError::NoMpi { .. } => 2,
                BenchError::Shard(ShardError::Lock { .. }) => loading::NO_RIGHT_TO_LOCK,
                _ => 1,
            })
        }
    }
}

/// Makes a table file that is truncated during a run an error instead of SIGBUS. Called before anything is mapped, but after
/// MPI, which may have a handler of its own, is initialised.
fn guard() -> Result<(), BenchError> {
    Ok(slackline_embedding::guard::install()?)
}

/// Calls `work` with the transport, within an MPI job if needed.
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
        TransportArg::Mpi => slackline_bench::job::within(peers, ranks, |job| {
            guard()?;
            work(Transport::Mpi(job))
        }),
        #[cfg(not(feature = "mpi"))]
        TransportArg::Mpi => {
            let _ = (peers, ranks);
            Err(BenchError::BuiltWithoutMpi)
        }
    }
}

fn run_scenarios(args: &RunArgs, transport: Transport) -> Result<(), BenchError> {
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
        baselines: args.baselines,
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
            true => lines.iter().map(json_line).collect(),
            false => exchange::describe(&lines),
        };
        failed = print(&text).err().or(failed.take());
    })?;
    failed.map_or(Ok(()), Err)
}

fn run_requests(args: &RequestsArgs, transport: Transport) -> Result<(), BenchError> {
    let options = RequestsOptions {
        ranks: args.ranks,
        late: args.late_rank.unwrap_or(args.ranks.saturating_sub(1)),
        delay: Duration::from_millis(args.late_ms),
        bytes: args.bytes,
        every: Duration::from_micros(args.every_us),
        time: Duration::from_secs(args.seconds),
        transport,
    };
    let result = requests::requests(&options)?;
    if !options.transport.reports() {
        return Ok(());
    }
    print(&if args.json { json_line(&result) } else { requests::describe(&result) })
}

fn run_dense(args: &DenseArgs) -> Result<(), BenchError> {
    let options = DenseOptions {
        shapes: args.shape.clone(),
        batches: args.batch.clone(),
        turns: args.turns,
        peers: args.peers.place(),
    };
    let mut failed = None;
    dense::dense(&options, |line| {
        let text = if args.json { json_line(line) } else { dense::describe(line) };
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
        seed: args.common.seed,
        peers: args.peers.place(),
    };
    let mut failed = None;
    embedding::embedding(&options, |line| {
        let text = match args.common.json {
            true => json_line(line),
            false => embedding::describe(line),
        };
        failed = print(&text).err().or(failed.take());
    })?;
    failed.map_or(Ok(()), Err)
}

fn run_planning(args: &PlanArgs) -> Result<(), BenchError> {
    let &PlanArgs { ranks, scale, dim, format, batch, batches, zipf, turns, common: LookupArgs { seed, json } } = args;
    let options = PlanningOptions { ranks, scale, dim, format, batch, batches, zipf, turns, seed };
    let lines = planning::planning(&options)?;
    if !json {
        return print(&planning::describe(&lines));
    }
    print(&lines.iter().map(json_line).collect::<String>())
}

fn run_loading(args: &LoadingArgs) -> Result<(), BenchError> {
    let &LoadingArgs { gib, turns, common: LookupArgs { seed, json }, .. } = args;
    let lines = loading::loading(&LoadingOptions { gib, folder: args.dir.clone(), turns, seed })?;
    if !json {
        return print(&loading::describe(&lines));
    }
    print(&lines.iter().map(json_line).collect::<String>())
}

fn json_line(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("numbers and strings are JSON") + "\n"
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that closes the pipe, such as `head`, is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|source| BenchError::File { action: "writing to", file: "stdout".into(), source }),
    }
}
