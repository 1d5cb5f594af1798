//! A deterministic network in virtual time. Code that runs over threads and shared memory runs here unchanged on hundreds
//! of ranks, with the latencies, bandwidth, stalls and deaths that you choose, and with the same result every time.
//!
//! Every rank is a thread, but only one runs at a time. It runs until it calls [`wait`](crate::Endpoint::wait) or
//! [`sleep`](crate::Endpoint::sleep); then virtual time advances to the next event, and its rank runs. So:
//!
//! * Code between two such calls takes no virtual time. Model work by `sleep`. Code that polls without ever waiting panics
//!   after some millions of calls, since time cannot advance.
//! * A run depends only on the [`SimConfig`] and on what the ranks do. Two runs with the same seed have the same
//!   [`SimReport::trace`]. At one instant, messages land first, and then the ranks run in rank order.
//! * Messages between one pair of ranks on one lane stay in order. All others overtake each other as their latencies make
//!   them. Releases, poison and departures travel as messages do; a departure is seen after all that was sent before it has
//!   landed.
//! * Only [`notify`](crate::Endpoint::notify) wakes a waiting peer. A message published without it lands but wakes nobody, so
//!   a forgotten notification shows up as a deadlock.
//! * Of several poisons the first in virtual time wins; at one instant, that of the rank that ran first.
//!
//! # Examples
//!
//! ```
//! use slackline_transport::sim::{self, SimConfig};
//! use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape};
//! use std::time::Duration;
//!
//! let shape = GroupShape { ranks: 3, lanes: vec![LaneShape { slots: 1, slot_bytes: 64 }] };
//! let report = sim::run(&SimConfig::new(shape, 42), |endpoint| {
//!     let to = (endpoint.rank() + 1) % 3;
//!     let from = (endpoint.rank() + 2) % 3;
//!     endpoint.sleep(Duration::from_millis(1 + endpoint.rank() as u64));
//!     assert_eq!(endpoint.free_slots(Lane(0), to), 1);
//!     endpoint.room(Lane(0), to).unwrap()[0] = endpoint.rank() as u8;
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
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod config;
mod endpoint;
mod error;
mod network;
mod run;
mod schedule;

pub use config::{Death, SimConfig, Stall};
pub use endpoint::SimEndpoint;
pub use error::{RankEnd, SimError};
pub use run::{SimReport, run};
