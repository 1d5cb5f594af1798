//! Runs scenarios: starts the ranks, verifies their outputs, and only then evaluates times.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slackline_collective::Delivery;
use slackline_transport::shm::{Segment, attach_at};
use slackline_transport::{Endpoint, threads};

use crate::measure::{Experiment, RankRecord, measure};
use crate::model::{ModelTask, ModelWork};
#[cfg(feature = "mpi")]
use crate::mpi_rounds::{MpiRounds, Way};
use crate::ranks::{self, Transport};
use crate::results::{self, Machine, Results, ScenarioResult, Settings, Versions};
use crate::scenario::{Scenario, WorkKind};
use crate::slept::{self, Slept};
use crate::variant::{Other, Variant, oracle_shape};
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
    /// Whether the same runs over what has no bounded lag: the synchronous oracle and, over MPI, MPI's own alltoallv.
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
    /// The address of the memory that the oracle exchanges over, for rank processes.
    oracle: Option<String>,
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
                    crate::error::say("creating the model");
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
            variants: variants(options, &lags),
            fixed: options.delivery == Delivery::Fixed,
            delay: scenario.delay.clone(),
            seed: options.seed,
            load: options.load,
            flip: options.flip,
            progress: options.progress,
        };
        scenarios.push(run_scenario(
            options,
            scenario,
            kind,
            MeasureTask { experiment, work, oracle: None },
            folder.path(),
        )?);
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
    ranks::work(folder, |endpoint, task: &MeasureTask| {
        let attach = |address: &String| attach_at(address, endpoint.rank());
        let oracle = task.oracle.as_ref().map(attach).transpose()?;
        task.on(endpoint, oracle.map(Other::oracle).into_iter().collect())
    })
}

/// The collectives under test, in the order of their places in an experiment.
fn variants(options: &RunOptions, lags: &[usize]) -> Vec<Variant> {
    let mut variants: Vec<Variant> = lags.iter().map(|lag| Variant::Lag(*lag)).collect();
    if options.baselines {
        variants.push(Variant::Oracle);
        #[cfg(feature = "mpi")]
        if let Transport::Mpi(_) = options.transport {
            // Without another round under way it would be the overlapped one again.
            let deep = lags.iter().filter(|lag| **lag > 0).map(|lag| Way::Deep(*lag));
            variants.extend([Way::Blocking, Way::Overlapped].into_iter().chain(deep).map(Variant::Mpi));
        }
    }
    variants
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
    if options.pin && matches!(options.transport, Transport::Threads) {
        return wrong("--pin needs --transport shm or mpi: threads are not bound to cores");
    }
    Ok(())
}

fn run_scenario(
    options: &RunOptions,
    scenario: &Scenario,
    kind: WorkKind,
    mut task: MeasureTask,
    folder: &Path,
) -> Result<ScenarioResult, BenchError> {
    let largest = match &task.work {
        WorkTask::Model(model) => model.largest_message()?,
        WorkTask::Slept { bytes, .. } => *bytes,
    };
    let shape = task.experiment.shape(largest);
    // The oracle has a group of its own, since a group looks after all lanes of its endpoint.
    let oracle = options.baselines.then(|| oracle_shape(options.ranks, largest));
    let records = match &options.transport {
        Transport::Shm => {
            let segment = oracle.as_ref().map(Segment::create).transpose()?;
            task.oracle = segment.as_ref().map(Segment::address);
            ranks::launch(RANK_COMMAND, shape, &task, options.pin, folder)?
        }
        Transport::Threads => {
            let mut oracles = oracle.as_ref().map(threads::group).transpose()?.unwrap_or_default().into_iter();
            let ends = threads::group(&shape)?.into_iter().map(|endpoint| (endpoint, oracles.next())).collect();
            ranks::on_threads(ends, |(endpoint, oracle)| {
                task.on(endpoint, oracle.map(Other::oracle).into_iter().collect())
            })?
        }
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => {
            job.pin(options.pin);
            let mut others = Vec::new();
            for variant in &task.experiment.variants {
                match variant {
                    Variant::Lag(_) => {}
                    Variant::Oracle => others.push(Other::oracle(job.join(oracle.as_ref().expect("it is asked for"))?)),
                    Variant::Mpi(way) => {
                        others.push(Other::Mpi(MpiRounds::new(job.world(), *way, !task.experiment.fixed)?));
                    }
                }
            }
            job.gather(&task.on(job.join(&shape)?, others)?)?
        }
    };
    let verify = || -> Result<(), BenchError> {
        let MeasureTask { experiment, work, .. } = &task;
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
        baselines: summary::baselines(experiment, &records, counted),
        timelines: summary::timelines(experiment, &records),
    })
}

impl MeasureTask {
    fn on<E: Endpoint>(&self, endpoint: E, others: Vec<Other<E>>) -> Result<RankRecord, BenchError> {
        let rank = endpoint.rank();
        let MeasureTask { experiment, work, .. } = self;
        match work {
            WorkTask::Model(model) => measure(endpoint, others, experiment, &mut ModelWork::open(model, rank)?),
            &WorkTask::Slept { unit_ns, own_ns, bytes } => {
                let (unit, own_unit) = (Duration::from_nanos(unit_ns), Duration::from_nanos(own_ns));
                let mut slept = Slept::new(rank, experiment.ranks, experiment.seed, unit, own_unit, bytes);
                measure(endpoint, others, experiment, &mut slept)
            }
        }
    }
}
