//! A program that any endpoint can run: every rank sends numbered messages to every rank, itself included, on all lanes,
//! as fast as its slots allow, and checks each byte of what it gets.

use std::time::Duration;

use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, Rank, TransportError};

pub(crate) fn shape(ranks: usize, lanes: usize, slots: usize, slot_bytes: usize) -> GroupShape {
    GroupShape { ranks, lanes: vec![LaneShape { slots, slot_bytes }; lanes] }
}

pub(crate) fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// A message as its receiver saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) lane: u16,
    pub(crate) from: Rank,
    pub(crate) number: u64,
}

/// What message `number` of a ring must hold: empty ones now and then, others up to a whole slot.
fn contents(from: Rank, to: Rank, lane: u16, number: u64, slot: usize) -> Vec<u8> {
    let mix = (from as u64 * 31 + to as u64 * 17 + u64::from(lane) * 7 + number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let len = mix as usize % (slot + 1) * usize::from(number % 3 != 2);
    (0..len).map(|index| (mix >> 13) as u8 ^ index as u8).collect()
}

/// Sends and takes `messages` per peer and lane, and sleeps for `work` after each step. Returns what came, in order.
pub(crate) fn traffic<E: Endpoint>(endpoint: &E, messages: u64, work: Duration) -> Result<Vec<Seen>, TransportError> {
    let (me, group) = (endpoint.rank(), endpoint.shape().clone());
    let rings: Vec<(Lane, Rank)> =
        (0..group.lanes.len()).flat_map(|lane| (0..group.ranks).map(move |peer| (Lane(lane as u16), peer))).collect();
    let (mut sent, mut taken) = (vec![0; rings.len()], vec![0; rings.len()]);
    let mut seen = Vec::new();
    loop {
        let mut moved = false;
        for (ring, &(lane, peer)) in rings.iter().enumerate() {
            let LaneShape { slots, slot_bytes } = group.lanes[lane.index()];
            while sent[ring] < messages && endpoint.free_slots(lane, peer) > 0 {
                let bytes = contents(me, peer, lane.0, sent[ring], slot_bytes);
                endpoint.room(lane, peer).unwrap()[..bytes.len()].copy_from_slice(&bytes);
                endpoint.publish(lane, peer, bytes.len());
                sent[ring] += 1;
                moved = true;
            }
            let landed = endpoint.landed(lane, peer);
            assert!(landed - taken[ring] <= slots as u64, "more messages than slots");
            for number in taken[ring]..landed {
                let want = contents(peer, me, lane.0, number, slot_bytes);
                assert_eq!(*endpoint.message(lane, peer, number), *want, "message {number} of rank {peer}");
                seen.push(Seen { at: endpoint.now(), lane: lane.0, from: peer, number });
            }
            if landed > taken[ring] {
                endpoint.release(lane, peer, landed);
                taken[ring] = landed;
                moved = true;
            }
        }
        if moved {
            endpoint.notify();
            endpoint.sleep(work);
        } else if sent.iter().chain(&taken).all(|&count| count == messages) {
            return Ok(seen);
        } else {
            endpoint.wait(Duration::MAX)?;
        }
    }
}
