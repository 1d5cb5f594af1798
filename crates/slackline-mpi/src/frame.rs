//! What stands in the bytes that go over MPI: the header in front of every message, and the control messages.

use slackline_transport::{Lane, POISON_BYTES, Rank};

/// Bytes of a control message.
pub(crate) const CONTROL_BYTES: usize = 16 + POISON_BYTES;

/// The header in front of every message: two counts, each modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The message's number in its ring, as a check.
    pub(crate) number: u32,
    /// How many messages its sender has released of the ring in the other direction.
    pub(crate) released: u32,
}

impl Header {
    #[inline]
    pub(crate) fn new(number: u64, released: u64) -> Self {
        Header { number: number as u32, released: released as u32 }
    }

    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        ((u64::from(self.released) << 32) | u64::from(self.number)).to_le_bytes()
    }

    #[inline]
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        let both = u64::from_le_bytes(bytes);
        Header { number: both as u32, released: (both >> 32) as u32 }
    }
}

/// The count whose last 32 bits came, where one of about that size is known: the nearest such count.
#[inline]
pub(crate) fn unwrap_count(known: u64, low: u32) -> u64 {
    known.wrapping_add_signed(i64::from(low.wrapping_sub(known as u32) as i32))
}

/// What ranks tell each other beside the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// The sender has released so many messages of the ring from the receiver of this.
    Credit { lane: Lane, released: u64 },
    /// The sender has left, after so many messages on this lane to the receiver of this; one for each lane.
    Left { lane: Lane, published: u64 },
    /// The sender ended without leaving.
    Died,
    /// The group has failed.
    Poison { reason: Vec<u8> },
}

impl Control {
    /// Into the bytes of a slot.
    pub(crate) fn write(&self, from: Rank, to: &mut [u8]) -> usize {
        let (kind, lane, value, text): (u8, Lane, u64, &[u8]) = match self {
            Control::Credit { lane, released } => (1, *lane, *released, &[]),
            Control::Left { lane, published } => (2, *lane, *published, &[]),
            Control::Died => (3, Lane(0), 0, &[]),
            Control::Poison { reason } => (4, Lane(0), 0, reason),
        };
        to[0] = kind;
        to[1] = text.len() as u8;
        to[2..4].copy_from_slice(&lane.0.to_le_bytes());
        to[4..8].copy_from_slice(&(from as u32).to_le_bytes());
        to[8..16].copy_from_slice(&value.to_le_bytes());
        to[16..16 + text.len()].copy_from_slice(text);
        16 + text.len()
    }

    /// Who says what; `None` for bytes that [`write`](Self::write) does not make.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Rank, Control)> {
        let (head, text) = bytes.split_at_checked(16)?;
        let text = text.get(..usize::from(head[1]))?;
        let lane = Lane(u16::from_le_bytes([head[2], head[3]]));
        let from = u32::from_le_bytes(head[4..8].try_into().ok()?) as Rank;
        let value = u64::from_le_bytes(head[8..16].try_into().ok()?);
        let control = match head[0] {
            1 => Control::Credit { lane, released: value },
            2 => Control::Left { lane, published: value },
            3 => Control::Died,
            4 => Control::Poison { reason: text.to_vec() },
            _ => return None,
        };
        Some((from, control))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn controls() -> impl Strategy<Value = Control> {
        prop_oneof![
            (any::<u16>(), any::<u64>()).prop_map(|(lane, released)| Control::Credit { lane: Lane(lane), released }),
            (any::<u16>(), any::<u64>()).prop_map(|(lane, published)| Control::Left { lane: Lane(lane), published }),
            Just(Control::Died),
            prop::collection::vec(any::<u8>(), 0..=POISON_BYTES).prop_map(|reason| Control::Poison { reason }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(control in controls(), from in 0usize..1 << 20) {
            let mut bytes = [0xff; CONTROL_BYTES];
            let length = control.write(from, &mut bytes);
            prop_assert_eq!(Control::read(&bytes[..length]), Some((from, control)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Control::read(&bytes);
        }

        #[test]
        fn counts_come_back_from_their_last_bits(known in any::<u64>().prop_map(|count| count >> 1), step in 0u64..1 << 31) {
            let header = Header::new(known, known + step);
            prop_assert_eq!(Header::from_bytes(header.to_bytes()), header);
            prop_assert_eq!(unwrap_count(known, header.released), known + step);
            prop_assert_eq!(unwrap_count(known + step, header.number), known);
        }
    }
}
