//! Errors of benchmarks.

use std::io;
use std::path::PathBuf;

use slackline_collective::CollectiveError;
use slackline_transport::TransportError;
use slackline_transport::delay::DelayError;

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A file cannot be read or written.
    #[error("{action} {}: {source}", file.display())]
    File {
        /// "reading" and the like.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A scenario file is malformed; `why` names line and key.
    #[error("scenario {file}: {why}")]
    Scenario {
        /// The file, or the name of a built-in scenario.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither a built-in scenario nor a file.
    #[error("unknown scenario '{name}': not a file, and not one of {known}")]
    UnknownScenario {
        /// What was asked for.
        name: String,
        /// The built-in ones.
        known: String,
    },
    /// Invalid settings, or a run that was stopped.
    #[error("{0}")]
    Settings(String),
    /// A rank's output differs from the reference. There are no timings of such a run.
    #[error(
        "wrong output: scenario {scenario}, {collective}, repetition {repetition}, rank {rank}, round {round} differs from \
         the reference; no timing is shown"
    )]
    WrongOutput {
        /// The scenario.
        scenario: String,
        /// The collective of the run, and its lag.
        collective: String,
        /// The repetition, from 0.
        repetition: usize,
        /// The rank.
        rank: usize,
        /// The round of that run, from 0.
        round: usize,
    },
    /// A message of `exchange` or `requests` has other content than was sent.
    #[error(
        "wrong content: rank {rank}, round {round}: the message from rank {from} has other bytes than were sent; no timing is shown"
    )]
    WrongContent {
        /// The receiver.
        rank: usize,
        /// The sender.
        from: usize,
        /// The round, from 0.
        round: u64,
    },
    /// Pooled vectors differ from the naive kernel's. There are no timings of such a run.
    #[error("wrong output: {table} in {format}: the pooled vectors differ from the naive kernel's; no timing is shown")]
    WrongPooling {
        /// The table.
        table: String,
        /// How its rows are stored.
        format: slackline_embedding::RowFormat,
    },
    /// A table cannot be loaded in one of the ways, or its lookups are wrong.
    #[error("loading ({way}): {why}")]
    Loading {
        /// The way.
        way: slackline_embedding::Load,
        /// The cause.
        why: String,
    },
    /// A shard cannot be written or read.
    #[error(transparent)]
    Shard(#[from] slackline_embedding::ShardError),
    /// The SIGBUS handler that guards mapped tables cannot be installed.
    #[error(transparent)]
    Guard(#[from] slackline_embedding::guard::GuardError),
    /// PyTorch or FBGEMM cannot be installed or run.
    #[error("peers: {why}")]
    Peer {
        /// The cause.
        why: String,
    },
    /// A rank ended without a result.
    #[error("rank {rank} failed: {why}")]
    Rank {
        /// The rank.
        rank: usize,
        /// The cause.
        why: String,
    },
    /// Data that the processes of this program pass to each other cannot be read.
    #[error("cannot read {what}: {source}")]
    Unreadable {
        /// What it is.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The model under test cannot be created or run.
    #[error("model: {0}")]
    Model(String),
    /// MPI's tools are missing.
    #[error("{tool} not found: install Open MPI, for example with `apt-get install libopenmpi-dev openmpi-bin`")]
    NoMpi {
        /// `mpicc` or `mpirun`.
        tool: &'static str,
    },
    /// An MPI tool failed.
    #[error("{tool} failed ({status}): {stderr}")]
    Mpi {
        /// `mpicc` or `mpirun`.
        tool: &'static str,
        /// Its exit status.
        status: String,
        /// Its standard error.
        stderr: String,
    },
    /// This program was built without MPI.
    #[error(
        "this program was built without the feature mpi; build it with: \
         cargo build --release -p slackline-bench --features mpi (see docs/mpi.md)"
    )]
    BuiltWithoutMpi,
    /// A group over MPI could not be set up.
    #[cfg(feature = "mpi")]
    #[error(transparent)]
    World(#[from] slackline_mpi::WorldError),
    /// The collective failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A delay profile or its trace is wrong.
    #[error(transparent)]
    Delay(#[from] DelayError),
}

impl BenchError {
    /// For `map_err`: this action on this file failed.
    pub(crate) fn file(action: &'static str, file: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
        let file = file.into();
        move |source| BenchError::File { action, file, source }
    }
}

/// Prints a line on standard error. There is nowhere to report that this fails, so it is no failure.
pub fn say(line: &str) {
    let line = slackline_dlrm::Printable::lines(line);
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
