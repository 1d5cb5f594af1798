//! A bounded-lag loop over ranks that are threads: `cargo run -p slackline-collective --example lag_threads`.
//!
//! In every round another rank is 2 ms late. With lag 0 all wait for it, every time. With lag 2 nobody does, since a rank
//! that was late in one round catches up in the next ones.

use std::thread;
use std::time::Duration;

use slackline_collective::transport::threads;
use slackline_collective::{CollectiveError, Endpoint, Group, GroupOptions, Lane, LaneOptions};

const RANKS: usize = 3;
const ROUNDS: u64 = 90;

fn main() -> Result<(), CollectiveError> {
    for lag in [0, 2] {
        let options = GroupOptions::new([LaneOptions::lag(lag)]);
        let endpoints = threads::group(&options.shape(RANKS, 8))?;
        thread::scope(|scope| {
            let start = |endpoint| scope.spawn(|| rank(endpoint, options.clone()));
            let ranks: Vec<_> = endpoints.into_iter().map(start).collect();
            ranks.into_iter().try_for_each(|rank| rank.join().expect("no rank panics"))
        })?;
    }
    Ok(())
}

/// One rank: sends its number and the round to everybody, and adds up what comes.
fn rank(endpoint: impl Endpoint, options: GroupOptions) -> Result<(), CollectiveError> {
    let lag = options.lanes[0].lag;
    let group = Group::new(endpoint, options)?;
    let exchange = group.lane(Lane(0));
    let (rank, ranks) = (exchange.rank() as u64, exchange.ranks());
    let mut sum = 0;
    for round in 0..ROUNDS {
        let late = round % RANKS as u64 == rank;
        exchange.endpoint().sleep(Duration::from_millis(if late { 2 } else { 0 }));
        let mut sending = exchange.begin(&vec![8; ranks])?;
        for message in sending.messages_mut() {
            message.copy_from_slice(&(1000 * round + rank).to_le_bytes());
        }
        sending.publish()?;
        while let Some(complete) = exchange.take()? {
            sum += complete.messages().iter().map(|message| number(message)).sum::<u64>();
        }
    }
    // The last rounds, for which no later call has waited.
    while let Some(complete) = exchange.drain()? {
        sum += complete.messages().iter().map(|message| number(message)).sum::<u64>();
    }
    assert_eq!(sum, 3 * ROUNDS + 3 * 1000 * (0..ROUNDS).sum::<u64>());
    let (took, stats) = (exchange.endpoint().now(), exchange.stats());
    println!(
        "lag {lag}, rank {rank}: {} rounds in {took:.0?}, waited {:.0?}, observed lag {}",
        stats.rounds,
        stats.blocked_on_bound,
        stats.observed_lag()
    );
    Ok(())
}

fn number(message: &[u8]) -> u64 {
    u64::from_le_bytes(message.try_into().expect("8 bytes"))
}
