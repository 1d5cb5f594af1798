//! Starts the ranks of a group as processes of this machine, and sees them to their end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::shm::Segment;
use crate::{GroupShape, Rank, TransportError, cores};

/// How long the others have to end by themselves, with an error of their own, once a rank has failed.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long they then have to follow a SIGTERM before they are killed.
pub const TERM_GRACE: Duration = Duration::from_secs(1);

/// How long output that is still on its way is waited for once all ranks have ended. Only a process that a rank left
/// behind with its output in hand can need that long.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How often processes are looked at where the kernel cannot tell when one ends.
const TICK: Duration = Duration::from_millis(20);

/// Where the output of the ranks goes. Always in whole lines, each marked with `[rank N] `.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// Output to the launcher's output, errors to its errors.
    #[default]
    Marked,
    /// The output of rank 0 goes through untouched, as if it ran alone; everything else, marked, to the launcher's errors.
    FirstRank,
}

/// A launcher of local ranks: processes that find their group with [`attach_from_env`](crate::shm::attach_from_env).
///
/// The processes get no input. Each leads a process group of its own, so that a terminal's interrupt reaches them through
/// the launcher only, and signals to a rank reach the processes that it started in turn.
///
/// # Examples
///
/// ```
/// use std::process::Command;
/// use slackline_transport::launch::Launch;
/// use slackline_transport::{GroupShape, LaneShape};
///
/// let shape = GroupShape { ranks: 3, lanes: vec![LaneShape { slots: 4, slot_bytes: 1024 }] };
/// let outcome = Launch::new(shape, |rank| {
///     let mut command = Command::new("sh");
///     command.args(["-c", &format!("exit {}", if rank == 2 { 7 } else { 0 })]);
///     command
/// })
/// .run()?;
/// assert_eq!(outcome.first_failed, Some(2));
/// assert_eq!(outcome.exit_code(), 7);
/// # Ok::<(), slackline_transport::TransportError>(())
/// ```
pub struct Launch<F> {
    shape: GroupShape,
    command: F,
    output: OutputMode,
    pin: bool,
}

/// How the ranks ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchOutcome {
    /// How each rank ended, in rank order.
    pub statuses: Vec<ExitStatus>,
    /// The rank that failed before any other did. Ranks that were ended by the launcher come later.
    pub first_failed: Option<Rank>,
    /// The signal that the launcher was told to end by, and passed on.
    pub signal: Option<i32>,
}

impl LaunchOutcome {
    /// What the launcher should exit with, by the shell's rules: the first failed rank's code, 128 more than the number of
    /// the signal that killed it or that stopped the launcher, 0 if all went well.
    pub fn exit_code(&self) -> i32 {
        if let Some(signal) = self.signal {
            return 128 + signal;
        }
        self.first_failed.map_or(0, |rank| {
            let status = self.statuses[rank];
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        })
    }
}

impl<F: FnMut(Rank) -> Command> Launch<F> {
    /// A launcher of a group of `shape.ranks` processes; `command` says what to start for each rank. The command's
    /// environment is added to, and its input, output and process group are replaced.
    pub fn new(shape: GroupShape, command: F) -> Self {
        Launch { shape, command, output: OutputMode::default(), pin: false }
    }

    /// Where output goes.
    pub fn output(mut self, output: OutputMode) -> Self {
        self.output = output;
        self
    }

    /// Whether each rank is to be bound to a core of its own, the `n`-th of those that the launcher may use. Does nothing
    /// where there are more ranks than cores.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Starts the ranks and waits until all have ended.
    ///
    /// When a rank fails (exits with another code than 0, or is killed), the others have [`GRACE`] to end by themselves,
    /// then get a SIGTERM, and [`TERM_GRACE`] later are killed. SIGINT and SIGTERM to the launcher are passed on to all
    /// ranks, with the same deadlines from then on; a second one kills at once. Ranks that have attached also die if the
    /// launcher is killed, or if the thread that calls this ends.
    ///
    /// The first call takes over SIGINT and SIGTERM for the process; afterwards, outside of `run`, they do nothing.
    ///
    /// # Errors
    ///
    /// What [`Segment::create`] returns, and [`TransportError::System`] if a process cannot be started (those that were are
    /// ended) or waited for. That a rank failed is not an error here.
    pub fn run(mut self) -> Result<LaunchOutcome, TransportError> {
        let segment = Segment::create(&self.shape)?;
        let signals = Signals::listen().map_err(system(0, "listening for signals"))?;
        let cores = if self.pin { cores::one_each(self.shape.ranks) } else { Vec::new() };
        let (done, outputs) = mpsc::channel();
        let mut ranks = Ranks { running: Vec::new(), segment: &segment };
        let handover = segment.handover()?;
        for rank in 0..self.shape.ranks {
            let mut command = (self.command)(rank);
            let through = rank == 0 && self.output == OutputMode::FirstRank;
            command
                .envs(handover.variables(rank))
                .stdin(Stdio::null())
                .stdout(if through { Stdio::inherit() } else { Stdio::piped() })
                .stderr(Stdio::piped())
                .process_group(0);
            let mut child = spawn(&mut command, &cores, rank).map_err(system(rank, "starting a process"))?;
            let pipes = (child.stdout.take(), child.stderr.take());
            ranks.running.push(Running::new(child));
            forward(rank, pipes, self.output, &done);
        }
        drop((handover, done));
        let outcome = ranks.see_to_their_end(&signals)?;
        let deadline = Instant::now() + OUTPUT_GRACE;
        // The channel closes when the last forwarder has ended.
        while outputs.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        Ok(outcome)
    }
}

/// Starts a process on the core of its rank, if `cores` has one for it. The process inherits the core from this thread, so
/// that it is bound before it runs: one that counts its cores first thing sees one.
fn spawn(command: &mut Command, cores: &[usize], rank: Rank) -> io::Result<Child> {
    let Some(core) = cores.get(rank) else { return command.spawn() };
    cores::bind(&[*core]);
    let child = command.spawn();
    cores::bind(cores);
    child
}

/// The started processes. Dropped early, on an error, it kills those that still run.
struct Ranks<'a> {
    running: Vec<Running>,
    segment: &'a Segment,
}

struct Running {
    child: Child,
    /// Readable when the process has ended; `None` on kernels that cannot tell.
    end: Option<OwnedFd>,
    status: Option<ExitStatus>,
}

impl Running {
    fn new(child: Child) -> Self {
        let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Running { child, end, status: None }
    }

    /// To the rank and what it started. The process has not been waited for, so its number is still its own.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }
}

impl Ranks<'_> {
    fn see_to_their_end(&mut self, signals: &Signals) -> Result<LaunchOutcome, TransportError> {
        let (mut first_failed, mut signal) = (None, None);
        // What comes next for those that still run, and when.
        let mut next: Option<(Instant, Signal)> = None;
        while self.running.iter().any(|rank| rank.status.is_none()) {
            self.pause(signals, next.map(|(at, _)| at))?;
            if let Some(failed) = self.collect()? {
                first_failed.get_or_insert(failed);
                next.get_or_insert((Instant::now() + GRACE, Signal::TERM));
            }
            if let Some(received) = signals.take() {
                if signal.replace(received).is_none() {
                    let passed_on = if received == SIGINT { Signal::INT } else { Signal::TERM };
                    self.signal_all(passed_on);
                    next = Some((Instant::now() + GRACE, Signal::TERM));
                } else {
                    next = Some((Instant::now(), Signal::KILL));
                }
            }
            if let Some((_, what)) = next.filter(|(at, _)| *at <= Instant::now()) {
                self.signal_all(what);
                // A kill cannot fail to work; should it take its time, nothing is lost by another.
                next = Some((Instant::now() + TERM_GRACE, Signal::KILL));
            }
        }
        let statuses = self.running.iter().filter_map(|rank| rank.status).collect();
        Ok(LaunchOutcome { statuses, first_failed, signal })
    }

    /// Until a process ends, a signal comes, or `until`.
    fn pause(&self, signals: &Signals, until: Option<Instant>) -> Result<(), TransportError> {
        let waited_for = || self.running.iter().filter(|rank| rank.status.is_none());
        let mut fds: Vec<PollFd<'_>> = signals.pipes().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)).into();
        fds.extend(waited_for().filter_map(|rank| rank.end.as_ref()).map(|end| PollFd::new(end, PollFlags::IN)));
        let until = until.map(|until| until.saturating_duration_since(Instant::now()));
        let tick = waited_for().any(|rank| rank.end.is_none()).then_some(TICK);
        let limit = until.into_iter().chain(tick).min();
        let limit =
            limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(system(0, "waiting for processes")(error.into())),
        }
    }

    /// Takes note of the processes that have ended, and returns the one to blame, if one has failed. Of several, one that
    /// was killed: the others have more likely failed because of it.
    fn collect(&mut self) -> Result<Option<Rank>, TransportError> {
        let mut failed: Option<(bool, Rank)> = None;
        for (rank, running) in self.running.iter_mut().enumerate() {
            if running.status.is_some() {
                continue;
            }
            let Some(status) = running.child.try_wait().map_err(system(rank, "waiting for the process"))? else {
                continue;
            };
            running.status = Some(status);
            // Its peers need not find out by themselves, and could not if it has never attached.
            self.segment.give_up(rank);
            if !status.success() {
                let blame = (status.signal().is_none(), rank);
                failed = Some(failed.map_or(blame, |other| other.min(blame)));
            }
        }
        Ok(failed.map(|(_, rank)| rank))
    }

    fn signal_all(&self, signal: Signal) {
        self.running.iter().for_each(|rank| rank.signal(signal));
    }
}

impl Drop for Ranks<'_> {
    fn drop(&mut self) {
        for rank in &mut self.running {
            rank.signal(Signal::KILL);
            if rank.status.is_none() {
                let _ = rank.child.wait();
            }
        }
    }
}

/// SIGINT and SIGTERM as bytes in pipes, for as long as this lives.
struct Signals {
    interrupt: UnixStream,
    terminate: UnixStream,
    hooks: Vec<signal_hook::SigId>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let mut hooks = Vec::new();
        let mut pipe = |signal| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            hooks.push(signal_hook::low_level::pipe::register(signal, write)?);
            io::Result::Ok(read)
        };
        Ok(Signals { interrupt: pipe(SIGINT)?, terminate: pipe(SIGTERM)?, hooks })
    }

    fn pipes(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.interrupt.as_fd(), self.terminate.as_fd()]
    }

    /// A signal that has come, once for each time that it came.
    fn take(&self) -> Option<i32> {
        let came = |mut pipe: &UnixStream| matches!(pipe.read(&mut [0]), Ok(1));
        if came(&self.interrupt) {
            return Some(SIGINT);
        }
        came(&self.terminate).then_some(SIGTERM)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for hook in self.hooks.drain(..) {
            signal_hook::low_level::unregister(hook);
        }
    }
}

/// Starts to pass on what a rank writes. `done` is dropped when there is no more.
fn forward(
    rank: Rank,
    (output, errors): (Option<ChildStdout>, Option<ChildStderr>),
    mode: OutputMode,
    done: &mpsc::Sender<()>,
) {
    let mark = format!("[rank {rank}] ");
    if let Some(output) = output {
        let (mark, done) = (mark.clone(), done.clone());
        thread::spawn(move || {
            match mode {
                OutputMode::Marked => copy_lines(output, &mark, io::stdout),
                OutputMode::FirstRank => copy_lines(output, &mark, io::stderr),
            }
            drop(done);
        });
    }
    if let Some(errors) = errors {
        let done = done.clone();
        thread::spawn(move || {
            copy_lines(errors, &mark, io::stderr);
            drop(done);
        });
    }
}

/// Each line in one write to a locked stream, so that lines of different ranks do not mix. Goes on reading when nobody
/// takes the output any more, since the rank would hang otherwise.
fn copy_lines<W: Write>(from: impl Read, mark: &str, to: impl Fn() -> W) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(mark.as_bytes());
        match from.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                if line.last() != Some(&b'\n') {
                    line.push(b'\n');
                }
                let mut to = to();
                let _ = to.write_all(&line).and_then(|()| to.flush());
            }
            Err(_) => return,
        }
    }
}

fn system(rank: Rank, action: &'static str) -> impl Fn(io::Error) -> TransportError {
    move |source| TransportError::System { rank, action, source }
}
