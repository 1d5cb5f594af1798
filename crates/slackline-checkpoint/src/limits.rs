//! Limits on what a file may make this crate allocate, shared by the formats.

/// Tensors of one checkpoint.
pub(crate) const MAX_TENSORS: usize = 1 << 18;
/// Bytes of the names of all tensors of one checkpoint.
pub(crate) const MAX_NAME_BYTES: usize = 64 << 20;
/// Bytes of a safetensors header, an index or a manifest: the limit of the safetensors library.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Dimensions of one tensor: PyTorch's own limit.
pub(crate) const MAX_DIMENSIONS: usize = 64;
/// Dimensions of all tensors of one file together.
pub(crate) const MAX_ALL_DIMENSIONS: usize = 1 << 21;
