//! Signals that would end the command without a word are errors with a cause, and leave what can be taken up again.
//!
//! A thread waits for them. What the command has written by then stays in the folder of unfinished work beside its output, where
//! the next run finds it.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::*;
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, exit, raise, signal_name};

use crate::fail;

/// Signals that end a process that does nothing about them. Not here: SIGKILL, which nobody can handle, SIGABRT and the
/// processor's faults, which tell of errors of the program, and SIGPIPE, which the standard library ignores.
const ENDING: [i32; 13] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGIO, SIGPWR, SIGSTKFLT,
];

/// Two of the system's that have no name elsewhere.
const SIGPWR: i32 = 30;
const SIGSTKFLT: i32 = 16;

/// Longer than a launcher takes to end its ranks.
const LAUNCHER_ENDS: Duration = Duration::from_secs(6);

/// Whether this process was started as a rank.
static IS_RANK: AtomicBool = AtomicBool::new(false);
/// Whether a launcher of ranks deals with SIGINT and SIGTERM.
static LAUNCHING: AtomicBool = AtomicBool::new(false);
/// The signal that is about to end a launcher.
static ENDED_BY: AtomicI32 = AtomicI32::new(0);
/// What the user can do about an interrupted command.
static ADVICE: Mutex<String> = Mutex::new(String::new());

/// Begins to wait for signals. Those that whoever started the command has told it to ignore, as `nohup` does, stay ignored.
///
/// `is_rank`: whether a launcher has started this process as a rank. It ends it by SIGINT or SIGTERM, and tells why itself.
pub(crate) fn listen(is_rank: bool) -> Result<()> {
    let ignored = ignored();
    let handled = |signal: &i32| ignored >> (signal - 1) & 1 == 0 && !(is_rank && [SIGINT, SIGTERM].contains(signal));
    IS_RANK.store(is_rank, Ordering::SeqCst);
    // Too large a file is then an error of the write, which names the file.
    if handled(&SIGXFSZ) {
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("handling signals")?;
    }
    let mut signals = Signals::new(ENDING.iter().filter(|signal| handled(signal))).context("waiting for signals")?;
    let wait = move || {
        for signal in signals.forever() {
            end(signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("starting a thread")?;
    Ok(())
}

/// What is said beside the cause, should a signal end the command from now on.
pub(crate) fn advise(advice: impl Into<String>) {
    *ADVICE.lock().unwrap_or_else(PoisonError::into_inner) = advice.into();
}

/// Runs a launcher, which deals with SIGINT and SIGTERM itself; with the signal that has ended it, if it was another.
pub(crate) fn launching<T>(run: impl FnOnce() -> T) -> (T, Option<i32>) {
    LAUNCHING.store(true, Ordering::SeqCst);
    let result = run();
    LAUNCHING.store(false, Ordering::SeqCst);
    let signal = ENDED_BY.load(Ordering::SeqCst);
    (result, (signal != 0).then_some(signal))
}

fn end(signal: i32) {
    if LAUNCHING.load(Ordering::SeqCst) {
        return end_launcher(signal);
    }
    // Should nobody take what is written to standard error, the next signal ends the process all the same.
    static TELLING: AtomicBool = AtomicBool::new(false);
    if TELLING.swap(true, Ordering::SeqCst) {
        exit(128 + signal);
    }
    std::thread::spawn(move || {
        fail::tell(&told(signal));
        // The launcher of a rank sees by what it has ended.
        if IS_RANK.load(Ordering::SeqCst) {
            let _ = emulate_default_handler(signal);
        }
        exit(128 + signal);
    });
}

fn end_launcher(signal: i32) {
    if signal != SIGINT && signal != SIGTERM {
        ENDED_BY.store(signal, Ordering::SeqCst);
        // It then ends its ranks.
        let _ = raise(SIGTERM);
        return;
    }
    // It may not have listened yet. If it has, it is at its end by then.
    std::thread::spawn(move || {
        std::thread::sleep(LAUNCHER_ENDS);
        if LAUNCHING.load(Ordering::SeqCst) {
            let _ = raise(signal);
        }
    });
}

/// The cause of the end, and what can be done about it.
pub(crate) fn told(signal: i32) -> String {
    ended_by(signal) + &ADVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `ended by signal 15 (SIGTERM)`.
pub(crate) fn ended_by(signal: i32) -> String {
    match signal_name(signal) {
        Some(name) => format!("ended by signal {signal} ({name})"),
        None => format!("ended by signal {signal}"),
    }
}

/// The signals that this process ignores, one bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
