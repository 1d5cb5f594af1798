//! What a lane did, per rank.

use std::time::Duration;

/// What one rank did on one lane since the group began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Rounds published.
    pub rounds: u64,
    /// Rounds handed out.
    pub taken: u64,
    /// Payload bytes published, to this rank itself included.
    pub bytes_sent: u64,
    /// Payload bytes that have arrived, handed out or not.
    pub bytes_received: u64,
    /// Messages that were larger than a slot and went in fragments.
    pub fragmented: u64,
    /// Time spent waiting for a round that was due.
    pub blocked_on_bound: Duration,
    /// Time spent waiting for a round that was not due, only just incomplete.
    pub lingered: Duration,
    /// Time spent waiting for a free slot; zero with the default number of slots unless messages are fragmented.
    pub blocked_on_credit: Duration,
    /// `lead[n]` counts the rounds at whose publication this rank was `n` rounds ahead of its slowest peer. Never longer
    /// than `lag + 2`: a lead of `lag + 1` is the bound.
    pub lead: Vec<u64>,
}

impl LaneStats {
    /// The observed lag: the largest lead, in rounds, over the slowest peer.
    pub fn observed_lag(&self) -> usize {
        self.lead.iter().rposition(|&count| count > 0).unwrap_or(0)
    }

    #[inline]
    pub(crate) fn record_lead(&mut self, lead: usize) {
        match self.lead.get_mut(lead) {
            Some(count) => *count += 1,
            None => {
                self.lead.resize(lead + 1, 0);
                self.lead[lead] = 1;
            }
        }
    }
}
