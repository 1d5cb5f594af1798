//! How ranks are run: as processes that share memory, as threads, or as the processes of an MPI job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use slackline_transport::launch::{Launch, OutputMode};
use slackline_transport::shm::ShmEndpoint;
use slackline_transport::{Endpoint, GroupShape, shm};

use crate::{BenchError, results};

/// How the ranks are run.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// Processes over shared memory.
    #[default]
    Shm,
    /// Threads of this process.
    Threads,
    /// This process and the others of its MPI job. All of them call the same functions and get the same results.
    #[cfg(feature = "mpi")]
    Mpi(crate::job::Job),
}

impl Transport {
    /// As it is given on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Transport::Shm => "shm",
            Transport::Threads => "threads",
            #[cfg(feature = "mpi")]
            Transport::Mpi(_) => "mpi",
        }
    }

    /// Whether this process is to report; of a job, its first rank.
    pub fn reports(&self) -> bool {
        match self {
            Transport::Shm | Transport::Threads => true,
            #[cfg(feature = "mpi")]
            Transport::Mpi(job) => job.rank() == 0,
        }
    }
}

const TASK_FILE: &str = "task.json";

/// Longest wait for all ranks to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts this program once for each rank, as `command FOLDER`, and returns what the ranks recorded, in rank order. The
/// task and the records are files in `folder`.
pub(crate) fn launch<T: DeserializeOwned>(
    command: &str,
    shape: GroupShape,
    task: &impl Serialize,
    pin: bool,
    folder: &Path,
) -> Result<Vec<T>, BenchError> {
    let ranks = shape.ranks;
    let text =
        serde_json::to_string(task).map_err(|source| BenchError::Unreadable { what: "the task".to_owned(), source })?;
    results::write_whole(&folder.join(TASK_FILE), &text)?;
    let program = std::env::current_exe().map_err(BenchError::file("finding", "this program"))?;
    let start = |_| {
        let mut process = Command::new(&program);
        process.arg(command).arg(folder);
        process
    };
    let outcome = Launch::new(shape, start).output(OutputMode::FirstRank).pin(pin).run()?;
    if let Some(signal) = outcome.signal {
        return Err(BenchError::Settings(format!("stopped by signal {signal}")));
    }
    if let Some(rank) = outcome.failed {
        return Err(BenchError::Rank { rank, why: outcome.statuses[rank].to_string() });
    }
    (0..ranks)
        .map(|rank| {
            let file = record_file(folder, rank);
            let text = fs::read_to_string(&file).map_err(BenchError::file("reading", &file))?;
            // An old record must not pass for a new one.
            fs::remove_file(&file).map_err(BenchError::file("removing", &file))?;
            let what = format!("the record of rank {rank}");
            serde_json::from_str(&text).map_err(|source| BenchError::Unreadable { what, source })
        })
        .collect()
}

/// The whole life of a process that [`launch`] started: it finds its group in the environment and its task in `folder`,
/// and records what `work` returns.
pub(crate) fn work<Task: DeserializeOwned, Record: Serialize>(
    folder: &Path,
    work: impl FnOnce(ShmEndpoint, &Task) -> Result<Record, BenchError>,
) -> Result<(), BenchError> {
    let task = folder.join(TASK_FILE);
    let text = fs::read_to_string(&task).map_err(BenchError::file("reading", &task))?;
    let task: Task =
        serde_json::from_str(&text).map_err(|source| BenchError::Unreadable { what: "the task".to_owned(), source })?;
    let by_hand =
        || BenchError::Settings("this command is started by `run`, `exchange` and `requests` only".to_owned());
    let endpoint = shm::attach_from_env(PATIENCE)?.ok_or_else(by_hand)?;
    let file = record_file(folder, endpoint.rank());
    let record = serde_json::to_string(&work(endpoint, &task)?)
        .map_err(|source| BenchError::Unreadable { what: "a record".to_owned(), source })?;
    results::write_whole(&file, &record)
}

/// Runs every rank on a thread of its own, with what is in its place in `ends`, and returns what they recorded.
pub(crate) fn on_threads<E: Send, T: Send>(
    ends: Vec<E>,
    work: impl Fn(E) -> Result<T, BenchError> + Sync,
) -> Result<Vec<T>, BenchError> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = ends.into_iter().map(|end| scope.spawn(move || work(end))).collect();
        let end = |(rank, thread): (usize, std::thread::ScopedJoinHandle<'_, _>)| {
            thread.join().unwrap_or_else(|_| Err(BenchError::Rank { rank, why: "it panicked".to_owned() }))
        };
        ranks.into_iter().enumerate().map(end).collect()
    })
}

fn record_file(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}.json"))
}
