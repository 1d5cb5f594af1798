//! A conversation between all ranks of a group, the same over every transport: random messages of random sizes, random
//! pauses and a random order of work, every byte of which both sides can tell from one seed.

use std::time::Duration;

use slackline_transport::{Endpoint, Lane, LaneShape, PeerState, Rank};

/// A small generator of random numbers (splitmix64), so that a rank in another process draws the same ones.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(words: &[u64]) -> Self {
        let mut draw = Draw(0x5eed);
        for word in words {
            draw.0 ^= word.wrapping_mul(0xff51_afd7_ed55_8ccd);
            draw.next();
        }
        draw
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What message `number` from one rank to another is: nothing, a full slot, or any size in between.
fn expected(seed: u64, lane: usize, from: Rank, to: Rank, number: u64, slot_bytes: usize, into: &mut Vec<u8>) {
    let mut draw = Draw::new(&[seed, lane as u64, from as u64, to as u64, number]);
    let len = match draw.below(6) {
        0 => 0,
        1 => slot_bytes,
        _ => draw.below(slot_bytes as u64 + 1) as usize,
    };
    into.clear();
    into.resize(len.next_multiple_of(8), 0);
    for bytes in into.chunks_exact_mut(8) {
        bytes.copy_from_slice(&draw.next().to_le_bytes());
    }
    into.truncate(len);
}

/// How many messages go over one ring.
fn count(seed: u64, lane: usize, from: Rank, to: Rank, most: u64) -> u64 {
    Draw::new(&[seed, 77, lane as u64, from as u64, to as u64]).below(most + 1)
}

fn pause(endpoint: &impl Endpoint, draw: &mut Draw) {
    match draw.below(40) {
        0 => endpoint.sleep(Duration::from_micros(draw.below(600))),
        1..=3 => std::thread::yield_now(),
        _ => {}
    }
}

/// Speaks and listens until every message has been sent, received and checked, and every slot given back.
pub(crate) fn converse(endpoint: &impl Endpoint, seed: u64, most: u64, pauses: bool) -> Result<(), String> {
    let shape = endpoint.shape().clone();
    let (own, ranks, lanes) = (endpoint.rank(), shape.ranks, shape.lanes.len());
    let mut draw = Draw::new(&[seed, own as u64, 99]);
    let mut sent = vec![vec![0u64; ranks]; lanes];
    let mut read = vec![vec![0u64; ranks]; lanes];
    let mut released = vec![vec![0u64; ranks]; lanes];
    let mut want = Vec::new();
    loop {
        let (mut progress, mut open) = (false, false);
        for lane in 0..lanes {
            let LaneShape { slots, slot_bytes } = shape.lanes[lane];
            let id = Lane(lane as u16);
            for peer in 0..ranks {
                // Speak: a random number of messages, as far as there are slots.
                let total = count(seed, lane, own, peer, most);
                for _ in 0..draw.below(slots as u64 + 1) {
                    if sent[lane][peer] == total || endpoint.free_slots(id, peer) == 0 {
                        break;
                    }
                    let mut room = endpoint.room(id, peer).ok_or("a free slot has no room")?;
                    if room.len() != slot_bytes {
                        return Err(format!("a free slot has {} bytes, not {slot_bytes}", room.len()));
                    }
                    expected(seed, lane, own, peer, sent[lane][peer], slot_bytes, &mut want);
                    room[..want.len()].copy_from_slice(&want);
                    drop(room);
                    endpoint.publish(id, peer, want.len());
                    sent[lane][peer] += 1;
                    progress = true;
                }
                open |= sent[lane][peer] < total;
                if pauses {
                    pause(endpoint, &mut draw);
                }
                // Listen: check everything that has landed, then give back a random part of it.
                let landed = endpoint.landed(id, peer);
                let total = count(seed, lane, peer, own, most);
                if landed > total || landed < read[lane][peer] {
                    return Err(format!("{landed} of {total} messages landed from {peer} on lane {lane}"));
                }
                for number in released[lane][peer]..landed {
                    expected(seed, lane, peer, own, number, slot_bytes, &mut want);
                    let got = endpoint.message(id, peer, number);
                    if *got != *want {
                        let first = got.iter().zip(&want).position(|(got, want)| got != want);
                        return Err(format!(
                            "message {number} from {peer} on lane {lane}: {} bytes for {}, first difference at {first:?}",
                            got.len(),
                            want.len()
                        ));
                    }
                }
                progress |= landed > read[lane][peer];
                read[lane][peer] = landed;
                let held = landed - released[lane][peer];
                let give = if held > 0 { draw.below(held + 1) } else { 0 };
                if give > 0 {
                    released[lane][peer] += give;
                    endpoint.release(id, peer, released[lane][peer]);
                }
                progress |= give > 0;
                open |= released[lane][peer] < total;
            }
        }
        endpoint.notify();
        if !open {
            return Ok(());
        }
        if !progress {
            endpoint.wait(endpoint.now() + Duration::from_secs(2)).map_err(|error| error.to_string())?;
            if let Some(reason) = endpoint.poisoned() {
                return Err(format!("poisoned: {}", String::from_utf8_lossy(reason)));
            }
            if let Some(dead) = (0..ranks).find(|peer| endpoint.peer_state(*peer) == PeerState::Dead) {
                return Err(format!("rank {dead} is dead"));
            }
        }
    }
}

/// A ball that goes round the ranks `laps` times: everybody but its holder waits, so one lost wake-up stops it for the
/// rest of a sleep. Returns how many waits lasted longer than `long`.
pub(crate) fn pass_a_ball(endpoint: &impl Endpoint, laps: u64, long: Duration) -> u64 {
    let (own, ranks, lane) = (endpoint.rank(), endpoint.shape().ranks, Lane(0));
    let (before, after) = ((own + ranks - 1) % ranks, (own + 1) % ranks);
    let mut late = 0;
    for lap in 0..laps {
        if own != 0 || lap != 0 {
            let expected = if own == 0 { lap } else { lap + 1 };
            while endpoint.landed(lane, before) < expected {
                let began = endpoint.now();
                endpoint.wait(began + Duration::from_secs(5)).unwrap();
                late += u64::from(endpoint.now() - began > long);
            }
            assert_eq!(*endpoint.message(lane, before, expected - 1), (expected - 1).to_le_bytes());
            endpoint.release(lane, before, expected);
        }
        while endpoint.free_slots(lane, after) == 0 {
            endpoint.wait(endpoint.now() + Duration::from_secs(5)).unwrap();
        }
        endpoint.room(lane, after).unwrap()[..8].copy_from_slice(&lap.to_le_bytes());
        endpoint.publish(lane, after, 8);
        endpoint.notify();
    }
    late
}
