//! The header in front of every fragment, and its checks.

/// Bytes of the header in front of every fragment: one cache line, so that the payload behind it keeps the slot's
/// alignment.
pub const HEADER_BYTES: usize = 64;

/// First word of every fragment: "BLS" and the version of this layout.
const MAGIC: u32 = u32::from_le_bytes(*b"BLS1");
/// Set on the message with which a rank leaves a lane.
const LEAVE: u32 = 1;

/// What stands in front of a fragment, little endian: magic `u32`, flags `u32`, round `u64`, bytes of the whole message
/// `u64`, offset of this fragment in it `u64`; the rest of the header is unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) leave: bool,
    pub(crate) round: u64,
    pub(crate) total: u64,
    pub(crate) offset: u64,
}

impl Header {
    #[inline]
    pub(crate) fn write(&self, slot: &mut [u8]) {
        let flags = if self.leave { LEAVE } else { 0 };
        slot[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        slot[4..8].copy_from_slice(&flags.to_le_bytes());
        slot[8..16].copy_from_slice(&self.round.to_le_bytes());
        slot[16..24].copy_from_slice(&self.total.to_le_bytes());
        slot[24..32].copy_from_slice(&self.offset.to_le_bytes());
    }

    /// The header of a fragment that came from outside; `Err` says what is wrong with it.
    #[inline]
    pub(crate) fn read(fragment: &[u8]) -> Result<Self, &'static str> {
        if fragment.len() < HEADER_BYTES {
            return Err("a fragment shorter than its header");
        }
        let word = |at: usize| u32::from_le_bytes(fragment[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(fragment[at..at + 8].try_into().expect("eight bytes"));
        if word(0) != MAGIC {
            return Err("a fragment of another protocol or version");
        }
        if word(4) & !LEAVE != 0 {
            return Err("unknown flags in a fragment's header");
        }
        let header = Header { leave: word(4) & LEAVE != 0, round: long(8), total: long(16), offset: long(24) };
        let payload = (fragment.len() - HEADER_BYTES) as u64;
        match header.offset.checked_add(payload) {
            Some(end) if end <= header.total => Ok(header),
            _ => Err("a fragment that reaches past its message"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip_and_nonsense_is_refused() {
        let header = Header { leave: true, round: 7, total: 100, offset: 64 };
        let mut slot = vec![0u8; HEADER_BYTES + 36];
        header.write(&mut slot);
        assert_eq!(Header::read(&slot), Ok(header));
        assert!(Header::read(&slot[..HEADER_BYTES - 1]).is_err(), "shorter than a header");
        slot.push(0);
        assert!(Header::read(&slot).is_err(), "one byte past the message");
        slot.pop();
        slot[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Header::read(&slot).is_err(), "an offset that overflows");
        slot[0] ^= 1;
        assert!(Header::read(&slot).is_err(), "another magic");
    }
}
