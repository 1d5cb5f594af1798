//! What goes wrong, on every rank: the same story, within the deadline, and never a hang.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::common::on_threads;
use slackline_collective::{Awaited, CollectiveError, Exchange, Fault, FaultKind, Group, GroupOptions, LaneOptions};
use slackline_transport::shm::{Segment, ShmEndpoint};
use slackline_transport::threads::{self, ThreadEndpoint};
use slackline_transport::{Endpoint, GroupShape, Lane};

const LAG: usize = 1;

fn endpoints(ranks: usize) -> Vec<ThreadEndpoint> {
    threads::group(&GroupShape { ranks, lanes: vec![LaneOptions::lag(LAG).shape(64)] }).unwrap()
}

fn join(endpoint: ThreadEndpoint, deadline: Duration) -> Group<ThreadEndpoint> {
    Group::new(endpoint, GroupOptions::new([LaneOptions::lag(LAG)]).deadline(deadline)).unwrap()
}

/// Exchanges 8 bytes with everybody until an error comes.
fn until_error(group: &mut Group<ThreadEndpoint>, rounds: u64) -> Result<(), CollectiveError> {
    let ranks = group.ranks();
    let exchange = group.lane(Lane(0));
    for _ in 0..rounds {
        let mut round = exchange.begin(&vec![8; ranks])?;
        round.expect(&vec![8; ranks])?;
        round.messages_mut().into_iter().for_each(|message| message.fill(1));
        round.publish()?;
        while exchange.take()?.is_some() {}
    }
    while exchange.drain()?.is_some() {}
    Ok(())
}

/// Exchanges with whoever has not left, without saying how much, until an error comes.
fn undeclared_rounds(group: &mut Group<ThreadEndpoint>) -> Result<(), CollectiveError> {
    let ranks = group.ranks();
    let exchange = group.lane(Lane(0));
    loop {
        exchange.begin(&vec![8; ranks])?.publish()?;
        while exchange.take()?.is_some() {}
    }
}

fn fault(result: Result<(), CollectiveError>) -> Fault {
    match result {
        Err(CollectiveError::Fault(fault)) => *fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

fn same_story(faults: Vec<Fault>) -> Fault {
    let first = faults[0].clone();
    assert!(faults.iter().all(|fault| *fault == first), "the ranks tell different stories: {faults:#?}");
    first
}

#[test]
fn a_rank_that_ends_without_leaving_is_dead_to_all() {
    let begin = Instant::now();
    let faults = on_threads(endpoints(4), |endpoint| {
        if endpoint.rank() == 2 {
            std::thread::sleep(Duration::from_millis(30));
            drop(endpoint); // Without detaching, as a killed process would.
            return None;
        }
        let mut group = join(endpoint, Duration::from_secs(20));
        Some(fault(until_error(&mut group, u64::MAX)))
    });
    let story = same_story(faults.into_iter().flatten().collect());
    assert_eq!((story.kind, story.ranks.as_slice(), story.round), (FaultKind::Dead, &[2][..], 0));
    assert!(story.to_string().starts_with("rank 2 died: rank "), "{story}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn a_rank_that_only_drains_sees_a_peer_die() {
    for rounds in [0, 1] {
        let begin = Instant::now();
        let faults = on_threads(endpoints(2), |endpoint| {
            if endpoint.rank() == 1 {
                drop(endpoint); // Without detaching, as a killed process would.
                return None;
            }
            let mut group = join(endpoint, Duration::from_secs(20));
            Some(fault(until_error(&mut group, rounds)))
        });
        let story = same_story(faults.into_iter().flatten().collect());
        assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::Dead, &[1][..]), "{story}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[test]
fn a_rank_that_has_left_and_then_dies_is_dead_to_a_rank_that_waits_for_its_slots() {
    let begin = Instant::now();
    let faults = on_threads(endpoints(2), |endpoint| {
        if endpoint.rank() == 1 {
            let group = join(endpoint, Duration::from_secs(20));
            group.lane(Lane(0)).leave().unwrap();
            // Neither drained nor dropped in order, as if its process had been killed here.
            group.endpoint().detach();
            std::mem::forget(group);
            return None;
        }
        Some(fault(undeclared_rounds(&mut join(endpoint, Duration::from_secs(20)))))
    });
    let story = same_story(faults.into_iter().flatten().collect());
    assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::Dead, &[1][..]), "{story}");
    assert_eq!(story.awaited, Awaited::Slot);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn a_rank_that_leaves_an_unused_lane_and_does_not_drain_it_gave_up() {
    let faults = on_threads(endpoints(2), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_secs(20));
        if rank == 1 {
            group.lane(Lane(0)).leave().unwrap();
            return None;
        }
        Some(fault(undeclared_rounds(&mut group)))
    });
    let story = same_story(faults.into_iter().flatten().collect());
    assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::GaveUp, &[1][..]), "{story}");
    assert_eq!(story.note, "it dropped its group before it had drained the lane");
}

#[test]
fn a_rank_that_is_late_past_the_deadline_is_named_and_told_itself() {
    let faults = on_threads(endpoints(3), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_millis(200));
        if rank == 1 {
            std::thread::sleep(Duration::from_millis(700));
        }
        fault(until_error(&mut group, 10))
    });
    let story = same_story(faults);
    assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::Late, &[1][..]));
    assert!(story.waited >= Duration::from_millis(200) && story.waited < Duration::from_millis(600), "{story}");
}

#[test]
fn ranks_that_disagree_about_sizes_learn_both_sizes() {
    let faults = on_threads(endpoints(3), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_secs(20));
        if rank != 0 {
            return fault(until_error(&mut group, 10));
        }
        let exchange = group.lane(Lane(0));
        let result = (|| {
            for round in 0..10 {
                let mut sending = exchange.begin(&[8, if round == 3 { 5 } else { 8 }, 8])?;
                sending.expect(&[8, 8, 8])?;
                sending.publish()?;
                while exchange.take()?.is_some() {}
            }
            while exchange.drain()?.is_some() {}
            Ok(())
        })();
        fault(result)
    });
    let story = same_story(faults);
    assert_eq!((story.kind, story.ranks.as_slice(), story.reporter), (FaultKind::Sizes, &[0][..], 1));
    assert_eq!((story.round, story.bytes, story.expected), (3, 5, Some(8)));
    assert_eq!(story.to_string(), "rank 0 sent 5 bytes to rank 1 in round 3 on lane 0, which expected 8 bytes");
}

#[test]
fn a_rank_that_gives_up_tells_the_others_why() {
    let faults = on_threads(endpoints(4), |endpoint| {
        let rank = endpoint.rank();
        let group = join(endpoint, Duration::from_secs(20));
        if rank == 3 {
            for _ in 0..5 {
                group.lane(Lane(0)).begin(&[0; 4]).unwrap().publish().unwrap();
                while group.lane(Lane(0)).take().unwrap().is_some() {}
            }
            return fault(Err(group.give_up("table emb_l.3, sample 12: index 99 of 24 rows")));
        }
        let exchange = group.lane(Lane(0));
        fault((|| {
            loop {
                exchange.begin(&[0; 4])?.publish()?;
                while exchange.take()?.is_some() {}
            }
        })())
    });
    let story = same_story(faults).to_string();
    assert_eq!(story, "rank 3 gave up in round 5 on lane 0: table emb_l.3, sample 12: index 99 of 24 rows");
}

#[test]
fn whoever_gives_up_names_the_lane_that_it_used() {
    for of_the_lane in [true, false] {
        let shape = GroupShape { ranks: 2, lanes: vec![LaneOptions::lag(LAG).shape(64); 3] };
        let faults = on_threads(threads::group(&shape).unwrap(), |endpoint| {
            let rank = endpoint.rank();
            let options = GroupOptions::new([LaneOptions::lag(LAG); 3]).deadline(Duration::from_secs(20));
            let group = Group::new(endpoint, options).unwrap();
            if of_the_lane {
                // Lane 0 is in use as well.
                group.lane(Lane(0)).begin(&[0; 2]).unwrap().publish().unwrap();
            }
            let mut rounds = 0;
            fault((|| {
                loop {
                    if (rank, rounds) == (1, 3) {
                        let why = "no memory";
                        return Err(if of_the_lane { group.lane(Lane(2)).give_up(why) } else { group.give_up(why) });
                    }
                    group.lane(Lane(2)).begin(&[0; 2])?.publish()?;
                    rounds += 1;
                    while group.lane(Lane(2)).take()?.is_some() {}
                }
            })())
        });
        assert_eq!(same_story(faults).to_string(), "rank 1 gave up in round 3 on lane 2: no memory");
    }
}

#[test]
fn a_rank_that_ends_after_an_error_of_its_own_tells_the_others_which() {
    type Mistake = fn(&mut Exchange<'_, ThreadEndpoint>) -> Result<(), CollectiveError>;
    // In the first round, so that nobody has heard of the rank yet, and later.
    let mistakes: [(Mistake, &str); 4] = [
        (|exchange| exchange.begin(&[8; 2]).map(drop), "2 sizes for a group of 3 ranks"),
        (|exchange| exchange.begin(&[8; 3])?.expect(&[8; 4]), "4 sizes for a group of 3 ranks"),
        (|exchange| exchange.barrier(), "lane 0 has lag 1: barrier and all_gather need"),
        (
            |exchange| {
                (0..LAG + 2).try_for_each(|_| {
                    let mut round = exchange.begin(&[8; 3])?;
                    round.messages_mut().into_iter().for_each(|message| message.fill(1));
                    round.publish()
                })
            },
            "round 2 cannot begin before round 0 has been taken",
        ),
    ];
    for (mistake, words) in mistakes {
        let faults = on_threads(endpoints(3), |endpoint| {
            let rank = endpoint.rank();
            let mut group = join(endpoint, Duration::from_secs(20));
            if rank == 2 {
                mistake(&mut group.lane(Lane(0))).unwrap_err();
                return None;
            }
            Some(fault(until_error(&mut group, u64::MAX)))
        });
        let story = same_story(faults.into_iter().flatten().collect());
        assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::GaveUp, &[2][..]));
        assert!(story.note.contains(words), "{story}");
    }
}

#[test]
fn an_error_that_a_rank_has_recovered_from_is_not_its_reason() {
    let faults = on_threads(endpoints(2), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_secs(20));
        if rank == 1 {
            let exchange = group.lane(Lane(0));
            exchange.begin(&[8; 5]).map(drop).unwrap_err();
            assert_eq!((exchange.rank(), exchange.ranks()), (1, 2));
            let mut round = exchange.begin(&[8; 2]).unwrap();
            round.messages_mut().into_iter().for_each(|message| message.fill(1));
            round.publish().unwrap();
            exchange.progress().unwrap();
            exchange.endpoint().sleep(Duration::from_millis(1));
            assert_eq!(exchange.stats().rounds, 1);
            return None;
        }
        Some(fault(until_error(&mut group, u64::MAX)))
    });
    let story = same_story(faults.into_iter().flatten().collect());
    assert_eq!(story.note, "it dropped its group before it had drained the lane");
}

#[test]
fn a_panic_on_one_rank_reaches_the_others() {
    let faults = on_threads(endpoints(3), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_secs(20));
        if rank == 1 {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                group.lane(Lane(0)).begin(&[8; 3]).unwrap().publish().unwrap();
                std::panic::resume_unwind(Box::new("on purpose, without a message"));
            }));
            assert!(panicked.is_err());
            return None;
        }
        Some(fault(until_error(&mut group, u64::MAX)))
    });
    let story = same_story(faults.into_iter().flatten().collect());
    assert_eq!((story.kind, story.ranks.as_slice()), (FaultKind::GaveUp, &[1][..]));
    assert!(story.note.contains("panicked"), "{story}");
}

/// Overwrites the length of the one message of `length` bytes that was published first in its ring.
fn corrupt_the_length(segment: &Segment, length: u32) {
    let address = segment.address();
    let (pid, rest) = address.split_once(':').unwrap();
    let path = format!("/proc/{pid}/fd/{}", rest.split_once(':').unwrap().0);
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut memory = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut memory, 0).unwrap();
    // A mark: messages published (`u64`), released (`u64`), and the length.
    let is_it =
        |at: &usize| memory[*at..*at + 8] == 1u64.to_le_bytes() && memory[*at + 16..*at + 20] == length.to_le_bytes();
    let marks: Vec<usize> = (0..memory.len()).step_by(128).filter(is_it).collect();
    assert_eq!(marks.len(), 1, "the mark of a message of {length} bytes");
    file.write_all_at(&u32::MAX.to_le_bytes(), marks[0] as u64 + 16).unwrap();
}

#[test]
fn a_message_of_impossible_length_is_never_handed_out() {
    type Call = fn(&mut Exchange<'_, ShmEndpoint>) -> Result<bool, CollectiveError>;
    let calls: [(&str, Call); 3] = [
        ("take", |exchange| exchange.take().map(|round| round.is_some())),
        ("flush", |exchange| exchange.flush().map(|round| round.is_some())),
        ("drain", |exchange| exchange.drain().map(|round| round.is_some())),
    ];
    for (name, call) in calls {
        let segment = Segment::create(&GroupShape { ranks: 2, lanes: vec![LaneOptions::lag(LAG).shape(64)] }).unwrap();
        let mut groups = [0, 1].map(|rank| {
            let group = Group::new(segment.rank(rank).unwrap(), GroupOptions::new([LaneOptions::lag(LAG)])).unwrap();
            group.lane(Lane(0)).begin(&[if rank == 1 { 37 } else { 8 }, 8]).unwrap().publish().unwrap();
            group
        });
        corrupt_the_length(&segment, 37);
        for group in &mut groups {
            match call(&mut group.lane(Lane(0))) {
                Err(CollectiveError::Fault(fault)) => {
                    assert_eq!(fault.kind, FaultKind::Transport);
                    assert!(fault.note.contains("rank 1 claims 4294967295 bytes in a slot of 128"), "{fault}");
                }
                other => panic!("{name} of rank {}: {other:?}", group.rank()),
            }
        }
    }
}

#[test]
fn after_a_fault_every_call_says_so() {
    on_threads(endpoints(2), |endpoint| {
        let rank = endpoint.rank();
        let mut group = join(endpoint, Duration::from_secs(20));
        let first =
            if rank == 0 { fault(Err(group.give_up("enough"))) } else { fault(until_error(&mut group, u64::MAX)) };
        for _ in 0..3 {
            let exchange = group.lane(Lane(0));
            assert_eq!(fault(exchange.begin(&[0, 0]).map(drop)), first);
            assert_eq!(fault(exchange.take().map(drop)), first);
            assert_eq!(fault(exchange.drain().map(drop)), first);
            assert_eq!(fault(group.progress()), first);
        }
    });
}

#[test]
fn beginning_without_having_taken_is_an_error_that_loses_nothing() {
    on_threads(endpoints(2), |endpoint| {
        let peer = 1 - endpoint.rank();
        let group = join(endpoint, Duration::from_secs(20));
        let exchange = group.lane(Lane(0));
        for round in 0..=LAG as u8 {
            let mut sending = exchange.begin(&[1, 1]).unwrap();
            sending.messages_mut().into_iter().for_each(|message| message[0] = round);
            sending.publish().unwrap();
        }
        let error = exchange.begin(&[1, 1]).map(drop).unwrap_err();
        assert!(matches!(error, CollectiveError::TakeFirst { begun: 2, due: 0, lag: LAG, .. }), "{error}");
        let mut came = Vec::new();
        while let Some(complete) = exchange.drain().unwrap() {
            came.push(complete.message(peer)[0]);
        }
        assert_eq!(came, [0, 1]);
        let error = exchange.begin(&[1, 1]).map(drop).unwrap_err();
        assert!(matches!(error, CollectiveError::AfterLeave { .. }), "{error}");
    });
}

#[test]
fn misuse_is_an_error() {
    let shape = GroupShape { ranks: 1, lanes: vec![LaneOptions::lag(2).shape(64)] };
    let endpoint = || threads::group(&shape).unwrap().remove(0);
    for lanes in [vec![], vec![LaneOptions::lag(2); 2], vec![LaneOptions::lag(20)]] {
        let error = Group::new(endpoint(), GroupOptions::new(lanes)).map(drop).unwrap_err();
        assert!(matches!(error, CollectiveError::Shape { .. }), "{error}");
    }
    let group = Group::new(endpoint(), GroupOptions::new([LaneOptions::lag(2)])).unwrap();
    let exchange = group.lane(Lane(0));
    assert!(matches!(exchange.begin(&[]).map(drop), Err(CollectiveError::Count { given: 0, ranks: 1, .. })));
    assert!(matches!(exchange.barrier(), Err(CollectiveError::NotSynchronous { lag: 2, .. })));
}

#[test]
fn a_round_that_is_dropped_unpublished_never_happened() {
    on_threads(endpoints(2), |endpoint| {
        let group = join(endpoint, Duration::from_secs(20));
        let exchange = group.lane(Lane(0));
        let mut abandoned = exchange.begin(&[1000, 3]).unwrap();
        abandoned.messages_mut().into_iter().for_each(|message| message.fill(9));
        drop(abandoned);
        let mut sending = exchange.begin(&[1, 1]).unwrap();
        assert_eq!(sending.number(), 0);
        sending.messages_mut().into_iter().for_each(|message| message[0] = 1);
        sending.publish().unwrap();
        let complete = exchange.flush().unwrap().unwrap();
        assert!(complete.messages().iter().all(|message| *message == [1]));
        drop(complete);
        assert!(exchange.flush().unwrap().is_none());
        while exchange.drain().unwrap().is_some() {}
    });
}

#[test]
fn two_lanes_share_their_waiting() {
    // Rank 0 waits on lane 0 for rank 1, which waits on lane 1 for a message that rank 0 has only partly sent: it passes
    // only if rank 0 keeps sending on lane 1 while it waits on lane 0.
    let lanes = [LaneOptions::lag(0), LaneOptions::lag(0)];
    let shape = GroupShape { ranks: 2, lanes: lanes.iter().map(|lane| lane.shape(64)).collect() };
    on_threads(threads::group(&shape).unwrap(), |endpoint| {
        let group = Group::new(endpoint, GroupOptions::new(lanes).deadline(Duration::from_secs(20))).unwrap();
        let order = if group.rank() == 0 { [0, 1] } else { [1, 0] };
        for lane in [1, 0] {
            group.lane(Lane(lane)).begin(&[5000, 5000]).unwrap().publish().unwrap();
        }
        for lane in order {
            let exchange = group.lane(Lane(lane));
            assert_eq!(exchange.take().unwrap().unwrap().message(0).len(), 5000);
        }
        for lane in [0, 1] {
            group.lane(Lane(lane)).leave().unwrap();
        }
        for lane in order {
            while group.lane(Lane(lane)).drain().unwrap().is_some() {}
        }
    });
}

#[test]
fn the_small_collectives() {
    let shape = GroupShape { ranks: 5, lanes: vec![LaneOptions::lag(0).shape(16)] };
    on_threads(threads::group(&shape).unwrap(), |endpoint| {
        let rank = endpoint.rank();
        let group = Group::new(endpoint, GroupOptions::new([LaneOptions::lag(0)])).unwrap();
        let exchange = group.lane(Lane(0));
        for _ in 0..20 {
            exchange.barrier().unwrap();
            let all = exchange.all_gather(&vec![rank as u8; 30 * rank]).unwrap();
            for (from, bytes) in all.iter().enumerate() {
                assert_eq!(bytes, &vec![from as u8; 30 * from]);
            }
        }
        while exchange.drain().unwrap().is_some() {}
    });
}
