//! Two ranks that are threads: one sends a thousand messages as fast as the ring of four slots allows, the other adds them
//! up. Run it with `cargo run -p slackline-transport --example ring_threads`.

use std::thread;
use std::time::Duration;

use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, TransportError, threads};

const LANE: Lane = Lane(0);
const MESSAGES: u64 = 1000;

fn main() -> Result<(), TransportError> {
    let shape = GroupShape { ranks: 2, lanes: vec![LaneShape { slots: 4, slot_bytes: 64 }] };
    let mut group = threads::group(&shape)?.into_iter();
    let (sender, receiver) = (group.next().expect("two ranks"), group.next().expect("two ranks"));
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<(), TransportError> {
            for number in 0..MESSAGES {
                while sender.free_slots(LANE, 1) == 0 {
                    sender.wait(sender.now() + Duration::from_secs(1))?;
                }
                // The slot is the receiver's memory: nothing is copied.
                sender.room(LANE, 1).unwrap()[..8].copy_from_slice(&number.to_le_bytes());
                sender.publish(LANE, 1, 8);
                sender.notify();
            }
            sender.detach();
            Ok(())
        });
        let (mut sum, mut taken, mut waits) = (0, 0, 0);
        while taken < MESSAGES {
            let landed = receiver.landed(LANE, 0);
            if landed == taken {
                waits += 1;
                receiver.wait(receiver.now() + Duration::from_secs(1))?;
                continue;
            }
            for number in taken..landed {
                let message = receiver.message(LANE, 0, number);
                sum += u64::from_le_bytes((&*message).try_into().expect("8 bytes"));
            }
            receiver.release(LANE, 0, landed);
            receiver.notify();
            taken = landed;
        }
        println!("{taken} messages in {:.1?}, {waits} waits, their sum is {sum}", receiver.now());
        receiver.detach();
        sending.join().expect("the sender does not panic")
    })
}
