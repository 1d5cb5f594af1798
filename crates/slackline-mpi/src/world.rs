//! A process's membership in the MPI job.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slackline_transport::{GroupShape, Rank, TransportError};

use crate::ffi::MpiError;
use crate::ffi::comm::{self, Comm};
use crate::ffi::meeting::{Copying, Meeting};

/// How long [`World::abort`] waits for the other ranks to report before it ends them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long ranks wait for each other while no group exists, unless [`World::set_patience`] says something else.
const PATIENCE: Duration = Duration::from_secs(600);

/// A rank that waits yields its core for so long, and then looks again after as long.
const NAP: Duration = Duration::from_millis(1);

/// What Rust's own runtime ends with after a panic.
const PANICKED: i32 = 101;

/// Tags that every MPI has; a group's messages carry the number of its group, modulo this.
const TAGS: u32 = 32767;

/// Why a group over MPI could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// A call of MPI failed.
    #[error(transparent)]
    Mpi(#[from] MpiError),
    /// MPI has been ended in this process, and cannot be started again.
    #[error("MPI has been finalised in this process")]
    Ended,
    /// A shape that cannot be laid out, or that is too large for MPI's counts.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Ranks have not come to something that all do together while no group exists.
    #[error("{} not come to {what} within {waited:.1?}: stopped, ended, or still at work", who(.ranks))]
    Late {
        /// What the others wait for.
        what: &'static str,
        /// The ranks that are missing; empty where that cannot be known.
        ranks: Vec<Rank>,
        /// How long this rank waited.
        waited: Duration,
    },
    /// The shape has another number of ranks than the job.
    #[error("the group has {asked} ranks, but mpirun has started {started} (mpirun -n {asked}, or --ranks {started})")]
    Ranks {
        /// Of the shape that was asked for.
        asked: usize,
        /// Of the job.
        started: usize,
    },
    /// The ranks ask for different shapes.
    #[error("rank {rank} asks for {theirs} where this rank, {own_rank}, asks for {ours}")]
    Disagree {
        /// The first rank that differs from this one.
        rank: Rank,
        /// What it asks for.
        theirs: String,
        /// This rank.
        own_rank: Rank,
        /// What this rank asks for.
        ours: String,
    },
}

fn who(ranks: &[Rank]) -> String {
    match ranks {
        [] => "some rank has".to_owned(),
        [rank] => format!("rank {rank} has"),
        ranks => format!("ranks {ranks:?} have"),
    }
}

/// The launcher of the MPI that this program was built with, to start the program as a job; `MPIRUN` in the environment
/// overrides it.
pub fn launcher() -> String {
    std::env::var("MPIRUN").unwrap_or_else(|_| env!("SLACKLINE_MPIRUN").to_owned())
}

/// Whether a launcher (`mpirun`, `mpiexec`, `srun`) has started this process as a rank of a job.
pub fn is_launched() -> bool {
    ["OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALRANKID"]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some())
}

/// This process's membership in the MPI job: all ranks that `mpirun` has started, or a job of one without it.
///
/// It belongs to the thread that made it, since MPI is started for one thread. Clones share the membership. Dropping the last
/// one finalises MPI, which waits for all other ranks to do the same. If a group over it has failed, it does not finalise MPI,
/// since the wait might never end; exit with a code other than 0, or call [`abort`](Self::abort), and `mpirun` ends the
/// job. If this thread panics, dropping it aborts the job with exit code 101.
///
/// If MPI runs already (mpi4py, PyTorch), it is used and not finalised.
///
/// Errors of MPI are returned, not fatal: every return code is looked at.
#[derive(Clone)]
pub struct World {
    pub(crate) inner: Rc<Inner>,
}

pub(crate) struct Inner {
    rank: Rank,
    ranks: usize,
    /// This process has started MPI and ends it.
    ours: bool,
    /// A group over it failed, or did not end in order.
    pub(crate) failed: Cell<bool>,
    /// For what is sent while no group exists, with a tag for each meeting.
    meeting: Comm,
    met: Cell<u32>,
    patience: Cell<Duration>,
    /// Groups made so far; equal on every rank.
    groups: Cell<u32>,
    control: RefCell<Option<Comm>>,
    lanes: RefCell<Vec<Comm>>,
    /// MPI objects belong to one thread.
    thread: PhantomData<*const ()>,
}

impl World {
    /// Joins the job. Call it once in a process, on the thread that uses MPI, and before other threads do. Waits for all ranks.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`], [`WorldError::Ended`], [`WorldError::Late`].
    pub fn join() -> Result<World, WorldError> {
        if comm::has_ended() {
            return Err(WorldError::Ended);
        }
        let ours = comm::start()?;
        let world = Comm::world();
        let meeting = copy(world, "joining the job", PATIENCE)?;
        Ok(World {
            inner: Rc::new(Inner {
                rank: world.rank()?,
                ranks: world.size()?,
                ours,
                failed: Cell::new(false),
                meeting,
                met: Cell::new(0),
                patience: Cell::new(PATIENCE),
                groups: Cell::new(0),
                control: RefCell::new(None),
                lanes: RefCell::new(Vec::new()),
                thread: PhantomData,
            }),
        })
    }

    /// This process's number, `0 .. ranks`.
    pub fn rank(&self) -> Rank {
        self.inner.rank
    }

    /// Processes of the job.
    pub fn ranks(&self) -> usize {
        self.inner.ranks
    }

    /// MPI's name and version.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`].
    pub fn library_version(&self) -> Result<String, WorldError> {
        Ok(comm::library_version()?)
    }

    /// Sets how long this rank waits for others while no group exists, here and while a group is made; ten minutes otherwise. A
    /// group has a deadline of its own.
    pub fn set_patience(&self, patience: Duration) {
        self.inner.patience.set(patience);
    }

    /// Waits for all ranks, which come to `what`: the words for it in an error.
    ///
    /// # Errors
    ///
    /// [`WorldError::Mpi`], [`WorldError::Late`].
    pub fn barrier(&self, what: &'static str) -> Result<(), WorldError> {
        self.all_gather(what, &[]).map(drop)
    }

    /// The bytes that each rank gives, in rank order. Waits for all. Each rank sends a message to each.
    ///
    /// # Errors
    ///
    /// As [`barrier`](Self::barrier); [`WorldError::Mpi`] also for 2 GiB or more. After an error the job cannot go on:
    /// [`abort`](Self::abort) it.
    pub fn all_gather(&self, what: &'static str, own: &[u8]) -> Result<Vec<Vec<u8>>, WorldError> {
        let inner = &self.inner;
        let number = inner.met.get();
        inner.met.set(number.wrapping_add(1));
        let mut meeting = Meeting::begin(inner.meeting, (number % TAGS) as i32, own)?;
        let come = poll(inner.patience.get(), || Ok(meeting.advance()?.then_some(())));
        let late = |waited| WorldError::Late { what, ranks: meeting.missing(), waited };
        come.and_then(|come| come.map_err(late)).inspect_err(|_| inner.failed.set(true))?;
        Ok(meeting.finish())
    }

    /// The ranks that run on the same node as this one, itself included. Waits for all.
    ///
    /// # Errors
    ///
    /// As [`barrier`](Self::barrier).
    pub fn ranks_of_node(&self) -> Result<Vec<Rank>, WorldError> {
        self.barrier("finding the ranks of each node")?;
        Ok(Comm::world().ranks_of_node()?)
    }

    /// Ends all processes of the job with this exit code, after a second in which the others can report.
    pub fn abort(&self, code: u8) -> ! {
        std::thread::sleep(LAST_WORDS);
        comm::abort(i32::from(code))
    }

    /// A communicator of all ranks for somebody else's use; waits for all.
    pub(crate) fn duplicate(&self) -> Result<Comm, WorldError> {
        // Whoever is missing here is named; the copy itself does not know.
        self.barrier("making a communicator")?;
        let copied = copy(Comm::world(), "making a communicator", self.inner.patience.get());
        copied.inspect_err(|_| self.inner.failed.set(true))
    }

    /// Compares the shape and the way to reach peers with everybody's, and returns the shape as the rings have it. Ranks that
    /// differ in either would call MPI in different orders from here on.
    pub(crate) fn agree(&self, shape: &GroupShape, peers: &str) -> Result<GroupShape, WorldError> {
        let asked = format!("{shape:?} over {peers}");
        let all = self.all_gather("comparing the shape of the group", asked.as_bytes())?;
        if let Some(rank) = all.iter().position(|theirs| *theirs != asked.as_bytes()) {
            let theirs = String::from_utf8_lossy(&all[rank]).into_owned();
            return Err(WorldError::Disagree { rank, theirs, own_rank: self.rank(), ours: asked });
        }
        // After the exchange, so that all ranks give up together.
        let shape = shape.rounded()?;
        if shape.ranks != self.ranks() {
            return Err(WorldError::Ranks { asked: shape.ranks, started: self.ranks() });
        }
        Ok(shape)
    }

    /// Communicators for a new group: one a lane, one for control, and the tag of its messages. They are kept for later
    /// groups; the tag keeps what an earlier group left behind apart.
    pub(crate) fn contexts(&self, lanes: usize) -> Result<(Vec<Comm>, Comm, i32), WorldError> {
        let mut kept = self.inner.lanes.borrow_mut();
        while kept.len() < lanes {
            kept.push(self.duplicate()?);
        }
        let mut control = self.inner.control.borrow_mut();
        let control = match *control {
            Some(control) => control,
            None => *control.insert(self.duplicate()?),
        };
        let group = self.inner.groups.get();
        self.inner.groups.set(group.wrapping_add(1));
        Ok((kept[..lanes].to_vec(), control, (group % TAGS) as i32))
    }
}

/// A copy of a communicator; all ranks make it.
fn copy(comm: Comm, what: &'static str, patience: Duration) -> Result<Comm, WorldError> {
    let mut copying = Copying::begin(comm)?;
    poll(patience, || Ok(copying.advance()?))?.map_err(|waited| WorldError::Late { what, ranks: Vec::new(), waited })
}

/// Asks until there is an answer; `Err` with how long that was, if there is none in time.
fn poll<T>(
    patience: Duration,
    mut ask: impl FnMut() -> Result<Option<T>, WorldError>,
) -> Result<Result<T, Duration>, WorldError> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(Ok(answer));
        }
        let waited = began.elapsed();
        if waited >= patience {
            return Ok(Err(waited));
        }
        if waited < NAP { std::thread::yield_now() } else { std::thread::sleep(NAP) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if comm::has_ended() {
            return;
        }
        if std::thread::panicking() {
            // The others have been told, and would wait in vain for this rank to end MPI.
            std::thread::sleep(LAST_WORDS);
            comm::abort(PANICKED);
        }
        if self.ours && !self.failed.get() {
            // Nobody is left to be told; mpirun sees it.
            let _ = comm::end();
        }
    }
}
