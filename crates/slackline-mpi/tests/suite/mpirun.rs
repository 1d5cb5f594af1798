//! Starting a test again as ranks of an MPI job.

use std::env;
use std::process::{Command, Output};

use slackline_mpi::World;

/// The number of ranks, for the processes that `mpirun` starts, beside MPI's own variables, whose names differ.
const RANKS: &str = "SLACKLINE_TEST_RANKS";

/// Whether this process is one of the ranks.
pub(crate) fn is_rank() -> bool {
    env::var_os(RANKS).is_some()
}

/// Joins the job of a test.
///
/// # Panics
///
/// If the job has another number of ranks than the test has asked for. Under the launcher of another MPI than the program was
/// built with, every process is a job of its own, and no message would ever pass between two.
pub(crate) fn join() -> World {
    let world = World::join().unwrap();
    let asked = env::var(RANKS).expect("it was started by a test");
    let version = world.library_version().unwrap();
    let launcher = slackline_mpi::launcher();
    assert_eq!(world.ranks().to_string(), asked, "ranks of the job; {launcher} is not the launcher of {version}?");
    world
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
    command.env(RANKS, ranks.to_string());
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
