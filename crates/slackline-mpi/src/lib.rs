//! The transport over MPI: endpoints for `slackline-collective` under `mpirun`, on one machine or on many.
//!
//! `World` is a process's membership in the job. `NodeEndpoint` is its end of a group, which uses shared memory between ranks
//! of one node and MPI between nodes. `MpiEndpoint` uses MPI between all ranks.
//!
//! Without the feature `mpi` this crate is empty. The feature needs an MPI installation (Open MPI or MPICH) and libclang:
//!
//! ```sh
//! apt-get install libopenmpi-dev openmpi-bin libclang-dev
//! cargo build --release -p slackline-cli --features mpi
//! mpirun -n 4 target/release/slackline infer model --input clicks.tsv --transport mpi
//! ```
//!
//! `docs/mpi.md` says how to build, run and tune.
#![deny(unsafe_code)]
#![cfg(feature = "mpi")]

pub mod baseline;
mod endpoint;
#[allow(unsafe_code)]
mod ffi;
mod frame;
mod group;
mod world;

pub use endpoint::MpiEndpoint;
pub use ffi::MpiError;
pub use group::{NodeEndpoint, Peers};
pub use world::{World, WorldError, is_launched, launcher};
