//! The rings and the sleeping, in every order that the memory model allows:
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p slackline-transport --release --test suite loom`.
//!
//! The counters, cursors and the sleepers' set are the real ones, on the heap instead of in a mapping; the futex is
//! emulated by a condition variable that never times out, so that a lost wake-up is a deadlock, which loom reports.

mod shm;

use loom::sync::Arc;
use loom::thread;
use shm::{RECEIVER, Ring, SENDER};
use slackline_transport::model::cursor::{ReceiveCursor, SendCursor};
use slackline_transport::model::poison::{self, Reason};
use slackline_transport::model::sync::{AtomicU64, Ordering};

#[test]
fn what_was_published_is_seen_whole() {
    loom::model(|| {
        let ring = Ring::new(2);
        let sender = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut outgoing = SendCursor::new(2);
                ring.write(&mut outgoing, 10);
                ring.write(&mut outgoing, 11);
            })
        };
        let mut incoming = ReceiveCursor::new(2);
        // Whatever has landed by now, and then all of it.
        while ring.refresh(&mut incoming) {}
        for number in 0..incoming.landed() {
            assert_eq!(ring.read(&incoming, number), 10 + number);
        }
        sender.join().unwrap();
        while ring.refresh(&mut incoming) {}
        assert_eq!(incoming.landed(), 2);
        assert_eq!(ring.read(&incoming, 1), 11);
    });
}

#[test]
fn a_slot_is_not_overwritten_before_it_is_released() {
    loom::model(|| {
        let ring = Ring::new(1);
        let receiver = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut incoming = ReceiveCursor::new(1);
                if ring.refresh(&mut incoming) {
                    assert_eq!(incoming.landed(), 1);
                    assert_eq!(ring.read(&incoming, 0), 10);
                    incoming.release(&ring.released, 1);
                    // Only now may the second message come into the same slot.
                    if ring.refresh(&mut incoming) {
                        assert_eq!(ring.read(&incoming, 1), 11);
                    }
                }
            })
        };
        let mut outgoing = SendCursor::new(1);
        ring.write(&mut outgoing, 10);
        if outgoing.free(&ring.released).unwrap() > 0 {
            ring.write(&mut outgoing, 11);
        }
        receiver.join().unwrap();
    });
}

#[test]
fn a_count_that_comes_with_a_message_hands_the_slot_back() {
    loom::model(|| {
        let (there, back) = (Ring::new(1), Ring::new(1));
        let peer = {
            let (there, back) = (there.clone(), back.clone());
            thread::spawn(move || {
                let mut incoming = ReceiveCursor::new(1);
                if there.refresh(&mut incoming) {
                    assert_eq!(there.read(&incoming, 0), 10);
                    // The slot is never given back but by this word.
                    incoming.release(&AtomicU64::new(0), 1);
                    back.told.store(incoming.released(), Ordering::Relaxed);
                    back.write(&mut SendCursor::new(1), 20);
                }
            })
        };
        let (mut outgoing, mut incoming) = (SendCursor::new(1), ReceiveCursor::new(1));
        there.write(&mut outgoing, 10);
        if back.refresh(&mut incoming) {
            assert_eq!(outgoing.learn(back.told.load(Ordering::Relaxed)), Ok(()));
            assert_eq!(outgoing.known_free(), 1);
            there.write(&mut outgoing, 11);
        }
        peer.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_between_a_sender_and_a_receiver_that_both_sleep() {
    loom::model(|| {
        const MESSAGES: u64 = 2;
        let ring = Ring::new(1);
        let receiver = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut incoming = ReceiveCursor::new(1);
                for number in 0..MESSAGES {
                    while incoming.landed() <= number {
                        ring.sleep(RECEIVER, || ring.refresh(&mut incoming));
                        ring.refresh(&mut incoming);
                    }
                    assert_eq!(ring.read(&incoming, number), number);
                    incoming.release(&ring.released, number + 1);
                    ring.notify();
                }
            })
        };
        let mut outgoing = SendCursor::new(1);
        for number in 0..MESSAGES {
            while outgoing.free(&ring.released).unwrap() == 0 {
                ring.sleep(SENDER, || outgoing.refresh(&ring.released).unwrap());
            }
            ring.write(&mut outgoing, number);
            ring.notify();
        }
        receiver.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_when_two_wakers_race_for_one_sleeper() {
    // Each waker takes the sleeper's bit; the one that finds it taken relies on the other's ring.
    loom::model(|| {
        let ring = Ring::new(1);
        let counters = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let wakers: Vec<_> = (0..2)
            .map(|index| {
                let (ring, counters) = (ring.clone(), counters.clone());
                thread::spawn(move || {
                    counters[index].store(1, Ordering::Release);
                    ring.notify();
                })
            })
            .collect();
        let all = || counters.iter().all(|counter| counter.load(Ordering::Acquire) == 1);
        let mut seen = [0; 2];
        while !all() {
            ring.sleep(RECEIVER, || {
                let now = [0, 1].map(|index: usize| counters[index].load(Ordering::Acquire));
                std::mem::replace(&mut seen, now) != now
            });
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn ranks_that_fail_at_once_know_one_reason_whole() {
    loom::model(|| {
        let group = Arc::new((AtomicU64::new(poison::NOBODY), [Reason::default(), Reason::default()]));
        let fail = |rank: usize, group: Arc<(AtomicU64, [Reason; 2])>| {
            let (first, reasons) = &*group;
            let news = poison::claim(first, rank, &reasons[rank], [b"zero 1st", b"one is 2"][rank]);
            let reason = poison::reason(first, |rank| Some(&reasons[rank])).unwrap();
            assert!(!news || reason == [b"zero 1st", b"one is 2"][rank]);
            reason
        };
        let other = thread::spawn({
            let group = group.clone();
            move || fail(1, group)
        });
        let seen = fail(0, group);
        assert_eq!(other.join().unwrap(), seen);
        assert!([b"zero 1st", b"one is 2"].iter().any(|reason| seen == *reason), "{seen:?}");
    });
}
