//! Timing of work that may share its core with other ranks.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Measures CPU time of this thread, or wall time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watch {
    /// Wall time since then, for work that other threads do.
    Wall(Instant),
    /// CPU time since this thread had used so much.
    Cpu(Duration),
}

impl Watch {
    /// Starts measuring.
    ///
    /// Cost: for CPU time a system call, a few hundred nanoseconds.
    pub(crate) fn start(wall: bool) -> Self {
        if wall { Watch::Wall(Instant::now()) } else { Watch::Cpu(cpu_time()) }
    }

    /// Starts again, with the same kind of time.
    pub(crate) fn restarted(self) -> Self {
        Self::start(matches!(self, Watch::Wall(_)))
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Watch::Wall(begin) => begin.elapsed(),
            Watch::Cpu(begin) => cpu_time().saturating_sub(*begin),
        }
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
