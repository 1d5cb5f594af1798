//! A deterministic network in virtual time: the same blocking code that runs over threads and shared memory runs here on
//! hundreds of ranks, with latencies, bandwidth, stalls and deaths of our choosing, and comes out the same each time.
//!
//! Every rank is a thread, but one alone runs at any moment. It runs until it calls [`wait`](crate::Endpoint::wait) or
//! [`sleep`](crate::Endpoint::sleep); then virtual time moves to the next event and the rank concerned goes on. So:
//!
//! * Code between two such calls takes no virtual time; work is modelled by `sleep`. Code that polls without ever
//!   waiting would never see time move, and panics after some millions of calls.
//! * Everything that happens is a function of the [`SimConfig`] and of what the ranks do. Two runs with one seed have the
//!   same [`SimReport::trace`]. At one instant, messages land first and then the ranks run in rank order.
//! * Messages between one pair of ranks on one lane stay in order; all others overtake each other as their latencies have
//!   it. Releases travel as messages do, and so do poison and departures; a departure is seen only after all that was
//!   sent before it has landed.
//! * Only [`notify`](crate::Endpoint::notify) wakes a waiting peer. What is published without it lands, but nobody who
//!   sleeps learns of it: forgotten notifications show up as deadlocks.
//! * Of several poisons the first in virtual time wins, at one instant that of the rank that ran first.
//!
//! # Examples
//!
//! ```
//! use slackline_transport::sim::{self, SimConfig};
//! use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape};
//! use std::time::Duration;
//!
//! let shape = GroupShape { ranks: 3, lanes: vec![LaneShape { slots: 1, slot_bytes: 64 }] };
//! let report = sim::run(&SimConfig::new(shape, 42), |mut endpoint| {
//!     let to = (endpoint.rank() + 1) % 3;
//!     let from = (endpoint.rank() + 2) % 3;
//!     endpoint.sleep(Duration::from_millis(1 + endpoint.rank() as u64));
//!     assert_eq!(endpoint.free_slots(Lane(0), to), 1);
//!     endpoint.rooms(Lane(0))[to][0] = endpoint.rank() as u8;
//!     endpoint.publish(Lane(0), to, 1);
//!     endpoint.notify();
//!     while endpoint.landed(Lane(0), from) == 0 {
//!         endpoint.wait(Duration::MAX)?;
//!     }
//!     let got = endpoint.message(Lane(0), from, 0)[0];
//!     endpoint.detach();
//!     Ok::<u8, slackline_transport::TransportError>(got)
//! })?;
//! let got: Vec<u8> = report.values().unwrap().into_iter().collect::<Result<_, _>>()?;
//! assert_eq!(got, [2, 0, 1]);
//! # Ok::<(), slackline_transport::TransportError>(())
//! ```

mod block;
mod config;
mod endpoint;
mod network;
mod run;
mod schedule;

pub use config::{Death, SimConfig, Stall};
pub use endpoint::SimEndpoint;
pub use run::{RankEnd, SimReport, run};
