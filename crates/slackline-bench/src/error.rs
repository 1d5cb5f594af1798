//! Why a benchmark has no result.

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
    #[error("no scenario '{name}': it is neither a file nor one of {known}")]
    UnknownScenario {
        /// What was asked for.
        name: String,
        /// The built-in ones.
        known: String,
    },
    /// Numbers that make no run.
    #[error("{0}")]
    Settings(String),
    /// A rank's output differs from the reference. There are no timings of such a run.
    #[error(
        "wrong output: scenario {scenario}, lag {lag}, repetition {repetition}: rank {rank} differs from the reference \
         in round {round}; no timing is shown"
    )]
    WrongOutput {
        /// The scenario.
        scenario: String,
        /// The lag of the run.
        lag: usize,
        /// The repetition, from 0.
        repetition: usize,
        /// The rank.
        rank: usize,
        /// The round of that run, from 0.
        round: usize,
    },
    /// A message of a bare exchange does not hold what its sender put there.
    #[error("wrong content: rank {rank}, round {round}: the message from rank {from} is not what was sent; no timing")]
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
    /// A table cannot be loaded in one of the ways, or gives wrong answers.
    #[error("loading, {way}: {why}")]
    Loading {
        /// The way.
        way: slackline_embedding::Load,
        /// What is known.
        why: String,
    },
    /// A shard cannot be written or read.
    #[error(transparent)]
    Shard(#[from] slackline_embedding::ShardError),
    /// PyTorch or FBGEMM cannot take part.
    #[error("peers: {why}")]
    Peer {
        /// What was said.
        why: String,
    },
    /// A rank ended without leaving its result.
    #[error("rank {rank} failed: {why}")]
    Rank {
        /// The rank.
        rank: usize,
        /// What is known.
        why: String,
    },
    /// A file that this program wrote for its own ranks is not what it wrote.
    #[error("{what} is unreadable: {source}")]
    Unreadable {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The model under test cannot be made or run.
    #[error("the model: {0}")]
    Model(String),
    /// MPI's tools are missing.
    #[error("{tool} is missing: install Open MPI, for example with `apt-get install libopenmpi-dev openmpi-bin`")]
    NoMpi {
        /// `mpicc` or `mpirun`.
        tool: &'static str,
    },
    /// An MPI tool failed.
    #[error("{tool} failed ({status}): {stderr}")]
    Mpi {
        /// `mpicc` or `mpirun`.
        tool: &'static str,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// This program was built without MPI.
    #[error(
        "this program was built without MPI; with it (docs/mpi.md says what that needs): \
         cargo build --release -p slackline-bench --features mpi"
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
