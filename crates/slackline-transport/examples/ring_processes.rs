//! Ranks that are processes, three or as many as the argument says, each of which sends its process number to the next over shared memory. Run it with
//! `cargo run -p slackline-transport --features launch --example ring_processes`.
//!
//! The program starts itself again as each rank. A rank finds its group with `attach_from_env`, which returns `None` in the
//! program that was started by hand.

use std::error::Error;
use std::process::{self, Command};
use std::time::Duration;

use slackline_transport::launch::Launch;
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, PeerState, shm};

const LANE: Lane = Lane(0);

fn main() -> Result<(), Box<dyn Error>> {
    match shm::attach_from_env(Duration::from_secs(10))? {
        Some(endpoint) => rank(endpoint),
        None => launch(std::env::args().nth(1).map_or(Ok(3), |ranks| ranks.parse())?),
    }
}

/// Starts the ranks, waits until they have ended, and exits as they did.
fn launch(ranks: usize) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let shape = GroupShape { ranks, lanes: vec![LaneShape { slots: 1, slot_bytes: 64 }] };
    // What the ranks print comes in whole lines with the rank in front.
    let outcome = Launch::new(shape, |_| Command::new(&program)).run()?;
    if let Some(rank) = outcome.failed {
        eprintln!("rank {rank} failed: {}", outcome.statuses[rank]);
    }
    process::exit(outcome.exit_code())
}

/// One rank.
fn rank(endpoint: impl Endpoint) -> Result<(), Box<dyn Error>> {
    let (rank, ranks) = (endpoint.rank(), endpoint.shape().ranks);
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    endpoint.room(LANE, next).unwrap()[..4].copy_from_slice(&process::id().to_le_bytes());
    endpoint.publish(LANE, next, 4);
    endpoint.notify();
    while endpoint.landed(LANE, before) == 0 {
        if endpoint.peer_state(before) == PeerState::Dead {
            return Err(format!("rank {before} died").into());
        }
        endpoint.wait(endpoint.now() + Duration::from_secs(1))?;
    }
    let id = u32::from_le_bytes((&*endpoint.message(LANE, before, 0)).try_into()?);
    println!("process {} has heard of rank {before}, process {id}, after {:.1?}", process::id(), endpoint.now());
    endpoint.release(LANE, before, 1);
    endpoint.notify();
    endpoint.detach();
    Ok(())
}
