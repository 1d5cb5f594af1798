//! Shard files: safetensors that map straight into memory and can prove that they are whole.
//!
//! # The format, version 1
//!
//! A shard is an ordinary safetensors file: 8 bytes with the length `N` of the header (little-endian), a JSON header, and
//! the bytes of all tensors without holes. On top of that:
//!
//! * the header is padded with spaces so that the data section, at byte `8 + N`, starts on a multiple of 4096;
//! * each tensor is a table, or part of one: rows of `f32`, `f16` and `bf16` are an `F32`, `F16` or `BF16` tensor
//!   `[rows, dim]`, quantised ones a `U8` tensor `[rows, row_bytes]` (see [`RowFormat`](crate::RowFormat));
//! * `__metadata__` holds, beside `"format": "slackline.shard"` and `"version": "1"`,
//!   * for each tensor, under `table:<tensor name>`, a JSON object as a string: `row_format`, `table` (the table that the
//!     rows belong to), `first_row` (the number of the tensor's first row in that table), `rows`, `dim`, and `xxh3`, the
//!     XXH3-64 of the tensor's bytes as 16 lowercase hexadecimal digits;
//!   * `"header_xxh3"`, the XXH3-64 of the `N` bytes of the header, padding included, with these 16 digits as zeros.

mod error;
mod header;
mod json;
mod layout;
mod load;
mod reader;
mod temporary;
mod writer;

pub use error::{ShardDefect, ShardError};
pub use header::ShardTable;
pub use load::Load;
pub use reader::{MappedTable, Shard, Verify};
pub use writer::{ShardMark, ShardWriter, TableSpec};
