//! The rings and the sleeping, in every order that the memory model allows:
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p slackline-transport --release --test suite loom`.
//!
//! The rings, the sleepers' set and the wakers are the real ones, over memory on the heap instead of a mapping; the futex is
//! emulated by a condition variable that never times out, so that a lost wake-up is a deadlock, which loom reports.

mod shm;

use loom::sync::Arc;
use loom::thread;
use shm::ranks;
use slackline_transport::model::poison::{self, Reason};
use slackline_transport::model::sync::{AtomicU64, Ordering};

#[test]
fn what_was_published_is_seen_whole() {
    loom::model(|| {
        let (sender, receiver) = ranks(2, 1);
        let sending = thread::spawn(move || {
            sender.write(10);
            sender.write(11);
        });
        // Whatever has landed by now, and then all of it.
        while receiver.look() {}
        for number in 0..receiver.rings.incoming.landed() {
            assert_eq!(receiver.read(number), 10 + number);
        }
        sending.join().unwrap();
        while receiver.look() {}
        assert_eq!(receiver.rings.incoming.landed(), 2);
        assert_eq!(receiver.read(1), 11);
    });
}

#[test]
fn a_look_that_goes_on_while_messages_come_sees_each_whole() {
    // With three slots a look does not end at the first message.
    loom::model(|| {
        let (sender, receiver) = ranks(3, 1);
        let sending = thread::spawn(move || {
            sender.write(10);
            sender.write(11);
        });
        receiver.look();
        for number in 0..receiver.rings.incoming.landed() {
            assert_eq!(receiver.read(number), 10 + number);
        }
        sending.join().unwrap();
        receiver.look();
        assert_eq!(receiver.rings.incoming.landed(), 2);
    });
}

#[test]
fn a_slot_is_not_overwritten_before_it_is_released() {
    loom::model(|| {
        let (sender, receiver) = ranks(1, 1);
        let receiving = thread::spawn(move || {
            if receiver.look() {
                assert_eq!(receiver.rings.incoming.landed(), 1);
                assert_eq!(receiver.read(0), 10);
                receiver.rings.release(1);
                // Only now may the second message come into the same slot.
                if receiver.look() {
                    assert_eq!(receiver.read(1), 11);
                }
            }
        });
        sender.write(10);
        if sender.rings.free().unwrap() > 0 {
            sender.write(11);
        }
        receiving.join().unwrap();
    });
}

#[test]
fn a_count_that_comes_with_a_message_hands_the_slot_back() {
    loom::model(|| {
        let (here, peer) = ranks(1, 1);
        let answering = thread::spawn(move || {
            if peer.look() {
                assert_eq!(peer.read(0), 10);
                peer.rings.release(1);
                peer.write(20);
            }
        });
        here.write(10);
        // Never looks at the counter itself.
        if here.look() {
            assert_eq!(here.rings.outgoing.known_free(), 1);
            here.write(11);
        }
        answering.join().unwrap();
    });
}

#[test]
fn a_count_that_came_after_a_message_hands_no_slot_back() {
    // The peer fills its ring, and learns in between that a message has been read. The count that stands for that comes with
    // the message that was published afterwards, and not with the first.
    loom::model(|| {
        let (here, peer) = ranks(1, 2);
        let answering = thread::spawn(move || {
            peer.write(20);
            if peer.look() {
                assert_eq!(peer.read(0), 10);
                peer.rings.release(1);
            }
            peer.write(21);
        });
        here.write(10);
        if here.look() && here.rings.outgoing.known_free() > 0 {
            here.write(11);
        }
        answering.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_between_a_sender_and_a_receiver_that_both_sleep() {
    loom::model(|| {
        const MESSAGES: u64 = 2;
        let (sender, receiver) = ranks(1, 1);
        let receiving = thread::spawn(move || {
            for number in 0..MESSAGES {
                while receiver.rings.incoming.landed() <= number {
                    receiver.sleep(|| receiver.look());
                    receiver.look();
                }
                assert_eq!(receiver.read(number), number);
                receiver.rings.release(number + 1);
                receiver.notify();
            }
        });
        for number in 0..MESSAGES {
            while sender.rings.free().unwrap() == 0 {
                sender.sleep(|| sender.rings.refresh_released().unwrap());
            }
            sender.write(number);
            sender.notify();
        }
        receiving.join().unwrap();
    });
}

#[test]
fn no_wake_up_is_lost_when_two_wakers_race_for_one_sleeper() {
    // Each waker takes the sleeper's bit; the one that finds it taken relies on the other's ring.
    loom::model(|| {
        let (waker, sleeper) = ranks(1, 1);
        let waker = Arc::new(waker);
        let counters = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let wakers: Vec<_> = (0..2)
            .map(|index| {
                let (waker, counters) = (waker.clone(), counters.clone());
                thread::spawn(move || {
                    counters[index].store(1, Ordering::Release);
                    waker.notify();
                })
            })
            .collect();
        let all = || counters.iter().all(|counter| counter.load(Ordering::Acquire) == 1);
        let mut seen = [0; 2];
        while !all() {
            sleeper.sleep(|| {
                let now = [0, 1].map(|index: usize| counters[index].load(Ordering::Acquire));
                std::mem::replace(&mut seen, now) != now
            });
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn a_call_of_the_waker_is_not_lost_beside_a_message() {
    loom::model(|| {
        let (sender, sleeper) = ranks(1, 1);
        let sending = thread::spawn(move || {
            sender.call_other();
            sender.write(10);
            sender.notify();
        });
        let mut seen = 0;
        while sleeper.calls() == 0 || sleeper.rings.incoming.landed() == 0 {
            sleeper.sleep(|| {
                let calls = sleeper.calls();
                sleeper.look() | (std::mem::replace(&mut seen, calls) != calls)
            });
            sleeper.look();
        }
        assert_eq!(sleeper.read(0), 10);
        sending.join().unwrap();
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
