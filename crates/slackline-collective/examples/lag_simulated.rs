//! A large group in virtual time: the real collective over the simulated network, with one rank in each round that is late.
//!
//! `cargo run --release -p slackline-collective --example lag_simulated -- RANKS ROUNDS LAG` (512, 100 and 1 by default).

use std::time::{Duration, Instant};

use slackline_collective::transport::sim::{self, SimConfig};
use slackline_collective::{CollectiveError, Endpoint, Group, GroupOptions, Lane, LaneOptions};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let mut next = |default| arguments.next().unwrap_or(default);
    let (ranks, rounds, lag) = (next(512), next(100), next(1));
    let options = GroupOptions::new([LaneOptions::lag(lag)]);
    let mut config = SimConfig::new(options.shape(ranks, 16), 1);
    config.latency = Duration::from_micros(2)..=Duration::from_micros(10);
    // Messages that land within ten microseconds of each other wake their receiver once.
    config.tick = Duration::from_micros(10);

    let began = Instant::now();
    let report = sim::run(&config, |endpoint| run(Group::new(endpoint, options.clone())?, rounds));
    let report = report.expect("the simulation runs to its end");
    let (took, virtually) = (began.elapsed(), report.makespan);
    for result in report.values().expect("no rank panicked") {
        result.expect("no rank failed");
    }
    let memory = peak_memory().map_or(String::new(), |kib| format!(", {} MiB of memory at most", kib >> 10));
    println!("{ranks} ranks, {rounds} rounds, lag {lag}: {virtually:.1?} of virtual time in {took:.1?}{memory}");
}

/// Rounds of 100 µs; each rank in turn takes ten times as long.
fn run<E: Endpoint>(group: Group<E>, rounds: usize) -> Result<(), CollectiveError> {
    let exchange = group.lane(Lane(0));
    let (rank, ranks) = (group.rank(), group.ranks());
    let sizes = vec![8; ranks];
    for number in 0..rounds {
        let late = number % ranks == rank;
        group.endpoint().sleep(Duration::from_micros(if late { 1000 } else { 100 }));
        let mut round = exchange.begin(&sizes)?;
        for message in round.messages_mut() {
            message.copy_from_slice(&(number as u64).to_le_bytes());
        }
        round.publish()?;
        while let Some(complete) = exchange.take()? {
            let wanted = complete.number().to_le_bytes();
            assert!(complete.messages().iter().all(|message| **message == wanted));
        }
    }
    while exchange.drain()?.is_some() {}
    Ok(())
}

/// In KiB.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
