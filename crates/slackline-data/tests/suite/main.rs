//! The integration tests of the crate, in one program.

#[cfg(feature = "npz")]
mod arrays;
#[cfg(feature = "npz")]
mod conversions;
mod criteo;
mod features;
#[cfg(feature = "npz")]
mod npz;
mod shared_data;
#[cfg(feature = "generate")]
mod synthetic;
mod text;
#[cfg(feature = "npz")]
mod transforms;
mod whole;
