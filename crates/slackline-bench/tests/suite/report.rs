//! The report and the tables of a canned result.

use slackline_bench::results::{
    Activity, BaselineResult, LagResult, Machine, Percentiles, Results, ScenarioResult, Segment, Settings, Spread,
    Timeline, Versions,
};
use slackline_bench::scenario::{Scenario, WorkKind};
use slackline_bench::{render, report};

fn about(median: f64) -> Spread {
    Spread { median, min: median * 0.9, max: median * 1.1 }
}

fn lag(lag: usize, throughput: f64) -> LagResult {
    let times = |us| Percentiles { p50: about(us), p95: about(2.0 * us), p99: about(3.0 * us) };
    LagResult {
        lag,
        throughput: about(throughput),
        speedup: about(throughput / 20_000.0),
        open_latency_us: times(987.0),
        latency_us: times(1230.0),
        call_us: times(456.0),
        observed_lag: lag + 1,
        ideal_throughput: about(40_000.0),
        share_of_ideal: Spread { median: throughput / 40_000.0, min: 0.4, max: 0.99 },
        predicted_throughput: about(34_567.0),
        predicted_speedup: about(1.728),
        waiting: vec![0.25, 0.125],
    }
}

fn canned() -> Results {
    let timeline = |lag| {
        let segment = |kind, begin_us, end_us| Segment { kind, round: 0, begin_us, end_us };
        let rank = vec![
            segment(Activity::Delay, 0.0, 500.0),
            segment(Activity::Work, 500.0, 900.0),
            segment(Activity::Wait, 900.0, 1500.0),
        ];
        Timeline { lag, ranks: vec![rank.clone(), rank] }
    };
    let scenario = |name: &str| ScenarioResult {
        scenario: Scenario { words: "Less < more & \"quoted\".".to_owned(), ..Scenario::load(name).unwrap() },
        work: WorkKind::Model,
        unit_us: 2500.0,
        interval_us: 2800.0,
        counted: "samples".to_owned(),
        lags: vec![lag(0, 20_000.0), lag(4, 39_876.0)],
        baselines: vec![BaselineResult {
            name: "MPI_Alltoallv".to_owned(),
            lag: 0,
            throughput: Spread { median: 10_000.0, min: 9_000.0, max: 11_000.0 },
            share_of_ideal: Spread { median: 0.25, min: 0.2, max: 0.3 },
        }],
        timelines: vec![timeline(0), timeline(4)],
    };
    Results {
        format: "slackline-bench".to_owned(),
        version: 1,
        date: "2026-01-02T03:04:05Z".to_owned(),
        command: vec!["slackline-bench".to_owned(), "run".to_owned()],
        seconds: 12.0,
        machine: Machine {
            cpu: "Abacus <9>".to_owned(),
            cores: 2,
            memory_bytes: 24 << 30,
            kernel: "6.1".to_owned(),
            load_before: 0.1,
        },
        versions: Versions::this(),
        settings: Settings {
            ranks: 2,
            transport: "shm".to_owned(),
            rounds: 10,
            repetitions: 3,
            warmup: 5,
            lags: vec![0, 4],
            delivery: "elastic".to_owned(),
            batch: 128,
            bytes: 4096,
            unit_us: 1000,
            own_unit_us: 0,
            pin: false,
            load: 0.9,
            seed: 1,
        },
        scenarios: vec![scenario("turn"), scenario("slow")],
    }
}

/// Every element is closed in the order in which it was opened, and no `<` or `&` stands in text.
fn assert_well_formed(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html.strip_prefix("<!DOCTYPE html>").expect("a document type first");
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
        for (at, _) in text.match_indices('&') {
            assert!(entities.iter().any(|entity| text[at..].starts_with(entity)), "a bare & in {text:?}");
        }
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "a bare < before {tag:?}");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag has a name"));
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} are still open");
}

#[test]
fn the_report_is_well_formed_fetches_nothing_and_has_the_numbers() {
    let html = report(&canned());
    assert_well_formed(&html);
    for word in ["http:", "https:", "<script", "url(\""] {
        assert!(!html.contains(word), "{word}");
    }
    // Speed-up, share of the ideal, latency, prediction, unit, waiting; machine and words escaped; both time lines.
    let numbers =
        ["1.99x", "99.7 %", "1.23 / 2.46 / 3.69", "0.99 / 1.97 / 2.96", "2.80 ms", "34567", "2.50 ms", "25 / 12 %"];
    let words =
        ["Abacus &lt;9&gt;", "Less &lt; more &amp; &quot;quoted&quot;", "lag 4", "no gain expected", "2026-01-02"];
    for expected in numbers.iter().chain(&words) {
        assert!(html.contains(expected), "{expected} is missing");
    }
    assert_eq!(html.matches("<svg").count(), 8);
    assert!(!html.contains("NaN") && !html.contains("inf\""), "every coordinate is a number");
}

#[test]
fn the_tables_have_the_numbers_and_name_the_control() {
    let text = render(&canned());
    for expected in
        ["39876 (35888-43864)", "1.99x", "99.7 %", "0.46 / 0.91 / 1.37", "slow (slow:rank=0,x1)  [negative control"]
    {
        assert!(text.contains(expected), "{expected} is missing in {text}");
    }
    assert!(!text.contains("above 100 %: measurement error"));
}

#[test]
fn more_than_the_ideal_is_marked_as_a_mistake() {
    let mut results = canned();
    results.scenarios[0].lags[1].share_of_ideal.max = 1.001;
    assert!(render(&results).contains("above 100 %: measurement error"));
}

#[test]
fn the_results_file_reads_back_as_it_was_written() {
    let results = canned();
    let back: Results = serde_json::from_str(&results.to_json()).unwrap();
    assert_eq!(back, results);
}
