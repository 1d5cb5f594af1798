//! The place where an operation's end is written down.

use std::sync::OnceLock;

use crate::Failure;

/// An operation that was submitted.
#[derive(Debug, Default)]
pub struct Ticket {
    end: OnceLock<Result<Option<usize>, Failure>>,
}

impl Ticket {
    /// How it ended; `None` while it has not. What was received from a rank that was not named says from which.
    pub fn end(&self) -> Option<&Result<Option<usize>, Failure>> {
        self.end.get()
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.end.get().is_some()
    }

    pub(crate) fn close(&self, end: Result<Option<usize>, Failure>) {
        let _ = self.end.set(end);
    }
}
