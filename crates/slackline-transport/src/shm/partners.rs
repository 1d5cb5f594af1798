//! Which peers a rank has ever sent to or received from: the only ones whose counters it has to look at.

use std::cell::{Cell, RefCell};

use crate::Rank;
use crate::parking::RANKS_A_WORD;
use crate::sync::{AtomicU64, Ordering};

/// In a group of up to so many all are partners from the start: a look at each costs less than asking.
const ALL: usize = 16;

/// The peers that one rank looks at. A pair that never talks is never looked at, so that its counters take no memory and a
/// look takes no time.
pub(crate) struct Partners {
    list: RefCell<Vec<Rank>>,
    is_partner: Box<[Cell<bool>]>,
    /// The [calls](call) that this rank has taken in; empty where all are partners.
    answered: Box<[Cell<u64>]>,
}

impl Partners {
    /// Of one rank in a group of `ranks`.
    pub(crate) fn new(ranks: usize) -> Self {
        let all = ranks <= ALL;
        let words = if all { 0 } else { ranks.div_ceil(RANKS_A_WORD) };
        Partners {
            list: RefCell::new(if all { (0..ranks).collect() } else { Vec::new() }),
            is_partner: vec![Cell::new(all); ranks].into(),
            answered: vec![Cell::new(0); words].into(),
        }
    }

    /// Counts `peer` among the partners. Before the first message to it.
    pub(crate) fn add(&self, peer: Rank) {
        if !self.is_partner[peer].replace(true) {
            self.list.borrow_mut().push(peer);
        }
    }

    /// Takes in who has called; whether somebody is new.
    #[inline(always)]
    pub(crate) fn answer<'a>(&self, calls: impl FnOnce() -> &'a [AtomicU64]) -> bool {
        if self.answered.is_empty() {
            return false;
        }
        let mut new = false;
        for (word, (answered, calls)) in self.answered.iter().zip(calls()).enumerate() {
            let seen = calls.load(Ordering::Acquire);
            let unanswered = seen & !answered.replace(seen);
            if unanswered != 0 {
                self.take_in(word * RANKS_A_WORD, unanswered);
                new = true;
            }
        }
        new
    }

    #[cold]
    fn take_in(&self, first: Rank, mut callers: u64) {
        while callers != 0 {
            let caller = first + callers.trailing_zeros() as usize;
            // Bits come from shared memory: one beyond the group is nobody's.
            if caller < self.is_partner.len() {
                self.add(caller);
            }
            callers &= callers - 1;
        }
    }

    /// Calls `with` for every partner, which must not add any.
    #[inline(always)]
    pub(crate) fn each(&self, mut with: impl FnMut(Rank)) {
        for &peer in self.list.borrow().iter() {
            with(peer);
        }
    }
}

/// Tells the rank whose `calls` these are that `caller` is about to send it something for the first time. A rank that sees the
/// message sees the call, which is made first.
pub(crate) fn call(calls: &[AtomicU64], caller: Rank) {
    calls[caller / RANKS_A_WORD].fetch_or(1 << (caller % RANKS_A_WORD), Ordering::AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partners(of: &Partners) -> Vec<Rank> {
        let mut list = Vec::new();
        of.each(|peer| list.push(peer));
        list
    }

    #[test]
    fn in_a_large_group_only_those_that_talk_are_partners() {
        let calls = [const { AtomicU64::new(0) }; 2];
        let own = Partners::new(70);
        assert!(!own.answer(|| &calls) && partners(&own).is_empty());
        own.add(3);
        own.add(3);
        call(&calls, 69);
        call(&calls, 3);
        assert!(own.answer(|| &calls) && !own.answer(|| &calls));
        assert_eq!(partners(&own), [3, 69]);
        // What no peer has written.
        calls[1].store(u64::MAX, Ordering::Relaxed);
        assert!(own.answer(|| &calls));
        assert_eq!(partners(&own), [3, 69, 64, 65, 66, 67, 68]);
    }

    #[test]
    fn in_a_small_group_all_are() {
        let own = Partners::new(ALL);
        assert_eq!(partners(&own), (0..ALL).collect::<Vec<_>>());
        assert!(!own.answer(|| unreachable!("nobody has to call")));
        own.add(3);
        assert_eq!(partners(&own).len(), ALL);
    }
}
