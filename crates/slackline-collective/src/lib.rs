//! The bounded-lag synchronous (BLS) alltoallv.
//!
//! A [`Group`] drives one [`Endpoint`]; each of its lanes is an independent stream of
//! rounds, reached through an [`Exchange`]. A round is one alltoallv: [`begin`](Exchange::begin) lends room for the message
//! to every peer, [`publish`](Round::publish) makes the messages visible, and [`take`](Exchange::take) hands out complete
//! rounds in order. With lag `k`, `take` lets a rank go on while the messages of its last `k` rounds are still out.
//!
//! This crate knows rounds and bytes. It knows no tensors, no tables, and not which transport is underneath. What it
//! promises, with the argument why each promise holds, stands in `docs/collective.md`.
//!
//! # Examples
//!
//! Two ranks, lag 1, three rounds:
//!
//! ```
//! use slackline_collective::{Group, GroupOptions, LaneOptions};
//! use slackline_transport::{Endpoint, GroupShape, Lane, threads};
//!
//! let lane = LaneOptions::lag(1);
//! let shape = GroupShape { ranks: 2, lanes: vec![lane.shape(8)] };
//! let ranks = threads::group(&shape).unwrap().into_iter().map(|endpoint| {
//!     std::thread::spawn(move || {
//!         let rank = endpoint.rank() as u64;
//!         let mut group = Group::new(endpoint, GroupOptions::new([lane])).unwrap();
//!         let mut exchange = group.lane(Lane(0));
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

mod error;
mod exchange;
mod fault;
mod group;
mod lane;
mod options;
mod small;
mod stats;
pub mod synchronous;
mod wire;

pub use error::CollectiveError;
pub use exchange::{Complete, Exchange, Messages, Round};
pub use fault::{Awaited, Fault, FaultKind};
pub use group::Group;
pub use options::{Delivery, GroupOptions, LaneOptions};
pub use stats::LaneStats;
pub use wire::HEADER_BYTES;

/// The words of the layer below that a user of this one needs, so that it need not name that layer.
pub use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, Rank};
