//! Reads input for recommendation models, streamed in bounded memory, and generates synthetic requests.
//!
//! * [`Input`] reads Criteo's click logs (tab-separated or CSV, optionally gzipped), NumPy archives of bags, MLPerf's multi-hot
//!   archives, TorchRec's arrays, and the reference DLRM's archive and binary ([`InputFormat`]), batch by batch, into a
//!   [`Batch`], whose index lists have the layout of PyTorch's `EmbeddingBag` with `include_last_offset`.
//! * [`InputOptions`] say how raw values become what a model takes ([`DenseTransform`], [`SparseTransform`]), and how they did
//!   when it was trained ([`Preprocessing`]).
//! * [`ids`] reads only the ids of the rows, to label results.
//! * `NpzFile` reads single arrays of an `.npz` archive.
//! * `convert_input` converts between formats.
//! * [`WholeFile`] writes a file that appears when it is whole.
//! * `CriteoWriter` and `generate_criteo` write click logs in Criteo's format; `Synthetic` makes batches without a file.
//!
//! Files are untrusted: a malformed file gives an error that names the file, the line or member, the column and the value,
//! never a panic and never a large allocation. This crate does not know models: an [`InputShape`] gives the number of dense
//! features and the rows of each table. Indices in an archive of bags are not checked against the tables.
//!
//! # Features
//!
//! All are off by default. A file that needs a feature that is off gives [`DataError::MissingFeature`].
//!
//! * `gzip`: gzipped text files.
//! * `npz`: NumPy's `.npz` archives and `.npy` files, and the reference's binary: `NpzFile`, and such inputs.
//! * `generate`: writing and generating: `CriteoWriter`, `generate_criteo` and `Synthetic`.
//!
//! # Examples
//!
//! ```
//! use slackline_data::{Batch, Input, InputShape};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("clicks.tsv");
//! std::fs::write(&path, "1\t5\t68fd1e64\n0\t\tdeadbeef\n")?;
//! let shape = InputShape { dense_features: 1, table_rows: vec![1000] };
//! let mut input = Input::open(&path, None, &shape)?;
//! let mut batch = Batch::default();
//! while input.next_batch(64, &mut batch)? {
//!     assert_eq!(batch.labels, [1.0, 0.0]);
//!     assert_eq!(batch.tables[0].indices, [0x68fd1e64 % 1000, 0xdeadbeef % 1000]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "npz")]
mod array;
mod batch;
#[cfg(feature = "npz")]
mod beside;
mod columns;
#[cfg(feature = "npz")]
mod convert;
mod criteo;
#[cfg(feature = "npz")]
mod element;
mod error;
mod fields;
#[cfg(feature = "npz")]
mod fixed;
mod format;
#[cfg(feature = "generate")]
mod generate;
#[cfg(feature = "gzip")]
mod gzip;
mod ids;
mod input;
mod lines;
#[cfg(feature = "npz")]
mod npy;
#[cfg(feature = "npz")]
mod npz;
#[cfg(feature = "npz")]
mod npz_input;
#[cfg(feature = "npz")]
mod partial;
#[cfg(feature = "npz")]
mod planned;
mod preprocessing;
mod quotes;
#[cfg(feature = "generate")]
mod random;
mod rows;
#[cfg(feature = "npz")]
mod run;
mod shape;
#[cfg(feature = "generate")]
mod synthetic;
mod utf8;
#[cfg(feature = "npz")]
mod values;
mod whole;
#[cfg(feature = "generate")]
mod writer;

pub use batch::{Batch, RowIds, TableInput};
#[cfg(feature = "npz")]
pub use convert::{Converted, convert_input};
pub use error::DataError;
pub use format::InputFormat;
#[cfg(feature = "generate")]
pub use generate::generate_criteo;
pub use ids::{Ids, ids};
pub use input::Input;
pub use lines::MAX_LINE;
#[cfg(feature = "npz")]
pub use npz::NpzFile;
pub use preprocessing::{DenseTransform, InputOptions, Preprocessing, SparseTransform, Transforms};
pub use shape::InputShape;
#[cfg(feature = "generate")]
pub use synthetic::{Access, PoolingFactor, Synthetic, SyntheticSpec, SyntheticTable};
pub use utf8::utf8;
pub use whole::{PartialFolder, WholeFile};
#[cfg(feature = "generate")]
pub use writer::{CriteoRow, CriteoWriter};
