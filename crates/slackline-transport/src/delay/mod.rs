//! Delays to inject: who is late, when, and by how much.
//!
//! A [`DelayProfile`] is the description that scenarios carry; a [`DelaySchedule`] is the profile bound to a seed and a
//! group, a pure function of rank and round. Delays are counted in *units*, which the schedule turns into time: a
//! profile such as `turn:0..2` means the same on a slow and on a fast machine when the unit is the time of one
//! undelayed round.

mod draw;
mod profile;
mod schedule;

pub(crate) use draw::{draw, mix, pick};
pub use profile::DelayProfile;
pub use schedule::DelaySchedule;
