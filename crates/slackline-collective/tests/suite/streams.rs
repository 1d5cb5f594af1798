//! Streams: messages to one peer and from any, beside rounds and without them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::common::on_threads;
use proptest::prelude::*;
use slackline_collective::{
    Arrived, Awaited, CollectiveError, Fault, FaultKind, Group, GroupOptions, HEADER_BYTES, LaneOptions,
};
use slackline_transport::shm::Segment;
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Endpoint, GroupShape, Lane, LaneShape, threads};

const REQUESTS: Lane = Lane(0);
const ANSWERS: Lane = Lane(1);

fn options(lanes: usize) -> GroupOptions {
    GroupOptions::new(vec![LaneOptions::lag(1); lanes]).deadline(Duration::from_secs(20))
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// The same program over threads, shared memory and the simulation.
fn over_all(ranks: usize, lanes: usize, slot: usize, program: impl Fn(Group<Box<dyn Endpoint>>) + Send + Sync) {
    let shape = options(lanes).shape(ranks, slot);
    let run = |endpoint: Box<dyn Endpoint>| program(Group::new(endpoint, options(lanes)).unwrap());
    on_threads(threads::group(&shape).unwrap(), |endpoint| run(Box::new(Checked::new(endpoint))));
    let segment = Segment::create(&shape).unwrap();
    let endpoints = (0..ranks).map(|rank| segment.rank(rank).unwrap()).collect();
    on_threads(endpoints, |endpoint| run(Box::new(endpoint)));
    sim::run(&SimConfig::new(shape, 3), |endpoint| run(Box::new(Checked::new(endpoint)))).unwrap().values().unwrap();
}

#[test]
fn a_message_is_held_while_room_is_filled_on_one_lane_and_on_two() {
    over_all(2, 2, 64, |group| {
        let peer = 1 - group.rank();
        let (one, two) = (group.streams(REQUESTS), group.streams(ANSWERS));
        for number in 0..20u8 {
            let mut room = one.send(peer, 40).unwrap();
            room.fill(number);
            room.publish();
            let request = one.receive(peer).unwrap().expect("the peer has not left");
            assert_eq!((request.from(), request.number()), (peer, 2 * u64::from(number)));
            // On the same lane and on the other, both before either is published.
            let mut same = one.send(peer, request.len()).unwrap();
            let mut other = two.send(peer, request.len()).unwrap();
            same.copy_from_slice(&request);
            other.iter_mut().zip(request.iter()).for_each(|(out, byte)| *out = byte + 100);
            other.publish();
            same.publish();
            let (first, second) = (two.receive(peer).unwrap().unwrap(), one.receive(peer).unwrap().unwrap());
            assert!(*request == [number; 40] && *second == [number; 40] && *first == [number + 100; 40]);
            assert!(request.as_ptr().addr().is_multiple_of(64), "in place");
            // Back in another order than they came.
            drop(second);
            drop(request);
            drop(first);
        }
        group.finish().unwrap();
    });
}

#[test]
fn a_round_is_held_while_others_begin_and_while_streams_go_on() {
    over_all(3, 2, 64, |group| {
        let (rounds, streams) = (group.lane(Lane(0)), group.streams(Lane(1)));
        let next = (group.rank() + 1) % 3;
        let send = |byte: u8| {
            let mut round = rounds.begin(&[5; 3]).unwrap();
            round.messages_mut().into_iter().for_each(|message| message.fill(byte));
            assert!(
                matches!(rounds.begin(&[5; 3]), Err(CollectiveError::RoundOpen { round: open, .. }) if open == round.number())
            );
            round.publish().unwrap();
        };
        let mut held = VecDeque::new();
        for number in 0..30u8 {
            send(number);
            let mut room = streams.send(next, 3).unwrap();
            room.fill(number);
            room.publish();
            assert_eq!(*streams.receive((next + 1) % 3).unwrap().unwrap(), [number; 3]);
            while let Some(complete) = rounds.take().unwrap() {
                held.push_back(complete);
            }
            // The newer of two is given back first.
            if held.len() > 1 {
                let numbers: Vec<u64> = held.iter().map(|complete| complete.number()).collect();
                assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
                while let Some(complete) = held.pop_back() {
                    assert!(complete.messages().iter().all(|message| *message == [complete.number() as u8; 5]));
                }
            }
        }
        drop(held);
        while rounds.flush().unwrap().is_some() {}
        group.finish().unwrap();
    });
}

#[test]
fn room_is_there_once_and_comes_back() {
    over_all(2, 1, 64, |group| {
        let peer = 1 - group.rank();
        let lane = group.streams(REQUESTS);
        let mut room = lane.room(peer, 8).unwrap().expect("a new lane has room");
        assert!(lane.room(peer, 8).unwrap().is_none(), "room towards a peer is lent once");
        assert!(lane.room(peer, 800).unwrap().is_none(), "room for a large message, too");
        room.fill(7);
        // Never sent.
        drop(room);
        let mut sent = 0u8;
        while let Some(mut room) = lane.room(peer, 1).unwrap() {
            room[0] = sent;
            room.publish();
            sent += 1;
        }
        assert_eq!(sent, 4, "2 lag + 2 slots");
        for number in 0..sent {
            assert_eq!(*lane.receive(peer).unwrap().unwrap(), [number]);
        }
        // There is room again when the peer has read.
        loop {
            if let Some(room) = lane.room(peer, 0).unwrap() {
                room.publish();
                break;
            }
            group.wait(Duration::MAX).unwrap();
        }
        assert!(lane.receive(peer).unwrap().unwrap().is_empty());
        lane.leave().unwrap();
        assert!(matches!(lane.room(peer, 1), Err(CollectiveError::AfterLeave { .. })));
        group.finish().unwrap();
    });
}

/// A message of a random conversation.
fn content(from: usize, to: usize, number: u64, largest: usize) -> Vec<u8> {
    let word = (from as u64 * 31 + to as u64 * 17 + number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let length = if number.is_multiple_of(5) { 0 } else { (word >> 33) as usize % (largest + 1) };
    (0..length).map(|at| (word >> (at % 8 * 8)) as u8 ^ at as u8).collect()
}

/// Sends `counts[to]` messages to every rank, holds some of what comes, and checks all of it.
fn converse<E: Endpoint>(group: Group<E>, counts: &[u64], held: usize, largest: usize) {
    let (own, ranks) = (group.rank(), group.ranks());
    let lane = group.streams(Lane(0));
    let (mut sent, mut came) = (vec![0; ranks], vec![0; ranks]);
    let mut holding: VecDeque<Arrived<'_, E>> = VecDeque::new();
    let check = |message: &Arrived<'_, E>| {
        assert_eq!(**message, content(message.from(), own, message.number(), largest)[..]);
    };
    let mut receive = |message: Arrived<'_, E>| {
        assert_eq!(message.number(), came[message.from()], "in order");
        came[message.from()] += 1;
        check(&message);
    };
    while sent.iter().any(|sent| *sent < counts[own]) {
        let before = sent.clone();
        for (to, sent) in sent.iter_mut().enumerate().filter(|(_, sent)| **sent < counts[own]) {
            let bytes = content(own, to, *sent, largest);
            if let Some(mut room) = lane.room(to, bytes.len()).unwrap() {
                room.copy_from_slice(&bytes);
                room.publish();
                *sent += 1;
            }
        }
        let mut any = sent != before;
        while let Some(message) = lane.next().unwrap() {
            any = true;
            check(&message);
            if holding.len() < held {
                holding.push_front(message);
            } else {
                // In the order of arrival from each: what is held is received first.
                holding.push_front(message);
                while let Some(message) = holding.pop_back() {
                    receive(message);
                }
            }
        }
        if !any {
            // What is held may be what a peer waits for.
            holding.drain(..).rev().for_each(&mut receive);
            group.wait(Duration::MAX).unwrap();
        }
    }
    holding.drain(..).rev().for_each(&mut receive);
    while let Some(message) = lane.drain().unwrap() {
        receive(message);
    }
    assert_eq!(came, counts);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_once_whole_and_in_order(
        counts in prop::collection::vec(0u64..25, 1..6),
        slots in 2usize..6,
        capacity in 1usize..150,
        largest in prop_oneof![Just(0usize), 1usize..200, 200usize..3000],
        held in 0usize..4,
        seed in any::<u64>(),
    ) {
        let lane = LaneShape { slots, slot_bytes: capacity + HEADER_BYTES };
        let shape = GroupShape { ranks: counts.len(), lanes: vec![lane] };
        let main = |endpoint| converse(Group::new(Checked::new(endpoint), options(1)).unwrap(), &counts, held, largest);
        sim::run(&SimConfig::new(shape.clone(), seed), main).unwrap().values().unwrap();
        on_threads(threads::group(&shape).unwrap(), |endpoint| {
            converse(Group::new(endpoint, options(1)).unwrap(), &counts, held, largest);
        });
    }
}

/// Each rank asks every other for something, `asks` times, and answers the others' requests as they come. `late` works for
/// `delay` before it looks at anything, every time. Returns when each answer of each peer came.
fn ask_and_answer<E: Endpoint>(group: &Group<E>, asks: u64, late: usize, delay: Duration) -> Vec<Vec<Duration>> {
    let (own, ranks) = (group.rank(), group.ranks());
    let (requests, answers) = (group.streams(REQUESTS), group.streams(ANSWERS));
    let peers = || (0..ranks).filter(|peer| *peer != own);
    let mut times = vec![Vec::new(); ranks];
    let (mut asked, mut served) = (vec![0; ranks], 0);
    let mut begun = vec![Duration::ZERO; ranks];
    let all = asks * (ranks as u64 - 1);
    while served < all || peers().any(|peer| (times[peer].len() as u64) < asks) {
        if own == late {
            group.endpoint().sleep(delay);
        }
        let before = (served, asked.clone(), times.iter().map(Vec::len).sum::<usize>());
        for peer in peers() {
            // The next request to a peer follows its answer to the last.
            if asked[peer] < asks && asked[peer] == times[peer].len() as u64 {
                let mut room = requests.send(peer, 16).unwrap();
                room.fill(asked[peer] as u8);
                room.publish();
                begun[peer] = group.endpoint().now();
                asked[peer] += 1;
            }
        }
        while let Some(request) = requests.next().unwrap() {
            let mut room = answers.send(request.from(), request.len()).unwrap();
            room.iter_mut().zip(request.iter()).for_each(|(out, byte)| *out = byte ^ own as u8);
            room.publish();
            served += 1;
        }
        while let Some(answer) = answers.next().unwrap() {
            let from = answer.from();
            assert!(answer.iter().all(|byte| *byte == answer.number() as u8 ^ from as u8));
            times[from].push(group.endpoint().now() - begun[from]);
        }
        if before == (served, asked.clone(), times.iter().map(Vec::len).sum::<usize>()) {
            group.wait(Duration::MAX).unwrap();
        }
    }
    times
}

#[test]
fn a_late_rank_delays_nobody_but_who_asks_it() {
    const ASKS: u64 = 40;
    let run = |delay: Duration| {
        let mut config = SimConfig::new(options(2).shape(4, 64), 1);
        config.latency = micros(5)..=micros(5);
        let report = sim::run(&config, |endpoint| {
            let group = Group::new(endpoint, options(2)).unwrap();
            let times = ask_and_answer(&group, ASKS, 3, delay);
            group.finish().unwrap();
            times
        });
        report.unwrap().values().unwrap()
    };
    let (prompt, late) = (run(Duration::ZERO), run(Duration::from_millis(100)));
    for rank in 0..3 {
        for peer in (0..3).filter(|peer| *peer != rank) {
            assert_eq!(late[rank][peer], prompt[rank][peer], "rank {rank} was answered by rank {peer} as ever");
            assert!(late[rank][peer].iter().all(|time| *time == micros(10)));
        }
        let of_late: Duration = late[rank][3].iter().sum();
        assert!(of_late > 35 * Duration::from_millis(100), "the late rank was asked, too: {of_late:?}");
    }
}

#[test]
fn a_waker_ends_the_wait_and_the_next_one_is_none_the_wiser() {
    let endpoint = threads::group(&options(2).shape(1, 64)).unwrap().remove(0);
    let group = Group::new(endpoint, options(2)).unwrap();
    let waker = group.waker();
    // Before: the next wait.
    waker.wake_by_ref();
    waker.wake_by_ref();
    let began = Instant::now();
    group.wait(group.endpoint().now() + Duration::from_secs(10)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    // During.
    let other = waker.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        other.wake();
    });
    group.wait(group.endpoint().now() + Duration::from_secs(10)).unwrap();
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&began.elapsed()));
    thread.join().unwrap();
    // Used up: the next wait takes its time.
    let until = group.endpoint().now() + Duration::from_millis(200);
    group.wait(until).unwrap();
    assert!(group.endpoint().now() >= until);
    drop(group);
    waker.wake();
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let status = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(status.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn an_idle_group_is_not_late_and_costs_nothing() {
    // Two deadlines of real time; with a stream and with rounds under way before and after.
    let deadline = Duration::from_millis(700);
    let options = options(2).deadline(deadline);
    on_threads(threads::group(&options.shape(3, 64)).unwrap(), |endpoint| {
        let group = Group::new(endpoint, options.clone()).unwrap();
        let (rounds, streams) = (group.lane(Lane(0)), group.streams(Lane(1)));
        let next = (group.rank() + 1) % 3;
        for turn in 0..2 {
            rounds.begin(&[9; 3]).unwrap().publish().unwrap();
            while rounds.flush().unwrap().is_some() {}
            streams.send(next, 5).unwrap().publish();
            assert_eq!(streams.receive((next + 1) % 3).unwrap().unwrap().len(), 5);
            let (until, before) = (group.endpoint().now() + 2 * deadline, processor_time());
            while turn == 0 && group.endpoint().now() < until {
                group.wait(until).unwrap();
            }
            let used = processor_time() - before;
            assert!(used < Duration::from_millis(20), "{used:?} of processor time for nothing");
        }
        group.finish().unwrap();
    });
    // Ten minutes of virtual time.
    sim::run(&SimConfig::new(options.shape(3, 64), 5), |endpoint| {
        let group = Group::new(endpoint, options.clone()).unwrap();
        let (rounds, streams) = (group.lane(Lane(0)), group.streams(Lane(1)));
        let next = (group.rank() + 1) % 3;
        for _ in 0..3 {
            rounds.begin(&[9; 3]).unwrap().publish().unwrap();
            while rounds.flush().unwrap().is_some() {}
            streams.send(next, 5).unwrap().publish();
            assert_eq!(streams.receive((next + 1) % 3).unwrap().unwrap().len(), 5);
            let until = group.endpoint().now() + Duration::from_secs(600);
            while group.endpoint().now() < until {
                group.wait(until).unwrap();
            }
        }
        group.finish().unwrap();
    })
    .unwrap()
    .values()
    .unwrap();
}

#[test]
fn a_rank_keeps_up_with_rounds_that_are_not_its_own() {
    over_all(3, 2, 64, |group| {
        let rounds = group.lane(Lane(0));
        let signal = group.streams(Lane(1));
        if group.rank() == 2 {
            rounds.keep_up(true);
            // No call on the lane of rounds until the others are through: they send this rank nothing before round 9.
            while signal.next_from(0).unwrap().is_none() {
                group.wait(Duration::MAX).unwrap();
            }
            let mut came = Vec::new();
            while let Some(complete) = rounds.drain().unwrap() {
                if !complete.message(0).is_empty() {
                    came.push((complete.number(), complete.message(0).to_vec()));
                }
            }
            assert_eq!(came, [(9, vec![9; 4])]);
        } else {
            for number in 0..10u8 {
                let mut round = rounds.begin(&[4, 4, if number == 9 { 4 } else { 0 }]).unwrap();
                round.messages_mut().into_iter().for_each(|message| message.fill(number));
                round.publish().unwrap();
                while let Some(complete) = rounds.take().unwrap() {
                    assert_eq!(*complete.message(1 - group.rank()), [complete.number() as u8; 4]);
                }
            }
            if group.rank() == 0 {
                signal.send(2, 0).unwrap().publish();
            }
            while rounds.drain().unwrap().is_some() {}
        }
        group.finish().unwrap();
    });
}

fn fault<T: std::fmt::Debug>(result: Result<T, CollectiveError>) -> Fault {
    match result {
        Err(CollectiveError::Fault(fault)) => *fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

#[test]
fn faults_of_a_stream_name_the_peer_the_lane_and_the_message() {
    let deadline = Duration::from_millis(300);
    for dies in [false, true] {
        let stories = on_threads(threads::group(&options(2).shape(3, 64)).unwrap(), |endpoint| {
            let group = Group::new(endpoint, options(2).deadline(deadline)).unwrap();
            let lane = group.streams(Lane(1));
            if group.rank() == 2 {
                lane.send(0, 1).unwrap().publish();
                if dies {
                    // Dropped without a word: the thread's endpoint is dead.
                    std::mem::forget(group);
                    return None;
                }
                return Some(fault(group.wait(Duration::MAX)));
            }
            if group.rank() == 0 {
                assert_eq!(lane.receive(2).unwrap().map(|message| message.len()), Some(1));
                return Some(fault(lane.receive(2).map(|message| message.is_some())));
            }
            Some(fault(group.wait(Duration::MAX)))
        });
        let stories: Vec<Fault> = stories.into_iter().flatten().collect();
        assert!(stories.iter().all(|story| *story == stories[0]), "{stories:#?}");
        let story = &stories[0];
        assert_eq!((story.kind, &story.ranks[..], story.lane, story.round), (FaultKind::Late, &[2][..], Lane(1), 1));
        assert!(story.streams && story.awaited == Awaited::Message);
        let text = story.to_string();
        assert!(text.starts_with("rank 2 late: rank 0 waited ") && text.contains("message 1 on lane 1"), "{text}");
    }
}

/// Runs rank 0 of three in virtual time; the others look at nothing for three seconds.
fn beside_two_asleep<T: Send>(program: impl Fn(&Group<sim::SimEndpoint>) -> T + Sync) -> T {
    let options = options(1).deadline(Duration::from_secs(1));
    let ends = sim::run(&SimConfig::new(options.shape(3, 64), 7), |endpoint| {
        let group = Group::new(endpoint, options.clone()).unwrap();
        let told = (group.rank() == 0).then(|| program(&group));
        while group.rank() != 0 && group.endpoint().now() < Duration::from_secs(3) {
            group.endpoint().wait(Duration::from_secs(3)).unwrap();
        }
        // It need not end in order.
        std::mem::forget(group);
        told
    });
    ends.unwrap().values().unwrap().remove(0).unwrap()
}

#[test]
fn who_has_full_slots_is_not_late_if_nothing_waits_for_them() {
    let story = beside_two_asleep(|group| {
        let lane = group.streams(Lane(0));
        for _ in 0..4 {
            lane.send(2, 1).unwrap().publish();
        }
        lane.send(1, 500).unwrap().publish();
        fault(group.wait(Duration::MAX))
    });
    assert_eq!((story.kind, &story.ranks[..], story.awaited), (FaultKind::Late, &[1][..], Awaited::Slot), "{story}");
}

#[test]
fn a_slot_that_is_held_is_nothing_to_wait_for() {
    beside_two_asleep(|group| {
        let lane = group.streams(Lane(0));
        let _held = lane.room(1, 8).unwrap().expect("a new lane has room");
        assert!(lane.room(1, 8).unwrap().is_none(), "room towards a peer is lent once");
        let until = group.endpoint().now() + micros(50);
        group.wait(until).unwrap();
        assert!(group.endpoint().now() >= until);
    });
}

#[test]
fn a_peer_that_ends_within_a_stream_is_dead_to_all() {
    let stories = on_threads(threads::group(&options(1).shape(3, 64)).unwrap(), |endpoint| {
        if endpoint.rank() == 1 {
            std::thread::sleep(Duration::from_millis(50));
            return None;
        }
        let group = Group::new(endpoint, options(1)).unwrap();
        let _lane = group.streams(Lane(0));
        Some(fault(group.wait(Duration::MAX)))
    });
    for story in stories.into_iter().flatten() {
        assert_eq!((story.kind, &story.ranks[..]), (FaultKind::Dead, &[1][..]), "{story}");
    }
}

#[test]
fn finishing_drops_what_was_not_taken_and_is_no_fault() {
    over_all(3, 2, 64, |group| {
        let (rounds, streams) = (group.lane(Lane(0)), group.streams(Lane(1)));
        if group.rank() == 0 {
            // Rounds that nobody takes, this rank included, and messages that nobody reads, one of them in fragments.
            rounds.begin(&[9; 3]).unwrap().publish().unwrap();
            streams.send(1, 500).unwrap().publish();
            streams.send(2, 5).unwrap().publish();
        }
        group.finish().unwrap();
    });
}

#[test]
fn groups_of_borrowed_and_of_boxed_endpoints() {
    let mut endpoints = threads::group(&options(1).shape(1, 64)).unwrap();
    let mut endpoint = endpoints.remove(0);
    {
        let group = Group::new(&mut endpoint, options(1)).unwrap();
        group.lane(Lane(0)).begin(&[3]).unwrap().publish().unwrap();
        while group.lane(Lane(0)).drain().unwrap().is_some() {}
    }
    let boxed: Box<dyn Endpoint> = Box::new(threads::group(&options(1).shape(1, 64)).unwrap().remove(0));
    let group = Group::new(boxed, options(1)).unwrap();
    group.lane(Lane(0)).begin(&[3]).unwrap().publish().unwrap();
    while group.lane(Lane(0)).drain().unwrap().is_some() {}
}

#[test]
fn a_rank_that_parts_waits_for_nobody_and_what_it_sent_is_read() {
    over_all(2, 2, 64, |group| {
        let lane = group.streams(REQUESTS);
        if group.rank() == 0 {
            let mut room = lane.send(1, 3).unwrap();
            room.copy_from_slice(b"bye");
            room.publish();
            // The other may have been told of the farewell, and have failed the group, before this rank looks again.
            let parted = group.part(Duration::from_secs(20));
            return assert!(parted.is_ok() || parted.unwrap_err().to_string().contains("left while rank 1 waited"));
        }
        while !lane.has_left(0) {
            group.wait(Duration::MAX).unwrap();
        }
        assert_eq!(*lane.receive(0).unwrap().expect("it was sent before the farewell"), *b"bye");
        assert!(lane.receive(0).unwrap().is_none());
        let CollectiveError::Fault(fault) = lane.gone(0, 7) else { panic!("not a fault") };
        assert_eq!((fault.kind, &fault.ranks[..], fault.round), (FaultKind::GaveUp, &[0][..], 7));
        assert!(fault.to_string().contains("left while rank 1 waited"), "{fault}");
    });
}

#[test]
fn the_programs_own_reckoning_becomes_the_fault_of_all() {
    type Blame = fn(&Group<Box<dyn Endpoint>>) -> CollectiveError;
    let own: [(Blame, FaultKind, &str); 3] = [
        (|group| group.streams(REQUESTS).late(vec![1], 5, micros(3_000_000)), FaultKind::Late, "waited 3.000 s"),
        (|group| group.streams(REQUESTS).unexpected_size(1, 5, 8, 12), FaultKind::Sizes, "expected 12 bytes"),
        (|group| group.streams(REQUESTS).broken(1, 5, "another question"), FaultKind::Protocol, "another question"),
    ];
    for (blame, kind, words) in own {
        over_all(2, 2, 64, |group| {
            let error = if group.rank() == 0 {
                blame(&group)
            } else {
                group.streams(REQUESTS).receive(0).map(|_| ()).unwrap_err()
            };
            let CollectiveError::Fault(fault) = error else { panic!("not a fault") };
            assert_eq!((fault.kind, &fault.ranks[..], fault.round), (kind, &[1][..], 5));
            assert!(fault.to_string().contains(words), "{fault}");
        });
    }
}

#[test]
fn a_group_goes_to_another_thread() {
    let endpoint = threads::group(&options(1).shape(1, 64)).unwrap().remove(0);
    let group = Group::new(endpoint, options(1)).unwrap();
    std::thread::spawn(move || group.streams(REQUESTS).send(0, 1).unwrap().publish()).join().unwrap();
}
