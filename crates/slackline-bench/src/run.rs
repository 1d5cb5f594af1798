//! Runs scenarios: starts the ranks, verifies their outputs, and only then evaluates times.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_collective::Delivery;
use slackline_transport::{Endpoint, GroupShape, threads};

use crate::measure::{Experiment, RankRecord, measure};
use crate::model::{ModelTask, ModelWork};
use crate::ranks::{self, Transport};
use crate::results::{self, BaselineResult, Machine, Results, ScenarioResult, Settings, Versions};
use crate::scenario::{Scenario, WorkKind};
use crate::slept::{self, Slept};
use crate::{BenchError, summary};

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Ranks of the group, at least 1.
    pub ranks: usize,
    /// Rounds of a run, at least 1.
    pub rounds: usize,
    /// Runs of each lag, at least 1.
    pub repetitions: usize,
    /// Undelayed rounds to measure the unit of the delays, at least 2.
    pub warmup: usize,
    /// Lags; 0 is added if missing, since everything is compared with it.
    pub lags: Vec<usize>,
    /// What to run, in order.
    pub scenarios: Vec<Scenario>,
    /// Work of scenarios that set none.
    pub work: WorkKind,
    /// Samples of a batch (model).
    pub batch: usize,
    /// Largest number of rows in a table (model).
    pub table_rows: usize,
    /// Bytes to each rank (slept).
    pub bytes: usize,
    /// Sleep of a round before it sends (slept).
    pub unit: Duration,
    /// Sleep after it has sent, in place of a bottom MLP (slept).
    pub own_unit: Duration,
    /// How the ranks are run.
    pub transport: Transport,
    /// Whether MPI's own alltoallv runs beside it (MPI and slept work only).
    pub baselines: bool,
    /// When rounds are handed out.
    pub delivery: Delivery,
    /// Arrival rate of the open loop, as a share of the throughput of lag 0 in the closed loop; above 0, at most 10.
    pub load: f64,
    /// Whether each rank is bound to a core, if there is one for each (shm).
    pub pin: bool,
    /// Random seed of delays, model and data.
    pub seed: u64,
    /// Whether to print progress on standard error.
    pub progress: bool,
    /// The rank that flips a bit of its last output, to test that the check finds it.
    pub flip: Option<usize>,
}

/// The work of a scenario, for all ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum WorkTask {
    Model(ModelTask),
    Slept { unit_ns: u64, own_ns: u64, bytes: usize },
}

/// What a rank is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MeasureTask {
    experiment: Experiment,
    work: WorkTask,
}

/// The command of a rank process.
const RANK_COMMAND: &str = "run-rank";

/// Runs all scenarios. `command` is the command line, for the results file.
///
/// # Errors
///
/// [`BenchError::WrongOutput`] if any output of any run differs from the reference; there are no results then. And
/// [`BenchError::Settings`], [`BenchError::Scenario`], [`BenchError::Rank`] and those of the transport.
pub fn run(options: &RunOptions, command: Vec<String>) -> Result<Results, BenchError> {
    let began = Instant::now();
    let (date, machine) = (results::now(), Machine::this());
    check(options)?;
    let mut lags = options.lags.clone();
    lags.retain(|lag| *lag != 0);
    lags.insert(0, 0);
    let pin = options.pin && !matches!(options.transport, Transport::Threads) && options.ranks <= machine.cores;
    let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
    let mut model = None;
    let mut scenarios = Vec::with_capacity(options.scenarios.len());
    for scenario in &options.scenarios {
        let kind = scenario.work.unwrap_or(options.work);
        let work = match kind {
            WorkKind::Slept => WorkTask::Slept {
                unit_ns: options.unit.as_nanos() as u64,
                own_ns: options.own_unit.as_nanos() as u64,
                bytes: options.bytes,
            },
            WorkKind::Model if model.is_none() => {
                if options.progress {
                    eprintln!("creating the model");
                }
                let create =
                    || ModelTask::create(folder.path(), options.ranks, options.batch, options.table_rows, options.seed);
                let task = match &options.transport {
                    Transport::Shm | Transport::Threads => create()?,
                    #[cfg(feature = "mpi")]
                    Transport::Mpi(job) => job.once_a_node(create)?,
                };
                model = Some(task.clone());
                WorkTask::Model(task)
            }
            WorkKind::Model => WorkTask::Model(model.clone().expect("made for an earlier scenario")),
        };
        let experiment = Experiment {
            scenario: scenario.name.clone(),
            ranks: options.ranks,
            cores: machine.cores,
            rounds: options.rounds,
            warmup: options.warmup,
            repetitions: options.repetitions,
            lags: lags.clone(),
            fixed: options.delivery == Delivery::Fixed,
            delay: scenario.delay.clone(),
            seed: options.seed,
            load: options.load,
            flip: options.flip,
            progress: options.progress,
        };
        scenarios.push(run_scenario(options, scenario, kind, MeasureTask { experiment, work }, folder.path())?);
    }
    let settings = Settings {
        ranks: options.ranks,
        transport: options.transport.name().to_owned(),
        rounds: options.rounds,
        repetitions: options.repetitions,
        warmup: options.warmup,
        lags,
        delivery: options.delivery.to_string(),
        batch: options.batch,
        bytes: options.bytes,
        unit_us: options.unit.as_micros() as u64,
        own_unit_us: options.own_unit.as_micros() as u64,
        pin,
        load: options.load,
        seed: options.seed,
    };
    let seconds = began.elapsed().as_secs_f64();
    let (format, version) = ("slackline-bench".to_owned(), results::VERSION);
    Ok(Results { format, version, date, command, seconds, machine, versions: Versions::this(), settings, scenarios })
}

/// The whole life of a rank process of [`run`]: it finds its group in the environment and its task in `folder`.
///
/// # Errors
///
/// Whatever went wrong; the launcher then knows which rank failed.
pub fn rank(folder: &Path) -> Result<(), BenchError> {
    ranks::work(folder, |endpoint, task: &MeasureTask| task.on(endpoint))
}

fn check(options: &RunOptions) -> Result<(), BenchError> {
    let wrong = |why: &str| Err(BenchError::Settings(why.to_owned()));
    if options.ranks == 0 || options.rounds == 0 || options.repetitions == 0 {
        return wrong("ranks, rounds and repetitions must be at least 1");
    }
    if options.warmup < 2 {
        return wrong("warm-up needs at least 2 rounds, to measure the unit of the delays");
    }
    if !(options.load > 0.0 && options.load <= 10.0) {
        return wrong("the load of the open loop must be above 0 and at most 10");
    }
    if options.batch == 0 {
        return wrong("a batch needs at least 1 sample");
    }
    for (place, lag) in options.lags.iter().enumerate() {
        if options.lags[..place].contains(lag) {
            return wrong(&format!("lag {lag} is listed twice"));
        }
    }
    for (place, scenario) in options.scenarios.iter().enumerate() {
        if options.scenarios[..place].iter().any(|other| other.name == scenario.name) {
            return wrong(&format!("scenario {} is listed twice", scenario.name));
        }
        scenario.check(options.ranks)?;
    }
    if options.baselines && options.transport.name() != "mpi" {
        return wrong("--baselines needs --transport mpi");
    }
    if options.pin && matches!(options.transport, Transport::Threads) {
        return wrong("--pin needs --transport shm or mpi: threads are not bound to cores");
    }
    Ok(())
}

fn run_scenario(
    options: &RunOptions,
    scenario: &Scenario,
    kind: WorkKind,
    task: MeasureTask,
    folder: &Path,
) -> Result<ScenarioResult, BenchError> {
    let largest = match &task.work {
        WorkTask::Model(model) => model.largest_message()?,
        WorkTask::Slept { bytes, .. } => *bytes,
    };
    let shape = task.experiment.shape(largest);
    let records = match &options.transport {
        Transport::Shm => ranks::launch(RANK_COMMAND, shape, &task, options.pin, folder)?,
        Transport::Threads => on_threads(&shape, &task)?,
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => {
            job.pin(options.pin);
            job.on_all(&shape, |endpoint| task.on(endpoint))?
        }
    };
    let verify = || -> Result<(), BenchError> {
        let MeasureTask { experiment, work } = &task;
        match work {
            WorkTask::Model(model) => {
                let reference = model.reference()?;
                summary::verify(experiment, &records, |rank, round| reference[round as usize % reference.len()][rank])
            }
            WorkTask::Slept { bytes, .. } => summary::verify(experiment, &records, |rank, round| {
                slept::reference(experiment.ranks, experiment.seed, *bytes, rank, round)
            }),
        }
    };
    match &options.transport {
        Transport::Shm | Transport::Threads => verify()?,
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => job.on_first(verify)?,
    }
    let experiment = &task.experiment;
    let (counted, name) = match kind {
        WorkKind::Model => (options.batch, "samples"),
        WorkKind::Slept => (1, "rounds"),
    };
    Ok(ScenarioResult {
        scenario: scenario.clone(),
        work: kind,
        unit_us: records.first().map_or(0.0, |record| record.unit as f64 / 1e3),
        interval_us: records.first().map_or(0.0, |record| record.interval as f64 / 1e3),
        counted: name.to_owned(),
        lags: summary::summarise(experiment, &records, counted),
        baselines: baselines(options, &task, &records)?,
        timelines: summary::timelines(experiment, &records),
    })
}

/// MPI's own alltoallv under the same work and delays, if requested and applicable.
fn baselines(
    options: &RunOptions,
    task: &MeasureTask,
    records: &[RankRecord],
) -> Result<Vec<BaselineResult>, BenchError> {
    match (&options.transport, &task.work) {
        #[cfg(feature = "mpi")]
        (Transport::Mpi(job), WorkTask::Slept { unit_ns, own_ns, bytes }) if options.baselines => {
            let unit = records.first().map_or(0, |record| record.unit);
            crate::baselines::run(job, &task.experiment, &task.slept(job.rank(), *unit_ns, *own_ns, *bytes), unit)
        }
        _ => {
            let _ = records;
            Ok(Vec::new())
        }
    }
}

fn on_threads(shape: &GroupShape, task: &MeasureTask) -> Result<Vec<RankRecord>, BenchError> {
    let endpoints = threads::group(shape)?;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = endpoints.into_iter().map(|endpoint| scope.spawn(|| task.on(endpoint))).collect();
        let end = |(rank, thread): (usize, std::thread::ScopedJoinHandle<'_, _>)| {
            thread.join().unwrap_or_else(|_| Err(BenchError::Rank { rank, why: "it panicked".to_owned() }))
        };
        ranks.into_iter().enumerate().map(end).collect()
    })
}

impl MeasureTask {
    fn on<E: Endpoint>(&self, endpoint: E) -> Result<RankRecord, BenchError> {
        let rank = endpoint.rank();
        match &self.work {
            WorkTask::Model(model) => measure(endpoint, &self.experiment, &mut ModelWork::open(model, rank)?),
            WorkTask::Slept { unit_ns, own_ns, bytes } => {
                measure(endpoint, &self.experiment, &mut self.slept(rank, *unit_ns, *own_ns, *bytes))
            }
        }
    }

    fn slept(&self, rank: usize, unit_ns: u64, own_ns: u64, bytes: usize) -> Slept {
        let (unit, own_unit) = (Duration::from_nanos(unit_ns), Duration::from_nanos(own_ns));
        Slept::new(rank, self.experiment.ranks, self.experiment.seed, unit, own_unit, bytes)
    }
}
