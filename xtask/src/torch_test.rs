//! The tests of the Python package: an environment of its own, the package built by maturin, pytest alone and under torchrun.
//!
//! The environment lies outside of the clone, since PyTorch takes gigabytes: `SLACKLINE_TORCH_ENV`, or a folder of the user's cache. It
//! is made once for each version of PyTorch and used again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, words};

/// Ranks of the jobs in which every rank runs the same tests.
const JOBS: [usize; 4] = [1, 2, 3, 4];

/// Tests with the newest PyTorch, or with the version that is given. Where neither an environment nor the package index can be had, it
/// says so and passes.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let torch = match args {
        [] => "torch".to_owned(),
        [version] => format!("torch=={version}"),
        _ => bail!("torch-test takes one version of PyTorch, or none"),
    };
    let environment = place(&torch)?;
    let python = environment.join("bin/python");
    // Written when all is installed, so that an installation that was cut short is not used.
    let complete = environment.join("complete");
    if !complete.exists() && !install(&environment, &torch)? {
        println!(
            "SKIPPED: no Python with venv, or the package index cannot be reached: the Python package is not tested"
        );
        return Ok(());
    }
    let wheels = crate::target_dir().join("wheels");
    let mut build = Command::new(&python);
    build.args(["-m", "maturin", "build", "--release", "--out"]).arg(&wheels).args(["--interpreter"]).arg(&python);
    say(build.current_dir(root()))?;
    let package = root().join("python");
    unpack(&python, &wheels, &package)?;
    let pytest = |command: &mut Command, tests: &str| {
        command.args(["-m", "pytest", "-q", "--tb=short", tests]).current_dir(root());
        command.env("PYTHONPATH", &package).env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        say(command)
    };
    pytest(&mut Command::new(&python), "python/tests/alone")?;
    for ranks in JOBS {
        let mut job = Command::new(environment.join("bin/torchrun"));
        pytest(job.args(["--standalone", "--nproc-per-node", &ranks.to_string()]), "python/tests/ranks")?;
    }
    Ok(())
}

fn place(torch: &str) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("SLACKLINE_TORCH_ENV") {
        return Ok(given.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.context("neither SLACKLINE_TORCH_ENV nor XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("slackline").join(torch.replace("==", "-")))
}

/// Makes the environment; `false` where that is not to be had here.
fn install(environment: &Path, torch: &str) -> Result<bool> {
    if !says(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment)) {
        return Ok(false);
    }
    let python = environment.join("bin/python");
    let pip = |packages: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        command
    };
    if !says(&mut pip(&["maturin>=1.7,<2", "numpy", "pytest"])) {
        return Ok(false);
    }
    say(&mut pip(&[torch]))?;
    std::fs::write(environment.join("complete"), "").context("writing into the environment")?;
    Ok(true)
}

/// Puts the extension module of the newest wheel beside the package's sources, which the tests then import.
fn unpack(python: &Path, wheels: &Path, package: &Path) -> Result<()> {
    const UNPACK: &str = "
import glob, os, sys, zipfile
wheel = max(glob.glob(sys.argv[1] + '/slackline_dlrm-*.whl'), key=os.path.getmtime)
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if os.path.basename(name).startswith('_native.') and name.endswith('.so')]
    target = os.path.join(sys.argv[2], name)
    if os.path.lexists(target):
        os.unlink(target)
    archive.extract(name, sys.argv[2])
";
    crate::run(Command::new(python).args(["-c", UNPACK]).arg(wheels).arg(package))
}

/// Prints a command, then runs it.
fn say(command: &mut Command) -> Result<()> {
    println!("+ {}", words(command));
    crate::run(command)
}

/// The same, where failing is an answer.
fn says(command: &mut Command) -> bool {
    println!("+ {}", words(command));
    command.status().is_ok_and(|status| status.success())
}
