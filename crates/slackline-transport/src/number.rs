//! The numbers of a ring: of its ranks, and of its lane.

use std::fmt;

/// A member of a group, `0 .. ranks`.
pub type Rank = usize;

/// An independent stream of messages over one endpoint, `0 .. lanes`.
///
/// Lanes share nothing but the endpoint's waiting and its poison: each has rings of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u16);

impl Lane {
    /// The lane as an index into per-lane arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
