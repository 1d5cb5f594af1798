//! What a run gives: predictions and measurements.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slackline_dlrm::RankWork;

use super::latencies::Latencies;
use super::stream::Times;
use crate::metrics::Quality;
use crate::output::PredictionFile;

/// The results on rank 0.
pub(super) struct Answers {
    /// What was predicted.
    pub(super) predicted: Predicted,
    /// From the barrier before the first batch until this rank had its last prediction.
    pub(super) elapsed: Duration,
    /// One entry per rank.
    pub(super) ranks: Vec<RankStats>,
}

/// All predictions, in brief.
pub(super) struct Predicted {
    /// Rows of the input.
    pub(super) rows: u64,
    /// How many of them an earlier run had predicted.
    pub(super) resumed: u64,
    /// Whether the input has labels.
    pub(super) labelled: bool,
    /// By the labels, if there are any.
    pub(super) quality: Quality,
    /// Predictions that are not a number.
    pub(super) not_a_number: u64,
    /// One for every batch on every rank that had samples of it.
    pub(super) latencies: Latencies,
    /// The rows in order, not under its name yet.
    pub(super) file: Option<PredictionFile>,
}

/// Measurements of one rank.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct RankStats {
    /// Loading its tables.
    pub(super) load_seconds: f64,
    /// Warming up after that.
    pub(super) warmup_seconds: f64,
    /// The most rounds that it was ahead of its slowest peer; see `LaneStats::observed_lag`.
    pub(super) observed_lag: usize,
    /// Waiting for rounds that were due.
    pub(super) blocked_seconds: f64,
    /// Looking up its tables.
    pub(super) lookup_seconds: f64,
    /// Bytes of pooled vectors that it sent to other ranks.
    pub(super) sent_bytes: u64,
    /// Bytes that it did not have to send because the other ranks hold copies of hot rows.
    pub(super) saved_bytes: u64,
}

impl RankStats {
    /// Those of a rank that was never ahead of another, and never waited for one.
    pub(super) fn new(load: Duration, times: &Times, work: RankWork) -> Self {
        RankStats {
            load_seconds: load.as_secs_f64(),
            warmup_seconds: times.warmup.as_secs_f64(),
            observed_lag: 0,
            blocked_seconds: 0.0,
            lookup_seconds: work.lookups.as_secs_f64(),
            sent_bytes: work.sent,
            saved_bytes: work.saved,
        }
    }
}
