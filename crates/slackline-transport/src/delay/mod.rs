//! Delays to inject: who is late, when, and by how much.
//!
//! A [`DelayProfile`] is the description, as it stands in a configuration. A [`DelaySchedule`] is a profile with a seed and
//! a group: a pure function of rank and round. Delays are given in *units*, for which the schedule has a length: with the
//! time of one undelayed round as the unit, a profile such as `turn:0..2` means the same on slow and fast machines.

mod draw;
mod error;
mod profile;
mod schedule;

pub(crate) use draw::{draw, mix, pick};
pub use error::DelayError;
pub use profile::DelayProfile;
pub use schedule::DelaySchedule;
