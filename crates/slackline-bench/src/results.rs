//! The results file: everything that a reader needs to judge a number or to reproduce it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use slackline_data::WholeFile;
use slackline_transport::cores;

use crate::BenchError;
use crate::scenario::{Scenario, WorkKind};

/// Version of the layout of the results file.
pub const VERSION: u32 = 1;

/// The whole of a results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Always `slackline-bench`.
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Start of the run, UTC, in RFC 3339.
    pub date: String,
    /// The exact command.
    pub command: Vec<String>,
    /// Duration of the whole run, in seconds.
    pub seconds: f64,
    /// The machine.
    pub machine: Machine,
    /// The software.
    pub versions: Versions,
    /// The settings.
    pub settings: Settings,
    /// One entry per scenario, in the order of the runs.
    pub scenarios: Vec<ScenarioResult>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The operating system's kernel.
    pub kernel: String,
    /// Load average over a minute at the start: above about 0.3, something else was running.
    pub load_before: f64,
}

/// The software.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This program.
    pub slackline_bench: String,
    /// The compiler.
    pub rustc: String,
    /// `release` or `debug`.
    pub profile: String,
    /// The revision of the source, with `-dirty` if files were changed; none outside a checkout.
    pub revision: Option<String>,
}

/// The settings, defaults included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Ranks of the group.
    pub ranks: usize,
    /// `shm`, `threads` or `mpi`.
    pub transport: String,
    /// Rounds of a run.
    pub rounds: usize,
    /// Runs of each lag.
    pub repetitions: usize,
    /// Rounds to measure the unit of the delays.
    pub warmup: usize,
    /// Lags under test, the first of them 0.
    pub lags: Vec<usize>,
    /// `elastic` or `fixed`.
    pub delivery: String,
    /// Samples of a batch (work `model`).
    pub batch: usize,
    /// Bytes to each rank (work `slept`).
    pub bytes: usize,
    /// Microseconds that a round sleeps before it sends (work `slept`).
    pub unit_us: u64,
    /// The same, after it has sent.
    #[serde(default)]
    pub own_unit_us: u64,
    /// Rank `r` was bound to core `r` modulo cores.
    pub pin: bool,
    /// Arrival rate of the open loop, as a share of the throughput of lag 0 in the closed loop.
    pub load: f64,
    /// Random seed of delays, model and data.
    pub seed: u64,
}

/// A number over the repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median; of an even count, the mean of the two middle values.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// Percentiles over all rounds of all ranks, each with its spread over the repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: Spread,
    /// 95 of 100 are below.
    pub p95: Spread,
    /// 99 of 100 are below.
    pub p99: Spread,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Its description.
    pub scenario: Scenario,
    /// What the ranks did.
    pub work: WorkKind,
    /// Microseconds of an undelayed iteration: the unit of the delays.
    pub unit_us: f64,
    /// Microseconds between the arrivals of two batches in the open loop.
    pub interval_us: f64,
    /// What throughput counts: `samples` or `rounds`.
    pub counted: String,
    /// One entry per lag, lag 0 first.
    pub lags: Vec<LagResult>,
    /// The same work and delays over other collectives, if requested: the synchronous oracle, and MPI's own alltoallv.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baselines: Vec<BaselineResult>,
    /// The first rounds of the first repetition, for lag 0 and for one other.
    pub timelines: Vec<Timeline>,
}

/// One lag in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LagResult {
    /// The lag.
    pub lag: usize,
    /// Per second, from the start of the first rank to the end of the last.
    pub throughput: Spread,
    /// Over lag 0 of the same repetition.
    pub speedup: Spread,
    /// From the arrival of a batch to its predictions on each rank (open loop), microseconds.
    pub open_latency_us: Percentiles,
    /// From starting a batch on a rank to its predictions there (closed loop), microseconds.
    pub latency_us: Percentiles,
    /// In calls of the collective in an iteration, waiting included, microseconds.
    pub call_us: Percentiles,
    /// The most rounds that a rank was ahead of its slowest peer when it published the next one; at most `lag`.
    pub observed_lag: usize,
    /// The throughput of the rank with the most work and delay if it never waited.
    pub ideal_throughput: Spread,
    /// Throughput as a share of the ideal: at most 1, unless clocks are wrong.
    pub share_of_ideal: Spread,
    /// By the recurrence, from the work and delays measured in the lag 0 run of the same repetition, and no more than its
    /// processor time allows on all cores.
    pub predicted_throughput: Spread,
    /// Predicted for this lag over predicted for lag 0.
    pub predicted_speedup: Spread,
    /// The share of its time that each rank spent in calls.
    pub waiting: Vec<f64>,
}

/// One collective without bounded lag in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineResult {
    /// What it is: `synchronous oracle`, or a call of MPI and how it is used.
    pub name: String,
    /// Rounds under way beside the newest.
    pub lag: usize,
    /// Per second, as that of the lags.
    pub throughput: Spread,
    /// Throughput as a share of the ideal of its own run.
    pub share_of_ideal: Spread,
}

/// The activities of all ranks over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The lag.
    pub lag: usize,
    /// One list per rank.
    pub ranks: Vec<Vec<Segment>>,
}

/// An activity of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The kind of activity.
    pub kind: Activity,
    /// The round started last.
    pub round: usize,
    /// Since the run began.
    pub begin_us: f64,
    /// Since the run began.
    pub end_us: f64,
}

/// Kinds of activity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Its injected delay.
    Delay,
    /// Work.
    Work,
    /// A call of the collective: nearly all of it waiting.
    Wait,
}

impl Spread {
    /// The spread of some numbers.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn of(mut numbers: Vec<f64>) -> Self {
        assert!(!numbers.is_empty(), "a spread of nothing");
        numbers.sort_by(f64::total_cmp);
        let (low, high) = ((numbers.len() - 1) / 2, numbers.len() / 2);
        let median = (numbers[low] + numbers[high]) / 2.0;
        Spread { median, min: numbers[0], max: numbers[numbers.len() - 1] }
    }
}

impl Results {
    /// The file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("results have text keys only")
    }
}

/// Writes a file under a temporary name and renames it when it is whole.
///
/// # Errors
///
/// [`BenchError::File`].
pub fn write_whole(file: &Path, text: &str) -> Result<(), BenchError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(BenchError::file("creating", folder))?;
    let mut whole = WholeFile::create(file).map_err(BenchError::file("writing", file))?;
    whole.write_all(text.as_bytes()).and_then(|()| whole.finish()).map_err(BenchError::file("writing", file))
}

impl Machine {
    /// This machine, as its kernel describes it; `unknown` and 0 where it does not.
    pub fn this() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let kilobytes = value(&memory, "MemTotal").and_then(|value| value.split_whitespace().next()?.parse().ok());
        Machine {
            cpu: value(&cpus, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: cores::count(),
            memory_bytes: kilobytes.unwrap_or(0u64) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}

impl Versions {
    /// This program's.
    pub fn this() -> Self {
        Versions {
            slackline_bench: env!("CARGO_PKG_VERSION").to_owned(),
            rustc: env!("SLACKLINE_BENCH_RUSTC").to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            revision: revision(),
        }
    }
}

fn revision() -> Option<String> {
    // The program usually lies in the checkout that it was built from; otherwise the current folder may be one.
    let beside = std::env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned()));
    let folders = beside.into_iter().chain(std::env::current_dir().ok());
    folders.into_iter().find_map(|folder| {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(["describe", "--always", "--dirty", "--abbrev=12"]);
        let output = git.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    })
}

/// The current time in UTC, in RFC 3339.
pub fn now() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date; the algorithm is Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_767_225_600), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn spreads_have_the_median_in_the_middle() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
    }

    #[test]
    fn files_appear_whole_and_replace_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/results.json");
        write_whole(&file, "one").unwrap();
        write_whole(&file, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
