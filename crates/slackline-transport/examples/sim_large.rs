//! How long a large group takes in the simulation: in each round every rank sends a small message to every rank and waits
//! for one from each. Run it with `cargo run --release -p slackline-transport --example sim_large -- [RANKS [ROUNDS]]`.

use std::error::Error;
use std::time::{Duration, Instant};

use slackline_transport::sim::{self, SimConfig, SimEndpoint};
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, TransportError};

const LANE: Lane = Lane(0);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let ranks: usize = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let rounds: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let mut config = SimConfig::new(GroupShape { ranks, lanes: vec![LaneShape { slots: 2, slot_bytes: 64 }] }, 0);
    // Messages of a round land at one of a few instants, each of which wakes a rank once.
    config.tick = Duration::from_micros(10);
    let began = Instant::now();
    let report = sim::run(&config, |endpoint| exchange(&endpoint, rounds))?;
    let took = began.elapsed();
    println!(
        "{ranks} ranks, {rounds} rounds: {took:.1?}, {} events, {} turns, {:.0} ns an event, virtual {:.1?}, trace {:016x}",
        report.events,
        report.turns,
        took.as_nanos() as f64 / report.events as f64,
        report.makespan,
        report.trace
    );
    if let Some(peak) = peak_memory() {
        println!("at most {peak} of memory");
    }
    report.values().map_err(|(rank, end)| format!("rank {rank}: {end:?}"))?.into_iter().collect::<Result<(), _>>()?;
    Ok(())
}

fn exchange(endpoint: &SimEndpoint, rounds: u64) -> Result<(), TransportError> {
    let ranks = endpoint.shape().ranks;
    let mut landed = vec![0; ranks];
    for round in 0..rounds {
        for to in 0..ranks {
            while endpoint.free_slots(LANE, to) == 0 {
                endpoint.wait(Duration::MAX)?;
            }
            endpoint.room(LANE, to).expect("a free slot")[..8].copy_from_slice(&round.to_le_bytes());
            endpoint.publish(LANE, to, 8);
        }
        endpoint.notify();
        let mut awaited = landed.iter().filter(|landed| **landed <= round).count();
        loop {
            endpoint.landings(LANE, &mut |from, count| {
                awaited -= usize::from(landed[from] <= round && count > round);
                landed[from] = count;
            });
            if awaited == 0 {
                break;
            }
            endpoint.wait(Duration::MAX)?;
        }
        for from in 0..ranks {
            assert_eq!(*endpoint.message(LANE, from, round), round.to_le_bytes());
            endpoint.release(LANE, from, round + 1);
        }
        endpoint.notify();
    }
    endpoint.detach();
    Ok(())
}

/// The most memory that this process has had, as the system writes it.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().to_owned())
}
