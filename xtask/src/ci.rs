//! What CI runs, step by step; every step can be run alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{cargo, root, tidy, torch_test, words};

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "format", what: "cargo fmt --check", run: || say(cargo().args(["fmt", "--all", "--check"])) },
    Step {
        name: "clippy",
        what: "clippy over everything, warnings denied",
        run: || say(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    },
    Step {
        name: "docs",
        what: "the public docs, warnings denied",
        run: || say(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings")),
    },
    Step { name: "test", what: "cargo test --workspace", run: || say(cargo().args(["test", "--workspace"])) },
    Step { name: "tidy", what: "cargo xtask tidy", run: tidy::run },
    Step { name: "package", what: "every crate can be packaged", run: package },
    Step { name: "outside", what: "a program on each crate alone, and what it pulls in", run: || script("outside.sh") },
    Step {
        name: "instructions",
        what: "instructions of each layer, compared with the committed counts",
        run: || script("instructions.sh"),
    },
    Step { name: "loom", what: "the lock-free code under the model checker", run: || script("loom.sh") },
    Step { name: "fuzz", what: "the fuzz targets compile (running them is .ci/fuzz.sh)", run: fuzz_targets },
    Step { name: "faults", what: "killed, stopped and starved processes", run: || script("faults.sh") },
    Step { name: "import", what: "a large import, killed and gone on with", run: || script("import.sh") },
    Step { name: "matrix", what: "equal predictions, however they are made", run: || script("matrix.sh") },
    Step { name: "mpi", what: "the transport over MPI, on Open MPI and on MPICH", run: || script("mpi.sh") },
    Step { name: "hosts", what: "the same over TCP between hosts, where they can be made", run: || script("hosts.sh") },
    Step { name: "readme", what: "every command of the README, in order", run: || script("readme.sh") },
    Step { name: "bench", what: "a short benchmark, outputs compared", run: || script("bench.sh") },
    Step { name: "torch", what: "the Python package, with PyTorch where it can be had", run: || torch_test::run(&[]) },
];

/// Runs all steps, or those named; `quick` is what one runs before a commit.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args == ["quick"] {
        return quick();
    }
    if args.iter().any(|arg| ["--list", "--help", "-h"].contains(&arg.as_str())) {
        STEPS.iter().for_each(|step| println!("{:12} {}", step.name, step.what));
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|arg| !STEPS.iter().any(|step| step.name == arg.as_str())) {
        bail!("no step '{unknown}'; see cargo xtask ci --list");
    }
    let begin = Instant::now();
    for step in STEPS.iter().filter(|step| args.is_empty() || args.iter().any(|arg| arg == step.name)) {
        println!("\n=== {}: {}", step.name, step.what);
        let step_begin = Instant::now();
        (step.run)().with_context(|| format!("step {}", step.name))?;
        println!("=== {}: passed in {:.0} s", step.name, step_begin.elapsed().as_secs_f64());
    }
    println!("\nall passed in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Format, lints and tidiness of everything, and the tests of the crates that were touched since the last commit, or by it.
fn quick() -> Result<()> {
    let begin = Instant::now();
    let step = |name: &str| STEPS.iter().find(|step| step.name == name).expect("a step of this name");
    for name in ["format", "clippy"] {
        (step(name).run)().with_context(|| format!("step {name}"))?;
    }
    tidy::without_programs()?;
    let changed = changed_packages()?;
    if changed.is_empty() {
        println!("no crate was changed: no tests");
    } else {
        let packages = changed.iter().flat_map(|package| ["--package", package]);
        say(cargo().arg("test").args(packages))?;
    }
    println!("\nquick: passed in {:.0} s; the whole is cargo xtask ci", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The packages with files that differ from the last commit; of a clean tree, those that the last commit changed.
fn changed_packages() -> Result<BTreeSet<String>> {
    let files = |args: &[&str]| -> Result<String> {
        let output = Command::new("git").args(args).current_dir(root()).output().context("git")?;
        if !output.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut changed =
        files(&["diff", "--name-only", "HEAD"])? + &files(&["ls-files", "--others", "--exclude-standard"])?;
    if changed.is_empty() {
        changed = files(&["show", "--format=", "--name-only", "HEAD"])?;
    }
    let package = |file: &str| match file.split('/').collect::<Vec<_>>()[..] {
        ["crates", package, ..] => Some(package.to_owned()),
        ["xtask", ..] => Some("xtask".to_owned()),
        _ => None,
    };
    // A crate that is gone has no tests.
    let exists = |package: &String| package == "xtask" || root().join("crates").join(package).exists();
    Ok(changed.lines().filter_map(package).filter(exists).collect())
}

/// Prints a command, then runs it.
fn say(command: &mut Command) -> Result<()> {
    println!("+ {}", words(command));
    crate::run(command)
}

/// Runs a script of `.ci/`, which prints what it does.
fn script(name: &str) -> Result<()> {
    say(Command::new("bash").arg(Path::new(".ci").join(name)).current_dir(root()))
}

/// What is packaged is what git tracks; that each crate builds with nothing but what it asks for is the next step's.
fn package() -> Result<()> {
    say(cargo().args(["package", "--workspace", "--no-verify", "--allow-dirty", "--quiet"]))
}

/// They are a workspace of their own, which `cargo test --workspace` does not see. To check links nothing, so that a path in
/// libFuzzer's place saves a C++ compiler.
fn fuzz_targets() -> Result<()> {
    let check = ["check", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--bins", "--target-dir", "target/fuzz"];
    say(cargo().args(check).env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libfuzzer.a"))
}
