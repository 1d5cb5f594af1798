//! Segments that are attached to wrongly, or are not what they claim to be.

use std::sync::Barrier;
use std::thread;

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::shm::layout::{LaneCell, MAGIC, VERSION};
use crate::shm::ring::Mark;
use crate::sync::AtomicU64;
use crate::{Endpoint, Lane, LaneShape, PeerState};

fn shape(ranks: usize) -> GroupShape {
    GroupShape { ranks, lanes: vec![LaneShape { slots: 2, slot_bytes: 64 }, LaneShape { slots: 3, slot_bytes: 100 }] }
}

fn why(attached: Result<ShmEndpoint, TransportError>) -> String {
    match attached.unwrap_err() {
        TransportError::Attach { rank: 0, why } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_second_mapping_of_the_segment_is_the_same_group() {
    let segment = Segment::create(&shape(2)).unwrap();
    let one = segment.rank(0).unwrap();
    let two = attach(&segment.file, segment.token, 1, Bond::None).unwrap();
    assert_eq!(two.shape(), one.shape());
    assert_eq!(two.shape().lanes[1], LaneShape { slots: 3, slot_bytes: 128 });
    two.wait_for_all(Duration::ZERO).unwrap();
    one.room(Lane(1), 1).unwrap()[..4].copy_from_slice(b"over");
    one.publish(Lane(1), 1, 4);
    assert_eq!(two.landed(Lane(1), 0), 1);
    assert_eq!(*two.message(Lane(1), 0, 0), *b"over");
    let apart = one.now().abs_diff(two.now());
    assert!(apart < Duration::from_secs(1), "the clocks of two ranks are {apart:?} apart");
    one.detach();
    assert_eq!(two.peer_state(0), PeerState::Left);
    drop(two);
    assert_eq!(one.peer_state(1), PeerState::Dead);
}

#[test]
fn a_rank_can_be_taken_once_and_must_exist() {
    let segment = Segment::create(&shape(1)).unwrap();
    assert!(matches!(segment.rank(1), Err(TransportError::Attach { rank: 1, .. })));
    let first = segment.rank(0).unwrap();
    assert!(why(attach(&segment.file, segment.token, 0, Bond::None)).contains("was taken"));
    drop(first);
    assert!(why(segment.rank(0)).contains("was taken"));
}

#[test]
fn a_header_that_is_not_the_groups_is_refused_word_by_word() {
    let segment = Segment::create(&shape(2)).unwrap();
    let head = segment.group.head();
    let try_attach = || why(attach(&segment.file, segment.token, 0, Bond::None));

    let [first, second] = segment.token;
    assert!(why(attach(&segment.file, [first, second ^ 1], 0, Bond::None)).contains("token"));
    let lanes: &[LaneCell] = segment.group.region().slice(segment.group.layout().lane_table, 2);
    let words: [(&AtomicU64, u64, &str); 9] = [
        (&head.magic, MAGIC + 1, "not a Slackline segment"),
        (&head.version, VERSION + 1, "its layout has version 6, this program's has 5"),
        (&head.ranks, 3, "where its shape needs"),
        (&head.ranks, 0, "no ranks"),
        (&head.ranks, u64::MAX, "more than this machine can address"),
        (&head.lanes, 1, "where its shape needs"),
        (&head.lanes, u64::MAX / 2, "do not fit its"),
        (&lanes[1].slots, u64::MAX / 64, "more than this machine can address"),
        (&lanes[1].slot_bytes, 127, "where its shape needs"),
    ];
    for (word, value, expected) in words {
        let kept = word.swap(value, Ordering::Relaxed);
        let why = try_attach();
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
        word.store(kept, Ordering::Relaxed);
    }
    attach(&segment.file, segment.token, 0, Bond::None).unwrap();
}

#[test]
fn memory_that_is_cut_off_not_sealed_or_no_memory_is_refused() {
    let segment = Segment::create(&shape(2)).unwrap();
    let whole = segment.group.layout().bytes;
    for bytes in [0, 8, size_of::<Head>() - 1, size_of::<Head>(), 4096, whole - 4096, whole + 4096] {
        let file = memfd_create("cut", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut copy = vec![0; bytes.min(whole)];
        rustix::io::pread(&segment.file, &mut copy, 0).unwrap();
        rustix::io::pwrite(&file, &copy, 0).unwrap();
        ftruncate(&file, bytes as u64).unwrap();
        assert!(why(attach(&file, segment.token, 0, Bond::None)).contains("sealed"));
        fcntl_add_seals(&file, SEALS).unwrap();
        let why = why(attach(&file, segment.token, 0, Bond::None));
        assert!(why.contains("bytes"), "{why}");
    }
    let pipe = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap();
    assert!(why(attach(&pipe, segment.token, 0, Bond::None)).contains("not a memory file"));
}

#[test]
fn nobody_can_take_memory_away() {
    let segment = Segment::create(&shape(2)).unwrap();
    assert!(ftruncate(&segment.file, 0).is_err());
    assert!(ftruncate(&segment.file, 1 << 30).is_err());
}

#[test]
fn a_group_larger_than_the_machine_is_refused_before_anything_is_allocated() {
    let lanes = vec![LaneShape { slots: 1 << 20, slot_bytes: 1 << 30 }];
    match Segment::create(&GroupShape { ranks: 2, lanes }) {
        Err(TransportError::Memory { needed, available }) => assert!(needed > available && available > 0),
        other => panic!("{:?}", other.map(|segment| segment.shape().clone())),
    }
}

#[test]
fn waiting_for_all_names_who_is_late_and_who_has_ended() {
    let segment = Segment::create(&shape(4)).unwrap();
    let one = segment.rank(0).unwrap();
    let _two = segment.rank(1).unwrap();
    match one.wait_for_all(Duration::from_millis(20)) {
        Err(TransportError::NotAttached { ranks, waited }) => {
            assert_eq!(ranks, [2, 3]);
            assert!(waited >= Duration::from_millis(20));
        }
        other => panic!("{other:?}"),
    }
    segment.give_up(3);
    match one.wait_for_all(Duration::from_secs(100)) {
        Err(TransportError::Failed { why }) => assert_eq!(why, "rank 3 ended before all ranks had attached"),
        other => panic!("{other:?}"),
    }
    assert!(segment.rank(3).is_err(), "a rank that was given up came back");
}

#[test]
fn counters_and_lengths_that_no_peer_writes_poison_the_group_and_name_the_culprit() {
    // What is broken, where (as seen by rank 0, from rank 1), and what the poison says.
    let words = ["publishes", "releases", "lengthens"];
    for what in words {
        let segment = Segment::create(&shape(2)).unwrap();
        let (one, two) = (segment.rank(0).unwrap(), segment.rank(1).unwrap());
        let (region, layout) = (segment.group.region(), segment.group.layout());
        let lane = Lane(1);
        two.publish(lane, 0, 5);
        let (towards, from) = (layout.ring(2, 1, 1, 0), layout.ring(2, 1, 0, 1));
        let expected = match what {
            "publishes" => {
                region.at::<Mark>(towards.marks).published.store(u64::MAX, Ordering::Relaxed);
                assert_eq!(one.landed(lane, 1), 0);
                "lane 1: rank 1 claims 18446744073709551615 messages published"
            }
            "releases" => {
                one.publish(lane, 1, 5);
                region.at::<AtomicU64>(from.released).store(9, Ordering::Relaxed);
                one.wait(Duration::ZERO).unwrap();
                assert_eq!(one.free_slots(lane, 1), 2);
                "lane 1: rank 1 claims 9 messages released"
            }
            _ => {
                assert_eq!(one.landed(lane, 1), 1);
                region.at::<Mark>(towards.marks).length.store(129, Ordering::Relaxed);
                assert!(one.message(lane, 1, 0).is_empty());
                "lane 1: rank 1 claims 129 bytes in a slot of 128"
            }
        };
        let reason = String::from_utf8(two.poisoned().unwrap().to_vec()).unwrap();
        assert!(reason.contains(expected), "{reason}");
        // The rest of the group's memory still does its work.
        assert_eq!(two.landed(Lane(0), 0), 0);
    }
}

#[test]
fn a_process_that_nobody_started_finds_the_group_by_its_address() {
    let segment = Segment::create(&shape(2)).unwrap();
    let one = segment.rank(0).unwrap();
    let two = attach_at(&segment.address(), 1).unwrap();
    one.room(Lane(1), 1).unwrap()[..4].copy_from_slice(b"here");
    one.publish(Lane(1), 1, 4);
    assert_eq!(two.landed(Lane(1), 0), 1);
    assert_eq!(*two.message(Lane(1), 0, 0), *b"here");
    let refused = |address: &str| attach_at(address, 1).unwrap_err().to_string();
    assert!(refused(&segment.address()).contains("was taken"));
    assert!(refused("7:x").contains("no address"));
    let gone = segment.address().replace(&format!("{}:", std::process::id()), "4194304:");
    assert!(refused(&gone).contains("/proc/4194304"), "{gone}");
}

#[test]
fn whoever_poisons_a_group_knows_at_once_whose_reason_counts() {
    const RANKS: usize = 3;
    for _ in 0..200 {
        let segment = Segment::create(&shape(RANKS)).unwrap();
        let begin = Barrier::new(RANKS);
        let told = thread::scope(|scope| {
            let threads = (0..RANKS).map(|rank| {
                let (endpoint, begin) = (segment.rank(rank).unwrap(), &begin);
                scope.spawn(move || {
                    begin.wait();
                    endpoint.poison(format!("what rank {rank} has seen").as_bytes());
                    endpoint.poisoned().map(<[u8]>::to_vec)
                })
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(told[0].as_ref().is_some_and(|reason| reason.starts_with(b"what rank ")), "{told:?}");
        assert!(told.iter().all(|reason| *reason == told[0]), "{told:?}");
    }
}

#[test]
fn pairs_that_never_talk_take_no_memory() {
    const RANKS: usize = 200;
    let lanes = vec![LaneShape { slots: 6, slot_bytes: 64 }; 2];
    let segment = Segment::create(&GroupShape { ranks: RANKS, lanes }).unwrap();
    let group: Vec<_> = (0..RANKS).map(|rank| segment.rank(rank).unwrap()).collect();
    for endpoint in &group {
        let next = (endpoint.rank() + 1) % RANKS;
        endpoint.publish(Lane(1), next, 5);
        endpoint.notify();
    }
    for endpoint in &group {
        let before = (endpoint.rank() + RANKS - 1) % RANKS;
        endpoint.wait(Duration::ZERO).unwrap();
        let mut found = Vec::new();
        (0..2).for_each(|lane| endpoint.landings(Lane(lane), &mut |from, landed| found.push((lane, from, landed))));
        assert_eq!(found, [(1, before, 1)]);
        endpoint.release(Lane(1), before, 1);
    }
    for endpoint in &group {
        endpoint.wait(Duration::ZERO).unwrap();
        assert_eq!(endpoint.free_slots(Lane(1), (endpoint.rank() + 1) % RANKS), 6);
    }
    let used = rustix::fs::fstat(&segment.file).unwrap().st_blocks as usize * 512;
    let all = segment.group.layout().bytes;
    assert!(used < all / 8, "{used} of {all} bytes are in use");
}

#[test]
fn a_poison_of_a_rank_that_is_none_is_still_a_poison() {
    let segment = Segment::create(&shape(1)).unwrap();
    let one = segment.rank(0).unwrap();
    segment.group.head().poison.0.store(u64::MAX, Ordering::Relaxed);
    assert!(one.poisoned().unwrap().starts_with(b"shared memory is corrupt"));
}

#[test]
fn an_environment_that_is_not_ours_is_not_parsed() {
    let token = "0123456789abcdef00000000000000ff";
    assert_eq!(parse_group(&format!("7:{token}")), Some((7, [0x0123_4567_89ab_cdef, 0xff])));
    for text in [
        "",
        "7",
        ":",
        &format!("-1:{token}"),
        &format!("7:{token}0"),
        &format!("x:{token}"),
        "7:+123456789abcdef00000000000000ff",
    ] {
        assert_eq!(parse_group(text), None, "{text}");
    }
    assert!(inherited(1 << 20).is_err());
}
