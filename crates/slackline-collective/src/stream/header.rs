//! The header of a full slot, and the check of one that came.
//!
//! A message that is shorter than a slot has no header: transports deliver whole messages in order, so its length is all
//! that its receiver needs. (The cache line of a header would cost a small message as much as everything else together.)
//! Everything else, a fragment of a larger message or a farewell, is published as a full slot, which begins with a header.

/// Bytes of the header at the front of a full slot: one cache line.
pub const HEADER_BYTES: usize = 64;

/// First word of every header: "BLS" and the version of this layout.
const MAGIC: u32 = u32::from_le_bytes(*b"BLS1");
/// Set on the message with which a rank leaves a lane.
const LEAVE: u32 = 1;

/// The header of a full slot: a fragment of a message that did not fit one, or a farewell. Little endian: magic `u32`,
/// flags `u32`, number `u64` (of the message in its stream), bytes of the whole message `u64`, offset of this fragment in it `u64`; the rest is unused. The
/// fragment follows, as much of the message as fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) leave: bool,
    pub(crate) number: u64,
    pub(crate) total: u64,
    pub(crate) offset: u64,
}

impl Header {
    pub(crate) fn write(&self, slot: &mut [u8]) {
        let flags = if self.leave { LEAVE } else { 0 };
        slot[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        slot[4..8].copy_from_slice(&flags.to_le_bytes());
        slot[8..16].copy_from_slice(&self.number.to_le_bytes());
        slot[16..24].copy_from_slice(&self.total.to_le_bytes());
        slot[24..32].copy_from_slice(&self.offset.to_le_bytes());
    }

    /// The header of a full slot and the fragment behind it; `Err` says what is wrong with it.
    pub(crate) fn read(slot: &[u8]) -> Result<(Self, &[u8]), &'static str> {
        let word = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
        if word(0) != MAGIC {
            return Err("a full slot of another protocol or version");
        }
        if word(4) & !LEAVE != 0 {
            return Err("unknown flags in a header");
        }
        let header = Header { leave: word(4) & LEAVE != 0, number: long(8), total: long(16), offset: long(24) };
        let Some(left) = header.total.checked_sub(header.offset) else {
            return Err("a fragment that begins past its message");
        };
        let length = (slot.len() - HEADER_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok((header, &slot[HEADER_BYTES..HEADER_BYTES + length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip_and_nonsense_is_refused() {
        let header = Header { leave: true, number: 7, total: 100, offset: 64 };
        let mut slot = vec![0u8; HEADER_BYTES + 64];
        header.write(&mut slot);
        let (read, fragment) = Header::read(&slot).unwrap();
        assert_eq!((read, fragment.len()), (header, 36), "the end of a message, in a slot with more room");
        let middle = Header { leave: false, total: 1 << 40, ..header };
        middle.write(&mut slot);
        assert_eq!(Header::read(&slot).unwrap().1.len(), 64);
        slot[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Header::read(&slot).is_err(), "an offset past the message");
        slot[4] = 2;
        assert!(Header::read(&slot).is_err(), "unknown flags");
        slot[0] ^= 1;
        assert!(Header::read(&slot).is_err(), "another magic");
    }
}
