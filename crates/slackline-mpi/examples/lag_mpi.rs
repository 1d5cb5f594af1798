//! A bounded-lag loop over the ranks of an MPI job:
//! `cargo build -p slackline-mpi --features mpi --example lag_mpi && mpirun -n 4 target/debug/examples/lag_mpi`.
//!
//! Ranks of one node exchange through shared memory, ranks of different nodes through MPI; `-- mpi` takes MPI for all.

use std::error::Error;

use slackline_collective::{CollectiveError, Endpoint, Group, GroupOptions, Lane, LaneOptions};
use slackline_mpi::{NodeEndpoint, Peers, World};

const ROUNDS: u64 = 1000;
const BYTES: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let peers: Peers = std::env::args().nth(1).map_or(Ok(Peers::Auto), |word| word.parse())?;
    let world = World::join()?;
    let options = GroupOptions::new([LaneOptions::lag(2)]);
    let endpoint = NodeEndpoint::join(&world, &options.shape(world.ranks(), BYTES), peers)?;
    let ways: Vec<&str> = (0..world.ranks()).map(|peer| endpoint.way_to(peer)).collect();
    if let Err(error) = exchange(endpoint, options) {
        eprintln!("rank {}: {error}", world.rank());
        // The others know. Without this, mpirun would wait for ranks that wait for each other to end MPI.
        world.abort(1);
    }
    println!("rank {} of {}: {ROUNDS} rounds; to its peers by {}", world.rank(), world.ranks(), ways.join(", "));
    Ok(())
}

fn exchange(endpoint: impl Endpoint, options: GroupOptions) -> Result<(), CollectiveError> {
    let group = Group::new(endpoint, options)?;
    let exchange = group.lane(Lane(0));
    let sizes = vec![BYTES; exchange.ranks()];
    for round in 0..ROUNDS {
        let mut sending = exchange.begin(&sizes)?;
        sending.messages_mut().into_iter().for_each(|message| message.fill(round as u8));
        sending.publish()?;
        while let Some(complete) = exchange.take()? {
            let wanted = complete.number() as u8;
            assert!(complete.messages().iter().all(|message| message.iter().all(|byte| *byte == wanted)));
        }
    }
    while exchange.drain()?.is_some() {}
    Ok(())
}
