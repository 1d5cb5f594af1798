//! Ranks that are processes of an MPI job.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use slackline_collective::Terms;
use slackline_mpi::{NodeEndpoint, Peers, World};
use slackline_transport::cores;

use super::{Job, conclude, fail, prepare, rank, terms};
use crate::args::InferArgs;
use crate::fail::Misuse;

/// The least time that ranks wait for each other before there is a group, as with processes of one machine, and what they
/// wait longer for each rank of a large job.
const PATIENCE: Duration = Duration::from_secs(30);
const EACH: Duration = Duration::from_millis(100);

/// No disk is slower: so long does a rank wait for another that verifies the tables.
const BYTES_A_SECOND: u64 = 50 << 20;

/// Works as the rank of this process in its job, and returns the exit code.
pub(super) fn run(args: &InferArgs) -> Result<u8> {
    let world = World::join()?;
    crate::guard(true)?;
    let outcome = as_rank(args, &world);
    if let Err(error) = &outcome {
        // Ranks depend on each other, and MPI would wait for ranks that hang.
        fail::tell(&format!("rank {}: {}", world.rank(), fail::one_line(error)));
        world.abort(fail::code_of(error));
    }
    outcome
}

fn as_rank(args: &InferArgs, world: &World) -> Result<u8> {
    let patience = args.deadline.max(PATIENCE) + EACH * world.ranks().min(u16::MAX.into()) as u32;
    world.set_patience(patience);
    let here = world.ranks_of_node()?;
    if !args.skip_verify {
        world.set_patience(patience.saturating_add(Duration::from_secs(bytes_in(&args.model) / BYTES_A_SECOND)));
    }
    // Every rank checks input and model on its own node before the ranks form a group; the first that finds an error
    // reports it for all.
    let job = prepare_on_node(args, world, &here).and_then(|job| Ok((terms::before(&job)?, job)));
    let complaint = job.as_ref().err().map(fail::one_line).unwrap_or_default();
    let complaints = world.all_gather("checking the model and the input", complaint.as_bytes())?;
    world.set_patience(patience);
    if let Some(first) = complaints.iter().position(|complaint| !complaint.is_empty()) {
        let code = job.as_ref().err().map_or(fail::FAILURE, fail::code_of);
        if first == world.rank() {
            fail::tell(&format!("rank {first}: {complaint}"));
        }
        // mpirun ends the other ranks as soon as one has ended: the message has to be out before that.
        world.barrier("ending after an error")?;
        return Ok(code);
    }
    let (terms, job) = job?;
    // Before the group is made: ranks that differ in what shapes it would not come together.
    let of_ranks = world.all_gather("comparing what the ranks compute", &terms.to_bytes())?;
    if let Err(disagreement) = Terms::compare(&of_ranks) {
        if world.rank() == 0 {
            fail::tell(&disagreement.to_string());
        }
        world.barrier("ending after an error")?;
        return Ok(fail::FAILURE);
    }
    work(world, &here, &job)
}

fn prepare_on_node<'a>(args: &'a InferArgs, world: &World, here: &[usize]) -> Result<Job<'a>> {
    let ranks = args.ranks.unwrap_or(world.ranks());
    peers(args)?;
    // Every rank needs the job; one rank per node verifies the tables.
    if here.first() == Some(&world.rank()) { prepare(args, ranks, world.rank() == 0) } else { Job::new(args, ranks) }
}

/// Bytes of the files in a folder, as far as they can be seen.
fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(fs::metadata(file.path()).ok()?.len())).sum()
}

fn peers(args: &InferArgs) -> Result<Peers> {
    args.peers.parse().map_err(|why| Misuse(format!("--peers {}: {why}", args.peers)).into())
}

fn work(world: &World, here: &[usize], job: &Job<'_>) -> Result<u8> {
    if job.args.pin {
        let place = here.iter().position(|rank| *rank == world.rank()).unwrap_or_default();
        if let Some(core) = cores::one_each(here.len()).get(place) {
            cores::bind(&[*core]);
        }
    }
    let endpoint = NodeEndpoint::join(world, &job.shape, peers(job.args)?)?;
    if let Some(answers) = rank::run(endpoint, job)? {
        conclude(job, answers)?;
    }
    Ok(fail::OK)
}
