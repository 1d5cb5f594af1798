//! Groups of processes of one machine, for Python.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use slackline_collective::transport::TransportError;
use slackline_collective::transport::shm::{self, ShmEndpoint};

use super::errors::raised;
use super::ffi::memory;
use crate::{Collectives, Failure, FailureKind, Memory, Plan, Reducer, Settings, Ticket};

/// How long a wait lasts before Python may look at signals.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Seconds of Python as a duration; what is not finite or not positive is for ever.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The shared memory of a group, on the rank that makes it; needed until all have attached.
#[pyclass(frozen, weakref, module = "slackline._native")]
pub(crate) struct Segment(pub(crate) shm::Segment);

#[pymethods]
impl Segment {
    #[new]
    #[pyo3(signature = (ranks, slot_bytes=None, slots=None))]
    fn new(py: Python<'_>, ranks: usize, slot_bytes: Option<usize>, slots: Option<usize>) -> PyResult<Self> {
        if ranks == 0 {
            return Err(PyValueError::new_err("a group without ranks"));
        }
        let usual = Settings::for_ranks(ranks);
        let (slot_bytes, slots) = (slot_bytes.unwrap_or(usual.slot_bytes), slots.unwrap_or(usual.slots));
        let segment = shm::Segment::create(&Settings { slot_bytes, slots }.shape(ranks));
        segment.map(Segment).map_err(|error| raised(py, &error.into()))
    }

    /// Where other processes of this machine attach.
    fn address(&self) -> String {
        self.0.address()
    }
}

/// Attaches to a segment, and waits until all ranks have.
pub(crate) fn attach(
    py: Python<'_>,
    address: &str,
    rank: usize,
    members: &[usize],
    name: &str,
    timeout: Duration,
) -> PyResult<ShmEndpoint> {
    let fail = |error: TransportError| {
        let mut failure = Failure::from(error);
        failure.text = format!("group {name} cannot be made: {}", failure.text);
        raised(py, &failure)
    };
    let endpoint = shm::attach_at(address, rank).map_err(fail)?;
    let begun = Instant::now();
    loop {
        let slice = timeout.saturating_sub(begun.elapsed()).min(SLICE);
        // The endpoint is for one thread; a look does not take long enough to let others run.
        match endpoint.wait_for_all(slice) {
            Ok(()) => return Ok(endpoint),
            Err(TransportError::NotAttached { ranks, .. }) if begun.elapsed() >= timeout => {
                let ranks: Vec<usize> = ranks.iter().map(|rank| members.get(*rank).copied().unwrap_or(*rank)).collect();
                let waited = begun.elapsed().as_secs_f64();
                let text = format!("group {name} cannot be made: ranks {ranks:?} did not attach in {waited:.1} s");
                let failure = Failure { kind: FailureKind::Late, ranks, ..Failure::unusable(text) };
                return Err(raised(py, &failure));
            }
            Err(TransportError::NotAttached { .. }) => py.check_signals()?,
            Err(error) => return Err(fail(error)),
        }
    }
}

/// One rank's end of a group.
#[pyclass(frozen, weakref, module = "slackline._native")]
pub(crate) struct Group {
    collectives: Arc<Collectives<ShmEndpoint>>,
}

/// An operation that is under way.
#[pyclass(frozen, weakref, module = "slackline._native")]
pub(crate) struct Pending {
    collectives: Arc<Collectives<ShmEndpoint>>,
    ticket: Arc<Ticket>,
}

#[pymethods]
impl Pending {
    /// Waits until the operation has ended, or raises `TimeoutError` after so many seconds, without harm to the operation.
    /// Returns the rank of which something was received.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<usize>> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(seconds(timeout)));
        loop {
            let slice = until.map_or(SLICE, |until| until.saturating_duration_since(Instant::now()).min(SLICE));
            py.detach(|| self.collectives.wait(&self.ticket, slice));
            if let Some(end) = self.ticket.end() {
                return end.clone().map_err(|failure| raised(py, &failure));
            }
            py.check_signals()?;
            if until.is_some_and(|until| Instant::now() >= until) {
                let why = "the operation has not ended within the timeout of this wait; it goes on";
                return Err(pyo3::exceptions::PyTimeoutError::new_err(why));
            }
        }
    }

    /// Whether it has ended, in whatever way. Moves on what can be moved.
    fn done(&self, py: Python<'_>) -> bool {
        self.ticket.is_done() || py.detach(|| self.collectives.wait(&self.ticket, Duration::from_nanos(1)))
    }
}

type Begun = PyResult<Option<Pending>>;

#[pymethods]
impl Group {
    /// Attaches as `rank` to the segment at `address`, and waits for the others.
    #[staticmethod]
    fn attach(
        py: Python<'_>,
        address: &str,
        rank: usize,
        members: Vec<usize>,
        name: &str,
        timeout: f64,
    ) -> PyResult<Self> {
        let endpoint = attach(py, address, rank, &members, name, seconds(timeout))?;
        let collectives = Collectives::new(endpoint, members, name).map_err(|failure| raised(py, &failure))?;
        Ok(Group { collectives: Arc::new(collectives) })
    }

    /// Leaves the group; see `Collectives::close`.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.collectives.close());
    }

    /// `input`, cut into bytes as `sends` says, goes to the ranks; `output` is cut as `receives` says.
    #[allow(clippy::too_many_arguments)]
    fn all_to_all(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        input: &Bound<'_, PyAny>,
        receives: Vec<usize>,
        sends: Vec<usize>,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let send = cut(&memory(input)?, &sends, self.ranks())?;
        let receive = cut(&memory(output)?, &receives, self.ranks())?;
        self.exchange(py, send, receive, timeout, later)
    }

    /// As `all_to_all`, in equal parts.
    fn all_to_all_equal(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        input: &Bound<'_, PyAny>,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (send, receive) = (memory(input)?, memory(output)?);
        self.exchange(py, self.equal(&send)?, self.equal(&receive)?, timeout, later)
    }

    /// A tensor to each rank and one from each.
    fn all_to_all_list(
        &self,
        py: Python<'_>,
        outputs: Vec<Bound<'_, PyAny>>,
        inputs: Vec<Bound<'_, PyAny>>,
        timeout: f64,
        later: bool,
    ) -> Begun {
        self.exchange(py, self.each(&inputs)?, self.each(&outputs)?, timeout, later)
    }

    /// `outputs` is one tensor for each rank.
    fn all_gather(
        &self,
        py: Python<'_>,
        outputs: Vec<Bound<'_, PyAny>>,
        input: &Bound<'_, PyAny>,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (receive, send) = (self.each(&outputs)?, memory(input)?);
        self.same_size(&receive, &send)?;
        self.run(py, || Plan::all_gather(self.rank(), &send, receive), timeout, later)
    }

    /// Into one tensor.
    fn all_gather_single(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        input: &Bound<'_, PyAny>,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (receive, send) = (self.equal(&memory(output)?)?, memory(input)?);
        self.same_size(&receive, &send)?;
        self.run(py, || Plan::all_gather(self.rank(), &send, receive), timeout, later)
    }

    fn broadcast(&self, py: Python<'_>, tensor: &Bound<'_, PyAny>, root: usize, timeout: f64, later: bool) -> Begun {
        let (memory, root) = (memory(tensor)?, self.member(root)?);
        self.run(py, || Plan::broadcast(self.rank(), self.ranks(), root, &memory), timeout, later)
    }

    /// `outputs` is one tensor for each rank on the root, and empty elsewhere.
    fn gather(
        &self,
        py: Python<'_>,
        outputs: Vec<Bound<'_, PyAny>>,
        input: &Bound<'_, PyAny>,
        root: usize,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (send, root) = (memory(input)?, self.member(root)?);
        let receive = if self.rank() == root { self.each(&outputs)? } else { Vec::new() };
        self.same_size(&receive, &send)?;
        self.run(py, || Plan::gather(self.rank(), root, &send, receive), timeout, later)
    }

    /// `inputs` is one tensor for each rank on the root, and empty elsewhere.
    fn scatter(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        inputs: Vec<Bound<'_, PyAny>>,
        root: usize,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (receive, root) = (memory(output)?, self.member(root)?);
        let send = if self.rank() == root { self.each(&inputs)? } else { Vec::new() };
        self.same_size(&send, &receive)?;
        self.run(py, || Plan::scatter(self.rank(), root, send, &receive), timeout, later)
    }

    #[allow(clippy::too_many_arguments)]
    fn reduce(
        &self,
        py: Python<'_>,
        tensor: &Bound<'_, PyAny>,
        dtype: &str,
        reduction: &str,
        root: usize,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (memory, root, reducer) = (memory(tensor)?, self.member(root)?, reducer(reduction, dtype)?);
        self.run(py, || Plan::reduce(self.rank(), self.ranks(), root, &memory, reducer), timeout, later)
    }

    fn all_reduce(
        &self,
        py: Python<'_>,
        tensor: &Bound<'_, PyAny>,
        dtype: &str,
        reduction: &str,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (memory, reducer) = (memory(tensor)?, reducer(reduction, dtype)?);
        self.run(py, || Plan::all_reduce(self.rank(), self.ranks(), &memory, reducer), timeout, later)
    }

    /// `inputs` is one tensor for each rank.
    #[allow(clippy::too_many_arguments)]
    fn reduce_scatter(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        inputs: Vec<Bound<'_, PyAny>>,
        dtype: &str,
        reduction: &str,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (receive, send, reducer) = (memory(output)?, self.each(&inputs)?, reducer(reduction, dtype)?);
        self.same_size(&send, &receive)?;
        self.run(py, || Plan::reduce_scatter(self.rank(), send, &receive, reducer), timeout, later)
    }

    /// From one tensor.
    #[allow(clippy::too_many_arguments)]
    fn reduce_scatter_single(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        input: &Bound<'_, PyAny>,
        dtype: &str,
        reduction: &str,
        timeout: f64,
        later: bool,
    ) -> Begun {
        let (receive, send, reducer) = (memory(output)?, self.equal(&memory(input)?)?, reducer(reduction, dtype)?);
        self.same_size(&send, &receive)?;
        self.run(py, || Plan::reduce_scatter(self.rank(), send, &receive, reducer), timeout, later)
    }

    fn barrier(&self, py: Python<'_>, timeout: f64, later: bool) -> Begun {
        self.run(py, || Plan::barrier(self.rank(), self.ranks()), timeout, later)
    }

    fn send(&self, py: Python<'_>, tensor: &Bound<'_, PyAny>, to: usize, tag: u32, timeout: f64) -> PyResult<Pending> {
        let (memory, to) = (memory(tensor)?, self.other(to)?);
        let ticket = py.detach(|| self.collectives.send(to, tag, memory, seconds(timeout)));
        Ok(Pending { collectives: Arc::clone(&self.collectives), ticket })
    }

    #[pyo3(signature = (tensor, source, tag, timeout))]
    fn receive(
        &self,
        py: Python<'_>,
        tensor: &Bound<'_, PyAny>,
        source: Option<usize>,
        tag: u32,
        timeout: f64,
    ) -> PyResult<Pending> {
        let memory = memory(tensor)?;
        let source = source.map(|source| self.other(source)).transpose()?;
        let ticket = py.detach(|| self.collectives.receive(source, tag, memory, seconds(timeout)));
        Ok(Pending { collectives: Arc::clone(&self.collectives), ticket })
    }
}

/// Parts of these sizes, in order, one for each rank.
pub(crate) fn cut(memory: &Memory, sizes: &[usize], ranks: usize) -> PyResult<Vec<Memory>> {
    let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if sizes.len() != ranks || total != Some(memory.len()) {
        let why = format!("{} parts, {total:?} bytes, of a tensor of {}, for {ranks} ranks", sizes.len(), memory.len());
        return Err(PyValueError::new_err(why));
    }
    let mut at = 0;
    let part = |size: &usize| {
        at += size;
        memory.part(at - size..at)
    };
    Ok(sizes.iter().map(part).collect())
}

fn reducer(reduction: &str, dtype: &str) -> PyResult<Reducer> {
    let made = reduction.parse().and_then(|reduction| Reducer::new(reduction, dtype.parse()?));
    made.map_err(PyValueError::new_err)
}

impl Group {
    fn rank(&self) -> usize {
        self.collectives.rank()
    }

    fn ranks(&self) -> usize {
        self.collectives.ranks()
    }

    fn member(&self, rank: usize) -> PyResult<usize> {
        if rank < self.ranks() {
            return Ok(rank);
        }
        Err(PyValueError::new_err(format!("rank {rank} of a group of {}", self.ranks())))
    }

    fn other(&self, rank: usize) -> PyResult<usize> {
        if rank == self.rank() {
            return Err(PyValueError::new_err(format!("rank {rank} cannot send to itself or receive from itself")));
        }
        self.member(rank)
    }

    /// Begins an operation; waits for it unless it may end `later`.
    fn run(&self, py: Python<'_>, plan: impl FnOnce() -> Plan + Send, timeout: f64, later: bool) -> Begun {
        let ticket = py.detach(|| {
            let ticket = self.collectives.submit(plan(), seconds(timeout), later);
            if !later {
                self.collectives.wait(&ticket, SLICE);
            }
            ticket
        });
        if ticket.is_done() {
            return ticket
                .end()
                .map_or(Ok(None), |end| end.clone().map(|_| None).map_err(|failure| raised(py, &failure)));
        }
        let pending = Pending { collectives: Arc::clone(&self.collectives), ticket };
        if later {
            return Ok(Some(pending));
        }
        pending.wait(py, None).map(|_| None)
    }

    fn exchange(&self, py: Python<'_>, send: Vec<Memory>, receive: Vec<Memory>, timeout: f64, later: bool) -> Begun {
        let (own, back) = (send[self.rank()].len(), receive[self.rank()].len());
        if own != back {
            let why = format!("this rank sends {own} bytes to itself and expects {back} of them");
            let rank = vec![self.rank()];
            let (kind, bytes, expected) = (FailureKind::Mismatch, Some(own as u64), Some(back as u64));
            return Err(raised(py, &Failure { kind, ranks: rank, bytes, expected, ..Failure::unusable(why) }));
        }
        self.run(py, || Plan::all_to_all(self.rank(), send, receive), timeout, later)
    }

    /// One tensor for each rank.
    fn each(&self, tensors: &[Bound<'_, PyAny>]) -> PyResult<Vec<Memory>> {
        if tensors.len() != self.ranks() {
            let why = format!("{} tensors for a group of {} ranks", tensors.len(), self.ranks());
            return Err(PyValueError::new_err(why));
        }
        tensors.iter().map(memory).collect()
    }

    /// Equal parts.
    fn equal(&self, memory: &Memory) -> PyResult<Vec<Memory>> {
        let ranks = self.ranks();
        if !memory.len().is_multiple_of(ranks) {
            let why = format!("a tensor of {} bytes is not of {ranks} equal parts", memory.len());
            return Err(PyValueError::new_err(why));
        }
        let part = memory.len() / ranks;
        Ok((0..ranks).map(|rank| memory.part(part * rank..part * (rank + 1))).collect())
    }

    fn same_size(&self, parts: &[Memory], whole: &Memory) -> PyResult<()> {
        match parts.iter().position(|part| part.len() != whole.len()) {
            None => Ok(()),
            Some(rank) => {
                let (part, whole) = (parts[rank].len(), whole.len());
                Err(PyValueError::new_err(format!("the tensor for rank {rank} has {part} bytes, not {whole}")))
            }
        }
    }
}
