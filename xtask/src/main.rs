//! Automation of this repository, run as `cargo xtask COMMAND`.
//!
//! It starts programs and reads files; whatever measures or computes lives in a crate.
#![forbid(unsafe_code)]

mod ci;
mod instructions;
mod tidy;
mod torch_test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Automation of the Slackline repository.

Usage: cargo xtask COMMAND

Commands:
  bench [ARGS]  build in release mode and run the benchmark (ARGS: cargo xtask bench --help)
  tidy          check the crate arrows, file lengths, crate heads, unsafe code and the README's commands
  ci [STEP]...  run what CI runs, or some steps of it (cargo xtask ci --list)
  ci quick      what to run before a commit: checks, and the tests of the crates that changed
  instructions  count the instructions of each layer under valgrind, and compare with benches/instructions.json (--save: write it)
  torch-test [TORCH]
                build the Python package, install PyTorch (of version TORCH) in an environment outside the clone, and test both
  help          print this

Examples:
  cargo xtask bench
  cargo xtask bench run --ranks 2 --scenario turn
  cargo xtask bench exchange --mpi
  cargo xtask bench embedding --peers
  cargo xtask bench dense --peers
  cargo xtask bench plan
  cargo xtask bench loading --gib 8
  cargo xtask ci format clippy
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let result = match command.as_deref() {
        Some("bench") => return bench(&rest),
        Some("tidy") => tidy::run(),
        Some("ci") => ci::run(&rest),
        Some("instructions") => instructions::run(&rest),
        Some("torch-test") => torch_test::run(&rest),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => {
            eprintln!("xtask: no command '{other}'\n\n{HELP}");
            return ExitCode::from(2);
        }
        None => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the benchmark with what cargo prints, then hands over to it and passes its exit code on.
fn bench(args: &[String]) -> ExitCode {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "slackline-bench"]);
    // Only then, since it needs an MPI installation.
    let over_mpi = args.windows(2).any(|pair| pair[0] == "--transport" && pair[1] == "mpi");
    if over_mpi || args.iter().any(|argument| argument == "--transport=mpi") {
        build.args(["--features", "mpi"]);
    }
    let built = run(&mut build);
    if let Err(error) = built {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    let program = target_dir().join("release").join("slackline-bench");
    match Command::new(&program).args(args).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root")
}

/// Where cargo puts what it builds: told by the environment, or the default.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this, in the root.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with its output passed through.
fn run(command: &mut Command) -> Result<()> {
    let words = words(command);
    let status = command.status().with_context(|| format!("cannot start {words}"))?;
    if !status.success() {
        bail!("{words}: {status}");
    }
    Ok(())
}

/// The command as one would type it.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
