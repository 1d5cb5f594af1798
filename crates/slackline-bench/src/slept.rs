//! Work `slept`: a round sleeps in place of computing, and exchanges messages whose every byte is checked.

use std::time::Duration;

use slackline_collective::{Collective, CompleteRound, OpenRound};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::BenchError;
use crate::measure::Work;

/// Sleeps, and fills messages with words that depend on seed, round, sender and receiver. The output of a round is the
/// digest of each message.
#[derive(Clone, Debug)]
pub(crate) struct Slept {
    rank: usize,
    seed: u64,
    /// Before the messages go, and after, while they may be under way.
    unit: Duration,
    own_unit: Duration,
    sizes: Vec<usize>,
}

impl Slept {
    pub(crate) fn new(rank: usize, ranks: usize, seed: u64, unit: Duration, own_unit: Duration, bytes: usize) -> Self {
        Slept { rank, seed, unit, own_unit, sizes: vec![bytes; ranks] }
    }
}

/// The digest of the output on `rank` in `round`, computed without any exchange.
pub(crate) fn reference(ranks: usize, seed: u64, bytes: usize, rank: usize, round: u64) -> u64 {
    let mut message = vec![0; bytes];
    let mut output = Vec::new();
    for from in 0..ranks {
        fill(&mut message, seed, round, from, rank);
        output.extend(xxh3_64(&message).to_le_bytes());
    }
    xxh3_64(&output)
}

impl Work for Slept {
    fn send(&mut self, round: u64, collective: &mut impl Collective) -> Result<(), BenchError> {
        std::thread::sleep(self.unit);
        let mut sending = collective.begin(&self.sizes, &self.sizes)?;
        for (to, message) in sending.messages_mut().into_iter().enumerate() {
            fill(message, self.seed, round, self.rank, to);
        }
        Ok(sending.publish()?)
    }

    fn own(&mut self, _round: u64) -> Result<(), BenchError> {
        if self.own_unit > Duration::ZERO {
            std::thread::sleep(self.own_unit);
        }
        Ok(())
    }

    fn finish(&mut self, _round: u64, complete: impl CompleteRound, out: &mut Vec<u8>) -> Result<(), BenchError> {
        out.clear();
        for from in 0..self.sizes.len() {
            out.extend(xxh3_64(complete.message(from)).to_le_bytes());
        }
        Ok(())
    }
}

fn fill(message: &mut [u8], seed: u64, round: u64, from: usize, to: usize) {
    let mut key = [0u8; 24];
    key[..8].copy_from_slice(&round.to_le_bytes());
    key[8..16].copy_from_slice(&(from as u64).to_le_bytes());
    key[16..].copy_from_slice(&(to as u64).to_le_bytes());
    let mut word = xxh3_64_with_seed(&key, seed);
    for chunk in message.chunks_mut(8) {
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_contents_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for (round, from, to) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            let mut message = [0; 21];
            fill(&mut message, 7, round, from, to);
            assert!(message.iter().any(|byte| *byte != message[0]));
            assert!(seen.insert(message));
        }
        assert_ne!(reference(2, 7, 21, 0, 5), reference(2, 7, 21, 1, 5));
        assert_ne!(reference(2, 7, 21, 0, 5), reference(2, 8, 21, 0, 5));
        assert_eq!(reference(2, 7, 21, 0, 5), reference(2, 7, 21, 0, 5));
    }
}
