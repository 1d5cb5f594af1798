//! The integration tests of the crate, in one binary: a module for each subject.

mod common;
mod directory;
mod directory_damage;
#[cfg(feature = "distributed")]
mod distributed;
mod forward;
#[cfg(feature = "import")]
mod golden;
mod quantised;
#[cfg(feature = "import")]
mod resume;
mod serving;
#[cfg(feature = "import")]
mod sources;
