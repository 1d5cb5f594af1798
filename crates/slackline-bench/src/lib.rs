//! Measures what bounded lag gains, and predicts it.
//!
//! * [`scenario`]: who is late in which round, as data in TOML files.
//! * [`run`](mod@run): starts ranks, lets every lag run in turn in the same processes, checks every output against a
//!   computation in one process, and only then looks at the times.
//! * [`predict`]: what the recurrence of the bounded lag says about measured work.
//! * [`results`] and [`report`]: the results file, and the report for people.
//! * [`exchange`](mod@exchange): the bare alltoallv beside MPI's.
//! * [`embedding`](mod@embedding): pooled lookups beside FBGEMM's and PyTorch's.
//! * [`loading`](mod@loading): how soon a table answers, by the way in which it is loaded.
//! * [`planning`](mod@planning): placements on ranks, predicted beside measured.
//!
//! This crate uses the layers as a user would, through their public interfaces, and knows nothing of how they work inside.
#![forbid(unsafe_code)]

#[cfg(feature = "mpi")]
mod baselines;
pub mod embedding;
mod error;
pub mod exchange;
mod html;
#[cfg(feature = "mpi")]
pub mod job;
pub mod loading;
mod measure;
mod model;
mod peers;
pub mod planning;
pub mod predict;
mod ranks;
pub mod results;
pub mod run;
pub mod scenario;
mod slept;
mod summary;
mod svg;
mod table;

pub use error::BenchError;
pub use html::report;
pub use ranks::Transport;
pub use table::render;
