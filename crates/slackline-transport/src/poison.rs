//! Whose failure of a group was first, and why.
//!
//! A rank writes its reason down in a place of its own, and only then claims the group's word, which one rank gets. So
//! whoever sees a failed group sees one reason, whole, and all see the same: not even a rank that is killed in between, or
//! kept from its core, leaves one half written.

use crate::POISON_BYTES;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes of a reason, fewer for the model checker, to which every word is a decision.
const BYTES: usize = if cfg!(loom) { 16 } else { POISON_BYTES };

/// What the group's word is until a rank has claimed it; then it is one more than that rank.
pub const NOBODY: u64 = 0;

const NO_SUCH_RANK: &[u8] = b"shared memory is corrupt: a rank that is none claims to know why the group failed";

/// Why a rank poisons the group, if it does. All zeros is a value.
#[repr(C)]
#[derive(Default)]
pub struct Reason {
    length: AtomicU32,
    text: [AtomicU64; BYTES / 8],
}

impl Reason {
    fn write(&self, reason: &[u8]) {
        let mut text = [0u8; BYTES];
        let length = reason.len().min(BYTES);
        text[..length].copy_from_slice(&reason[..length]);
        for (word, bytes) in self.text.iter().zip(text.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.length.store(length as u32, Ordering::Relaxed);
    }

    fn read(&self) -> Vec<u8> {
        let mut text = self.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect::<Vec<_>>();
        text.truncate(self.length.load(Ordering::Relaxed) as usize);
        text
    }
}

/// Makes the first bytes of `reason` the group's, unless a rank was before; whether it was this one. `own` is the rank's
/// place, and nobody else writes there.
pub fn claim(first: &AtomicU64, rank: usize, own: &Reason, reason: &[u8]) -> bool {
    // Others may be reading what this rank wrote down before.
    if is_claimed(first) {
        return false;
    }
    own.write(reason);
    first.compare_exchange(NOBODY, rank as u64 + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[inline]
pub fn is_claimed(first: &AtomicU64) -> bool {
    first.load(Ordering::Relaxed) != NOBODY
}

/// Who claimed the group's word. It lies in memory that others write, so it may be no rank of the group.
pub fn claimant(first: &AtomicU64) -> Option<usize> {
    first.load(Ordering::Acquire).checked_sub(1).map(|rank| rank as usize)
}

/// The group's reason, if it has one. `reason_of` may know nothing of a rank: the word lies in memory that others write.
pub fn reason<'a>(first: &AtomicU64, reason_of: impl FnOnce(usize) -> Option<&'a Reason>) -> Option<Vec<u8>> {
    Some(reason_of(claimant(first)?).map_or(NO_SUCH_RANK.to_vec(), Reason::read))
}
