//! The bounded-lag synchronous (BLS) alltoallv.
//!
//! A [`Group`] drives one [`Endpoint`]. Each of its lanes is used by rounds, through an [`Exchange`], or message by message,
//! through [`Streams`].
//!
//! A round is one alltoallv: [`begin`](Exchange::begin) lends room for the message to every peer,
//! [`publish`](Round::publish) sends the messages, and [`take`](Exchange::take) hands out complete rounds in order. With lag
//! `k`, a rank may go on while the messages of its last `k` rounds are still on their way.
//!
//! A stream is the messages of one pair of ranks: [`room`](Streams::room) towards one peer, published to that peer alone, and
//! [what has come](Streams::next) from any, read in place.
//!
//! This crate knows rounds, streams and bytes. It knows no tensors, no tables, and no transport: `docs/collective.md` gives its
//! guarantees and the argument for each.
//!
//! # Examples
//!
//! Two ranks, lag 1, three rounds:
//!
//! ```
//! use slackline_collective::transport::threads;
//! use slackline_collective::{Endpoint, Group, GroupOptions, Lane, LaneOptions};
//!
//! let options = GroupOptions::new([LaneOptions::lag(1)]);
//! let endpoints = threads::group(&options.shape(2, 8)).unwrap();
//! let ranks = endpoints.into_iter().map(|endpoint| {
//!     let options = options.clone();
//!     std::thread::spawn(move || {
//!         let rank = endpoint.rank() as u64;
//!         let group = Group::new(endpoint, options).unwrap();
//!         let exchange = group.lane(Lane(0));
//!         let mut sum = 0;
//!         for round in 0..3u64 {
//!             let mut sending = exchange.begin(&[8, 8]).unwrap();
//!             for message in sending.messages_mut() {
//!                 message.copy_from_slice(&(10 * round + rank).to_le_bytes());
//!             }
//!             sending.publish().unwrap();
//!             while let Some(complete) = exchange.take().unwrap() {
//!                 sum += u64::from_le_bytes(complete.message(1 - rank as usize).try_into().unwrap());
//!             }
//!         }
//!         while let Some(complete) = exchange.drain().unwrap() {
//!             sum += u64::from_le_bytes(complete.message(1 - rank as usize).try_into().unwrap());
//!         }
//!         sum
//!     })
//! });
//! let sums: Vec<u64> = ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect();
//! assert_eq!(sums, [33, 30]);
//! ```
#![forbid(unsafe_code)]

mod agreement;
mod collective;
mod error;
mod exchange;
mod fault;
mod gather;
mod group;
mod lane;
mod options;
mod rounds;
mod stats;
mod stream;
mod streams;
pub mod synchronous;

pub use agreement::{Difference, Disagreement, Terms};
pub use collective::{Collective, CompleteRound, OpenRound};
pub use error::CollectiveError;
pub use exchange::{Complete, Exchange, Messages, Round};
pub use fault::{Awaited, Fault, FaultKind};
pub use group::Group;
pub use options::{Delivery, GroupOptions, LaneOptions};
pub use stats::LaneStats;
pub use stream::HEADER_BYTES;
pub use streams::{Arrived, Departing, Streams};

/// The layer below, re-exported: endpoints to build a group on.
pub use slackline_transport as transport;
/// Types of the layer below that the signatures of this crate need.
pub use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, Rank};
