//! Ranks that are processes of one machine, over shared memory.

mod endpoint;
mod group;
mod layout;
mod liveness;
mod region;
mod ring;

pub use endpoint::RingEndpoint;

pub(crate) use group::Group;
pub(crate) use layout::Layout;
pub(crate) use region::Region;
