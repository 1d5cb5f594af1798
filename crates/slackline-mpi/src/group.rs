//! A group of all ranks of the job: shared memory within a node, MPI between nodes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::task::Waker;
use std::time::Duration;

use slackline_transport::shm::{Segment, ShmEndpoint, attach_at};
use slackline_transport::{Endpoint, GroupShape, Lane, Message, PeerState, Rank, Room, TransportError, cores};

use crate::endpoint::{MpiEndpoint, NAP, YIELD};
use crate::world::{World, WorldError};

/// What carries the messages between ranks of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peers {
    /// Shared memory if the ranks can attach to it, MPI otherwise.
    #[default]
    Auto,
    /// MPI between all ranks.
    MpiOnly,
    /// As `Auto`, but every so many ranks, in rank order, count as a node: to try on one machine what happens on several.
    NodesOf(usize),
}

impl FromStr for Peers {
    type Err = String;

    /// `auto`, `mpi` or `nodes:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| text.parse().ok().filter(|size| *size > 0);
        match (text, text.strip_prefix("nodes:").map(size)) {
            ("auto", _) => Ok(Peers::Auto),
            ("mpi", _) => Ok(Peers::MpiOnly),
            (_, Some(Some(size))) => Ok(Peers::NodesOf(size)),
            (_, Some(None)) => Err("nodes:N needs a number of at least 1".into()),
            _ => Err("not one of auto, mpi and nodes:N".into()),
        }
    }
}

/// One rank's end of a group over MPI and shared memory.
///
/// If all ranks run on one node, it uses only [`slackline_transport::shm`], and MPI only starts the processes. If each rank
/// runs on a node of its own, or with [`Peers::MpiOnly`], it uses only [`MpiEndpoint`]. Otherwise it uses shared memory
/// within a node, and MPI between nodes and for poison.
pub struct NodeEndpoint {
    world: World,
    kind: Kind,
    detached: Cell<bool>,
}

enum Kind {
    Node(Box<ShmEndpoint>),
    Mpi(Box<MpiEndpoint>),
    Both(Box<Both>),
}

/// Ranks on several nodes, some of which have several ranks.
struct Both {
    mpi: MpiEndpoint,
    node: ShmEndpoint,
    /// The number in the node's group of each rank that is on this node.
    local: Vec<Option<Rank>>,
    /// The rank that has each number in the node's group.
    members: Vec<Rank>,
    /// When the wait began that the last call of [`wait`](Endpoint::wait) was part of, and when that call was.
    waiting: Cell<[Duration; 2]>,
}

/// Calls of [`wait`](Endpoint::wait) with no more than this between them are one wait.
const ONE_WAIT: Duration = Duration::from_micros(20);

impl NodeEndpoint {
    /// Joins a group of all ranks of the job. All ranks have to call it, equally often, with the same shape. Waits for all.
    ///
    /// # Errors
    ///
    /// As [`MpiEndpoint::join`]; and [`WorldError::Transport`] if a node has too little memory for the rings.
    pub fn join(world: &World, shape: &GroupShape, peers: Peers) -> Result<Self, WorldError> {
        let shape = world.agree(shape, &format!("{peers:?}"))?;
        let node = match peers {
            Peers::MpiOnly => None,
            Peers::Auto => share(world, &shape, world.ranks_of_node()?)?,
            Peers::NodesOf(size) => {
                let first = world.rank() / size.max(1) * size.max(1);
                share(world, &shape, (first..world.ranks().min(first + size.max(1))).collect())?
            }
        };
        let kind = match node {
            Some((node, members)) if members.len() == world.ranks() => {
                // Nobody leaves before all have come.
                world.barrier("joining the group")?;
                Kind::Node(Box::new(node))
            }
            Some((node, members)) => {
                let local = |rank| members.iter().position(|member| *member == rank);
                let local: Vec<_> = (0..world.ranks()).map(local).collect();
                let mpi = MpiEndpoint::with(world, shape, |peer| local[peer].is_none())?;
                Kind::Both(Box::new(Both { mpi, node, local, members, waiting: Cell::default() }))
            }
            None => Kind::Mpi(Box::new(MpiEndpoint::with(world, shape, |_| true)?)),
        };
        Ok(NodeEndpoint { world: world.clone(), kind, detached: Cell::new(false) })
    }

    /// What carries messages to a peer: `shm` or `mpi`.
    pub fn way_to(&self, peer: Rank) -> &'static str {
        match &self.kind {
            Kind::Node(_) => "shm",
            Kind::Mpi(_) => "mpi",
            Kind::Both(both) => {
                if both.local[peer].is_some() {
                    "shm"
                } else {
                    "mpi"
                }
            }
        }
    }
}

/// Shares memory among the ranks of a node. `None` if the node has only one rank, or if one of its ranks cannot attach
/// (containers on one machine that do not see each other's processes): then all of them use MPI.
fn share(
    world: &World,
    shape: &GroupShape,
    members: Vec<Rank>,
) -> Result<Option<(ShmEndpoint, Vec<Rank>)>, WorldError> {
    let own = world.rank();
    let here = members.iter().position(|member| *member == own).expect("a rank is on its own node");
    let shape = GroupShape { ranks: members.len(), ..shape.clone() };
    let mut outcome = Ok(None);
    let mut segment = None;
    if here == 0 && members.len() > 1 {
        match Segment::create(&shape) {
            Ok(created) => segment = Some(created),
            Err(error) => outcome = Err(error),
        }
    }
    let own_cores: Vec<u8> = cores::available().iter().flat_map(|core| (*core as u32).to_le_bytes()).collect();
    let cores = world.all_gather("counting the cores of a node", &own_cores)?;
    let address = segment.as_ref().map_or(String::new(), Segment::address);
    let addresses = world.all_gather("making the memory of a node", address.as_bytes())?;
    if let Some(segment) = &segment {
        // Ranks that are bound have a core each; ranks that are not have all cores in common.
        let cores: BTreeSet<&[u8; 4]> = members.iter().flat_map(|member| cores[*member].as_chunks::<4>().0).collect();
        segment.set_cores(cores.len());
        outcome = segment.rank(0).map(Some);
    } else if members.len() > 1 && here > 0 && outcome.is_ok() {
        let address = String::from_utf8_lossy(&addresses[members[0]]);
        // Whoever made none says why.
        outcome = if address.is_empty() { Ok(None) } else { attach_at(&address, here).map(Some) };
    }
    // The one that made the memory has the reason if there is too little; to have no access is a reason to take MPI.
    let refused = matches!(outcome, Err(TransportError::Attach { .. }));
    let answer = [u8::from(matches!(outcome, Ok(Some(_)))), u8::from(outcome.is_err() && !refused)];
    let answers = world.all_gather("attaching to the memory of a node", &answer)?;
    if let Some(broken) = answers.iter().position(|answer| answer[1] == 1) {
        outcome?;
        let why = format!("rank {broken} cannot share memory with the ranks of its node; its message says why");
        return Err(TransportError::Attach { rank: broken, why }.into());
    }
    let all_here = members.iter().all(|member| answers[*member][0] == 1);
    match outcome {
        Ok(Some(endpoint)) if all_here => Ok(Some((endpoint, members))),
        _ => Ok(None),
    }
}

/// Calls a method of whichever endpoint there is; of both, of the one that serves `$peer`.
macro_rules! serving {
    ($self:ident, $peer:ident, $endpoint:ident => $call:expr) => {
        match &$self.kind {
            Kind::Node($endpoint) => $call,
            Kind::Mpi($endpoint) => $call,
            Kind::Both(both) => match both.local[$peer] {
                Some($peer) => {
                    let $endpoint = &both.node;
                    $call
                }
                None => {
                    let $endpoint = &both.mpi;
                    $call
                }
            },
        }
    };
}

impl Endpoint for NodeEndpoint {
    #[inline]
    fn rank(&self) -> Rank {
        self.world.rank()
    }

    #[inline]
    fn shape(&self) -> &GroupShape {
        match &self.kind {
            Kind::Node(node) => node.shape(),
            Kind::Mpi(mpi) => mpi.shape(),
            Kind::Both(both) => both.mpi.shape(),
        }
    }

    #[inline]
    fn progress(&self) {
        match &self.kind {
            Kind::Node(_) => {}
            Kind::Mpi(mpi) => mpi.progress(),
            Kind::Both(both) => both.mpi.progress(),
        }
    }

    fn moves_in_calls(&self) -> bool {
        !matches!(self.kind, Kind::Node(_))
    }

    #[inline]
    fn free_slots(&self, lane: Lane, to: Rank) -> usize {
        serving!(self, to, endpoint => endpoint.free_slots(lane, to))
    }

    #[inline]
    fn room(&self, lane: Lane, to: Rank) -> Option<Room<'_>> {
        serving!(self, to, endpoint => endpoint.room(lane, to))
    }

    #[inline]
    fn publish(&self, lane: Lane, to: Rank, len: usize) {
        serving!(self, to, endpoint => endpoint.publish(lane, to, len));
    }

    #[inline]
    fn landed(&self, lane: Lane, from: Rank) -> u64 {
        serving!(self, from, endpoint => endpoint.landed(lane, from))
    }

    #[inline]
    fn landings(&self, lane: Lane, found: &mut dyn FnMut(Rank, u64)) {
        match &self.kind {
            Kind::Node(node) => node.landings(lane, found),
            Kind::Mpi(mpi) => mpi.landings(lane, found),
            Kind::Both(both) => {
                both.mpi.landings(lane, found);
                both.node.landings(lane, &mut |from, landed| found(both.members[from], landed));
            }
        }
    }

    #[inline]
    fn message(&self, lane: Lane, from: Rank, number: u64) -> Message<'_> {
        serving!(self, from, endpoint => endpoint.message(lane, from, number))
    }

    #[inline]
    fn message_len(&self, lane: Lane, from: Rank, number: u64) -> usize {
        serving!(self, from, endpoint => endpoint.message_len(lane, from, number))
    }

    #[inline]
    fn release(&self, lane: Lane, from: Rank, upto: u64) {
        serving!(self, from, endpoint => endpoint.release(lane, from, upto));
    }

    #[inline]
    fn notify(&self) {
        match &self.kind {
            Kind::Node(node) => node.notify(),
            Kind::Mpi(mpi) => mpi.notify(),
            Kind::Both(both) => {
                both.node.notify();
                both.mpi.notify();
            }
        }
    }

    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        match &self.kind {
            Kind::Node(node) => node.wait(until),
            Kind::Mpi(mpi) => mpi.wait(until),
            Kind::Both(both) => both.wait(until),
        }
    }

    fn waker(&self) -> Waker {
        match &self.kind {
            Kind::Node(node) => node.waker(),
            Kind::Mpi(mpi) => mpi.waker(),
            // Whoever waits for both looks at it, and does not sleep for longer than a nap.
            Kind::Both(both) => both.mpi.waker(),
        }
    }

    fn peer_state(&self, peer: Rank) -> PeerState {
        match &self.kind {
            Kind::Node(node) => node.peer_state(peer),
            Kind::Mpi(mpi) => mpi.peer_state(peer),
            // Who is on this node is watched more closely.
            Kind::Both(both) => match both.local[peer] {
                Some(local) => both.node.peer_state(local),
                None => both.mpi.peer_state(peer),
            },
        }
    }

    fn poison(&self, reason: &[u8]) {
        match &self.kind {
            Kind::Node(node) => node.poison(reason),
            Kind::Mpi(mpi) => mpi.poison(reason),
            Kind::Both(both) => both.mpi.poison(reason),
        }
    }

    #[inline]
    fn poisoned(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Node(node) => node.poisoned(),
            Kind::Mpi(mpi) => mpi.poisoned(),
            Kind::Both(both) => {
                // Shared memory is poisoned only by what its own transport has found out.
                match (both.mpi.poisoned(), both.node.poisoned()) {
                    (None, Some(reason)) => {
                        both.mpi.poison(reason);
                        both.mpi.poisoned()
                    }
                    (poison, _) => poison,
                }
            }
        }
    }

    fn detach(&self) {
        self.detached.set(true);
        match &self.kind {
            Kind::Node(node) => node.detach(),
            Kind::Mpi(mpi) => mpi.detach(),
            Kind::Both(both) => {
                both.node.detach();
                both.mpi.detach();
            }
        }
    }

    fn now(&self) -> Duration {
        match &self.kind {
            Kind::Node(node) => node.now(),
            Kind::Mpi(mpi) => mpi.now(),
            Kind::Both(both) => both.mpi.now(),
        }
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Both {
    /// Looks at both, at first offering the core to others between looks, later asleep in shared memory.
    fn wait(&self, until: Duration) -> Result<(), TransportError> {
        self.mpi.notify();
        self.mpi.progress();
        let now = self.mpi.now();
        let [begin, last] = self.waiting.get();
        let begin = if now - last > ONE_WAIT { now } else { begin };
        self.waiting.set([begin, now]);
        if self.mpi.has_changed() || now >= until {
            return Ok(());
        }
        if now - begin < YIELD {
            std::thread::yield_now();
            return Ok(());
        }
        // The two clocks began at different times.
        let waited = self.node.wait(self.node.now() + NAP.min(until - now));
        self.waiting.set([begin, self.mpi.now()]);
        waited
    }
}

impl Drop for NodeEndpoint {
    fn drop(&mut self) {
        // Others then wait in vain for this rank to end MPI, or this one for them.
        if !self.detached.get() || self.poisoned().is_some() {
            self.world.inner.failed.set(true);
        }
    }
}

impl std::fmt::Debug for NodeEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ways: Vec<_> = (0..self.shape().ranks).map(|peer| self.way_to(peer)).collect();
        f.debug_struct("NodeEndpoint").field("rank", &self.rank()).field("ways", &ways).finish_non_exhaustive()
    }
}
