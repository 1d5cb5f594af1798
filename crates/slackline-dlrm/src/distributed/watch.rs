//! A watch for work that may share its core.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Measures the processor time of this thread, or time by the clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watch {
    /// Since then, by the clock: for work that other threads do.
    Clock(Instant),
    /// Since this thread had used so much of a processor.
    Processor(Duration),
}

impl Watch {
    /// Starts one.
    ///
    /// Cost: a system call for the processor's time, some hundred nanoseconds.
    pub(super) fn start(by_the_clock: bool) -> Self {
        if by_the_clock { Watch::Clock(Instant::now()) } else { Watch::Processor(processor_time()) }
    }

    /// One of the same kind that starts now.
    pub(super) fn restarted(self) -> Self {
        Self::start(matches!(self, Watch::Clock(_)))
    }

    /// The time since it was started.
    pub(super) fn elapsed(&self) -> Duration {
        match self {
            Watch::Clock(begin) => begin.elapsed(),
            Watch::Processor(begin) => processor_time().saturating_sub(*begin),
        }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
