//! The integration tests of the crate, in one program.

mod common;
mod foreign;
mod golden;
mod hostile;
mod memory;
#[cfg(feature = "torchsnapshot")]
mod snapshot;
