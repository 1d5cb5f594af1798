//! Starting a test again as ranks of an MPI job.

use std::env;
use std::process::{Command, Output};

/// Set for the processes that `mpirun` starts, beside MPI's own variables, whose names differ.
const RANK: &str = "SLACKLINE_TEST_RANK";

/// Whether this process is one of the ranks.
pub(crate) fn is_rank() -> bool {
    env::var_os(RANK).is_some()
}

/// `mpirun -n RANKS FLAGS`, to which a program and its arguments are to be added.
pub(crate) fn job(ranks: usize) -> Command {
    let mut command = Command::new(slackline_mpi::launcher());
    command.args(["-n", &ranks.to_string()]);
    let flags = env::var("MPIRUN_FLAGS").unwrap_or_default();
    command.args(flags.split_whitespace());
    // More ranks than cores, and root in a container, are both ordinary in tests. Only Open MPI reads these.
    for (variable, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ] {
        command.env(variable, value);
    }
    command.env(RANK, "1");
    command
}

/// This very program as the ranks of a job.
pub(crate) fn this_program(ranks: usize, arguments: &[&str]) -> Command {
    let mut command = job(ranks);
    command.arg(env::current_exe().expect("this program has a path")).args(arguments);
    command
}

/// Runs a job to its end.
pub(crate) fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Runs a job, which has to succeed.
pub(crate) fn expect_success(command: Command, what: &str) {
    let said = format!("{command:?}");
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{out}");
    assert!(output.status.success(), "{what}: {}\n{said}\n{out}{err}", output.status);
}
