//! PyTorch and FBGEMM, as a Python program that takes turns with this one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::BenchError;

/// A Python program of this crate.
pub(crate) struct Program {
    name: &'static str,
    text: &'static str,
}

/// Pooled lookups.
pub(crate) const EMBEDDING: Program = Program { name: "embedding", text: include_str!("../peers/embedding.py") };
/// The dense part of a model.
pub(crate) const DENSE: Program = Program { name: "dense", text: include_str!("../peers/dense.py") };

/// The versions that the published figures are from.
const PACKAGES: &[&str] = &["torch==2.8.0", "fbgemm-gpu-cpu==1.3.0", "numpy"];

/// The running Python program.
pub(crate) struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// Where the Python packages are.
#[derive(Clone, Debug)]
pub enum PeersPlace {
    /// A virtual environment, which is created if missing.
    Environment(PathBuf),
    /// An interpreter that has them.
    Interpreter(PathBuf),
}

impl PeersPlace {
    /// The interpreter.
    ///
    /// # Errors
    ///
    /// [`BenchError::Peer`] with what `python3 -m venv` or `pip` said.
    pub(crate) fn python(&self) -> Result<PathBuf, BenchError> {
        match self {
            PeersPlace::Environment(folder) => environment(folder),
            PeersPlace::Interpreter(python) => Ok(python.clone()),
        }
    }
}

/// The interpreter of the virtual environment in `folder`, with the packages.
fn environment(folder: &Path) -> Result<PathBuf, BenchError> {
    let python = folder.join("bin/python");
    let mark = folder.join("packages");
    let wanted = PACKAGES.join(" ");
    if python.exists() && std::fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    crate::error::say(&format!("installing {wanted} in {} (some gigabytes, once)", folder.display()));
    run(Command::new("python3").args(["-m", "venv"]).arg(folder), "python3 -m venv (apt-get install python3-venv)")?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES), "pip install")?;
    std::fs::write(&mark, wanted).map_err(BenchError::file("writing", &mark))?;
    Ok(python)
}

fn run(command: &mut Command, what: &str) -> Result<(), BenchError> {
    let failed = |why: String| BenchError::Peer { why: format!("{what}: {why}") };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

impl Peer {
    /// Starts the program on the cores that this process may use now.
    pub(crate) fn start(program: &Program, python: &Path, folder: &Path) -> Result<Self, BenchError> {
        let log = folder.join(format!("{}.log", program.name));
        let Program { name, text } = program;
        let program = folder.join(format!("{name}.py"));
        std::fs::write(&program, text).map_err(BenchError::file("writing", &program))?;
        let log = File::create(&log).map_err(BenchError::file("creating", &log))?;
        let mut child = Command::new(python)
            .arg(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(BenchError::file("starting", python))?;
        let to = child.stdin.take().expect("it is piped");
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Peer { child, to, from })
    }

    /// The versions of PyTorch and FBGEMM; `None` if FBGEMM is missing.
    pub(crate) fn versions(&mut self) -> Result<(String, Option<String>), BenchError> {
        let said = self.ask(json!({"do": "versions"}))?;
        let text = |key: &str| said[key].as_str().map(str::to_owned);
        Ok((text("torch").unwrap_or_default(), text("fbgemm")))
    }

    /// Sends a request and waits for the answer.
    pub(crate) fn ask(&mut self, what: Value) -> Result<Value, BenchError> {
        let failed = |why: String| BenchError::Peer { why };
        let mut answer = String::new();
        let asked = writeln!(self.to, "{what}").and_then(|()| self.to.flush());
        asked.and_then(|()| self.from.read_line(&mut answer)).map_err(|error| failed(error.to_string()))?;
        let said: Value = serde_json::from_str(&answer)
            .map_err(|_| failed("the Python program ended without an answer".to_owned()))?;
        match said.get("error").and_then(Value::as_str) {
            Some(why) => Err(failed(format!("{what}: {why}"))),
            None => Ok(said),
        }
    }

    /// Seconds of one pass over the loaded batches, or of so many calls.
    pub(crate) fn sweep(&mut self, times: usize) -> Result<f64, BenchError> {
        let said = self.ask(json!({"do": "sweep", "times": times}))?;
        match (said["seconds"].as_f64(), said["sum"].as_f64()) {
            (Some(seconds), Some(sum)) if sum.is_finite() && sum != 0.0 => Ok(seconds),
            _ => Err(BenchError::Peer { why: format!("the Python program did not measure: {said}") }),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It holds gigabytes. If it cannot be killed, it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
