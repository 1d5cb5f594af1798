//! Readers of the field's input formats, streamed in bounded memory, and generators of synthetic requests.
//!
//! * [`Input`] reads Criteo click logs (tab-separated or CSV, gzipped or not) and NumPy `.npz` archives batch by batch
//!   into a [`Batch`], whose index lists have the layout of PyTorch's `EmbeddingBag` with `include_last_offset`.
//! * [`ids`] reads a file's row names alone, to label what was computed from it.
//! * [`NpzFile`] reads single arrays of an `.npz` archive.
//! * [`CriteoWriter`] and [`generate_criteo`] write click logs in Criteo's format; [`Synthetic`] makes batches without a
//!   file.
//!
//! Everything that a file says is untrusted: a malformed file is an error that names file, line or member, column and
//! value, never a panic and never a large allocation. This crate knows nothing of models: it takes the number of dense
//! features and the rows of each table as an [`InputShape`], and does not check indices of an `.npz` file against the
//! tables (whoever owns the tables does).
//!
//! # Examples
//!
//! ```
//! use slackline_data::{Batch, Input, InputShape, generate_criteo};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("clicks.tsv.gz");
//! let shape = InputShape { dense_features: 13, table_rows: vec![1000; 26] };
//! generate_criteo(&shape, 100, 7, &path, |_| ())?;
//!
//! let mut input = Input::open(&path, None, &shape)?;
//! let mut batch = Batch::default();
//! let mut samples = 0;
//! while input.next_batch(64, &mut batch)? {
//!     assert_eq!(batch.dense.len(), batch.samples * 13);
//!     samples += batch.samples;
//! }
//! assert_eq!(samples, 100);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod batch;
mod criteo;
mod error;
mod format;
mod generate;
mod ids;
mod input;
mod lines;
mod npy;
mod npz;
mod npz_input;
mod random;
mod synthetic;
mod writer;

pub use batch::{Batch, InputShape, TableInput, dense_transform};
pub use error::DataError;
pub use format::Format;
pub use generate::generate_criteo;
pub use ids::{Ids, ids};
pub use input::Input;
pub use lines::MAX_LINE;
pub use npz::NpzFile;
pub use synthetic::{Access, Pooling, Synthetic, SyntheticSpec, TableSpec};
pub use writer::{CriteoRow, CriteoWriter};
