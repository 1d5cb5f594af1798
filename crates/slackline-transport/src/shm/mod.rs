//! Ranks that are processes of one machine, over shared memory.
//!
//! [`Segment`] is a group's memory. `launch` (feature `launch`) starts processes that share one, and each of them calls
//! [`attach_from_env`]. Processes started by another launcher, such as `mpirun`, call [`attach_at`]. All `unsafe` code of
//! this crate is in this folder, which also holds the rings of [`threads`](crate::threads).

mod endpoint;
mod group;
mod layout;
mod liveness;
mod region;
mod ring;
mod segment;

pub use endpoint::RingEndpoint;
pub use segment::{GROUP_VARIABLE, Handover, RANK_VARIABLE, Segment, ShmEndpoint, attach_at, attach_from_env};

pub(crate) use group::Group;
pub(crate) use layout::Layout;
pub(crate) use region::Region;
