//! The report: one self-contained HTML file.

use std::fmt::Write;

use crate::results::{Results, ScenarioResult};
use crate::scenario::{Expect, WorkKind};
use crate::{svg, table};

const STYLE: &str = include_str!("report.css");

/// The report of a run.
pub fn report(results: &Results) -> String {
    let settings = &results.settings;
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"/><meta name=\"viewport\" \
         content=\"width=device-width\"/><title>Bounded lag, measured</title><style>{STYLE}</style></head>\n<body>\n\
         <h1>Bounded lag, measured</h1>\n"
    );
    let _ = writeln!(
        out,
        "<p class=\"lead\">{} rank {} ran the same rounds synchronously (lag 0) and with bounded lag ({}), with delays \
         injected by sleeping. Every output of every run was compared bit for bit with a computation in one process before \
         any time was evaluated; all were equal.</p>",
        settings.ranks,
        if settings.transport == "threads" { "threads" } else { "processes" },
        settings.lags.iter().skip(1).map(usize::to_string).collect::<Vec<_>>().join(", ")
    );
    overview(&mut out, results);
    for scenario in &results.scenarios {
        section(&mut out, scenario, settings.load);
    }
    out.push_str("<h2>Terms</h2>\n<dl>");
    for (term, words) in table::legend(results) {
        let _ = write!(out, "<dt>{}</dt><dd>{}.</dd>", escape(term), escape(words));
    }
    out.push_str("</dl>\n<h2>Machine and settings</h2>\n<table class=\"facts\"><tbody>");
    for (name, value) in facts(results) {
        let _ = write!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    out.push_str("</tbody></table>\n</body>\n</html>\n");
    out
}

fn overview(out: &mut String, results: &Results) {
    out.push_str(
        "<table class=\"overview\"><thead><tr><th>scenario</th><th>expected</th><th>best lag</th><th>speed-up</th>\
         <th>of ideal there</th></tr></thead><tbody>",
    );
    for result in &results.scenarios {
        let best = result.lags.iter().max_by(|a, b| a.speedup.median.total_cmp(&b.speedup.median));
        let Some(best) = best else { continue };
        let _ = writeln!(
            out,
            "<tr><td><a href=\"#{0}\">{0}</a></td><td>{1}</td><td>{2}</td><td>{3:.2}x ({4:.2}-{5:.2})</td><td>{6:.1} %</td></tr>",
            escape(&result.scenario.name),
            if result.scenario.expect == Expect::Gain { "gain" } else { "no gain (control)" },
            best.lag,
            best.speedup.median,
            best.speedup.min,
            best.speedup.max,
            100.0 * best.share_of_ideal.median
        );
    }
    out.push_str("</tbody></table>\n");
}

fn section(out: &mut String, result: &ScenarioResult, load: f64) {
    let scenario = &result.scenario;
    let work = match result.work {
        WorkKind::Model => "inference with a synthetic recommendation model",
        WorkKind::Slept => "slept work and a checked exchange",
    };
    let _ = write!(
        out,
        "<h2 id=\"{}\">{}</h2>\n<p>{} <span class=\"note\">Work: {work}. Delays: <code>{}</code>, in units of an undelayed \
         iteration ({:.2} ms).</span></p>",
        escape(&scenario.name),
        escape(&table::title(result)),
        escape(&scenario.words),
        escape(&scenario.delay.to_string()),
        result.unit_us / 1e3
    );
    let _ = writeln!(
        out,
        "<div class=\"charts\"><figure>{}<figcaption>Bars: measured, with the smallest and largest repetition; the number \
         in a bar is the speed-up over lag 0. The line is the ideal of the same run; diamonds are the prediction of the \
         recurrence.</figcaption></figure><figure>{}<figcaption>Open loop: a batch arrives every \
         {:.2} ms, at {load} of the throughput of lag 0; latency from its arrival to its predictions on each rank.</figcaption></figure>\
         <figure>{}<figcaption>Closed loop: the next batch is always there; latency from starting it on a rank to its \
         predictions there. A rank that is ahead starts earlier.</figcaption></figure></div>",
        svg::throughput(result),
        svg::latency(result, "open loop latency, ms", |lag| &lag.open_latency_us),
        result.interval_us / 1e3,
        svg::latency(result, "closed loop latency, ms", |lag| &lag.latency_us)
    );
    let _ = writeln!(
        out,
        "<figure class=\"wide\">{}<figcaption>The first rounds of the first repetition: <span class=\"key work\"></span> work, \
         <span class=\"key delay\"></span> injected delay, <span class=\"key wait\"></span> waiting in the collective. A thin \
         line marks the start of a round.</figcaption></figure>",
        svg::timelines(&result.timelines)
    );
    out.push_str("<div class=\"scroll\"><table><thead><tr>");
    for name in table::header(&result.counted) {
        let _ = write!(out, "<th>{}</th>", escape(&name));
    }
    out.push_str("<th>waiting by rank</th></tr></thead><tbody>");
    for (row, lag) in table::rows(result).into_iter().zip(&result.lags) {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escape(&cell));
        }
        let waiting: Vec<String> = lag.waiting.iter().map(|share| format!("{:.0}", 100.0 * share)).collect();
        let _ = write!(out, "<td>{} %</td></tr>", waiting.join(" / "));
    }
    let _ = writeln!(out, "</tbody></table></div>\n<p class=\"note\">{}.</p>", escape(&table::verified(result)));
    if result.baselines.is_empty() {
        return;
    }
    out.push_str("<div class=\"scroll\"><table><thead><tr>");
    for name in table::BASELINE_HEADER {
        let _ = write!(out, "<th>{}</th>", escape(&name.replace('N', &result.counted)));
    }
    out.push_str("</tr></thead><tbody>");
    for row in table::baseline_rows(result) {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = write!(out, "<tr>{cells}</tr>");
    }
    out.push_str("</tbody></table></div>\n");
}

fn facts(results: &Results) -> Vec<(&'static str, String)> {
    let Results { machine, versions, settings, .. } = results;
    vec![
        ("date", format!("{}, {:.0} s in all", results.date, results.seconds)),
        ("command", results.command.join(" ")),
        ("processor", format!("{}, {} cores", machine.cpu, machine.cores)),
        ("memory", format!("{:.1} GiB", machine.memory_bytes as f64 / f64::from(1 << 30))),
        ("kernel", machine.kernel.clone()),
        ("load before the run", format!("{:.2}", machine.load_before)),
        ("slackline-bench", format!("{} ({})", versions.slackline_bench, versions.profile)),
        ("revision", versions.revision.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("compiler", versions.rustc.clone()),
        ("ranks, transport", format!("{}, {}", settings.ranks, settings.transport)),
        ("rounds a run, repetitions", format!("{}, {}", settings.rounds, settings.repetitions)),
        ("batch", format!("{} samples", settings.batch)),
        ("delivery", settings.delivery.clone()),
        ("bound to cores", if settings.pin { "yes" } else { "no" }.to_owned()),
        ("seed", settings.seed.to_string()),
    ]
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
