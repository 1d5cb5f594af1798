//! The integration tests of the crate, in one program.

mod criteo;
mod features;
#[cfg(feature = "npz")]
mod npz;
mod shared_data;
#[cfg(feature = "generate")]
mod synthetic;
mod whole;
