//! Ranks that are the processes of an MPI job, of which this process is one.

use std::io;
use std::process::Command;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use slackline_mpi::{NodeEndpoint, Peers, World};
use slackline_transport::{GroupShape, cores};

use crate::BenchError;

/// This process's place in its job.
#[derive(Clone)]
pub struct Job {
    world: World,
    peers: Peers,
    /// The first rank of this node, which does the work that is needed once per node.
    first_here: usize,
    place_here: usize,
    ranks_here: usize,
    /// The cores of this process before it was bound.
    cores: Rc<Vec<usize>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("rank", &self.rank()).field("peers", &self.peers).finish_non_exhaustive()
    }
}

/// Calls `work` as a rank of a job. If no launcher has started this process, it starts itself with `ranks` ranks and
/// returns when they have ended. If `work` fails, the job is aborted.
///
/// # Errors
///
/// [`BenchError::Settings`] for peers that are not understood or another number of ranks than the job has;
/// [`BenchError::NoMpi`] and [`BenchError::Mpi`] where the job cannot be started or has failed; those of `work`.
pub fn within(peers: &str, ranks: usize, work: impl FnOnce(Job) -> Result<(), BenchError>) -> Result<(), BenchError> {
    let peers = peers.parse().map_err(|why| BenchError::Settings(format!("--peers {peers}: {why}")))?;
    if !slackline_mpi::is_launched() {
        return start(ranks);
    }
    let world = World::join()?;
    if world.ranks() != ranks {
        let why = format!("--ranks {ranks}, but the job has {}", world.ranks());
        return Err(BenchError::Settings(why));
    }
    let here = world.ranks_of_node()?;
    let job = Job {
        peers,
        first_here: here[0],
        place_here: here.iter().position(|rank| *rank == world.rank()).unwrap_or_default(),
        ranks_here: here.len(),
        cores: Rc::new(cores::available()),
        world: world.clone(),
    };
    let done = work(job);
    if let Err(error) = &done {
        crate::error::say(&format!("slackline-bench: rank {}: {error}", world.rank()));
        world.abort(1);
    }
    done
}

/// This program again, as a job.
fn start(ranks: usize) -> Result<(), BenchError> {
    let program = std::env::current_exe().map_err(BenchError::file("finding", "this program"))?;
    let mut command = Command::new(slackline_mpi::launcher());
    // More ranks than cores, and root in a container, are allowed; this program binds ranks itself. Only Open MPI reads these.
    for (variable, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ("PRTE_MCA_hwloc_default_binding_policy", "none"),
    ] {
        command.env(variable, value);
    }
    command.args(["-n", &ranks.to_string()]).arg(program).args(std::env::args_os().skip(1));
    let status = command.status().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BenchError::NoMpi { tool: "mpirun" },
        _ => BenchError::Mpi { tool: "mpirun", status: "not started".to_owned(), stderr: error.to_string() },
    })?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Mpi { tool: "mpirun", status: status.to_string(), stderr: "see above".to_owned() })
}

impl Job {
    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.world.rank()
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The same with other peers.
    pub(crate) fn with(&self, peers: Peers) -> Self {
        Job { peers, ..self.clone() }
    }

    /// Binds this process to a core of its own, if its node has one for each of its ranks, or frees it again.
    pub(crate) fn pin(&self, pin: bool) {
        match self.cores.get(self.place_here) {
            Some(core) if pin && self.ranks_here <= self.cores.len() => cores::bind(&[*core]),
            _ => cores::bind(&self.cores),
        }
    }

    /// Works as this rank of a group, and returns what every rank's work has returned, in rank order.
    pub(crate) fn on_all<T: Serialize + DeserializeOwned>(
        &self,
        shape: &GroupShape,
        work: impl FnOnce(NodeEndpoint) -> Result<T, BenchError>,
    ) -> Result<Vec<T>, BenchError> {
        self.gather(&work(self.join(shape)?)?)
    }

    /// This rank's end of a new group. All ranks have to call it.
    pub(crate) fn join(&self, shape: &GroupShape) -> Result<NodeEndpoint, BenchError> {
        Ok(NodeEndpoint::join(&self.world, shape, self.peers)?)
    }

    /// The values of all ranks, in rank order.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, own: &T) -> Result<Vec<T>, BenchError> {
        let unreadable = |source| BenchError::Unreadable { what: "a record".to_owned(), source };
        let text = serde_json::to_vec(own).map_err(unreadable)?;
        self.world
            .all_gather("gathering the values of all ranks", &text)?
            .iter()
            .map(|text| serde_json::from_slice(text).map_err(unreadable))
            .collect()
    }

    /// The value that the first rank of this node makes.
    pub(crate) fn once_a_node<T: Clone + Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let own = if self.rank() == self.first_here { Some(make()?) } else { None };
        let made = self.gather(&own)?.into_iter().nth(self.first_here).flatten();
        made.ok_or_else(|| BenchError::Rank { rank: self.first_here, why: "it returned no value".to_owned() })
    }

    /// Works on rank 0; all ranks learn whether it succeeded.
    pub(crate) fn on_first(&self, work: impl FnOnce() -> Result<(), BenchError>) -> Result<(), BenchError> {
        let own = if self.rank() == 0 { work() } else { Ok(()) };
        let complaint = own.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let complaints: Vec<String> = self.gather(&complaint)?;
        own?;
        if complaints[0].is_empty() { Ok(()) } else { Err(BenchError::Rank { rank: 0, why: complaints[0].clone() }) }
    }
}
