//! MPI's own alltoallv in all ways of use: sizes of its own for each round, several rounds under way, aligned messages.

use std::collections::VecDeque;

use slackline_mpi::World;
use slackline_mpi::baseline::Alltoallv;

use crate::mpirun;

const ROUNDS: usize = 40;

pub(crate) fn test() {
    for ranks in [1, 2, 4] {
        mpirun::expect_success(mpirun::this_program(ranks, &["alltoallv"]), &format!("alltoallv, {ranks} ranks"));
    }
}

/// Nothing in some rounds, the same as before in others, more than ever before in later ones.
fn size(round: usize, from: usize, to: usize) -> usize {
    if round % 7 == 3 { 0 } else { (round / 2) * (round / 2) * (from + 2 * to) % (40 + 30 * round) }
}

fn byte(round: usize, from: usize, to: usize, at: usize) -> u8 {
    (round * 31 + from * 7 + to * 13 + at * 3) as u8
}

pub(crate) fn rank() {
    let world = mpirun::join();
    for blocking in [true, false] {
        one(&world, 1, blocking);
    }
    for depth in [2, 3, 5] {
        one(&world, depth, false);
    }
}

fn one(world: &World, depth: usize, blocking: bool) {
    let (own, ranks) = (world.rank(), world.ranks());
    let mut alltoallv = Alltoallv::new(world, depth).unwrap();
    let check = |alltoallv: &Alltoallv, round| {
        for from in 0..ranks {
            let message = alltoallv.message(from);
            assert_eq!(message.len(), size(round, from, own), "round {round} from {from}");
            assert!(message.as_ptr().addr().is_multiple_of(64), "round {round} from {from}");
            assert!(message.iter().enumerate().all(|(at, got)| *got == byte(round, from, own, at)));
        }
    };
    let mut under_way = VecDeque::new();
    for round in 0..ROUNDS {
        let send: Vec<usize> = (0..ranks).map(|to| size(round, own, to)).collect();
        let receive: Vec<usize> = (0..ranks).map(|from| size(round, from, own)).collect();
        // A round that is opened and dropped never happened.
        drop(alltoallv.open(&receive, &send).unwrap());
        let mut open = alltoallv.open(&send, &receive).unwrap();
        open.progress().unwrap();
        assert_eq!(open.rooms().count(), ranks);
        for (to, room) in open.rooms().enumerate() {
            assert_eq!(room.len(), send[to]);
            assert!(room.as_ptr().addr().is_multiple_of(64));
            room.iter_mut().enumerate().for_each(|(at, put)| *put = byte(round, own, to, at));
        }
        if blocking {
            open.block().unwrap();
            check(&alltoallv, round);
            continue;
        }
        open.begin().unwrap();
        under_way.push_back(round);
        assert_eq!(alltoallv.under_way(), under_way.len());
        while under_way.len() == depth || alltoallv.is_done().unwrap() {
            alltoallv.finish().unwrap();
            check(&alltoallv, under_way.pop_front().unwrap());
        }
    }
    while let Some(round) = under_way.pop_front() {
        alltoallv.finish().unwrap();
        check(&alltoallv, round);
    }
    assert!(alltoallv.open(&vec![1 << 31; ranks], &vec![0; ranks]).is_err(), "2 GiB is more than a count of MPI");
}
