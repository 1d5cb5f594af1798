//! The conformance suite of transports over MPI, over shared memory under `mpirun`, and over both.

use std::io::Write;

use slackline_mpi::{NodeEndpoint, Peers};
use slackline_transport::conformance::Check;

use crate::mpirun;

/// What a rank says, behind its number, when a check has passed.
const PASSED: &str = "passed";

/// After these checks a job cannot end in order.
const LAST: [Check; 3] = [Check::Dies, Check::Poison, Check::PoisonRace];

pub(crate) fn test() {
    for peers in ["mpi", "auto", "nodes:2"] {
        for ranks in [1, 2, 4] {
            let program = mpirun::this_program(ranks, &["conformance", peers, "all"]);
            mpirun::expect_success(program, &format!("conformance, {peers}, {ranks} ranks"));
            for check in LAST {
                let output = mpirun::run(mpirun::this_program(ranks, &["conformance", peers, check.name()]));
                let said = String::from_utf8_lossy(&output.stdout);
                let passed = said.lines().filter(|line| line.contains(PASSED)).count();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert_eq!(passed, ranks, "conformance, {check}, {peers}, {ranks} ranks:\n{said}{errors}");
            }
        }
        println!("conformance, {peers}: all checks");
    }
}

/// `words`: what carries the messages, and the check.
pub(crate) fn rank(words: &[String]) {
    let (peers, world): (Peers, _) = (words[0].parse().unwrap(), mpirun::join());
    let run = |check: Check| {
        let endpoint = NodeEndpoint::join(&world, &check.shape(world.ranks()), peers).unwrap();
        if let Err(failed) = check.run(endpoint) {
            eprintln!("{failed}");
            world.abort(1);
        }
    };
    match Check::named(&words[1]) {
        None => Check::ALL.into_iter().filter(|check| !LAST.contains(check)).for_each(run),
        Some(check) => {
            run(check);
            // In one write, so that lines of several ranks do not mix.
            let line = format!("rank {} {PASSED}\n", world.rank());
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            std::io::stdout().flush().unwrap();
            world.abort(3);
        }
    }
}
