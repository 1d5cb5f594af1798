//! Starting the ranks and collecting what became of them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::config::SimConfig;
use super::endpoint::{SimEndpoint, Stopped};
use super::error::{RankEnd, SimError};
use super::network::{Failure, Shared};
use super::schedule::{NEVER, Phase};
use crate::{PeerState, Rank, TransportError};

/// The result of a simulation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimReport<T> {
    /// What each rank's main function returned, or how the rank ended before.
    pub ranks: Vec<Result<T, RankEnd>>,
    /// Virtual time at which the last rank ended.
    pub makespan: Duration,
    /// How many messages, releases and other signals landed, and ranks died.
    pub events: u64,
    /// How many times a rank was given the turn.
    pub turns: u64,
    /// A hash over all events and turns in order, with their virtual times and the messages' bytes. It is the same for the
    /// same configuration and program on every machine, so a difference shows a program that is not deterministic.
    pub trace: u64,
}

impl<T> SimReport<T> {
    /// What all ranks returned, in rank order.
    ///
    /// # Errors
    ///
    /// The first rank that returned nothing, and why.
    pub fn values(self) -> Result<Vec<T>, (Rank, RankEnd)> {
        self.ranks.into_iter().enumerate().map(|(rank, result)| result.map_err(|end| (rank, end))).collect()
    }
}

/// Runs `rank_main` once for each rank of the group, in virtual time, and returns when all ranks have ended. See the
/// [module](super) for the rules of the simulated world.
///
/// A rank whose endpoint is dropped without [`detach`](crate::Endpoint::detach) counts as dead to its peers, also when
/// `rank_main` returns. A panic in `rank_main` ends that rank alone.
///
/// Cost: a thread a rank; a switch between threads for each turn, about as long as a wake-up between threads takes; memory
/// for all slots that are in use, and some 150 bytes for each ordered pair of ranks and lane.
///
/// # Errors
///
/// * [`SimError::Deadlock`] when ranks wait and nothing will ever happen;
/// * [`SimError::TimeLimit`] when virtual time would pass [`SimConfig::time_limit`];
/// * [`SimError::Config`] for a configuration that makes no sense;
/// * [`SimError::Transport`] for a shape that cannot be laid out, and when a rank's thread could not be started.
///
/// All ranks have ended then, too.
pub fn run<T, F>(config: &SimConfig, rank_main: F) -> Result<SimReport<T>, SimError>
where
    T: Send,
    F: Fn(SimEndpoint) -> T + Send + Sync,
{
    let shape = config.checked_shape()?;
    let ranks = shape.ranks;
    let shared = Arc::new(Shared::new(shape, config));
    let (ranks, ended): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let mut threads = Vec::with_capacity(ranks);
        for rank in 0..ranks {
            let (shared, rank_main) = (&shared, &rank_main);
            let thread = thread::Builder::new().name(format!("rank {rank}")).stack_size(config.stack_bytes);
            match thread.spawn_scoped(scope, move || one_rank(rank, shared, rank_main)) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    let mut network = shared.lock();
                    network.failure = Some(Failure::Thread { rank, source });
                    (rank..ranks).for_each(|rank| network.schedule.stop(rank, Phase::Ended, NEVER));
                    break;
                }
            }
        }
        let first = shared.lock().next_turn();
        if let Some(first) = first {
            shared.give_turn(first);
        }
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|payload| resume_unwind(payload))).unzip()
    });

    let mut network = shared.lock();
    let died = || {
        let ends = ranks.iter().enumerate().filter_map(|(rank, result)| Some((rank, result.as_ref()?.as_ref().err()?)));
        ends.map(|(rank, end)| (rank, end.clone())).collect()
    };
    let at = Duration::from_nanos(network.now());
    match network.failure.take() {
        None => Ok(SimReport {
            // Without a failure, no rank is stopped before it came to something.
            ranks: ranks.into_iter().map(|result| result.unwrap_or(Err(RankEnd::Killed { at }))).collect(),
            makespan: ended.into_iter().max().unwrap_or_default(),
            events: network.events,
            turns: network.turns,
            trace: network.trace,
        }),
        Some(Failure::Deadlock { waiting, unnotified }) => {
            Err(SimError::Deadlock { at, waiting, unnotified, died: died() })
        }
        Some(Failure::PastLimit { running }) => {
            Err(SimError::TimeLimit { limit: config.time_limit, running, died: died() })
        }
        Some(Failure::Thread { rank, source }) => {
            Err(TransportError::System { rank, action: "starting the thread of a simulated rank", source }.into())
        }
    }
}

/// What came of a rank (nothing, if it was stopped because the simulation failed), and when.
type Outcome<T> = (Option<Result<T, RankEnd>>, Duration);

fn one_rank<T>(rank: Rank, shared: &Arc<Shared>, rank_main: impl Fn(SimEndpoint) -> T) -> Outcome<T> {
    shared.take_turn(rank);
    let gone = shared.lock().is_gone(rank);
    let result = match gone {
        true => Err(Box::new(Stopped) as Box<dyn Any + Send>),
        false => catch_unwind(AssertUnwindSafe(|| rank_main(SimEndpoint::new(rank, Arc::clone(shared))))),
    };

    let mut network = shared.lock();
    let at = Duration::from_nanos(network.now());
    let outcome = match result {
        _ if network.is_killed(rank) => Some(Err(RankEnd::Killed { at })),
        Ok(value) => Some(Ok(value)),
        Err(payload) if payload.is::<Stopped>() => None,
        Err(payload) => Some(Err(RankEnd::Panicked { at, message: message(&*payload) })),
    };
    if !network.is_gone(rank) {
        // Nothing new, unless the endpoint was not dropped.
        network.leave(rank, PeerState::Dead);
    }
    network.schedule.stop(rank, Phase::Ended, NEVER);
    let next = network.next_turn();
    drop(network);
    if let Some(next) = next {
        shared.give_turn(next);
    }
    (outcome, at)
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(not a text)".into())
}
