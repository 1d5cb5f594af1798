//! Ranks that are processes of an MPI job.

use anyhow::Result;
use slackline_collective::Terms;
use slackline_mpi::{NodeEndpoint, Peers, World};
use slackline_transport::cores;

use super::{Job, conclude, fail, prepare, rank, terms};
use crate::args::InferArgs;
use crate::fail::Misuse;

/// Works as the rank of this process in its job, and returns the exit code.
pub(super) fn run(args: &InferArgs) -> Result<u8> {
    let world = World::join()?;
    crate::guard()?;
    // Every rank checks input and model on its own node before the ranks form a group; the first that finds an error
    // reports it for all.
    let job = prepare_on_nodes(args, &world).and_then(|job| Ok((terms::before(&job)?, job)));
    let complaint = job.as_ref().err().map(fail::one_line).unwrap_or_default();
    let complaints = world.all_gather(complaint.as_bytes())?;
    if let Some(first) = complaints.iter().position(|complaint| !complaint.is_empty()) {
        let code = job.as_ref().err().map_or(fail::FAILURE, fail::code_of);
        if first == world.rank() {
            fail::tell(&format!("rank {first}: {complaint}"));
        }
        // mpirun ends the other ranks as soon as one has ended: the message has to be out before that.
        world.barrier()?;
        return Ok(code);
    }
    let outcome = job.and_then(|(terms, job)| {
        // Before the group is made: ranks that differ in what shapes it would not come together.
        if let Err(disagreement) = Terms::compare(&world.all_gather(&terms.to_bytes())?) {
            if world.rank() == 0 {
                fail::tell(&disagreement.to_string());
            }
            world.barrier()?;
            return Ok(fail::FAILURE);
        }
        work(&world, &job)
    });
    if let Err(error) = &outcome {
        // From here on ranks depend on each other, and MPI would wait for ranks that hang.
        fail::tell(&format!("rank {}: {}", world.rank(), fail::one_line(error)));
        world.abort(fail::code_of(error));
    }
    outcome
}

fn prepare_on_nodes<'a>(args: &'a InferArgs, world: &World) -> Result<Job<'a>> {
    let ranks = args.ranks.unwrap_or(world.ranks());
    peers(args)?;
    // Every rank needs the job; one rank per node verifies the tables.
    let first_here = world.ranks_of_node()?.first() == Some(&world.rank());
    if first_here { prepare(args, ranks, world.rank() == 0) } else { Job::new(args, ranks) }
}

fn peers(args: &InferArgs) -> Result<Peers> {
    args.peers.parse().map_err(|why| Misuse(format!("--peers {}: {why}", args.peers)).into())
}

fn work(world: &World, job: &Job<'_>) -> Result<u8> {
    if job.args.pin {
        let here = world.ranks_of_node()?;
        let place = here.iter().position(|rank| *rank == world.rank()).unwrap_or_default();
        if let Some(core) = cores::one_each(here.len()).get(place) {
            cores::bind(&[*core]);
        }
    }
    let endpoint = NodeEndpoint::join(world, &job.shape, peers(job.args)?)?;
    if let Some(answers) = rank::run(endpoint, job)? {
        conclude(job, &answers)?;
    }
    Ok(fail::OK)
}
