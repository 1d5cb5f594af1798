//! Ranks that are processes of one machine, over shared memory.
//!
//! [`Segment`] is a group's memory. `launch` (feature `launch`) starts processes that share one, and each of them calls
//! [`attach_from_env`]. Processes started by another launcher, such as `mpirun`, call [`attach_at`]. All `unsafe` code of
//! this crate is in this folder, which also holds the rings of [`threads`](crate::threads).

#[cfg(not(loom))]
mod endpoint;
#[cfg(not(loom))]
mod group;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod liveness;
mod memory;
#[cfg(not(loom))]
mod partners;
#[cfg(not(loom))]
mod region;
#[cfg_attr(not(loom), allow(unreachable_pub))]
pub(crate) mod ring;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod slots;

#[cfg(not(loom))]
pub use endpoint::RingEndpoint;
#[cfg(not(loom))]
pub use segment::{GROUP_VARIABLE, Handover, RANK_VARIABLE, Segment, ShmEndpoint, attach_at, attach_from_env};

#[cfg(not(loom))]
pub(crate) use group::Group;
#[cfg(not(loom))]
pub(crate) use layout::Layout;
pub(crate) use memory::check as check_memory;
#[cfg(not(loom))]
pub(crate) use region::Region;
