//! Deep learning recommendation models (DLRM): their configuration, their files, and their forward pass.
//!
//! * [`ModelConfig`] is the shape of a model, checked. Its arguments have the names of the reference DLRM.
//! * [`ModelDirectory`] is a stored model. [`write_synthetic`] writes one with random weights, [`import`] makes one from a
//!   checkpoint.
//! * [`Model`] is what a program sees that gives batches to a model and takes predictions.
//! * [`LocalModel`] is a whole model in one process; [`Local`] makes it a [`Model`].
//! * [`ServedModel`] is one that can be replaced by a newer model while requests go on.
//! * [`DistributedModel`] is one rank's part of a model whose tables are spread over many ranks; `Distributed` makes it a
//!   [`Model`], with the collective that carries its messages.
//! * [`DenseModel`] is everything except the tables: bottom MLP ([`Mlp`]), [`Interaction`], top MLP.
//!
//! A sample's prediction has the same bits in every batch and on any number of ranks: sums are made in a fixed order, and the
//! distributed pass consists of the parts of the local one. (Tables that a plan cuts by rows are the exception: their sums are
//! made in the plan's order.)
//!
//! This crate does not know which transport carries the messages or in which format rows are stored. It starts no threads; it
//! pools on those that it is given.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `import`: [`import`] and [`convert`], which read checkpoints and choose row formats by table name.
//! * `distributed`: `Distributed`, and `DistributedModel::{submit, pool, complete}`, over any `Collective` of
//!   `slackline-collective`: its bounded-lag rounds, its synchronous oracle, or one of your own. All of that crate is re-exported
//!   as `collective`. Without the feature, [`DistributedModel`] works on plain slices that something else carries.
//! * `ndarray`: [`LocalModel::predict_arrays`], for arrays of `ndarray`.
//!
//! # Examples
//!
//! ```
//! use slackline_dlrm::{Batch, Load, LocalModel, ModelConfig, ModelDirectory, TableInput, Verify, write_synthetic};
//!
//! let config = ModelConfig::from_json(
//!     r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "10-20", "arch_mlp_bot": "3-8-4", "arch_mlp_top": "8-1"}"#,
//! )?.config;
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model");
//! write_synthetic(&config, 7, &path, 2, &mut |_| ())?;
//!
//! let directory = ModelDirectory::open(&path)?;
//! let tables = directory.load_tables(&[0, 1], Load::Mapped, Verify::Checksums)?;
//! let mut model = LocalModel::new(directory.load_dense()?, tables)?;
//!
//! // Two samples: rows 3 and 3 of the first table and none; rows 19 and 0 of the second.
//! let batch = Batch {
//!     samples: 2,
//!     dense: vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
//!     tables: vec![
//!         TableInput { indices: vec![3, 3], offsets: vec![0, 2, 2], ..TableInput::default() },
//!         TableInput { indices: vec![19, 0], offsets: vec![0, 1, 2], ..TableInput::default() },
//!     ],
//!     ..Batch::default()
//! };
//! let mut predictions = Vec::new();
//! model.predict(&batch, &mut predictions)?;
//! assert_eq!(predictions.len(), 2);
//! assert!(predictions.iter().all(|p| (0.0..=1.0).contains(p)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

#[cfg(feature = "ndarray")]
mod arrays;
mod check;
mod config;
mod dense;
mod dense_model;
mod directory;
mod distributed;
mod error;
mod interaction;
mod local;
mod model;
mod packed;
mod serving;
// `unsafe` for vector instructions.
#[allow(unsafe_code)]
mod simd;
mod text;
mod warm;
mod watch;
mod wire;

pub use config::{
    Arguments, Compression, InteractionOp, MixedDimensions, ModelConfig, ParsedConfig, QuotientRemainder, TableKind,
};
pub use dense::{Activation, Linear, Mlp, MlpScratch};
pub use dense_model::{DenseModel, DenseScratch, DenseWeights, LayerWeights};
pub use directory::{FORMAT_VERSION, ModelDirectory, Progress, RowLoss, Summary, Written, write_synthetic};
#[cfg(feature = "import")]
pub use directory::{ImportOptions, ImportReport, ImportedTable, Naming, RowChoice, convert, import};
#[cfg(feature = "distributed")]
pub use distributed::Distributed;
pub use distributed::{DistributedModel, Prepared, RankTables, largest_message, samples_of};
pub use error::{DirectoryDefect, DlrmError, Result, UnfitModel};
pub use interaction::{Interaction, InteractionScratch};
pub use local::{Local, LocalModel, LocalScratch};
pub use model::{Answered, Model, RankWork};
pub use serving::ServedModel;
pub use simd::peak_flops;
pub use text::Printable;
pub use wire::Wire;

// Types of other crates in public signatures, so that a program needs this crate alone.
/// A pattern of names, for [`ImportOptions::ignore`].
#[cfg(feature = "import")]
pub use glob::Pattern;
#[cfg(feature = "ndarray")]
pub use ndarray;
pub use rayon;
#[cfg(feature = "import")]
pub use slackline_checkpoint::{CheckpointError, Format};
/// The whole layer below: rounds of messages between ranks, and under `transport` what carries them.
#[cfg(feature = "distributed")]
pub use slackline_collective as collective;
#[cfg(feature = "distributed")]
pub use slackline_collective::transport::threads;
#[cfg(feature = "distributed")]
pub use slackline_collective::{
    Collective, CollectiveError, Complete, CompleteRound, Delivery, Endpoint, Exchange, Fault, FaultKind, Group,
    GroupOptions, GroupShape, Lane, LaneOptions, LaneStats, Messages, OpenRound, Rank, Round,
};
pub use slackline_data::{Batch, InputShape, Preprocessing, TableInput};
pub use slackline_embedding::compressed::Combine;
pub use slackline_embedding::{
    BagError, EmbeddingTable, Generation, HotRows, Load, Part, Plan, PlanError, PlanOptions, PoolError, Residency,
    Retired, RowFormat, ShardError, ShardTable, TableCost, UnfitRow, UnfitTables, Verify,
};
