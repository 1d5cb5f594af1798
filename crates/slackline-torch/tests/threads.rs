//! The collectives over ranks that are threads, against what they have to give.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use slackline_collective::Delivery;
use slackline_collective::transport::threads;
use slackline_torch::{
    BoundedLag, Collectives, Dtype, FailureKind, Memory, Plan, Reducer, Reduction, Settings, Taken, Ticket,
};

const LONG: Duration = Duration::from_secs(60);

type Ranked = Collectives<slackline_collective::transport::shm::RingEndpoint>;

/// Runs `work` on every rank of a group with small rings.
fn on_ranks<T: Send>(ranks: usize, slot_bytes: usize, slots: usize, work: impl Fn(&Ranked) -> T + Sync) -> Vec<T> {
    let endpoints = threads::group(&Settings { slot_bytes, slots }.shape(ranks)).unwrap();
    std::thread::scope(|scope| {
        let rank = |endpoint| {
            scope.spawn(|| {
                let group = Collectives::new(endpoint, (0..ranks).collect(), "test").unwrap();
                let done = work(&group);
                ended(&group, &group.submit(Plan::barrier(group.rank(), ranks), LONG, false));
                done
            })
        };
        let threads: Vec<_> = endpoints.into_iter().map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ended(group: &Ranked, ticket: &Ticket) -> Option<usize> {
    while !group.wait(ticket, LONG) {}
    ticket.end().unwrap().clone().unwrap()
}

fn message(number: usize, from: usize, to: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + number * 31 + from * 5 + to) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any sizes through any rings, several at once, waited for in any order.
    #[test]
    fn every_byte_arrives(
        ranks in 1usize..5,
        slot_bytes in prop::sample::select(vec![1usize, 50, 1000]),
        slots in 1usize..4,
        sizes in prop::collection::vec(prop::sample::select(vec![0usize, 1, 49, 64, 700, 3000]), 16 * 4),
        later in prop::collection::vec(any::<bool>(), 4),
        backwards in any::<bool>(),
    ) {
        let size = |number: usize, from: usize, to: usize| sizes[16 * number + 4 * from + to];
        on_ranks(ranks, slot_bytes, slots, |group| {
            let rank = group.rank();
            let mut rounds: Vec<(Arc<Ticket>, Vec<Memory>)> = Vec::new();
            for (number, later) in later.iter().enumerate() {
                let send = (0..ranks).map(|to| Memory::of(&message(number, rank, to, size(number, rank, to)))).collect();
                let receive: Vec<Memory> = (0..ranks).map(|from| Memory::zeroed(size(number, from, rank))).collect();
                rounds.push((group.submit(Plan::all_to_all(rank, send, receive.clone()), LONG, *later), receive));
            }
            if backwards {
                rounds.reverse();
            }
            for (ticket, _) in &rounds {
                ended(group, ticket);
            }
            for (place, (_, receive)) in rounds.iter().enumerate() {
                let number = if backwards { rounds.len() - 1 - place } else { place };
                for (from, memory) in receive.iter().enumerate() {
                    assert_eq!(memory.to_vec(), message(number, from, rank, size(number, from, rank)));
                }
            }
        });
    }

    /// Small and large, all-reduce gives each rank the same, in rank order.
    #[test]
    fn reductions_are_in_rank_order_on_every_rank(
        ranks in 1usize..5,
        elements in prop::sample::select(vec![0usize, 1, 5, 3001]),
    ) {
        let reducer = Reducer::new(Reduction::Sum, Dtype::F32).unwrap();
        let value = |rank: usize, at: usize| [1e8f32, 1.0, -1e8, 3.5][(rank + at) % 4];
        let all = on_ranks(ranks, 500, 2, |group| {
            let bytes: Vec<u8> = (0..elements).flat_map(|at| value(group.rank(), at).to_ne_bytes()).collect();
            let memory = Memory::of(&bytes);
            ended(group, &group.submit(Plan::all_reduce(group.rank(), ranks, &memory, reducer), LONG, false));
            memory.to_vec()
        });
        let expected: Vec<u8> =
            (0..elements).flat_map(|at| (1..ranks).fold(value(0, at), |sum, rank| sum + value(rank, at)).to_ne_bytes()).collect();
        prop_assert!(all.iter().all(|reduced| *reduced == expected));
    }
}

#[test]
fn messages_are_matched_by_tags() {
    on_ranks(2, 100, 2, |group| {
        let other = 1 - group.rank();
        let sent: Vec<_> = [(1u32, 300usize), (2, 0), (3, 5)]
            .map(|(tag, len)| group.send(other, tag, Memory::of(&message(0, group.rank(), tag as usize, len)), LONG))
            .into();
        for (tag, len, from) in [(3u32, 5usize, None), (1, 300, Some(other)), (2, 0, None)] {
            let memory = Memory::zeroed(len);
            assert_eq!(ended(group, &group.receive(from, tag, memory.clone(), LONG)), Some(other));
            assert_eq!(memory.to_vec(), message(0, other, tag as usize, len));
        }
        sent.iter().for_each(|ticket| assert_eq!(ended(group, ticket), None));
    });
}

/// How an operation ends that fails on this rank.
fn failure(group: &Ranked, ticket: &Ticket) -> slackline_torch::Failure {
    while !group.wait(ticket, LONG) {}
    ticket.end().unwrap().clone().unwrap_err()
}

/// Two ranks of which each does something else; what they are told.
fn told(work: impl Fn(&Ranked) -> Option<slackline_torch::Failure> + Sync) -> Vec<slackline_torch::Failure> {
    let endpoints = threads::group(&Settings { slot_bytes: 100, slots: 2 }.shape(2)).unwrap();
    std::thread::scope(|scope| {
        let rank = |endpoint| scope.spawn(|| work(&Collectives::new(endpoint, vec![4, 9], "test").unwrap()));
        let threads: Vec<_> = endpoints.into_iter().map(rank).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sizes_that_disagree_name_the_rank_of_the_program_and_both_sizes() {
    let failures = told(|group| {
        let rank = group.rank();
        let exchange = |send: usize, receive: usize| {
            let own = Memory::zeroed(1);
            let (mut sends, mut receives) = (vec![own.clone(), own.clone()], vec![own.clone(), own]);
            (sends[1 - rank], receives[1 - rank]) = (Memory::zeroed(send), Memory::zeroed(receive));
            group.submit(Plan::all_to_all(rank, sends, receives), LONG, false)
        };
        ended(group, &exchange(5, 5));
        let ticket = if rank == 0 { exchange(8, 8) } else { exchange(8, 12) };
        // Rank 0 may have its message before the other finds the fault.
        let barrier = group.submit(Plan::barrier(rank, 2), LONG, false);
        if rank == 1 {
            failure(group, &ticket);
        }
        Some(failure(group, &barrier))
    });
    assert_eq!(failures.len(), 2);
    for failure in failures {
        assert_eq!((failure.kind, &failure.ranks[..]), (FailureKind::Mismatch, &[4][..]), "{failure}");
        assert_eq!((failure.bytes, failure.expected, failure.round), (Some(8), Some(12), Some(1)), "{failure}");
    }
}

#[test]
fn another_operation_is_named() {
    let failures = told(|group| {
        let memory = Memory::zeroed(8);
        let reducer = Reducer::new(Reduction::Sum, Dtype::F32).unwrap();
        let plan = match group.rank() {
            0 => Plan::all_reduce(0, 2, &memory, reducer),
            _ => Plan::broadcast(1, 2, 0, &memory),
        };
        let ticket = group.submit(plan, LONG, false);
        Some(failure(group, &ticket))
    });
    assert!(failures.iter().all(|failure| failure.kind == FailureKind::Mismatch));
    assert!(failures[0].text.contains("all_reduce") && failures[0].text.contains("broadcast"), "{}", failures[0]);
}

#[test]
fn a_rank_that_closes_its_group_is_named_and_one_that_is_late_is() {
    let failures = told(|group| {
        if group.rank() == 1 {
            group.close();
            let closed = group.submit(Plan::barrier(1, 2), LONG, false);
            assert_eq!(failure(group, &closed).kind, FailureKind::Unusable);
            return None;
        }
        Some(failure(group, &group.submit(Plan::barrier(0, 2), LONG, false)))
    });
    assert_eq!((failures[0].kind, &failures[0].ranks[..]), (FailureKind::Dead, &[9][..]), "{}", failures[0]);

    let endpoints = threads::group(&Settings { slot_bytes: 100, slots: 2 }.shape(2)).unwrap();
    let groups: Vec<_> = endpoints.into_iter().map(|it| Collectives::new(it, vec![4, 9], "test").unwrap()).collect();
    let waiting = groups[0].submit(Plan::barrier(0, 2), Duration::from_millis(20), false);
    let late = failure(&groups[0], &waiting);
    assert_eq!((late.kind, &late.ranks[..], late.round), (FailureKind::Late, &[9][..], Some(0)), "{late}");
    let told = failure(&groups[1], &groups[1].submit(Plan::barrier(1, 2), LONG, false));
    assert_eq!((told.kind, &told.ranks[..]), (FailureKind::Late, &[9][..]), "{told}");
}

#[test]
fn large_messages_move_while_nobody_waits() {
    let endpoints = threads::group(&Settings { slot_bytes: 100, slots: 2 }.shape(2)).unwrap();
    let groups: Vec<_> = endpoints.into_iter().map(|it| Collectives::new(it, vec![0, 1], "test").unwrap()).collect();
    let begun: Vec<_> = groups
        .iter()
        .map(|group| {
            let rank = group.rank();
            let send = (0..2).map(|to| Memory::of(&message(0, rank, to, 50_000))).collect();
            let receive = vec![Memory::zeroed(50_000); 2];
            group.submit(Plan::all_to_all(rank, send, receive), LONG, true)
        })
        .collect();
    let limit = std::time::Instant::now() + LONG;
    while !begun.iter().all(|ticket| ticket.is_done()) {
        assert!(std::time::Instant::now() < limit, "nothing moved");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_wait_that_was_abandoned_does_not_count_in_the_next() {
    let shape = BoundedLag::<slackline_collective::transport::shm::RingEndpoint>::shape(2, 0, 300);
    let mut endpoints = threads::group(&shape).unwrap();
    let (timeout, slice) = (Duration::from_millis(20), Duration::from_millis(1));
    let rounds = BoundedLag::new(endpoints.remove(0), 0, Delivery::Elastic, timeout, vec![4, 9], "test").unwrap();
    rounds.try_submit(&[Memory::EMPTY, Memory::EMPTY], &[Memory::EMPTY, Memory::EMPTY]).unwrap().unwrap();
    let wait = || {
        assert!(matches!(rounds.try_take(false).unwrap(), Taken::Due));
        rounds.pause(slice)
    };
    wait().unwrap();
    std::thread::sleep(timeout);
    rounds.abandon().unwrap();
    wait().unwrap();
    std::thread::sleep(timeout);
    let late = wait().unwrap_err();
    assert_eq!((late.kind, &late.ranks[..]), (FailureKind::Late, &[9][..]), "{late}");
}

#[test]
fn rounds_of_bounded_lag_are_exact() {
    for (lag, delivery) in [(0, Delivery::Elastic), (1, Delivery::Elastic), (3, Delivery::Fixed)] {
        let endpoints =
            threads::group(&BoundedLag::<slackline_collective::transport::shm::RingEndpoint>::shape(3, lag, 300))
                .unwrap();
        std::thread::scope(|scope| {
            for endpoint in endpoints {
                scope.spawn(move || {
                    let rank = slackline_collective::Endpoint::rank(&endpoint);
                    let rounds = BoundedLag::new(endpoint, lag, delivery, LONG, vec![0, 1, 2], "test").unwrap();
                    let len =
                        |number: usize, from: usize, to: usize| [0, 3, 299, 300, 2000][(number + 2 * from + to) % 5];
                    let mut places = Vec::new();
                    let mut taken = 0;
                    let mut take = |all: bool, places: &[Vec<Memory>]| {
                        loop {
                            match rounds.try_take(all).unwrap() {
                                Taken::Round(number) => {
                                    assert_eq!(number, taken);
                                    for (from, memory) in places[number as usize].iter().enumerate() {
                                        let number = number as usize;
                                        assert_eq!(
                                            memory.to_vec(),
                                            message(number, from, rank, len(number, from, rank))
                                        );
                                    }
                                    taken += 1;
                                }
                                Taken::Nothing => return taken,
                                Taken::Due => rounds.pause(LONG).unwrap(),
                            }
                        }
                    };
                    for number in 0..40 {
                        let send: Vec<_> =
                            (0..3).map(|to| Memory::of(&message(number, rank, to, len(number, rank, to)))).collect();
                        let receive: Vec<_> = (0..3).map(|from| Memory::zeroed(len(number, from, rank))).collect();
                        places.push(receive.clone());
                        while rounds.try_submit(&send, &receive).unwrap().is_none() {
                            rounds.pause(LONG).unwrap();
                        }
                        assert!(take(false, &places) + lag as u64 > number as u64);
                    }
                    rounds.leave().unwrap();
                    assert_eq!(take(true, &places), 40);
                    while !rounds.is_sent().unwrap() {
                        rounds.pause(LONG).unwrap();
                    }
                    let stats = rounds.stats().unwrap();
                    assert_eq!((stats.rounds, stats.taken, stats.lag.iter().sum::<u64>()), (40, 40, 40));
                    assert!(stats.lag.len() <= lag + 1);
                });
            }
        });
    }
}
