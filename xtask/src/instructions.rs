//! Counts the instructions of `benches/instructions.rs` and compares them with the committed counts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use crate::{cargo, root, target_dir};
use anyhow::{Context, Result, bail};

/// The committed counts: benchmark to instructions.
const BASELINE: &str = "benches/instructions.json";

/// By how much a count may be above the committed one.
const TOLERANCE_PERCENT: u64 = 3;

type Counts = BTreeMap<String, u64>;

/// Runs `cargo xtask instructions`: compares, or with `--save` writes the committed counts anew.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let save = match args {
        [] => false,
        [arg] if arg == "--save" => true,
        _ => bail!("usage: cargo xtask instructions [--save]"),
    };
    let counts = count()?;
    let path = root().join(BASELINE);
    if save {
        fs::write(&path, serde_json::to_string_pretty(&counts)? + "\n").context(BASELINE)?;
        println!("{} counts written to {BASELINE}", counts.len());
        return Ok(());
    }
    let committed: Counts = serde_json::from_str(&fs::read_to_string(&path).context(BASELINE)?).context(BASELINE)?;
    compare(&committed, &counts)
}

/// Prints the table, and fails where a count is missing or has grown.
fn compare(committed: &Counts, counts: &Counts) -> Result<()> {
    let mut grown = Vec::new();
    println!("{:<44} {:>12} {:>12} {:>8}", "benchmark", "committed", "now", "change");
    for name in committed.keys().chain(counts.keys().filter(|name| !committed.contains_key(*name))) {
        let (before, now) = (committed.get(name), counts.get(name));
        let show = |count: Option<&u64>| count.map_or_else(|| "-".to_owned(), u64::to_string);
        let change = |(before, now): (&u64, &u64)| format!("{:+.2} %", 100.0 * (*now as f64 / *before as f64 - 1.0));
        let percent = before.zip(now).map(change).unwrap_or_default();
        println!("{name:<44} {:>12} {:>12} {percent:>8}", show(before), show(now));
        let holds = |(before, now): (&u64, &u64)| 100 * now <= (100 + TOLERANCE_PERCENT) * before;
        if !before.zip(now).is_some_and(holds) {
            grown.push(name.as_str());
        }
    }
    if !grown.is_empty() {
        bail!(
            "more than {TOLERANCE_PERCENT} % above {BASELINE}, or not in both: {}. If the change is meant, commit what \
             cargo xtask instructions --save writes, and say why",
            grown.join(", ")
        );
    }
    Ok(())
}

/// One run under callgrind.
///
/// It is driven by hand: gungraun, the harness for it, needs a runner of its own version, which takes minutes to build.
fn count() -> Result<Counts> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        bail!("valgrind is missing: apt-get install valgrind");
    }
    let profile = target_dir().join("callgrind.out");
    let mut valgrind =
        OsString::from("valgrind --quiet --tool=callgrind --toggle-collect=*counted_* --callgrind-out-file=");
    valgrind.push(&profile);
    let mut bench = cargo();
    bench.args(["bench", "--package", "slackline-benches", "--bench", "instructions"]);
    crate::run(bench.env(runner_variable(), valgrind))?;
    let text = fs::read_to_string(&profile).with_context(|| profile.display().to_string())?;
    read(&text).with_context(|| profile.display().to_string())
}

/// The variable by which cargo starts programs under another.
fn runner_variable() -> String {
    let target = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
    format!("CARGO_TARGET_{target}_RUNNER")
}

/// The instructions of each call of a counted function: three lines, of which the first names the function by a number (and
/// tells the name the first time that the number is used), and the third ends with the cost of the call.
fn read(profile: &str) -> Result<Counts> {
    let (mut names, mut counts) = (BTreeMap::new(), Counts::new());
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        let Some((kind, (number, name))) =
            line.split_once("fn=(").and_then(|(kind, rest)| Some((kind, rest.split_once(')')?)))
        else {
            continue;
        };
        if let Some((_, counted)) = name.split_once("counted_") {
            names.insert(number, counted);
        }
        if let ("c", Some(name)) = (kind, names.get(number)) {
            let cost = lines.nth(1).and_then(|line| line.split(' ').nth(1)).context("a call without its cost")?;
            *counts.entry((*name).to_owned()).or_default() += cost.parse::<u64>()?;
        }
    }
    if counts.is_empty() {
        bail!("nothing was counted");
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "fn=(7) a::counted_x\n1 2\nfn=(3) main\n1 9\ncfn=(7)\ncalls=1 3 \n+4 250\ncfn=(8) a::counted_y\n\
                           calls=1 3\n5 30\ncfn=(9) other\ncalls=1 3\n5 31\n";

    #[test]
    fn calls_of_counted_functions_are_read_by_name_and_number() {
        let counts = read(PROFILE).expect("it has two");
        assert_eq!(counts, Counts::from([("x".to_owned(), 250), ("y".to_owned(), 30)]));
        assert!(read("fn=(1) main\n").is_err());
    }

    #[test]
    fn a_count_that_grows_or_is_lost_fails() {
        let counts = |x: u64| Counts::from([("x".to_owned(), x)]);
        assert!(compare(&counts(100), &counts(103)).is_ok());
        assert!(compare(&counts(100), &counts(50)).is_ok());
        assert!(compare(&counts(100), &counts(104)).is_err());
        assert!(compare(&counts(100), &Counts::new()).is_err());
        assert!(compare(&Counts::new(), &counts(1)).is_err());
    }
}
