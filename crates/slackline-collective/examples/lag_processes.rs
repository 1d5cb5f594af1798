//! A bounded-lag loop over ranks that are processes of this machine, and what all of them hear when one fails:
//! `cargo run -p slackline-collective --example lag_processes`, with `-- fail` to let one fail.
//!
//! The program starts itself again as each rank. A rank finds its group with `attach_from_env`, which returns `None` in the
//! program that was started by hand.

use std::error::Error;
use std::process::{self, Command};
use std::time::Duration;

use slackline_collective::transport::launch::Launch;
use slackline_collective::transport::shm;
use slackline_collective::{CollectiveError, Endpoint, Fault, Group, GroupOptions, Lane, LaneOptions};

const RANKS: usize = 3;
const ROUNDS: u64 = 1000;
const BYTES: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    // The launcher and the ranks read the same options, so that lag and sizes are written once.
    let options = GroupOptions::new([LaneOptions::lag(2)]).deadline(Duration::from_secs(5));
    match shm::attach_from_env(Duration::from_secs(10))? {
        None => launch(&options),
        Some(endpoint) => {
            if let Err(error) = rank(endpoint, options) {
                println!("stops: {error}");
                process::exit(1);
            }
            Ok(())
        }
    }
}

/// Starts the ranks, waits until they have ended, and exits as they did.
fn launch(options: &GroupOptions) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let start = |_| {
        let mut command = Command::new(&program);
        command.args(&arguments);
        command
    };
    let outcome = Launch::new(options.shape(RANKS, BYTES), start).run()?;
    if let Some(fault) = outcome.poison.as_deref().and_then(Fault::from_poison) {
        println!("the group failed: {fault}");
    }
    process::exit(outcome.exit_code())
}

/// One rank: sends 4 KiB to everybody in each round and reads what comes.
fn rank(endpoint: impl Endpoint, options: GroupOptions) -> Result<(), CollectiveError> {
    let group = Group::new(endpoint, options)?;
    let exchange = group.lane(Lane(0));
    let ranks = exchange.ranks();
    for round in 0..ROUNDS {
        if round == 500 && exchange.rank() == 1 && std::env::args().any(|word| word == "fail") {
            return Err(exchange.give_up("it was asked to fail"));
        }
        let mut sending = exchange.begin(&vec![BYTES; ranks])?;
        // The rooms are the receivers' memory.
        sending.messages_mut().into_iter().for_each(|message| message.fill(round as u8));
        sending.publish()?;
        while let Some(complete) = exchange.take()? {
            let wanted = complete.number() as u8;
            assert!(complete.messages().iter().all(|message| message.iter().all(|byte| *byte == wanted)));
        }
    }
    while exchange.drain()?.is_some() {}
    let (took, stats) = (exchange.endpoint().now(), exchange.stats());
    println!("{} rounds, {} MB received in {took:.0?}", stats.taken, stats.bytes_received / 1_000_000);
    Ok(())
}
