//! The atomics of this crate, and the bell that a rank sleeps on. Under `--cfg loom` they are the model checker's.

#[cfg(loom)]
use loom::sync::atomic;
#[cfg(not(loom))]
use std::sync::atomic;

pub use atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub use bell::{Bell, Reach};

#[cfg(not(loom))]
mod bell {
    use std::io;
    use std::time::Duration;

    use rustix::thread::futex::{self, Flags, Timespec};

    use super::{AtomicU32, Ordering};

    /// Who may sleep on a bell: the kernel finds a futex faster when it need not look past one process.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reach {
        /// Threads of this process.
        Process,
        /// Every process that maps the memory.
        Machine,
    }

    impl Reach {
        fn flags(self) -> Flags {
            match self {
                Reach::Process => Flags::PRIVATE,
                Reach::Machine => Flags::empty(),
            }
        }
    }

    /// A word that one rank sleeps on and others ring: a futex. Any bit pattern is valid, so it may lie in shared memory.
    #[repr(transparent)]
    pub struct Bell(AtomicU32);

    impl Bell {
        /// How often it was rung; to be read before deciding to sleep.
        pub fn rings(&self) -> u32 {
            self.0.load(Ordering::Acquire)
        }

        /// Wakes the sleeper, or makes its next [`sleep`](Self::sleep) return at once.
        pub fn ring(&self, reach: Reach) {
            self.0.fetch_add(1, Ordering::Release);
            // It fails only for a bad address, which this is not.
            let _ = futex::wake(&self.0, reach.flags(), 1);
        }

        /// Sleeps until the bell was rung more often than `seen`, or for `limit`.
        pub fn sleep(&self, seen: u32, limit: Duration, reach: Reach) -> io::Result<()> {
            let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
            match futex::wait(&self.0, reach.flags(), seen, Some(&limit)) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::TIMEDOUT) => {
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

#[cfg(loom)]
mod bell {
    use std::io;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::{AtomicU32, Ordering};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reach {
        Process,
    }

    /// A futex as the kernel promises it: comparing and falling asleep are one step as seen by who wakes. It never times
    /// out, so a lost wake-up shows as a deadlock.
    pub struct Bell {
        word: AtomicU32,
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Default for Bell {
        fn default() -> Self {
            Bell { word: AtomicU32::new(0), queue: Mutex::new(()), woken: Condvar::new() }
        }
    }

    impl Bell {
        pub fn rings(&self) -> u32 {
            self.word.load(Ordering::Acquire)
        }

        pub fn ring(&self, _reach: Reach) {
            self.word.fetch_add(1, Ordering::Release);
            let _queue = self.queue.lock().unwrap();
            self.woken.notify_one();
        }

        pub fn sleep(&self, seen: u32, _limit: Duration, _reach: Reach) -> io::Result<()> {
            let queue = self.queue.lock().unwrap();
            if self.word.load(Ordering::Relaxed) == seen {
                drop(self.woken.wait(queue).unwrap());
            }
            Ok(())
        }
    }
}
