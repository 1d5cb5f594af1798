//! Distributed inference for deep learning recommendation models (DLRM) whose embedding tables are spread over many ranks,
//! with a bounded lag between the ranks.
//!
//! This crate has no code of its own: it re-exports the layers. Each layer is also a crate that can be used alone. The
//! command line is the crate `slackline-cli`. From the bottom up:
//!
//! | module | what it does |
//! |---|---|
//! | [`transport`] | moves bytes between ranks: threads, processes over shared memory, a simulated network |
//! | `mpi` | the transport over MPI (feature `mpi`) |
//! | [`collective`] | the bounded-lag alltoallv |
//! | [`embedding`] | tables that map into memory, pooling, placement |
//! | [`checkpoint`] | reads what PyTorch and others wrote |
//! | [`data`] | reads and generates requests |
//! | [`dlrm`] | the model, in one process or over many ranks |
//!
//! # Examples
//!
//! A model with random weights, asked in one process:
//!
//! ```
//! use slackline::data::{Batch, Input, InputShape, generate_criteo};
//! use slackline::dlrm::{LocalModel, ModelConfig, ModelDirectory, write_synthetic};
//! use slackline::embedding::{Load, Verify};
//!
//! let config = ModelConfig::from_json(
//!     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "100-20", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
//! )?.config;
//! let folder = tempfile::tempdir()?;
//! write_synthetic(&config, 1, &folder.path().join("model"), 1, &mut |_| ())?;
//! let shape = InputShape { dense_features: 3, table_rows: vec![100, 20] };
//! generate_criteo(&shape, 10, 1, folder.path().join("clicks.tsv"), |_| ())?;
//!
//! let directory = ModelDirectory::open(folder.path().join("model"))?;
//! let tables = directory.load_tables(&[0, 1], Load::Mapped, Verify::Checksums)?;
//! let mut model = LocalModel::new(directory.load_dense()?, tables)?;
//! let mut input = Input::open(folder.path().join("clicks.tsv"), None, &shape)?;
//! let (mut batch, mut predictions) = (Batch::default(), Vec::new());
//! while input.next_batch(4, &mut batch)? {
//!     model.predict(&batch, &mut predictions)?;
//!     assert_eq!(predictions.len(), batch.samples);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub use slackline_checkpoint as checkpoint;
pub use slackline_collective as collective;
pub use slackline_data as data;
pub use slackline_dlrm as dlrm;
pub use slackline_embedding as embedding;
#[cfg(feature = "mpi")]
pub use slackline_mpi as mpi;
pub use slackline_transport as transport;
