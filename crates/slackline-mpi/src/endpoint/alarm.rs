//! What ends a wait from other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Wake;

/// Counts calls of a waker. Waits look at it between two looks at MPI, as nothing could wake them from a look.
#[derive(Default)]
pub(super) struct Alarm(AtomicU64);

impl Alarm {
    /// Calls so far. What a thread did before a call that is counted is seen from here on.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
