//! Whether a process is still there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

/// How old an answer may be. Asking costs a system call or two, and a death must be seen within a tenth of a second.
const FRESH: Duration = Duration::from_millis(20);

/// So many ranks on either side are looked at so often, and the others of a large group rarely and without a descriptor for
/// each: whoever sees a death tells all, and each rank has as many that watch it. If each watched all, looks would grow with
/// the square of the ranks, and so would descriptors.
const NEAR: usize = 8;

/// An eye on one process.
pub(crate) struct Watch {
    eye: Eye,
    fresh: Duration,
    /// By a clock that is read at no cost and is some milliseconds behind.
    asked: Option<Duration>,
    gone: bool,
}

enum Eye {
    Closed,
    Pidfd(OwnedFd),
    /// For ranks that are far away, and where the kernel has no pidfds: look into `/proc` each time.
    Proc,
}

impl Watch {
    /// Of rank `peer`, by rank `own`.
    pub(crate) fn new(own: usize, peer: usize, ranks: usize) -> Self {
        let apart = own.abs_diff(peer);
        let near = apart.min(ranks - apart) <= NEAR;
        if near {
            return Watch { eye: Eye::Closed, fresh: FRESH, asked: None, gone: false };
        }
        // A rank that is far away is not even looked at first.
        let share = u32::try_from(ranks / NEAR).unwrap_or(u32::MAX);
        let fresh = FRESH.saturating_mul(share.saturating_mul(share));
        Watch { eye: Eye::Proc, fresh, asked: Some(coarse_now()), gone: false }
    }

    /// Whether process `pid`, which started at `start`, has ended; the answer may be 20 ms old, and more for a rank that is far
    /// away. A process that is stopped has not ended, one that is a zombie has.
    pub(crate) fn gone(&mut self, pid: u32, start: u64) -> bool {
        if self.gone {
            return true;
        }
        let now = coarse_now();
        if self.asked.is_some_and(|asked| now.saturating_sub(asked) < self.fresh) {
            return false;
        }
        self.gone = match &self.eye {
            Eye::Closed => self.open(pid, start),
            Eye::Pidfd(pidfd) => readable(pidfd),
            Eye::Proc => look(pid, start) == Look::Gone,
        };
        self.asked = Some(now);
        self.gone
    }

    fn open(&mut self, pid: u32, start: u64) -> bool {
        match Pid::from_raw(pid as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            // The number may have gone to another process before the pidfd held on to it.
            Some(Ok(pidfd)) => {
                let gone = readable(&pidfd) || look(pid, start) == Look::Gone;
                self.eye = Eye::Pidfd(pidfd);
                gone
            }
            Some(Err(rustix::io::Errno::SRCH)) | None => true,
            // Without a descriptor for it (they may have run out) the next question tries again.
            Some(Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)) => {
                look(pid, start) == Look::Gone
            }
            Some(Err(_)) => {
                self.eye = Eye::Proc;
                look(pid, start) == Look::Gone
            }
        }
    }
}

/// What a look at a process shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Here,
    /// Only if the kernel says so: a look that fails for another reason shows nothing.
    Gone,
    Unknown,
}

/// Looks for process `pid`, which started at `start` (0 for any). A zombie is gone.
fn look(pid: u32, start: u64) -> Look {
    match stat(pid) {
        Ok((state, started)) if !matches!(state, b'Z' | b'X') && (start == 0 || started == start) => Look::Here,
        Ok(_) => Look::Gone,
        // Needs no descriptor. It takes a zombie for a process, and one of the same number for this one.
        Err(_) => match Pid::from_raw(pid as i32).map(test_kill_process) {
            None | Some(Err(rustix::io::Errno::SRCH)) => Look::Gone,
            Some(_) => Look::Unknown,
        },
    }
}

/// Whether process `pid` is there, is no zombie, and is the one that started at `start` (0 for any), or cannot be looked at.
pub(crate) fn alive(pid: u32, start: u64) -> bool {
    look(pid, start) != Look::Gone
}

/// When a process started, in clock ticks since boot: with its number, this names a process for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat(pid).ok().map(|(_, start)| start)
}

fn stat(pid: u32) -> io::Result<(u8, u64)> {
    let line = fs::read(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may hold anything, parentheses and spaces included.
    let rest = line.iter().rposition(|byte| *byte == b')').map(|end| String::from_utf8_lossy(&line[end + 1..]));
    let mut fields = rest.iter().flat_map(|rest| rest.split_ascii_whitespace());
    let state = fields.next().and_then(|state| state.as_bytes().first().copied());
    let started = fields.nth(18).and_then(|start| start.parse().ok());
    state.zip(started).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn coarse_now() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A pidfd is readable once its process has ended, reaped or not.
fn readable(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use std::time::Instant;

    use rustix::process::{Signal, kill_process};

    use super::*;

    /// Asks until the answer may have changed.
    fn ask(watch: &mut Watch, pid: u32, start: u64) -> bool {
        std::thread::sleep(FRESH + Duration::from_millis(5));
        watch.gone(pid, start)
    }

    #[test]
    fn a_running_and_a_stopped_process_are_there_and_a_zombie_is_gone() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        let (pid, start) = (child.id(), start_time(child.id()).unwrap());
        let mut by_pidfd = Watch::new(0, 1, 2);
        let mut by_proc = Watch { eye: Eye::Proc, ..Watch::new(0, 1, 2) };
        assert!(!by_pidfd.gone(pid, start));
        assert!(!by_proc.gone(pid, start));
        kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
        assert!(!ask(&mut by_pidfd, pid, start));
        assert!(!ask(&mut by_proc, pid, start));
        // Killed, but not waited for: a zombie.
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        let killed = Instant::now();
        while !(ask(&mut by_pidfd, pid, start) && ask(&mut by_proc, pid, start)) {
            assert!(killed.elapsed() < Duration::from_secs(10), "a killed process still counts as running");
        }
        assert!(Watch::new(0, 1, 2).gone(pid, start), "a watch that only begins now takes the zombie for a process");
        child.wait().unwrap();
        assert!(Watch::new(0, 1, 2).gone(pid, start));
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_one_watched() {
        let own = std::process::id();
        let start = start_time(own).unwrap();
        assert!(!Watch::new(0, 1, 2).gone(own, start));
        assert!(Watch::new(0, 1, 2).gone(own, start + 1));
        assert!(Watch::new(0, 1, 2).gone(0, 0));
    }
}
