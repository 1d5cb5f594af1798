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
    /// Payload bytes that have arrived, whether handed out or not.
    pub bytes_received: u64,
    /// Messages that were larger than a slot and went in fragments.
    pub fragmented: u64,
    /// Time spent waiting for a round that was due.
    pub blocked_on_bound: Duration,
    /// Time spent waiting briefly for the newest round, which was not due yet.
    pub lingered: Duration,
    /// Time spent waiting for a free slot: zero with the default number of slots, unless messages are fragmented.
    pub blocked_on_credit: Duration,
    /// `lead[n]` counts the rounds at whose publication this rank had published `n` rounds more than its slowest peer. The
    /// round just published counts, so `n` is at most `lag + 1`.
    pub lead: Vec<u64>,
}

impl LaneStats {
    /// The observed lag: by how many rounds this rank was ahead of its slowest peer, at most, when it published another.
    /// Never more than the lane's lag. It is the largest [`lead`](Self::lead) without the round just published.
    pub fn observed_lag(&self) -> usize {
        self.lead.iter().rposition(|&count| count > 0).unwrap_or(0).saturating_sub(1)
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
