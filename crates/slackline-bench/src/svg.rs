//! Charts as plain SVG without scripts, fonts or links. Colours are classes of the page's style sheet.

use std::fmt::Write;

use crate::results::{Activity, LagResult, Percentiles, ScenarioResult, Timeline};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 44.0;

/// Throughput by lag as bars with their spread, beside the ideal and the prediction.
pub(crate) fn throughput(result: &ScenarioResult) -> String {
    let values = result.lags.iter();
    let most =
        values.map(|lag| lag.throughput.max.max(lag.ideal_throughput.median).max(lag.predicted_throughput.median));
    let scale = Scale::to(most.fold(0.0, f64::max));
    let mut out = open(&format!("{} per second by lag", result.counted));
    axes(&mut out, &scale, &result.lags, &format!("{} per second", result.counted));
    let mut ideal = String::new();
    for (place, lag) in result.lags.iter().enumerate() {
        let (x, width) = column(place, result.lags.len());
        let bar = width * 0.64;
        let (left, middle) = (x + (width - bar) / 2.0, x + width / 2.0);
        let rate = &lag.throughput;
        let (y, low, high) = (scale.y(rate.median), scale.y(rate.min), scale.y(rate.max));
        let class = if lag.lag == 0 { "bar base" } else { "bar" };
        let _ = write!(
            out,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{:.1}\"><title>lag {}: {:.0} \
             ({:.0} to {:.0}) {} per second, {:.2} times lag 0, {:.1} % of the ideal</title></rect>",
            HEIGHT - BOTTOM - y,
            lag.lag,
            rate.median,
            rate.min,
            rate.max,
            result.counted,
            lag.speedup.median,
            100.0 * lag.share_of_ideal.median
        );
        let _ = write!(out, "<path class=\"whisker\" d=\"M{middle:.1} {low:.1}V{high:.1}\"/>");
        let _ = write!(
            out,
            "<text class=\"value onbar\" x=\"{middle:.1}\" y=\"{:.1}\">{:.2}x</text>",
            HEIGHT - BOTTOM - 8.0,
            lag.speedup.median
        );
        let _ = write!(
            ideal,
            "{}{middle:.1} {:.1}",
            if place == 0 { "M" } else { "L" },
            scale.y(lag.ideal_throughput.median)
        );
        let predicted = scale.y(lag.predicted_throughput.median);
        let _ = write!(
            out,
            "<path class=\"predicted\" d=\"M{:.1} {predicted:.1}l6 -6l6 6l-6 6z\"><title>predicted for lag {}: {:.0}</title></path>",
            middle - 6.0,
            lag.lag,
            lag.predicted_throughput.median
        );
    }
    let _ = write!(out, "<path class=\"ideal\" d=\"{ideal}\"/>");
    legend(&mut out, &[("bar", "measured"), ("ideal", "ideal"), ("predicted", "predicted")]);
    out.push_str("</svg>");
    out
}

/// Latency percentiles by lag; `pick` says which latency.
pub(crate) fn latency(result: &ScenarioResult, title: &str, pick: fn(&LagResult) -> &Percentiles) -> String {
    let most = result.lags.iter().map(|lag| pick(lag).p99.median).fold(0.0, f64::max);
    let scale = Scale::to(most / 1e3);
    let mut out = open(&format!("{title} by lag"));
    axes(&mut out, &scale, &result.lags, title);
    type Which = fn(&Percentiles) -> f64;
    let series: [(&str, Which); 3] =
        [("p50", |times| times.p50.median), ("p95", |times| times.p95.median), ("p99", |times| times.p99.median)];
    for (name, which) in series {
        let mut path = String::new();
        for (place, lag) in result.lags.iter().enumerate() {
            let (x, width) = column(place, result.lags.len());
            let (x, y) = (x + width / 2.0, scale.y(which(pick(lag)) / 1e3));
            let _ = write!(path, "{}{x:.1} {y:.1}", if place == 0 { "M" } else { "L" });
            let _ = write!(
                out,
                "<circle class=\"{name}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{name} at lag {}: {:.2} ms</title></circle>",
                lag.lag,
                which(pick(lag)) / 1e3
            );
        }
        let _ = write!(out, "<path class=\"line {name}\" d=\"{path}\"/>");
    }
    legend(&mut out, &[("line p50", "p50"), ("line p95", "p95"), ("line p99", "p99")]);
    out.push_str("</svg>");
    out
}

/// The first rounds of every rank, one block per lag, all on one time scale.
pub(crate) fn timelines(timelines: &[Timeline]) -> String {
    const WIDE: f64 = 1140.0;
    const ROW: f64 = 18.0;
    const GAP: f64 = 30.0;
    let rows: usize = timelines.iter().map(|timeline| timeline.ranks.len()).sum();
    let height = rows as f64 * ROW + timelines.len() as f64 * GAP + 40.0;
    let ends = timelines.iter().flat_map(|timeline| &timeline.ranks).flatten().map(|segment| segment.end_us);
    let end = ends.fold(1.0, f64::max);
    let x = |us: f64| LEFT + us / end * (WIDE - LEFT - RIGHT);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\" aria-label=\"what each rank did when\"><defs><pattern id=\"hatch\" \
         width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect class=\"hatched\" \
         width=\"6\" height=\"6\"/><path class=\"hatch\" d=\"M0 0V6\"/></pattern></defs>"
    );
    let mut y = 0.0;
    for timeline in timelines {
        y += GAP;
        let _ = write!(out, "<text class=\"name\" x=\"{LEFT}\" y=\"{:.1}\">lag {}</text>", y - 8.0, timeline.lag);
        for (rank, segments) in timeline.ranks.iter().enumerate() {
            let _ = write!(
                out,
                "<text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">rank {rank}</text>",
                LEFT - 6.0,
                y + 13.0
            );
            for segment in segments {
                let class = match segment.kind {
                    Activity::Delay => "delay",
                    Activity::Work => "work",
                    Activity::Wait => "wait",
                };
                let (begin, width) = (x(segment.begin_us), x(segment.end_us) - x(segment.begin_us));
                // Less than a tenth of a pixel is invisible.
                if width >= 0.1 {
                    let _ = write!(
                        out,
                        "<rect class=\"{class}\" x=\"{begin:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"><title>rank \
                         {rank}, round {}: {class} {:.2} ms</title></rect>",
                        ROW - 3.0,
                        segment.round,
                        (segment.end_us - segment.begin_us) / 1e3
                    );
                }
                if segment.round > 0
                    && segment.kind != Activity::Wait
                    && starts_round(segments, segment.round, segment.begin_us)
                {
                    let _ = write!(out, "<path class=\"begin\" d=\"M{begin:.1} {y:.1}v{:.1}\"/>", ROW - 3.0);
                }
            }
            y += ROW;
        }
    }
    let step = nice(end / 1e3 / 10.0);
    for tick in 0..=((end / 1e3 / step) as usize) {
        let at = x(tick as f64 * step * 1e3);
        let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {GAP}V{:.1}\"/>", y + 4.0);
        let _ = write!(
            out,
            "<text class=\"tick middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            y + 18.0,
            number(tick as f64 * step)
        );
    }
    let _ = write!(out, "<text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">ms</text>", WIDE - 2.0, y + 32.0);
    out.push_str("</svg>");
    out
}

fn starts_round(segments: &[crate::results::Segment], round: usize, begin: f64) -> bool {
    segments.iter().find(|segment| segment.round == round).is_some_and(|first| first.begin_us == begin)
}

/// A vertical scale from 0.
struct Scale {
    most: f64,
    step: f64,
}

impl Scale {
    fn to(most: f64) -> Self {
        let most = if most > 0.0 { most * 1.05 } else { 1.0 };
        let step = nice(most / 5.0);
        Scale { most: (most / step).ceil() * step, step }
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.most * (HEIGHT - TOP - BOTTOM)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `least`.
fn nice(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= least * 0.999).unwrap_or(least)
}

fn number(value: f64) -> String {
    if value >= 10_000.0 {
        format!("{}k", value / 1e3)
    } else if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn column(place: usize, columns: usize) -> (f64, f64) {
    let width = (WIDTH - LEFT - RIGHT) / columns as f64;
    (LEFT + place as f64 * width, width)
}

fn open(label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")
}

fn axes(out: &mut String, scale: &Scale, lags: &[LagResult], title: &str) {
    let mut tick = 0.0;
    while tick <= scale.most * 1.001 {
        let y = scale.y(tick);
        let _ = write!(out, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
        let _ =
            write!(out, "<text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{}</text>", LEFT - 6.0, y + 4.0, number(tick));
        tick += scale.step;
    }
    for (place, lag) in lags.iter().enumerate() {
        let (x, width) = column(place, lags.len());
        let (x, y) = (x + width / 2.0, HEIGHT - BOTTOM + 18.0);
        let _ = write!(out, "<text class=\"tick middle\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", lag.lag);
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = write!(out, "<text class=\"tick middle\" x=\"{middle:.1}\" y=\"{:.1}\">lag (rounds)</text>", HEIGHT - 8.0);
    let _ = write!(out, "<text class=\"name\" x=\"8\" y=\"16\">{title}</text>");
}

fn legend(out: &mut String, entries: &[(&str, &str)]) {
    let mut x = LEFT;
    for (class, words) in entries {
        let mark = match *class {
            "bar" => format!("<rect class=\"bar\" x=\"{x:.1}\" y=\"25\" width=\"14\" height=\"10\"/>"),
            "predicted" => format!("<path class=\"predicted\" d=\"M{x:.1} 30l6 -6l6 6l-6 6z\"/>"),
            class => format!("<path class=\"{class}\" d=\"M{x:.1} 30h16\"/>"),
        };
        let _ = write!(out, "{mark}<text class=\"tick\" x=\"{:.1}\" y=\"34\">{words}</text>", x + 22.0);
        x += 92.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_on_a_round_number_above_everything() {
        for most in [0.003, 1.0, 7.0, 99.0, 12_345.0, 100_000.0] {
            let scale = Scale::to(most);
            assert!(scale.most >= most && scale.most <= 1.6 * most, "{most}: {}", scale.most);
            assert!((TOP..HEIGHT - BOTTOM).contains(&scale.y(most)));
        }
        assert_eq!((nice(0.7), nice(1.0), nice(3.0), nice(51.0)), (1.0, 1.0, 5.0, 100.0));
        assert_eq!(
            (number(0.5), number(20_000.0), number(150.0), number(0.0)),
            ("0.5".into(), "20k".into(), "150".into(), "0".into())
        );
    }
}
