//! Checks that no compiler makes: which crate may use which, whether files use each other in circles, how long they are,
//! where `unsafe` stands, and what the README promises.

mod circles;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::source::Source;
use crate::{cargo, root, target_dir};

/// Which crates of this workspace a crate may depend on: the arrows of `docs/architecture.md`. Tests may use more.
const ARROWS: &[(&str, &[&str])] = &[
    ("slackline-transport", &[]),
    ("slackline-collective", &["slackline-transport"]),
    ("slackline-mpi", &["slackline-transport"]),
    ("slackline-embedding", &[]),
    ("slackline-checkpoint", &[]),
    ("slackline-data", &[]),
    ("slackline-dlrm", &["slackline-collective", "slackline-embedding", "slackline-checkpoint", "slackline-data"]),
    (
        "slackline-bench",
        &[
            "slackline-transport",
            "slackline-collective",
            "slackline-mpi",
            "slackline-embedding",
            "slackline-data",
            "slackline-dlrm",
        ],
    ),
    ("slackline-torch", &["slackline-collective", "slackline-dlrm", "slackline-embedding"]),
    ("slackline", LAYERS),
    ("slackline-cli", LAYERS),
    ("xtask", &[]),
    (
        "slackline-benches",
        &["slackline-transport", "slackline-collective", "slackline-embedding", "slackline-data", "slackline-dlrm"],
    ),
];

/// What the facade re-exports, and the command line uses.
const LAYERS: &[&str] = &[
    "slackline-transport",
    "slackline-collective",
    "slackline-mpi",
    "slackline-embedding",
    "slackline-checkpoint",
    "slackline-data",
    "slackline-dlrm",
];

const MOST_LINES: usize = 600;

/// Modules that may hold `unsafe`: folders or files of these names.
const UNSAFE_MODULES: &[&str] = &["shm", "simd", "mmap", "ffi"];

/// Runs every check and reports all that fails.
pub(crate) fn run() -> Result<()> {
    let sources = check_sources();
    // Both are said: the README's commands need the programs, which may have to be built first.
    let readme = report(readme);
    sources.and(readme)?;
    println!("tidy: the README's commands are in order");
    Ok(())
}

/// The checks for which nothing has to be built.
pub(crate) fn without_programs() -> Result<()> {
    check_sources()
}

fn check_sources() -> Result<()> {
    report(|complaints| {
        arrows(complaints)?;
        let files = tracked_files()?;
        let mut sources = Vec::new();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rs")) {
            let text = fs::read_to_string(root().join(file)).with_context(|| file.display().to_string())?;
            let source = Source::read(file, &text)?;
            source_file(&source, &text, complaints);
            sources.push(source);
        }
        for src in circles::roots(&files) {
            circles::check(&src, &sources, complaints);
        }
        println!("tidy: looked at the crates' arrows and {} source files", sources.len());
        Ok(())
    })
}

/// Prints what a check complains about, and fails where it does.
fn report(check: impl FnOnce(&mut Vec<String>) -> Result<()>) -> Result<()> {
    let mut complaints = Vec::new();
    check(&mut complaints)?;
    complaints.iter().for_each(|complaint| eprintln!("tidy: {complaint}"));
    if !complaints.is_empty() {
        bail!("{} complaints", complaints.len());
    }
    Ok(())
}

fn arrows(complaints: &mut Vec<String>) -> Result<()> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some(may) = allowed.get(name) else {
            complaints.push(format!("{name} is not in the list of arrows (xtask/src/tidy.rs, docs/architecture.md)"));
            continue;
        };
        if package["description"].as_str().is_none_or(str::is_empty) {
            complaints.push(format!("{name} has no description"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev";
            if allowed.contains_key(other) && !in_tests && !may.contains(&other) {
                complaints.push(format!("{name} may not depend on {other}: arrows point downward"));
            }
        }
    }
    Ok(())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git").arg("ls-files").current_dir(root()).output()?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).filter(|file| root().join(file).exists()).collect())
}

fn source_file(source: &Source, text: &str, complaints: &mut Vec<String>) {
    let (file, name) = (&source.path, source.path.display());
    let lines = text.lines().count();
    if lines > MOST_LINES {
        complaints.push(format!("{name} has {lines} lines: more than {MOST_LINES} are usually two concepts"));
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        complaints.push(format!("{name} does not begin with a //! line that says what it is for"));
    }
    let crate_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    if crate_root && !text.contains("#![forbid(unsafe_code)]") && !text.contains("#![deny(unsafe_code)]") {
        complaints.push(format!("{name} neither forbids nor denies unsafe code"));
    }
    let named_for_it = file.iter().any(|part| {
        let stem = Path::new(part).file_stem().unwrap_or_default();
        UNSAFE_MODULES.iter().any(|module| stem == *module)
    });
    if let (Some(line), false) = (source.unsafe_lines.first(), named_for_it) {
        complaints.push(format!("{name}:{line}: unsafe code outside a module named {}", UNSAFE_MODULES.join(", ")));
    }
}

/// Every `cargo` and `slackline` command in the README's code blocks names a command and options that exist.
fn readme(complaints: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join("README.md")).context("README.md")?;
    // All programs in one build, with the features that `cargo build --release` gives them, so that nothing is built twice.
    crate::run(cargo().args(["build", "--quiet", "--release"]))?;
    let mut help = BTreeMap::new();
    for (number, line) in code_lines(&text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unknown = match words.as_slice() {
            ["cargo", "xtask", "bench", rest @ ..] => {
                let command: Vec<&str> = rest.iter().copied().take_while(|word| !word.starts_with('-')).collect();
                missing_options(&mut help, "slackline-bench", &command[..command.len().min(1)], rest)?
            }
            ["cargo", "xtask", command, ..] => {
                (!["tidy", "ci", "instructions", "torch-test", "help"].contains(command)).then(|| command.to_string())
            }
            ["slackline", command, rest @ ..] => missing_options(&mut help, "slackline", &[command], rest)?,
            _ => None,
        };
        if let Some(unknown) = unknown {
            complaints.push(format!("README.md line {number}: `{line}`: there is no {unknown}"));
        }
    }
    if help.is_empty() {
        complaints.push("README.md shows no command of this project".to_owned());
    }
    Ok(())
}

/// The lines of ```sh blocks, continued lines joined, with the number of their first line.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
        if line.starts_with("```") {
            inside = line == "```sh";
            continue;
        }
        if !inside || line.starts_with('#') {
            continue;
        }
        let (start, mut joined) = open.take().unwrap_or((number, String::new()));
        joined.push_str(line.trim_end_matches('\\'));
        if line.ends_with('\\') { open = Some((start, joined)) } else { lines.push((start, joined)) }
    }
    lines
}

/// The first option that the command's own help does not know, or the command itself.
fn missing_options(
    help: &mut BTreeMap<String, Option<String>>,
    program: &str,
    command: &[&str],
    words: &[&str],
) -> Result<Option<String>> {
    let key = format!("{program} {}", command.join(" "));
    if !help.contains_key(&key) {
        let path = target_dir().join("release").join(program);
        let output =
            Command::new(&path).args(command).arg("--help").output().with_context(|| path.display().to_string())?;
        let text = output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned());
        help.insert(key.clone(), text);
    }
    let Some(text) = &help[&key] else { return Ok(Some(format!("command {key}"))) };
    let options = words.iter().filter(|word| word.starts_with("--"));
    let names = options.map(|word| word.split('=').next().unwrap_or(word));
    Ok(names.filter(|name| !text.contains(*name)).map(|name| format!("option {name} of {key}")).next())
}
