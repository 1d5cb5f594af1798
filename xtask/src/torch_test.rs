//! The tests of the Python package: an environment of its own, the package built by maturin, pytest alone and under torchrun.
//!
//! The environment lies outside of the clone, since PyTorch takes gigabytes: `SLACKLINE_TORCH_ENV`, or a folder of the user's
//! cache. It is made once for each version of PyTorch and used again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, words};

/// Ranks of the jobs in which every rank runs the same tests.
const JOBS: [usize; 4] = [1, 2, 3, 4];

/// Free bytes that PyTorch, its dependencies and pip's copies of them need at most.
const ROOM: u64 = 8 << 30;

/// Tests with the newest PyTorch, or with the version that is given. Says so and passes where there is no Python with venv, too
/// little room for an environment, or no way to the package index; whatever else keeps the tests from running is an error.
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
    if !complete.exists() {
        if let Some(why) = prepare(&environment, &python)? {
            println!("SKIPPED: {why}: the Python package is not tested");
            return Ok(());
        }
        for packages in [&["maturin>=1.7,<2", "numpy", "pytest"][..], &[&torch]] {
            say(pip(&python).args(["install", "--quiet"]).args(packages))?;
        }
        std::fs::write(complete, "").context("writing into the environment")?;
    }
    let wheels = crate::target_dir().join("wheels");
    let mut build = Command::new(&python);
    build.args(["-m", "maturin", "build", "--release", "--out"]).arg(&wheels).args(["--interpreter"]).arg(&python);
    say(build.current_dir(root()))?;
    let package = root().join("python");
    unpack(&python, &wheels, &package)?;
    let program = fresh_program();
    let pytest = |command: &mut Command, tests: &str| {
        command.args(["-m", "pytest", "-q", "-rs", "--tb=short", tests]).current_dir(root());
        command.env("PYTHONPATH", &package).env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(program) = &program {
            command.env("SLACKLINE_PROGRAM", program);
        }
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

/// The command `slackline` if the tests of the workspace, or a build, have left one that is no older than its sources: building
/// it for a comparison alone takes too long.
fn fresh_program() -> Option<PathBuf> {
    let program = crate::target_dir().join("debug/slackline");
    let changed = |file: &Path| file.metadata().and_then(|found| found.modified()).ok();
    let built = changed(&program)?;
    let sources = std::fs::read_to_string(program.with_extension("d")).ok()?;
    let mut sources = sources.split_once(": ")?.1.split_whitespace();
    sources.all(|source| changed(Path::new(source)).is_some_and(|changed| changed <= built)).then_some(program)
}

/// Makes an environment without packages; or why PyTorch cannot be installed on this machine.
fn prepare(environment: &Path, python: &Path) -> Result<Option<String>> {
    // Where Debian's python3-venv is missing there is a module venv, which cannot put pip into what it makes.
    let has_venv = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    if !has_venv.is_ok_and(|output| output.status.success()) {
        return Ok(Some("no Python with venv".to_owned()));
    }
    say(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
    let free = free_bytes(environment, python)?;
    if free < ROOM {
        let (free, room) = (free >> 20, ROOM >> 20);
        return Ok(Some(format!("PyTorch needs {room} MiB, and {} has {free} MiB free", environment.display())));
    }
    let unreachable = unreachable(environment, python)?;
    Ok(unreachable.map(|said| format!("the package index cannot be reached ({said})")))
}

fn free_bytes(folder: &Path, python: &Path) -> Result<u64> {
    let ask = "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free)";
    let output = Command::new(python).args(["-c", ask]).arg(folder).output().context("asking for free room")?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().with_context(|| format!("free room: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What pip says if nothing answers where it looks for packages; judged by a tiny one. An answer of any kind is a way there, and
/// what it lacks is the installation's to say.
fn unreachable(environment: &Path, python: &Path) -> Result<Option<String>> {
    let mut probe = pip(python);
    probe.args(["download", "-vv", "--no-deps", "--no-cache-dir", "--timeout", "15", "--retries", "1", "--dest"]);
    probe.arg(environment.join("probe")).arg("iniconfig");
    println!("+ {}", words(&probe));
    let output = probe.output().context("cannot start pip")?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok(no_answer(&said).map(str::to_owned))
}

/// The first of pip's lines that tells of a connection which did not come about.
fn no_answer(said: &str) -> Option<&str> {
    const KINDS: [&str; 5] =
        ["NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError"];
    said.lines().map(str::trim).find(|line| KINDS.iter().any(|kind| line.contains(kind)))
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    command
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

#[cfg(test)]
mod tests {
    use super::no_answer;

    /// What pip 23 and pip 26 say, without the addresses of objects.
    #[test]
    fn only_a_connection_that_fails_is_no_answer() {
        for line in [
            "WARNING: Retrying after connection broken by 'NewConnectionError('<HTTPConnection object>: Failed \
             to establish a new connection: [Errno 111] Connection refused')': /simple/iniconfig/",
            "WARNING: Retrying after connection broken by 'NameResolutionError(\"Failed to resolve 'a.invalid'\")'",
            "WARNING: Retrying after connection broken by 'ConnectTimeoutError('timed out')': /simple/iniconfig/",
            "WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.')': /simple/",
        ] {
            assert_eq!(no_answer(&format!("Looking up\n  {line}\nERROR: none")), Some(line));
        }
        for said in [
            "WARNING: Retrying after connection broken by 'SSLError(SSLCertVerificationError(1, 'failed'))'",
            "Could not fetch URL https://a.invalid/iniconfig/: 404 Client Error: Not Found - skipping",
            "ERROR: No matching distribution found for iniconfig",
            "OSError: [Errno 28] No space left on device",
        ] {
            assert_eq!(no_answer(said), None);
        }
    }
}
