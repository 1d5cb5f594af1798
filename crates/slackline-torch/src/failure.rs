//! Why an operation failed.

use std::fmt;

use slackline_collective::transport::TransportError;
use slackline_collective::{CollectiveError, Fault, FaultKind};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// A rank's process has ended, or it left the group, while others waited for it.
    Dead,
    /// A rank did not come in time.
    Late,
    /// Ranks don't agree about sizes, or about which operation this is.
    Mismatch,
    /// The group could not be made, was closed, or cannot do what was asked.
    Unusable,
}

/// Why an operation failed. After it, every operation of the group fails the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// The ranks to blame, by the numbers that they have in the whole program.
    pub ranks: Vec<usize>,
    /// The number of the operation on this group, from 0, or of the round; of an operation that this rank had not reached, the
    /// number that the other rank gave.
    pub round: Option<u64>,
    /// Bytes that came.
    pub bytes: Option<u64>,
    /// Bytes that were expected.
    pub expected: Option<u64>,
    /// All of it in words.
    pub text: String,
}

impl Failure {
    /// What the group cannot do.
    pub fn unusable(text: impl Into<String>) -> Self {
        let (ranks, text) = (Vec::new(), text.into());
        Failure { kind: FailureKind::Unusable, ranks, round: None, bytes: None, expected: None, text }
    }

    /// `error`, which `during` an operation of this number became known, in a group whose ranks are `members` of the program.
    pub(crate) fn new(error: &CollectiveError, during: &str, number: Option<u64>, members: &[usize]) -> Self {
        let CollectiveError::Fault(fault) = error else {
            return Failure::unusable(format!("{during}: {error}"));
        };
        let member = |rank: &usize| members.get(*rank).copied().unwrap_or(*rank);
        let kind = match fault.kind {
            FaultKind::Dead | FaultKind::GaveUp => FailureKind::Dead,
            FaultKind::Late => FailureKind::Late,
            FaultKind::Sizes | FaultKind::Protocol => FailureKind::Mismatch,
            _ => FailureKind::Unusable,
        };
        let sizes = fault.kind == FaultKind::Sizes;
        let round = if kind == FailureKind::Mismatch { Some(fault.round) } else { number };
        Failure {
            kind,
            ranks: fault.ranks.iter().map(member).collect(),
            round,
            bytes: sizes.then_some(fault.bytes),
            expected: fault.expected.filter(|_| sizes),
            text: format!("{during}: {}", describe(fault, member)),
        }
    }
}

/// The fault in words, with the ranks' numbers in the program.
fn describe(fault: &Fault, member: impl Fn(&usize) -> usize) -> String {
    let ranks: Vec<String> = fault.ranks.iter().map(|rank| member(rank).to_string()).collect();
    let who = match ranks.as_slice() {
        [one] => format!("rank {one}"),
        many => format!("ranks {}", many.join(", ")),
    };
    let (reporter, waited) = (member(&fault.reporter), fault.waited.as_secs_f64());
    match fault.kind {
        FaultKind::Dead => format!("{who} has died while rank {reporter} waited for it"),
        FaultKind::Late => format!("{who} did not come: rank {reporter} waited {waited:.1} s"),
        FaultKind::Sizes => {
            let (bytes, expected, number) = (fault.bytes, fault.expected.unwrap_or(0), fault.round);
            format!("{who} sent {bytes} bytes to rank {reporter} in number {number}, which expected {expected} bytes")
        }
        FaultKind::Protocol => format!("{who} and rank {reporter} are not at the same operation: {}", fault.note),
        FaultKind::GaveUp => format!("{who} gave up: {}", fault.note),
        _ => fault.note.clone(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Failure::unusable(error.to_string())
    }
}
