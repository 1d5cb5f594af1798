//! The property suite of the collective over MPI, with several numbers of ranks. All ranks draw the same cases from the
//! same seed; `SLACKLINE_SEED` and `SLACKLINE_CASES` change which and how many.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use slackline_mpi::{NodeEndpoint, Peers, World};
use slackline_transport::{Checked, Endpoint};

use crate::common::{self, Spec, bounded_lag, oracle, specs};
use crate::mpirun;

pub(crate) fn test() {
    for ranks in [1, 2, 3, 4, 8] {
        mpirun::expect_success(mpirun::this_program(ranks, &["collective"]), &format!("{ranks} ranks"));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

pub(crate) fn rank() {
    let world = mpirun::join();
    let (seed, cases) = (number("SLACKLINE_SEED", 1), number("SLACKLINE_CASES", 60));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = specs(8, 12, 300);
    for case in 0..cases {
        let spec = for_ranks(strategy.new_tree(&mut runner).unwrap().current(), world.ranks());
        let outcome = catch_unwind(AssertUnwindSafe(|| one(&world, &spec)));
        if outcome.is_err() {
            eprintln!("rank {}: seed {seed}, case {case}: {spec:?}", world.rank());
            std::process::exit(1);
        }
    }
    if world.rank() == 0 {
        println!("{} ranks, {}: {cases} cases", world.ranks(), world.library_version().unwrap());
    }
}

/// The same case for the ranks that there are.
fn for_ranks(mut spec: Spec, ranks: usize) -> Spec {
    let rounds = spec.rounds.clone();
    spec.rounds = (0..ranks).map(|rank| rounds[rank % rounds.len()]).collect();
    spec.ranks = ranks;
    spec
}

fn one(world: &World, spec: &Spec) {
    let peers = [Peers::MpiOnly, Peers::MpiOnly, Peers::Auto, Peers::NodesOf(2), Peers::NodesOf(3)];
    let peers = peers[(spec.seed >> 1) as usize % peers.len()];
    let join = || NodeEndpoint::join(world, &spec.shape(), peers).unwrap();
    let expected = oracle(join(), spec);
    let came = if spec.seed.is_multiple_of(2) { run(join(), spec) } else { run(Checked::new(join()), spec) };
    assert_eq!(came, expected);
}

fn run<E: Endpoint>(endpoint: E, spec: &Spec) -> common::Rounds {
    bounded_lag(endpoint, spec).unwrap().0
}
