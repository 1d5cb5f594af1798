//! The same model over every collective of `slackline-collective`: the same bits.

use std::time::Duration;

use proptest::prelude::*;
use slackline_collective::synchronous::{Rounds, Synchronous};
use slackline_collective::{Collective, Delivery, GroupShape, Lane, LaneOptions};
use slackline_data::Batch;
use slackline_dlrm::{Distributed, Model, Wire, largest_message};
use slackline_embedding::Plan;
use slackline_transport::threads;

use crate::common::{Small, bits, small_models};
use crate::distributed::{LANE, batches, five, member, mixed_plan, on_threads};

/// One rank's predictions: the number of each sample, and its bits.
fn run(small: &Small, plan: &Plan, wire: Wire, collective: impl Collective, batches: &[Batch]) -> Vec<(u64, u32)> {
    let model = member(small, plan, collective.rank()).with_wire(wire);
    let mut model = Distributed::new(model, collective).unwrap();
    let (mut all, mut out, mut rounds) = (Vec::new(), Vec::new(), 0);
    let mut keep = |answered: slackline_dlrm::Answered, out: &[f32]| {
        assert_eq!((answered.round, answered.samples), (rounds, out.len()));
        rounds += 1;
        all.extend((answered.first_sample..).zip(bits(out)));
    };
    for (number, batch) in batches.iter().enumerate() {
        model.submit(batch).unwrap();
        while let Some(answered) = if number == 2 { model.flush(&mut out) } else { model.take(&mut out) }.unwrap() {
            keep(answered, &out);
        }
    }
    while let Some(answered) = model.drain(&mut out).unwrap() {
        keep(answered, &out);
    }
    assert_eq!(rounds, batches.len() as u64);
    all
}

/// Over the bounded-lag exchange; all ranks' predictions in order.
fn bounded(
    small: &Small,
    plan: &Plan,
    wire: Wire,
    lane: LaneOptions,
    slot: usize,
    batches: &[Batch],
) -> Vec<(u64, u32)> {
    let mut all =
        on_threads(lane, slot, plan.ranks(), |_, group| run(small, plan, wire, group.lane(LANE), batches)).concat();
    all.sort_unstable();
    all
}

/// Over the synchronous oracle.
fn synchronous(small: &Small, plan: &Plan, wire: Wire, slot: usize, batches: &[Batch]) -> Vec<(u64, u32)> {
    let shape = GroupShape { ranks: plan.ranks(), lanes: vec![LaneOptions::lag(0).shape(slot.max(8))] };
    let endpoints = threads::group(&shape).unwrap();
    let mut all = std::thread::scope(|scope| {
        let rank = |endpoint| {
            let oracle = Synchronous::new(endpoint, Lane(0), Duration::from_secs(60));
            run(small, plan, wire, Rounds::new(oracle), batches)
        };
        let ranks: Vec<_> = endpoints.into_iter().map(|endpoint| scope.spawn(move || rank(endpoint))).collect();
        ranks.into_iter().flat_map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    all.sort_unstable();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn bounded_lag_and_the_synchronous_oracle_give_the_same_bits(
        small in small_models(),
        ranks in 1usize..5,
        kinds in proptest::collection::vec(0usize..6, 9),
        lag in 0usize..4,
        fixed: bool,
        sizes in proptest::collection::vec(0usize..20, 0..8),
        wire in prop_oneof![Just(Wire::F32), Just(Wire::F16), Just(Wire::Bf16)],
        slots in prop_oneof![Just(41usize), Just(4096)],
        seed: u64,
    ) {
        let (plan, _) = mixed_plan(&small, ranks, &kinds);
        let batches = batches(&small, &sizes, seed);
        let delivery = if fixed { Delivery::Fixed } else { Delivery::Elastic };
        let found = bounded(&small, &plan, wire, LaneOptions { lag, delivery }, slots, &batches);
        prop_assert_eq!(found, synchronous(&small, &plan, wire, 64, &batches));
    }
}

#[test]
fn every_kind_of_plan_lag_and_wire_gives_the_bits_of_the_synchronous_oracle() {
    let small = five();
    let batches = batches(&small, &[9, 1, 0, 17, 3, 30], 40);
    // All whole; by columns; by rows; with hot rows; replicated; of all kinds.
    for kinds in [[5; 5], [1; 5], [2; 5], [3; 5], [0; 5], [0, 1, 2, 3, 4]] {
        let (plan, _) = mixed_plan(&small, 3, &kinds);
        let slot = largest_message(&plan, 30).max(8);
        for wire in Wire::ALL {
            let expected = synchronous(&small, &plan, wire, slot, &batches);
            for lag in [0, 2] {
                let found = bounded(&small, &plan, wire, LaneOptions::lag(lag), slot, &batches);
                assert!(found == expected, "{kinds:?}, {wire}, lag {lag}");
            }
        }
    }
}
