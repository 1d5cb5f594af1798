//! One random exchange, as a rank program that runs over any transport: what it sends, what it must receive, and what the
//! plain synchronous exchange makes of the same messages.
#![allow(dead_code, unreachable_pub, reason = "slackline-mpi uses a part of it")]

use std::time::Duration;

use proptest::prelude::*;
use slackline_collective::synchronous::Synchronous;
use slackline_collective::{
    CollectiveError, Complete, Delivery, Group, GroupOptions, HEADER_BYTES, LaneOptions, LaneStats,
};
use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, SLOT_ALIGN};

/// A random exchange; equal on every rank.
#[derive(Clone, Debug)]
pub struct Spec {
    pub ranks: usize,
    /// Rounds that each rank publishes before it leaves.
    pub rounds: Vec<u64>,
    pub lag: usize,
    pub delivery: Delivery,
    /// Slots a ring has; at least `lag + 1`.
    pub slots: usize,
    /// Payload bytes of a slot. Messages may be larger.
    pub capacity: usize,
    pub largest_message: usize,
    pub seed: u64,
    /// The longest pause of a rank in a round, in microseconds.
    pub pause: u64,
}

/// What a rank saw: a digest of every round it was handed, in order.
pub type Rounds = Vec<u64>;

pub fn specs(most_ranks: usize, most_rounds: u64, longest_pause: u64) -> impl Strategy<Value = Spec> {
    (1..=most_ranks, 0usize..=8, any::<bool>(), 0usize..=10, any::<u64>()).prop_flat_map(
        move |(ranks, lag, fixed, more_slots, seed)| {
            let rounds = prop::collection::vec(0..=most_rounds, ranks);
            let sizes = (1usize..200, prop_oneof![Just(0usize), 1usize..300, 300usize..5000]);
            (rounds, sizes, 0..=longest_pause).prop_map(move |(rounds, (capacity, largest_message), pause)| Spec {
                ranks,
                rounds,
                lag,
                delivery: if fixed { Delivery::Fixed } else { Delivery::Elastic },
                slots: lag + 1 + more_slots,
                capacity,
                largest_message,
                seed,
                pause,
            })
        },
    )
}

fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9E37_79B9_7F4A_7C15, |hash, word| {
        let mut z = (hash ^ word).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 30)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 29)
    })
}

impl Spec {
    pub fn shape(&self) -> GroupShape {
        let lane = LaneShape { slots: self.slots, slot_bytes: self.capacity + HEADER_BYTES };
        GroupShape { ranks: self.ranks, lanes: vec![lane] }
    }

    pub fn options(&self) -> GroupOptions {
        GroupOptions::new([LaneOptions { lag: self.lag, delivery: self.delivery }]).deadline(Duration::from_secs(30))
    }

    pub fn longest(&self) -> u64 {
        self.rounds.iter().copied().max().unwrap_or(0)
    }

    /// The message of `round` from `from` to `to`; a third are empty, and so are all after a rank has left.
    pub fn message(&self, round: u64, from: usize, to: usize) -> Vec<u8> {
        let key = mix(&[self.seed, round, from as u64, to as u64]);
        if round >= self.rounds[from] || key.is_multiple_of(3) || self.largest_message == 0 {
            return Vec::new();
        }
        let length = (key >> 8) as usize % (self.largest_message + 1);
        (0..length).map(|at| (mix(&[key, at as u64 / 8]) >> (8 * (at % 8))) as u8).collect()
    }

    pub fn pause(&self, round: u64, rank: usize) -> Duration {
        let key = mix(&[self.seed, 77, round, rank as u64]);
        Duration::from_micros(if key.is_multiple_of(2) { 0 } else { key % (self.pause + 1) })
    }
}

/// The program of one rank: every round it is handed must be exactly what was sent.
pub fn bounded_lag<E: Endpoint>(endpoint: E, spec: &Spec) -> Result<(Rounds, LaneStats), CollectiveError> {
    let rank = endpoint.rank();
    let group = Group::new(endpoint, spec.options())?;
    let mut rounds = Rounds::new();
    for round in 0..spec.rounds[rank] {
        let messages: Vec<_> = (0..spec.ranks).map(|to| spec.message(round, rank, to)).collect();
        let sizes: Vec<_> = messages.iter().map(Vec::len).collect();
        let exchange = group.lane(Lane(0));
        let mut sending = exchange.begin(&sizes)?;
        assert_eq!(sending.number(), round);
        for (room, message) in sending.messages_mut().into_iter().zip(&messages) {
            assert!(room.as_ptr().addr().is_multiple_of(SLOT_ALIGN), "room for a message is aligned");
            room.copy_from_slice(message);
        }
        if mix(&[spec.seed, round]).is_multiple_of(2) {
            sending.expect(&(0..spec.ranks).map(|from| spec.message(round, from, rank).len()).collect::<Vec<_>>())?;
        }
        sending.publish()?;
        let mut handed = 0;
        while let Some(complete) = exchange.take()? {
            check(spec, rank, &complete, &mut rounds);
            handed += 1;
        }
        if spec.delivery == Delivery::Fixed {
            assert_eq!(handed, usize::from(round >= spec.lag as u64), "fixed delivery hands out round i - lag");
        }
        assert!(rounds.len() as u64 + spec.lag as u64 > round, "the bound");
        let pause = spec.pause(round, rank);
        if !pause.is_zero() {
            group.endpoint().sleep(pause);
        }
    }
    while let Some(complete) = group.lane(Lane(0)).drain()? {
        check(spec, rank, &complete, &mut rounds);
    }
    assert_eq!(rounds.len() as u64, spec.longest(), "every round of every rank is handed out");
    let stats = group.stats(Lane(0)).clone();
    assert!(stats.observed_lag() <= spec.lag, "observed lag {} with lag {}", stats.observed_lag(), spec.lag);
    assert!(stats.lead.len() <= spec.lag + 2, "leads {:?} with lag {}", stats.lead, spec.lag);
    assert_eq!(stats.rounds, spec.rounds[rank]);
    Ok((rounds, stats))
}

fn check<E: Endpoint>(spec: &Spec, rank: usize, complete: &Complete<'_, E>, rounds: &mut Rounds) {
    let round = rounds.len() as u64;
    assert_eq!(complete.number(), round, "rounds come in order");
    for from in 0..spec.ranks {
        let message = complete.message(from);
        assert!(message == spec.message(round, from, rank), "round {round} from {from} to {rank}");
        assert!(message.is_empty() || message.as_ptr().addr().is_multiple_of(SLOT_ALIGN), "a message is aligned");
    }
    rounds.push(digest(complete.messages()));
}

/// The same messages through the plain synchronous exchange.
pub fn oracle<E: Endpoint>(endpoint: E, spec: &Spec) -> Rounds {
    let rank = endpoint.rank();
    let mut exchange = Synchronous::new(endpoint, Lane(0), Duration::from_secs(30));
    let round = |round| {
        let messages: Vec<_> = (0..spec.ranks).map(|to| spec.message(round, rank, to)).collect();
        digest(exchange.alltoallv(&messages).expect("the oracle's exchange"))
    };
    (0..spec.longest()).map(round).collect()
}

fn digest<M: AsRef<[u8]>>(messages: impl IntoIterator<Item = M>) -> u64 {
    messages.into_iter().fold(1, |hash, message| {
        let bytes = message.as_ref();
        bytes.iter().fold(mix(&[hash, bytes.len() as u64]), |hash, byte| mix(&[hash, u64::from(*byte)]))
    })
}

/// Runs one closure on each endpoint of a group, each on a thread of its own.
pub fn on_threads<E: Endpoint + Send, T: Send>(endpoints: Vec<E>, main: impl Fn(E) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = endpoints.into_iter().map(|endpoint| scope.spawn(|| main(endpoint))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank's thread")).collect()
    })
}
