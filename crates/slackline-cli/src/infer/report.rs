//! The report of `slackline infer`.

use serde::Serialize;
use slackline_data::Transforms;

use super::Job;
use super::answers::{Answers, Predicted, RankStats};
use super::latencies::Latencies;
use crate::metrics::Quality;
use crate::progress::bytes;

const DEFINITION: &str = "from starting a batch that has been read until the rank's own predictions are ready; all \
batches on all ranks; closed loop: a rank starts the next batch as soon as it may; percentiles to 0.1 %";

/// The outcome of a run.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    model: &'a std::path::Path,
    input: &'a std::path::Path,
    format: String,
    /// What was done to the values of the input, and what the model directory records of the training.
    dense_transform: String,
    sparse_transform: String,
    preprocessing: Option<String>,
    #[serde(skip)]
    treatment: String,
    rows: u64,
    /// Of an earlier run, which this one has resumed. They count for the quality, and for no time.
    resumed_rows: u64,
    labelled: bool,
    #[serde(flatten)]
    quality: Quality,
    not_a_number: u64,
    ranks: usize,
    transport: String,
    lag: usize,
    delivery: String,
    delay: String,
    batch: usize,
    load: String,
    /// Of the slowest rank. Both phases come before the first batch and are not part of `seconds`.
    load_seconds: f64,
    warmup_seconds: f64,
    seconds: f64,
    rows_per_second: f64,
    latency: Option<Latency>,
    /// The largest lookup time of a rank divided by the mean: measured, and estimated by the plan.
    lookup_imbalance: f64,
    planned_imbalance: f64,
    per_rank: &'a [RankStats],
    output: Option<&'a std::path::Path>,
}

/// Latency in milliseconds.
#[derive(Serialize)]
struct Latency {
    definition: &'static str,
    count: u64,
    p50_ms: f32,
    p95_ms: f32,
    p99_ms: f32,
    max_ms: f32,
}

impl<'a> Report<'a> {
    pub(super) fn new(job: &'a Job<'_>, answers: &'a Answers) -> Self {
        let args = job.args;
        let Predicted { rows, resumed, labelled, quality, not_a_number, ref latencies, .. } = answers.predicted;
        let seconds = answers.elapsed.as_secs_f64();
        Report {
            model: &args.model,
            input: &args.input,
            format: job.format.to_string(),
            dense_transform: job.transforms.dense.to_string(),
            sparse_transform: job.transforms.sparse.to_string(),
            preprocessing: job.reading.trained.map(|trained| trained.to_string()),
            treatment: treatment(job),
            rows,
            resumed_rows: resumed,
            labelled,
            quality,
            not_a_number,
            ranks: job.shape.ranks,
            transport: args.transport.to_string(),
            lag: args.lag,
            delivery: args.delivery.to_string(),
            delay: args.delay.to_string(),
            batch: args.batch,
            load: args.load.to_string(),
            load_seconds: largest(answers.ranks.iter().map(|rank| rank.load_seconds)),
            warmup_seconds: largest(answers.ranks.iter().map(|rank| rank.warmup_seconds)),
            seconds,
            rows_per_second: (rows - resumed) as f64 / seconds.max(1e-9),
            latency: Latency::of(latencies),
            lookup_imbalance: imbalance(answers.ranks.iter().map(|rank| rank.lookup_seconds)),
            planned_imbalance: job.plan.cost_imbalance(),
            per_rank: &answers.ranks,
            output: args.output.as_deref(),
        }
    }

    /// One JSON object and a line end.
    pub(super) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("numbers and strings are JSON");
        format!("{text}\n")
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut lines = vec![
            format!("{} rows of {} ({})", self.rows, self.input.display(), self.format),
            format!(
                "{} {} ({}), batches of {}, lag {}, {} delivery",
                self.ranks,
                if self.ranks == 1 { "rank" } else { "ranks" },
                self.transport,
                self.batch,
                self.lag,
                self.delivery
            ),
        ];
        lines.push(self.treatment.clone());
        if self.delay != "none" {
            lines.push(format!("injected delays: {}", self.delay));
        }
        if self.resumed_rows > 0 {
            lines.push(format!("resumed: {} of the rows were there", self.resumed_rows));
        }
        lines.push(String::new());
        if self.labelled {
            let quality = &self.quality;
            let number = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.6}"));
            let needs = if quality.auc.is_none() { "  (needs both labels, 0 and 1)" } else { "" };
            let error = quality.auc_error.filter(|error| *error > 0.0);
            let within = error.map_or(String::new(), |error| format!(" +- {error:.1e} at most"));
            lines.push(format!("AUC           {}{within}{needs}", number(quality.auc)));
            lines.push(format!("log loss      {}", number(quality.log_loss)));
        }
        if self.not_a_number > 0 {
            lines.push(format!("NaN           {} predictions", self.not_a_number));
        }
        let (load, warmup) = (self.load_seconds, self.warmup_seconds);
        lines.push(format!("start         tables {} in {load:.3} s, warmed up in {warmup:.3} s", self.load));
        lines.push(format!("throughput    {:.0} rows/s ({:.3} s)", self.rows_per_second, self.seconds));
        if let Some(latency) = &self.latency {
            let Latency { p50_ms, p95_ms, p99_ms, max_ms, .. } = latency;
            lines.push(format!(
                "latency       p50 {p50_ms:.3} ms, p95 {p95_ms:.3} ms, p99 {p99_ms:.3} ms, max {max_ms:.3} ms"
            ));
        }
        let lags: Vec<String> = self.per_rank.iter().map(|rank| rank.observed_lag.to_string()).collect();
        lines.push(format!("observed lag  {} rounds", lags.join(", ")));
        let waits: Vec<String> = self.per_rank.iter().map(|rank| format!("{:.3}", rank.blocked_seconds)).collect();
        lines.push(format!("waited        {} s", waits.join(", ")));
        let lookups: Vec<String> = self.per_rank.iter().map(|rank| format!("{:.3}", rank.lookup_seconds)).collect();
        let (measured, planned) = (self.lookup_imbalance, self.planned_imbalance);
        let balance = format!(" (largest / mean {measured:.2}, planned {planned:.2})");
        lines.push(format!("lookups       {} s{}", lookups.join(", "), if self.ranks > 1 { &balance } else { "" }));
        let (sent, saved) =
            self.per_rank.iter().fold((0, 0), |(sent, saved), rank| (sent + rank.sent_bytes, saved + rank.saved_bytes));
        if saved > 0 {
            let share = 100.0 * saved as f64 / (sent + saved) as f64;
            lines.push(format!("sent          {}; copies of hot rows saved {share:.1} %", bytes(sent)));
        } else if sent > 0 {
            lines.push(format!("sent          {}", bytes(sent)));
        }
        if let Some(output) = self.output {
            lines.push(format!("predictions   {}", output.display()));
        }
        lines.push(String::new());
        if self.latency.is_some() {
            lines.push(format!("latency: {DEFINITION}."));
        }
        lines.push(
            "observed lag: the most rounds that a rank was ahead of its slowest peer when it published the next one, at most \
             the lag.\nwaited: for rounds that were due. lookups: time in table lookups. One value per rank, in rank order."
                .to_owned(),
        );
        lines.push(String::new());
        lines.join("\n")
    }
}

/// What was done to the values of the input, in words.
fn treatment(job: &Job<'_>) -> String {
    let Transforms { dense, sparse } = job.transforms;
    let trained = match job.reading.trained {
        Some(trained) => format!("the model directory records {trained}"),
        None => "the model directory records no preprocessing".to_owned(),
    };
    let (formula, rule) = (dense.formula(), sparse.rule());
    format!("dense features: {dense}, {formula}; categories: {sparse}, {rule}; {trained}")
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn imbalance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (count, sum) = values.clone().fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if sum > 0.0 { values.fold(0.0, f64::max) * count / sum } else { 1.0 }
}

impl Latency {
    fn of(latencies: &Latencies) -> Option<Self> {
        let [p50, p95, p99, max] = [50, 95, 99, 100].map(|percent| latencies.percentile(percent));
        Some(Latency {
            definition: DEFINITION,
            count: latencies.count(),
            p50_ms: p50?,
            p95_ms: p95?,
            p99_ms: p99?,
            max_ms: max?,
        })
    }
}
