//! Benchmarks of Slackline: what bounded lag gains, and what it costs.
//!
//! * [`scenario`]: which rank is late in which round, as TOML files.
//! * [`run`](mod@run): starts ranks, runs all lags in turns in the same processes, on request beside the synchronous oracle and
//!   MPI's own alltoallv, compares every output with a computation in one process, and only then evaluates times.
//! * [`predict`]: what a recurrence predicts for measured work.
//! * [`results`] and [`report`]: the results file, and the report in HTML.
//! * [`exchange`](mod@exchange): the alltoallv alone, beside MPI's.
//! * [`requests`](mod@requests): requests and answers on streams, beside a rank that is late.
//! * [`dense`](mod@dense): the dense part of a model beside PyTorch's.
//! * [`embedding`](mod@embedding): pooled lookups beside FBGEMM's and PyTorch's.
//! * [`loading`](mod@loading): how soon a table answers after loading.
//! * [`planning`](mod@planning): estimated and measured lookup times of plans.
//!
//! This crate uses the layers through their public interfaces, as a user would.
#![forbid(unsafe_code)]

pub mod dense;
pub mod embedding;
mod error;
pub mod exchange;
mod html;
#[cfg(feature = "mpi")]
pub mod job;
pub mod loading;
mod measure;
mod model;
#[cfg(feature = "mpi")]
mod mpi_rounds;
mod peers;
pub mod planning;
pub mod predict;
mod ranks;
pub mod requests;
pub mod results;
pub mod run;
pub mod scenario;
mod slept;
mod summary;
mod svg;
mod table;
mod timed;
mod variant;

pub use error::{BenchError, say};
pub use html::report;
pub use peers::PeersPlace;
pub use ranks::Transport;
pub use table::render;
