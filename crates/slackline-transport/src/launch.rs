//! Starts the ranks of a group as processes of this machine, and waits until all have ended.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, setrlimit,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::shm::Segment;
use crate::{GroupShape, Rank, TransportError, cores};

/// How long the other ranks have to end by themselves once one has failed.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long they then have after a SIGTERM before they are killed.
pub const TERM_GRACE: Duration = Duration::from_secs(1);

/// How long the launcher waits for the rest of the output once all ranks have ended. Only a process that a rank has left
/// behind, and that still holds its output, can need that long.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// What the launcher opens for each rank: its two outputs, and an eye on its end.
const OPEN_A_RANK: usize = 3;

/// What it opens beside that, at most.
const OPEN: usize = 24;

/// How often processes are checked on kernels that cannot report the end of one.
const TICK: Duration = Duration::from_millis(20);

/// Where the output of the ranks goes. It comes in whole lines, each after `[rank N] `.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputMode {
    /// Standard output to the launcher's standard output, standard error to its standard error.
    #[default]
    Marked,
    /// Standard output of rank 0 unchanged, as if it ran alone; everything else, marked, to the launcher's standard error.
    FirstRank,
}

/// Starts ranks as processes of this machine, which call [`attach_from_env`](crate::shm::attach_from_env).
///
/// Their standard input is empty. Each leads a process group of its own, so that a terminal's interrupt reaches them only
/// through the launcher, and signals to a rank also reach the processes that it has started.
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
/// assert_eq!(outcome.failed, Some(2));
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
    /// The rank that failed, if one did. A rank that fails takes others with it, which may well end before it does; so this
    /// is, in this order:
    ///
    /// 1. the first rank that was killed by a signal of somebody else's;
    /// 2. the rank that poisoned the group first, with [`poison`](Self::poison) as its reason;
    /// 3. the rank that exited first with a code other than 0.
    ///
    /// Ranks that the launcher had to end are not considered.
    pub failed: Option<Rank>,
    /// Every rank that was killed by a signal of somebody else's, in the order in which they ended.
    pub killed: Vec<Rank>,
    /// Why the group failed, if a rank [poisoned](crate::Endpoint::poison) it. The layer that wrote it can read it: with
    /// slackline-collective, `Fault::from_poison` gives the ranks that are to blame, also a rank that is stopped and that
    /// its peers have found to be late.
    pub poison: Option<Vec<u8>>,
    /// The signal (SIGINT or SIGTERM) that ended the launcher, which passed it on.
    pub signal: Option<i32>,
}

impl LaunchOutcome {
    /// What the launcher should exit with, by the shell's rules: the code of the rank that failed; or 128 plus the number of
    /// the signal that killed it or that ended the launcher; or 0.
    pub fn exit_code(&self) -> i32 {
        if let Some(signal) = self.signal {
            return 128 + signal;
        }
        self.failed.map_or(0, |rank| {
            let status = self.statuses[rank];
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
        })
    }
}

impl<F: FnMut(Rank) -> Command> Launch<F> {
    /// A launcher of a group of `shape.ranks` processes; `command` makes the command for each rank. The launcher adds to its
    /// environment and replaces its input, output and process group.
    pub fn new(shape: GroupShape, command: F) -> Self {
        Launch { shape, command, output: OutputMode::default(), pin: false }
    }

    /// Where output goes.
    pub fn output(mut self, output: OutputMode) -> Self {
        self.output = output;
        self
    }

    /// Whether to bind each rank to a core of its own: rank `n` to the `n`-th core that the launcher may use. Does nothing if
    /// there are more ranks than cores.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Starts the ranks and waits until all have ended.
    ///
    /// When a rank fails (exits with a code other than 0, or is killed), the others have [`GRACE`] to end by themselves, then
    /// get a SIGTERM, and are killed after another [`TERM_GRACE`]. The launcher passes SIGINT and SIGTERM on to all ranks,
    /// which then have the same deadlines; a second signal kills them at once. Ranks that have attached also die if the
    /// launcher is killed, or if the thread that calls this ends.
    ///
    /// The first call takes over SIGINT and SIGTERM for the process: afterwards, outside `run`, they do nothing.
    ///
    /// It has three files open for each rank. If this process may not have as many, it raises its limit as far as it is allowed to.
    ///
    /// # Errors
    ///
    /// [`TransportError::Descriptors`] if that is not far enough; those of [`Segment::create`]; and [`TransportError::System`] if a process cannot be started (the others are ended) or
    /// waited for. A rank that fails is no error here: see [`LaunchOutcome::failed`].
    pub fn run(mut self) -> Result<LaunchOutcome, TransportError> {
        allow_descriptors(self.shape.ranks)?;
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

/// Raises the limit of open files to what a launcher of `ranks` ranks needs.
fn allow_descriptors(ranks: usize) -> Result<(), TransportError> {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let needed = ranks.saturating_mul(OPEN_A_RANK).saturating_add(open + OPEN) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(allowed) = limit.maximum.filter(|maximum| *maximum < needed) {
        return Err(TransportError::Descriptors { ranks, needed, allowed });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit })
        .map_err(|error| system(0, "raising the limit of open files")(error.into()))
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
    /// The launcher has sent it a signal, so that its end says nothing.
    signalled: bool,
}

impl Running {
    fn new(child: Child) -> Self {
        let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Running { child, end, status: None, signalled: false }
    }

    /// To the rank and what it started. The process has not been waited for, so its number is still its own.
    fn signal(&mut self, signal: Signal) {
        if self.status.is_none() {
            self.signalled = true;
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }
}

impl Ranks<'_> {
    fn see_to_their_end(&mut self, signals: &Signals) -> Result<LaunchOutcome, TransportError> {
        // Those that failed by themselves, in the order in which they ended.
        let (mut failed, mut signal) = (Vec::new(), None);
        // What comes next for those that still run, and when.
        let mut next: Option<(Instant, Signal)> = None;
        while self.running.iter().any(|rank| rank.status.is_none()) {
            self.pause(signals, next.map(|(at, _)| at))?;
            let before = failed.len();
            self.collect(&mut failed)?;
            if failed.len() > before {
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
        let statuses: Vec<ExitStatus> = self.running.iter().filter_map(|rank| rank.status).collect();
        let (poisoner, poison) = self.segment.poison().map_or((None, None), |(rank, why)| (rank, Some(why)));
        let killed: Vec<Rank> = failed.iter().copied().filter(|rank| statuses[*rank].signal().is_some()).collect();
        let gave_up = failed.iter().find(|rank| poisoner == Some(**rank));
        let failed = killed.first().or(gave_up).or(failed.first()).copied();
        Ok(LaunchOutcome { statuses, failed, killed, poison, signal })
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

    /// Collects the processes that have ended, and adds those to `failed` that failed by themselves.
    fn collect(&mut self, failed: &mut Vec<Rank>) -> Result<(), TransportError> {
        for (rank, running) in self.running.iter_mut().enumerate() {
            if running.status.is_some() {
                continue;
            }
            let Some(status) = running.child.try_wait().map_err(system(rank, "waiting for the process"))? else {
                continue;
            };
            running.status = Some(status);
            // Its peers need not find out by themselves, and cannot if it never attached.
            self.segment.give_up(rank);
            if !status.success() && !running.signalled {
                failed.push(rank);
            }
        }
        Ok(())
    }

    fn signal_all(&mut self, signal: Signal) {
        self.running.iter_mut().for_each(|rank| rank.signal(signal));
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
