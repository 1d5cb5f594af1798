//! The alltoallv of bounded lag, for Python.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use slackline_collective::transport::shm::{self, ShmEndpoint};
use slackline_collective::{Delivery, Rank};

use super::errors::raised;
use super::ffi::memory;
use super::group::{SLICE, Segment, attach, cut, seconds};
use crate::{BoundedLag, Failure, Taken};

/// The shared memory of an exchange, on the rank that makes it.
#[pyfunction]
pub(crate) fn lag_segment(py: Python<'_>, ranks: usize, lag: usize, slot_bytes: usize) -> PyResult<Segment> {
    let segment = shm::Segment::create(&BoundedLag::<ShmEndpoint>::shape(ranks, lag, slot_bytes));
    segment.map(Segment).map_err(|error| raised(py, &error.into()))
}

/// One rank's end of an exchange.
#[pyclass(frozen, weakref, module = "slackline._native")]
pub(crate) struct Lag {
    rounds: BoundedLag<ShmEndpoint>,
    rank: Rank,
    ranks: usize,
}

#[pymethods]
impl Lag {
    #[staticmethod]
    #[allow(clippy::too_many_arguments)]
    fn attach(
        py: Python<'_>,
        address: &str,
        rank: usize,
        members: Vec<usize>,
        name: &str,
        lag: usize,
        delivery: &str,
        timeout: f64,
    ) -> PyResult<Self> {
        let delivery: Delivery = delivery.parse().map_err(PyValueError::new_err)?;
        let (ranks, timeout) = (members.len(), seconds(timeout));
        let endpoint = attach(py, address, rank, &members, name, timeout)?;
        let rounds = BoundedLag::new(endpoint, lag, delivery, timeout, members, name);
        Ok(Lag { rounds: rounds.map_err(|failure| raised(py, &failure))?, rank, ranks })
    }

    /// Publishes the next round; its number. `receives` and `sends` are bytes for each rank.
    fn submit(
        &self,
        py: Python<'_>,
        output: &Bound<'_, PyAny>,
        input: &Bound<'_, PyAny>,
        receives: Vec<usize>,
        sends: Vec<usize>,
    ) -> PyResult<u64> {
        let send = cut(&memory(input)?, &sends, self.ranks)?;
        let receive = cut(&memory(output)?, &receives, self.ranks)?;
        if sends[self.rank] != receives[self.rank] {
            let (own, back) = (sends[self.rank], receives[self.rank]);
            return Err(PyValueError::new_err(format!("this rank sends {own} bytes to itself and expects {back}")));
        }
        self.until(py, || self.rounds.try_submit(&send, &receive))
    }

    /// The number of the next complete round, waiting for it if it is due; `None` if this rank may go on.
    fn take(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.next(py, false)
    }

    /// The number of the next round, waiting for it; `None` if all that were published were taken.
    fn flush(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.next(py, true)
    }

    /// Says that this rank publishes no more.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.rounds.leave()).map_err(|failure| raised(py, &failure))
    }

    /// Waits until all that was published is out.
    fn sent(&self, py: Python<'_>) -> PyResult<()> {
        self.until(py, || Ok(self.rounds.is_sent()?.then_some(())))
    }

    /// Leaves without waiting for others.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.rounds.close());
    }

    /// What this rank did so far.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.rounds.stats().map_err(|failure| raised(py, &failure))?;
        let dict = PyDict::new(py);
        dict.set_item("rounds", stats.rounds)?;
        dict.set_item("taken", stats.taken)?;
        dict.set_item("bytes_sent", stats.bytes_sent)?;
        dict.set_item("bytes_received", stats.bytes_received)?;
        dict.set_item("fragmented", stats.fragmented)?;
        dict.set_item("seconds_blocked", stats.blocked.as_secs_f64())?;
        dict.set_item("seconds_lingered", stats.lingered.as_secs_f64())?;
        let lag = PyDict::new(py);
        for (ahead, rounds) in stats.lag.iter().enumerate().filter(|(_, rounds)| **rounds > 0) {
            lag.set_item(ahead, rounds)?;
        }
        dict.set_item("observed_lag", lag)?;
        Ok(dict)
    }
}

impl Lag {
    fn next(&self, py: Python<'_>, all: bool) -> PyResult<Option<u64>> {
        self.until(py, || {
            Ok(match self.rounds.try_take(all)? {
                Taken::Round(number) => Some(Some(number)),
                Taken::Nothing => Some(None),
                Taken::Due => None,
            })
        })
    }

    /// Calls `step` until it has something, with pauses, in which Python may look at signals.
    fn until<T: Send>(&self, py: Python<'_>, step: impl Fn() -> Result<Option<T>, Failure> + Sync) -> PyResult<T> {
        loop {
            let stepped = py.detach(|| {
                let slice_end = Instant::now() + SLICE;
                loop {
                    if let Some(done) = step()? {
                        return Ok(Some(done));
                    }
                    let rest = slice_end.saturating_duration_since(Instant::now());
                    if rest == Duration::ZERO {
                        return Ok(None);
                    }
                    self.rounds.pause(rest)?;
                }
            });
            if let Some(done) = stepped.map_err(|failure: Failure| raised(py, &failure))? {
                return Ok(done);
            }
            if let Err(raised) = py.check_signals() {
                // Whatever became of the group, the signal's exception is what is raised.
                let _ = py.detach(|| self.rounds.abandon());
                return Err(raised);
            }
        }
    }
}
