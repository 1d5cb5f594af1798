//! The tests over MPI: this program starts itself under `mpirun`.
//!
//! By hand: `cargo test -p slackline-mpi --features mpi`, with the name of a test to run that one alone, and with `MPIRUN`
//! and `MPIRUN_FLAGS` in the environment for another launcher.

mod alltoallv;
mod collective;
#[path = "../../../slackline-collective/tests/suite/common.rs"]
mod common;
mod conformance;
mod faults;
mod held;
mod mpirun;

use std::env;

/// A test, and what a rank of its job does with the words behind the test's name.
struct Test {
    name: &'static str,
    test: fn(),
    rank: fn(&[String]),
}

const TESTS: &[Test] = &[
    Test { name: "readme", test: the_readme_shows_the_example, rank: |_| () },
    Test { name: "collective", test: collective::test, rank: |_| collective::rank() },
    Test { name: "conformance", test: conformance::test, rank: conformance::rank },
    Test { name: "alltoallv", test: alltoallv::test, rank: |_| alltoallv::rank() },
    Test { name: "held", test: held::test, rank: held::rank },
    Test { name: "faults", test: faults::test, rank: faults::rank },
];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if mpirun::is_rank() {
        let test = TESTS.iter().find(|test| test.name == words[0]).expect("a test");
        return (test.rank)(&words[1..]);
    }
    // As far as the standard harness is imitated: `--list`, and filters by name.
    let list = words.iter().any(|word| word == "--list");
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    for Test { name, test, .. } in TESTS {
        if list {
            println!("{name}: test");
        } else if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            test();
        }
    }
}

/// The README shows the example as it is, without its head.
fn the_readme_shows_the_example() {
    let example = include_str!("../../examples/lag_mpi.rs");
    let body = example.split_once("\n\n").expect("a head").1;
    assert!(include_str!("../../README.md").contains(body), "README.md and examples/lag_mpi.rs differ");
}
