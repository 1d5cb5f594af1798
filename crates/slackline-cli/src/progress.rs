//! The progress of a long command: one line on standard error, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(100);

/// A line that is rewritten at most ten times a second and erased at the end. Silent unless standard error is a terminal.
pub(crate) struct Progress {
    what: String,
    shown: bool,
    next: Option<Instant>,
}

impl Progress {
    /// `what` is the name of the work.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        let next = io::stderr().is_terminal().then(Instant::now);
        Progress { what: what.into(), shown: false, next }
    }

    /// Shows progress; `detail` is called only if the line is written.
    pub(crate) fn at(&mut self, detail: impl FnOnce() -> String) {
        let Some(next) = self.next else { return };
        let now = Instant::now();
        if now >= next {
            let _ = write!(io::stderr(), "\r\x1b[K{}: {}", self.what, detail());
            (self.next, self.shown) = (Some(now + EVERY), true);
        }
    }

    /// Shows `done` as a share of `total`.
    pub(crate) fn share(&mut self, done: u64, total: u64, unit: &str) {
        self.at(|| match total {
            0 => format!("{done} {unit}"),
            _ => format!("{:3.0} % of {total} {unit}", 100.0 * done as f64 / total as f64),
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// A number of bytes, readable, in powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
