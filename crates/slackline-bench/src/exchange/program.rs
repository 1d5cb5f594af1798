//! The same exchange in MPI, as another program that is compiled and started here.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

use crate::BenchError;

const SOURCE: &str = include_str!("../../mpi/alltoallv.c");

/// The compiled program.
pub(super) struct Program {
    file: PathBuf,
    /// Name and version, from what `mpirun --version` says first.
    pub(super) version: String,
}

/// One call at one size.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) call: String,
    /// Microseconds of a round, one entry a block.
    pub(super) us: Vec<f64>,
}

impl Program {
    /// Compiles the program into `folder`.
    ///
    /// # Errors
    ///
    /// [`BenchError::NoMpi`] where `mpicc` or `mpirun` is missing; [`BenchError::Mpi`] with what the compiler said.
    pub(super) fn compile(folder: &Path) -> Result<Self, BenchError> {
        let version = run("mpirun", Command::new("mpirun").arg("--version"))?;
        let version = String::from_utf8_lossy(&version.stdout);
        // "mpirun (Open MPI) 4.1.4"
        let version = version.lines().next().unwrap_or("MPI").trim().replace("mpirun (", "").replace(')', "");
        let source = folder.join("alltoallv.c");
        std::fs::write(&source, SOURCE).map_err(BenchError::file("writing", &source))?;
        let file = folder.join("alltoallv");
        run("mpicc", Command::new("mpicc").args(["-O3", "-o"]).arg(&file).arg(&source))?;
        Ok(Program { file, version })
    }

    /// Runs one size on `ranks` processes, each on a core of its own if `bind`.
    pub(super) fn run(
        &self,
        ranks: usize,
        bind: bool,
        read: bool,
        lag: usize,
        blocks: usize,
        bytes: usize,
    ) -> Result<Vec<Line>, BenchError> {
        let mut command = Command::new("mpirun");
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", if bind { "core" } else { "none" }]);
        if !bind {
            command.args(["--mca", "mpi_yield_when_idle", "1"]);
        }
        command.arg(&self.file);
        command.args([usize::from(read), lag, blocks, bytes].map(|number| number.to_string()));
        let output = run("mpirun", &mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .filter(|line| line.starts_with('{'))
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|source| BenchError::Unreadable { what: "the output of the MPI program".to_owned(), source })
    }
}

fn run(tool: &'static str, command: &mut Command) -> Result<Output, BenchError> {
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BenchError::NoMpi { tool },
        _ => BenchError::Mpi { tool, status: "not started".to_owned(), stderr: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BenchError::Mpi { tool, status: output.status.to_string(), stderr })
}
