//! A group's memory as a file without a name, and how other processes get it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::rand::{GetRandomFlags, getrandom};

use super::endpoint::RingEndpoint;
use super::group::{Group, Token};
use super::layout::{Head, Layout};
use super::region::Region;
use super::{liveness, memory};
use crate::sync::{Ordering, Reach};
use crate::{Endpoint, GroupShape, Rank, TransportError};

/// One process's end of a group.
pub type ShmEndpoint = RingEndpoint;

/// The environment variable that tells a process which group it belongs to: the number of an inherited file descriptor, a
/// colon, and the group's token in 32 hexadecimal digits.
pub const GROUP_VARIABLE: &str = "SLACKLINE_GROUP";

/// The environment variable that tells a process its rank.
pub const RANK_VARIABLE: &str = "SLACKLINE_RANK";

/// What a large group has to start for each of its ranks, beside a patience.
const EACH: Duration = Duration::from_millis(100);

/// Truncating the file would kill every process that touches the part that is gone, so its size is sealed.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The memory of a group of processes.
///
/// It is a memory file (`memfd`) without a name: nothing appears in `/dev/shm` or on a disk, and nothing is left behind when
/// processes are killed. To attach, a process needs the descriptor and the group's random 128-bit token. The size is sealed,
/// so that no process can truncate it under another. The ranks of a group trust each other to follow the protocol; what a
/// faulty one writes is checked (see [`RingEndpoint`]) but not hidden from its peers.
///
/// # Memory
///
/// Pages are allocated when they are first written. [`create`](Self::create) compares the full size with the memory that is
/// available and refuses a group that does not fit, since ranks would be killed in the middle of the work. It does not
/// allocate in advance: slots are sized for the largest message and often stay empty, and zeroing gigabytes takes seconds.
/// So memory that other programs take later can still run out.
///
/// # Starting processes without `launch`
///
/// Make a [`Handover`], set its variables on each child, start the children, and drop it. The children call
/// [`attach_from_env`]. Linux kills them when the *thread* that started them ends, so it must outlive them. All ranks and the
/// segment's creator must be in one PID namespace.
pub struct Segment {
    file: OwnedFd,
    token: Token,
    group: Arc<Group>,
}

/// A copy of a segment's descriptor that children inherit, as long as it lives.
pub struct Handover {
    file: OwnedFd,
    token: Token,
}

impl Segment {
    /// A new group of processes, in which no rank is taken.
    ///
    /// # Errors
    ///
    /// [`TransportError::Shape`] for a shape that cannot be laid out, [`TransportError::Memory`] for one that needs more
    /// memory than is available, and [`TransportError::System`] if a system call fails.
    pub fn create(shape: &GroupShape) -> Result<Segment, TransportError> {
        let shape = shape.rounded()?;
        let layout = Layout::new(&shape)?;
        let needed = layout.bytes as u64;
        memory::check(needed)?;
        let file = rustix::fs::memfd_create("slackline", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|error| system("creating shared memory", error))?;
        rustix::fs::ftruncate(&file, needed).map_err(|error| system("sizing shared memory", error))?;
        rustix::fs::fcntl_add_seals(&file, SEALS).map_err(|error| system("sealing shared memory", error))?;
        let region = Region::of_file(&file, layout.bytes).map_err(|source| TransportError::System {
            rank: 0,
            action: "mapping shared memory",
            source,
        })?;
        let mut random = [0u8; 16];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|error| system("drawing a token", error))?;
        let (first, second) = random.split_at(8);
        let token = [first, second].map(|half| u64::from_le_bytes(half.try_into().expect("half of 16 bytes")));
        let group = Group::create(region, shape, layout, Reach::Machine, token);
        Ok(Segment { file, token, group })
    }

    /// The group's shape, with slots rounded up.
    pub fn shape(&self) -> &GroupShape {
        self.group.shape()
    }

    /// Takes a rank for this process. Does not wait for the others.
    ///
    /// # Errors
    ///
    /// [`TransportError::Attach`] if there is no such rank, or if it is or was taken.
    pub fn rank(&self, rank: Rank) -> Result<ShmEndpoint, TransportError> {
        RingEndpoint::take(Arc::clone(&self.group), rank)
    }

    /// Sets how many cores the ranks have together, if the creator is bound to some of them and cannot count them itself.
    /// With fewer cores than ranks, no rank spins while it waits. Call it before any rank is taken.
    pub fn set_cores(&self, cores: usize) {
        self.group.head().spins.store(u32::from(self.shape().ranks <= cores), Ordering::Relaxed);
    }

    /// The group's address for [`attach_at`] in other processes of this machine, valid as long as this segment lives.
    pub fn address(&self) -> String {
        let [first, second] = self.token;
        format!("{}:{}:{first:016x}{second:016x}", std::process::id(), self.file.as_raw_fd())
    }

    /// Declares a rank dead unless it has left. For a launcher, which knows before the peers that a process has ended, and
    /// alone knows of one that ended before it attached.
    pub fn give_up(&self, rank: Rank) {
        if rank < self.shape().ranks {
            self.group.die(rank);
        }
    }

    /// The group's poison, if it has one: the rank that poisoned it first (if that is a rank of the group) and its reason.
    pub fn poison(&self) -> Option<(Option<Rank>, Vec<u8>)> {
        Some((self.group.poisoner(), self.group.poisoned()?))
    }

    /// What children need to attach.
    ///
    /// # Errors
    ///
    /// [`TransportError::System`] if the process has no descriptor left.
    pub fn handover(&self) -> Result<Handover, TransportError> {
        let file = rustix::io::dup(&self.file).map_err(|error| system("duplicating a descriptor", error))?;
        Ok(Handover { file, token: self.token })
    }
}

impl Handover {
    /// The environment variables that make a child `rank`.
    pub fn variables(&self, rank: Rank) -> [(&'static str, String); 2] {
        let [first, second] = self.token;
        let group = format!("{}:{first:016x}{second:016x}", self.file.as_raw_fd());
        [(GROUP_VARIABLE, group), (RANK_VARIABLE, rank.to_string())]
    }
}

/// Attaches this process to the group that its environment names, and waits until all ranks have attached, for at most
/// `patience` and a tenth of a second more for each rank. `None` if the environment names no group: the process was not started as a rank. The example `ring_processes`
/// of this crate shows both sides.
///
/// From then on the process is killed when the thread that started it ends, so that no rank is left behind when a launcher
/// is killed.
///
/// # Errors
///
/// [`TransportError::Attach`] if the environment variables are malformed, if the memory that they name is not the group's or
/// has another layout version, size or token, if the rank is taken, or if the launcher has ended.
/// [`TransportError::NotAttached`] if other ranks have not attached in time, [`TransportError::Failed`] if one has ended before
/// all were attached.
pub fn attach_from_env(patience: Duration) -> Result<Option<ShmEndpoint>, TransportError> {
    let group = std::env::var_os(GROUP_VARIABLE);
    let rank = std::env::var_os(RANK_VARIABLE);
    let Some(group) = group else { return Ok(None) };
    let rank = rank.as_ref().and_then(|rank| rank.to_str()).and_then(|rank| rank.parse().ok()).ok_or_else(|| {
        let why = format!("{RANK_VARIABLE} is {rank:?}, not a number, while {GROUP_VARIABLE} names a group");
        TransportError::Attach { rank: 0, why }
    })?;
    let refuse = |why: String| TransportError::Attach { rank, why };
    let (number, token) = group
        .to_str()
        .and_then(parse_group)
        .ok_or_else(|| refuse(format!("{GROUP_VARIABLE} is {group:?}, not a descriptor and a token")))?;
    let file = inherited(number).map_err(|error| refuse(format!("descriptor {number}: {error}")))?;
    let endpoint = attach(&file, token, rank, Bond::Child)?;
    let ranks = endpoint.shape().ranks.min(u16::MAX.into()) as u32;
    endpoint.wait_for_all(patience.saturating_add(EACH * ranks))?;
    Ok(Some(endpoint))
}

/// Attaches to the group at a [`Segment::address`], for processes that another launcher has started, such as `mpirun`. The
/// segment's creator must still live. Does not wait for the other ranks, and nothing kills this process when the creator
/// ends.
///
/// # Errors
///
/// As [`attach_from_env`]; [`TransportError::Attach`] also if the creator is in another PID namespace or belongs to another
/// user.
pub fn attach_at(address: &str, rank: Rank) -> Result<ShmEndpoint, TransportError> {
    let refuse = |why: String| TransportError::Attach { rank, why };
    let parsed = address.split_once(':').and_then(|(pid, group)| Some((pid.parse::<u32>().ok()?, parse_group(group)?)));
    let (pid, (number, token)) = parsed.ok_or_else(|| refuse(format!("`{address}` is no address of a group")))?;
    let path = format!("/proc/{pid}/fd/{number}");
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .map_err(|error| refuse(format!("{path}: {error}")))?;
    attach(&file, token, rank, Bond::None)
}

/// Whose end is this process's end, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bond {
    /// The thread's that started it.
    Child,
    None,
}

/// Attaches to the group in a file that somebody else has made.
fn attach(file: &OwnedFd, token: Token, rank: Rank, bond: Bond) -> Result<ShmEndpoint, TransportError> {
    let refuse = |why: String| TransportError::Attach { rank, why };
    let failed = |action| move |error: rustix::io::Errno| TransportError::System { rank, action, source: error.into() };
    // Only a sealed memory file is sure to keep its size.
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(refuse("the descriptor is not a memory file of sealed size".into()));
    }
    let size = rustix::fs::fstat(file).map_err(failed("sizing up shared memory"))?.st_size;
    let bytes = usize::try_from(size).unwrap_or(0);
    if bytes < size_of::<Head>() {
        return Err(refuse(format!("the shared memory has {bytes} bytes, fewer than a header")));
    }
    let region = Region::of_file(file, bytes).map_err(|source| TransportError::System {
        rank,
        action: "mapping shared memory",
        source,
    })?;
    let group = Group::open(region, token).map_err(|why| refuse(format!("the shared memory does not fit: {why}")))?;
    let creator = group.head().creator.load(Ordering::Relaxed);
    if bond == Bond::Child && creator != std::process::id() {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(failed("asking to die with the launcher"))?;
    }
    // A launcher that ended before we asked kills nobody.
    if !liveness::alive(creator, group.head().creator_start.load(Ordering::Relaxed)) {
        return Err(refuse(format!("the process that made the group, {creator}, has ended")));
    }
    RingEndpoint::take(group, rank)
}

fn parse_group(text: &str) -> Option<(RawFd, Token)> {
    let (number, token) = text.split_once(':')?;
    let number = number.parse().ok().filter(|number| *number >= 0)?;
    if token.len() != 32 || !token.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let half = |range| u64::from_str_radix(&token[range], 16).ok();
    Some((number, [half(0..16)?, half(16..32)?]))
}

/// A copy of an inherited descriptor. The original stays open, but is not passed on to children of this process.
fn inherited(number: RawFd) -> rustix::io::Result<OwnedFd> {
    // SAFETY: the borrow ends with this function, in which nothing is closed. If nothing is open under the number, or
    // something else is, the calls below fail or duplicate that; whoever uses the copy checks what it is.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    let copy = rustix::io::fcntl_dupfd_cloexec(original, 0)?;
    if rustix::fs::fcntl_get_seals(&copy).is_ok_and(|seals| seals.contains(SEALS)) {
        rustix::io::fcntl_setfd(original, FdFlags::CLOEXEC)?;
    }
    Ok(copy)
}

fn system(action: &'static str, error: rustix::io::Errno) -> TransportError {
    TransportError::System { rank: 0, action, source: error.into() }
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
