//! Why a group failed: one record of fixed size, the same on every rank.

use std::fmt;
use std::time::Duration;

use slackline_transport::{Lane, POISON_BYTES, Rank};

/// What the ranks to blame did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The process or thread ended without leaving the group.
    Dead,
    /// Alive, but nothing came from it for longer than the deadline.
    Late,
    /// Sent a message of another size than its receiver had declared.
    Sizes,
    /// Sent something that is not a message of this protocol, or is of the wrong round.
    Protocol,
    /// Gave up because of an error of its own or a panic; [`Fault::note`] says which.
    GaveUp,
    /// The transport itself failed; [`Fault::note`] has its words, and no rank is to blame as far as this layer knows.
    Transport,
}

/// What the reporter was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Awaited {
    /// A message of the round.
    Message,
    /// A free slot for the round.
    Slot,
}

/// Why a group failed. The first fault of a group wins and is what every rank returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The ranks to blame, ascending; at most 32 are listed.
    pub ranks: Vec<Rank>,
    /// How many more ranks are to blame than are listed.
    pub unlisted: usize,
    /// The rank that noticed.
    pub reporter: Rank,
    /// The lane on which it noticed.
    pub lane: Lane,
    /// The round that was affected; where the lane is used by [streams](crate::Streams), the number of the message.
    pub round: u64,
    /// Whether the lane is used by streams.
    pub streams: bool,
    /// What the reporter waited for.
    pub awaited: Awaited,
    /// How long the reporter had waited.
    pub waited: Duration,
    /// Bytes that had arrived, or that were sent.
    pub bytes: u64,
    /// Bytes that were expected, if known.
    pub expected: Option<u64>,
    /// What was wrong with a message, or why a rank gave up. Other ranks receive the first 128 bytes, or a few more.
    pub note: String,
}

const MOST_RANKS: usize = 32;
const FIXED: usize = 48;
/// Bytes of a note that ranks in the list do not displace.
const NOTE: usize = 128;
const UNKNOWN: u64 = u64::MAX;

impl Fault {
    /// A fault with the fields that every kind has.
    pub(crate) fn new(kind: FaultKind, ranks: Vec<Rank>, reporter: Rank, lane: Lane, round: u64) -> Self {
        let (awaited, waited) = (Awaited::Message, Duration::ZERO);
        Fault {
            kind,
            ranks,
            unlisted: 0,
            reporter,
            lane,
            round,
            streams: false,
            awaited,
            waited,
            bytes: 0,
            expected: None,
            note: String::new(),
        }
    }

    /// A fault that the transport found, in its own words.
    pub(crate) fn of_transport(reporter: Rank, note: &str) -> Self {
        let mut fault = Fault::new(FaultKind::Transport, Vec::new(), reporter, Lane(0), 0);
        fault.note = note.to_owned();
        fault
    }

    /// The fault in a group's poison, as `reader` understands it.
    pub(crate) fn read(poison: &[u8], reader: Rank) -> Self {
        Fault::from_poison(poison).unwrap_or_else(|| {
            // The transport's own words, which blame whom they blame.
            let note = match std::str::from_utf8(poison) {
                Ok(text) if !text.is_empty() => text,
                _ => "the group failed with an unreadable reason",
            };
            Fault::of_transport(reader, note)
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let most = MOST_RANKS.min((POISON_BYTES - FIXED - self.note.len().min(NOTE)) / 4);
        let (ranks, unlisted) = self.ranks.split_at(self.ranks.len().min(most));
        let unlisted = self.unlisted + unlisted.len();
        let mut out = Vec::with_capacity(POISON_BYTES);
        out.push(match self.kind {
            FaultKind::Dead => 1,
            FaultKind::Late => 2,
            FaultKind::Sizes => 3,
            FaultKind::Protocol => 4,
            FaultKind::GaveUp => 5,
            FaultKind::Transport => 6,
        });
        out.push(u8::from(self.awaited == Awaited::Slot) | u8::from(self.streams) << 1);
        out.extend((ranks.len() as u16).to_le_bytes());
        out.extend((self.reporter as u32).to_le_bytes());
        out.extend(self.lane.0.to_le_bytes());
        out.extend([0u8; 2]);
        out.extend(self.round.to_le_bytes());
        out.extend((self.waited.as_micros().min(u128::from(u64::MAX)) as u64).to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.expected.unwrap_or(UNKNOWN).to_le_bytes());
        out.extend((unlisted as u32).to_le_bytes());
        debug_assert_eq!(out.len(), FIXED);
        for &rank in ranks {
            out.extend((rank as u32).to_le_bytes());
        }
        let mut end = self.note.len().min(POISON_BYTES - out.len());
        while !self.note.is_char_boundary(end) {
            end -= 1;
        }
        out.extend(&self.note.as_bytes()[..end]);
        out
    }

    /// The fault in a group's poison, as the launcher of its processes has it (`LaunchOutcome::poison`); `None` if something
    /// other than this crate poisoned the group.
    pub fn from_poison(poison: &[u8]) -> Option<Self> {
        if poison.len() < FIXED {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(poison[at..at + 4].try_into().expect("four bytes")) as usize;
        let long = |at: usize| u64::from_le_bytes(poison[at..at + 8].try_into().expect("eight bytes"));
        let count = usize::from(u16::from_le_bytes([poison[2], poison[3]]));
        if FIXED + 4 * count > poison.len() {
            return None;
        }
        let note = &poison[FIXED + 4 * count..];
        Some(Fault {
            kind: match poison[0] {
                1 => FaultKind::Dead,
                2 => FaultKind::Late,
                3 => FaultKind::Sizes,
                4 => FaultKind::Protocol,
                5 => FaultKind::GaveUp,
                6 => FaultKind::Transport,
                _ => return None,
            },
            ranks: (0..count).map(|at| word(FIXED + 4 * at)).collect(),
            unlisted: word(44),
            reporter: word(4),
            lane: Lane(u16::from_le_bytes([poison[8], poison[9]])),
            round: long(12),
            streams: poison[1] & 2 != 0,
            awaited: if poison[1] & 1 == 0 { Awaited::Message } else { Awaited::Slot },
            waited: Duration::from_micros(long(20)),
            bytes: long(28),
            expected: Some(long(36)).filter(|&bytes| bytes != UNKNOWN),
            note: String::from_utf8_lossy(note).into_owned(),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match (self.ranks.as_slice(), self.unlisted) {
            ([one], 0) => format!("rank {one}"),
            (many, unlisted) => {
                let listed = many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let more = if unlisted == 0 { String::new() } else { format!(" and {unlisted} more") };
                format!("ranks {listed}{more}")
            }
        };
        let Fault { reporter, lane, round, bytes, note, .. } = self;
        let place = format!("{} {round} on lane {lane}", if self.streams { "message" } else { "round" });
        let part = if self.streams { "" } else { "a message of " };
        let what = match (self.awaited, self.expected) {
            (Awaited::Message, Some(expected)) => format!("{part}{place} ({bytes} of {expected} bytes here)"),
            (Awaited::Message, None) => format!("{part}{place} (nothing of it here)"),
            (Awaited::Slot, _) => format!("a free slot for {place}"),
        };
        match self.kind {
            FaultKind::Dead => write!(f, "{who} died: rank {reporter} was waiting for {what}"),
            FaultKind::Late => {
                let waited = self.waited.as_secs_f64();
                write!(f, "{who} late: rank {reporter} waited {waited:.3} s for {what}")
            }
            FaultKind::Sizes => {
                let expected = self.expected.unwrap_or(0);
                write!(f, "{who} sent {bytes} bytes to rank {reporter} in {place}, which expected {expected} bytes")
            }
            FaultKind::Protocol => write!(f, "{who} broke the protocol towards rank {reporter} in {place}: {note}"),
            FaultKind::GaveUp => write!(f, "{who} gave up in {place}: {note}"),
            FaultKind::Transport => f.write_str(note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_fault_tells_the_same_story_on_the_other_side(
            kind in prop::sample::select(vec![
                FaultKind::Dead, FaultKind::Late, FaultKind::Sizes, FaultKind::Protocol, FaultKind::GaveUp,
                FaultKind::Transport,
            ]),
            ranks in prop::collection::vec(0..=u32::MAX as usize, 1..=MOST_RANKS),
            unlisted in 0..=u32::MAX as usize,
            reporter in 0..=u32::MAX as usize,
            lane in any::<u16>(),
            round in any::<u64>(),
            slot in any::<bool>(),
            streams in any::<bool>(),
            micros in any::<u64>(),
            bytes in any::<u64>(),
            expected in prop::option::of(0..UNKNOWN),
            note in "[a-zé]{0,60}",
        ) {
            let awaited = if slot { Awaited::Slot } else { Awaited::Message };
            let waited = Duration::from_micros(micros);
            let lane = Lane(lane);
            let fault = Fault {
                kind, ranks, unlisted: 0, reporter, lane, round, streams, awaited, waited, bytes, expected, note,
            };
            // As many ranks as there is place for beside the note, at least 16, and the number of the others.
            let room = (POISON_BYTES - FIXED - fault.note.len()) / 4;
            let listed = fault.ranks.len().min(room);
            prop_assert!(listed >= fault.ranks.len().min(16));
            let (ranks, cut) = (fault.ranks[..listed].to_vec(), fault.ranks.len() - listed);
            let unlisted = (unlisted + cut).min(u32::MAX as usize);
            let poison = Fault { unlisted: unlisted - cut, ..fault.clone() }.encode();
            prop_assert!(poison.len() <= POISON_BYTES);
            let decoded = Fault::from_poison(&poison).unwrap();
            let told = Fault { ranks, unlisted, ..fault };
            prop_assert_eq!(decoded.to_string(), told.to_string());
            prop_assert_eq!(decoded, told);
        }

        #[test]
        fn foreign_poison_is_not_misread_as_a_panic(poison in prop::collection::vec(any::<u8>(), 0..POISON_BYTES)) {
            let _ = Fault::from_poison(&poison);
        }
    }

    #[test]
    fn ranks_that_are_not_listed_are_counted() {
        let ranks: Vec<Rank> = (70_000..70_500).collect();
        let fault = Fault::new(FaultKind::Dead, ranks.clone(), 65_537, Lane(0), 3);
        let decoded = Fault::from_poison(&fault.encode()).unwrap();
        assert_eq!((&decoded.ranks[..], decoded.unlisted, decoded.reporter), (&ranks[..MOST_RANKS], 468, 65_537));
        let story = decoded.to_string();
        assert!(
            story.starts_with("ranks 70000, 70001, ") && story.contains(", 70031 and 468 more died: rank 65537 "),
            "{story}"
        );
    }

    #[test]
    fn long_notes_are_cut_between_characters() {
        for ranks in [1, 2, 100] {
            let mut fault = Fault::new(FaultKind::GaveUp, (0..ranks).collect(), 1, Lane(0), 3);
            fault.note = "é".repeat(500);
            let poison = fault.encode();
            assert!(poison.len() <= POISON_BYTES);
            let note = Fault::from_poison(&poison).unwrap().note;
            assert!(note.len() >= NOTE && note.chars().all(|c| c == 'é'), "{note}");
        }
    }
}
