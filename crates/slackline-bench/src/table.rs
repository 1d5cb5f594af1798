//! The tables on the terminal, and the meaning of their columns.

use comfy_table::{CellAlignment, Table, presets};

use crate::results::{BaselineResult, Percentiles, Results, ScenarioResult, Spread};
use crate::scenario::Expect;

/// What the columns mean: printed below the tables and in the report.
const LEGEND: [(&str, &str); 10] = [
    (
        "lag",
        "how many rounds a rank may be ahead of the oldest incomplete round; lag 0 is an ordinary, synchronous alltoallv",
    ),
    (
        "throughput",
        "median (smallest-largest) of the repetitions, from the start of the first rank to the end of the last; the lags \
         take turns in the same processes",
    ),
    ("speed-up", "over lag 0 of the same repetition; compare these, not throughputs of different runs"),
    (
        "open loop latency",
        "batches arrive at fixed times, at a share of the throughput of lag 0 (0.9, or --load); from the arrival of a batch \
         to its predictions on each rank, no matter when the rank starts the batch, so that no stall is hidden; medians over \
         the repetitions of p50 / p95 / p99 over all rounds and ranks",
    ),
    (
        "closed loop latency",
        "the next batch is always there; from starting a batch on a rank (before its delay) to its predictions there. A rank \
         that is ahead starts its batches earlier, so this grows with the lag although no rank waits longer",
    ),
    (
        "in the call",
        "time per iteration in `take`, where the collective waits; beginning and publishing a round never wait and count as \
         work",
    ),
    (
        "observed lag",
        "the most rounds that a rank was ahead of its slowest peer when it published the next one; the lag is the bound",
    ),
    (
        "of ideal",
        "the ideal is the throughput of the rank with the most work and delay if it never waited, measured in the same run \
         (time in which its work waited for a core included); no schedule exceeds 100 %",
    ),
    (
        "predicted",
        "by the recurrence F[p][i] = max(F[p][i-1], max over q of F[q][i-1-k]) + c[p][i] from the work and delays c \
         measured at lag 0, with free transfers, but not above what the processor time of lag 0 allows on all cores. Where \
         ranks share cores, this and the ideal are rough estimates: a rank that waits frees its core for the others",
    ),
    (
        "instead of bounded lag",
        "with --baselines, the same work and delays in the same processes, in turns with the lags, over: the synchronous oracle, \
         which copies everything and waits for everything; in an MPI job also MPI_Alltoallv, MPI_Ialltoallv with the work that \
         needs no other rank before the wait (as the DLRM reference does), and lag + 1 calls of MPI_Ialltoallv at once. Their \
         time in a publishing call is waiting and not work",
    ),
];

/// What the columns of these results mean.
pub(crate) fn legend(results: &Results) -> impl Iterator<Item = (&'static str, &'static str)> {
    let has_baselines = results.scenarios.iter().any(|scenario| !scenario.baselines.is_empty());
    LEGEND.into_iter().filter(move |(term, _)| has_baselines || *term != BASELINE_HEADER[0])
}

/// The heading of a scenario.
pub(crate) fn title(result: &ScenarioResult) -> String {
    let control = match result.scenario.expect {
        Expect::Gain => "",
        Expect::None => "  [negative control: no gain expected]",
    };
    format!("{} ({}){control}", result.scenario.name, result.scenario.delay)
}

/// All tables and the legend.
pub fn render(results: &Results) -> String {
    let mut out = String::new();
    for scenario in &results.scenarios {
        out.push_str(&format!("\n{}\n{}\n", title(scenario), scenario.scenario.words));
        out.push_str(&format!(
            "unit of delay (an undelayed iteration): {:.2} ms; open loop: a batch every {:.2} ms\n",
            scenario.unit_us / 1e3,
            scenario.interval_us / 1e3
        ));
        out.push_str(&table(scenario).to_string());
        out.push('\n');
        if !scenario.baselines.is_empty() {
            let mut table = styled(&BASELINE_HEADER.map(|name| name.replace("N", &scenario.counted)));
            baseline_rows(scenario).into_iter().for_each(|row| {
                table.add_row(row);
            });
            out.push_str(&format!("{table}\n"));
        }
        out.push_str(&format!("{}.\n", verified(scenario)));
    }
    out.push('\n');
    for (term, words) in legend(results) {
        out.push_str(&format!("{term}: {words}.\n"));
    }
    out
}

/// Over what every output was right, in words.
pub(crate) fn verified(result: &ScenarioResult) -> String {
    let lags: Vec<String> = result.lags.iter().map(|lag| lag.lag.to_string()).collect();
    let mut over = vec![format!("bounded lag ({})", lags.join(", "))];
    for baseline in &result.baselines {
        if !over.contains(&baseline.name) {
            over.push(baseline.name.clone());
        }
    }
    format!("every output was, bit for bit, that of one process; over: {}", over.join("; "))
}

/// The columns of [`baseline_rows`].
pub(crate) const BASELINE_HEADER: [&str; 5] =
    ["instead of bounded lag", "lag", "N/s", "of\nideal", "bounded lag's\nN/s / its"];

/// One row for each collective without bounded lag, compared with bounded lag at the same lag.
pub(crate) fn baseline_rows(result: &ScenarioResult) -> Vec<[String; 5]> {
    let row = |way: &BaselineResult| {
        let ours = result.lags.iter().find(|lag| lag.lag == way.lag);
        let ratio = ours.map_or(0.0, |ours| ours.throughput.median / way.throughput.median);
        [
            way.name.clone(),
            way.lag.to_string(),
            format!("{:.0} ({:.0}-{:.0})", way.throughput.median, way.throughput.min, way.throughput.max),
            format!("{:.1} %", 100.0 * way.share_of_ideal.median),
            format!("{ratio:.2}x"),
        ]
    };
    result.baselines.iter().map(row).collect()
}

fn styled(header: &[String]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn table(result: &ScenarioResult) -> Table {
    let mut table = styled(&header(&result.counted));
    for row in rows(result) {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The columns' names.
pub(crate) fn header(counted: &str) -> [String; 9] {
    [
        "lag".to_owned(),
        format!("{counted}/s"),
        "speed-up".to_owned(),
        "open loop ms\np50 / p95 / p99".to_owned(),
        "closed loop ms\np50 / p95 / p99".to_owned(),
        "in the call ms\np50 / p95 / p99".to_owned(),
        "observed\nlag".to_owned(),
        "of\nideal".to_owned(),
        format!("predicted\n{counted}/s"),
    ]
}

/// One row per lag.
pub(crate) fn rows(result: &ScenarioResult) -> Vec<[String; 9]> {
    let row = |lag: &crate::results::LagResult| {
        let share = 100.0 * lag.share_of_ideal.median;
        // A rank's work is part of its run, so more than 1 means that a clock is wrong.
        let flag = if lag.share_of_ideal.max > 1.0 { " (above 100 %: measurement error)" } else { "" };
        [
            lag.lag.to_string(),
            format!("{:.0} ({:.0}-{:.0})", lag.throughput.median, lag.throughput.min, lag.throughput.max),
            format!("{:.2}x ({:.2}-{:.2})", lag.speedup.median, lag.speedup.min, lag.speedup.max),
            percentiles(&lag.open_latency_us),
            percentiles(&lag.latency_us),
            percentiles(&lag.call_us),
            lag.observed_lag.to_string(),
            format!("{share:.1} %{flag}"),
            format!("{:.0} ({:.2}x)", lag.predicted_throughput.median, lag.predicted_speedup.median),
        ]
    };
    result.lags.iter().map(row).collect()
}

fn percentiles(times: &Percentiles) -> String {
    let ms = |spread: &Spread| format!("{:.2}", spread.median / 1e3);
    format!("{} / {} / {}", ms(&times.p50), ms(&times.p95), ms(&times.p99))
}

/// A number of bytes, exact and short.
pub(crate) fn bytes(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}
