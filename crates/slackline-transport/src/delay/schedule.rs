//! A profile bound to a seed and a group.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::draw::{draw, fraction};
use super::error::DelayError;
use super::profile::DelayProfile;
use crate::Rank;

/// The delay of every rank in every round: a pure function, so all ranks of a group can ask for all others, in any order,
/// and agree. Clones share a trace's memory.
///
/// # Examples
///
/// ```
/// use slackline_transport::delay::DelaySchedule;
/// use std::time::Duration;
///
/// let schedule = DelaySchedule::new(&"turn:1..2".parse()?, 7, 4, Duration::from_millis(10))?;
/// assert!(schedule.delay(1, 5) >= Duration::from_millis(10)); // 5 mod 4 = 1
/// assert_eq!(schedule.delay(2, 5), Duration::ZERO);
/// # Ok::<(), slackline_transport::delay::DelayError>(())
/// ```
#[derive(Clone, Debug)]
pub struct DelaySchedule {
    profile: DelayProfile,
    seed: u64,
    ranks: usize,
    unit: Duration,
    trace: Option<Arc<HashMap<(Rank, u64), f64>>>,
}

impl DelaySchedule {
    /// Binds `profile` to a group of `ranks` and to the length of a `unit`; reads the file of a trace.
    ///
    /// A trace has lines `rank round units`, in any order, where `#` begins a comment; what is not listed is not delayed.
    ///
    /// # Errors
    ///
    /// [`DelayError::Profile`] if the profile's numbers make no sense or its rank is not in the group;
    /// [`DelayError::TraceFile`] if the trace can't be read, and [`DelayError::Trace`] for a line of it
    /// that is not understood, names a rank outside the group, or repeats an earlier one.
    pub fn new(profile: &DelayProfile, seed: u64, ranks: usize, unit: Duration) -> Result<Self, DelayError> {
        profile.check()?;
        let trace = match profile {
            DelayProfile::Trace { file } => Some(Arc::new(read_trace(file, ranks)?)),
            DelayProfile::Slow { rank, .. } if *rank >= ranks => {
                let why = format!("a group of {ranks} has no rank {rank}");
                return Err(DelayError::Profile { profile: profile.to_string(), why });
            }
            _ => None,
        };
        Ok(Self { profile: profile.clone(), seed, ranks, unit, trace })
    }

    /// By how much `rank` is late in `round`; nothing for a rank outside the group. Cost: a few multiplications, or one
    /// look into the trace.
    pub fn delay(&self, rank: Rank, round: u64) -> Duration {
        if rank >= self.ranks {
            return Duration::ZERO;
        }
        let drawn = || fraction(draw(&[self.seed, rank as u64, round]));
        let units = match self.profile {
            DelayProfile::None => 0.0,
            DelayProfile::Turn { low, high } if round % self.ranks as u64 == rank as u64 => {
                low + (high - low) * drawn()
            }
            DelayProfile::Turn { .. } => 0.0,
            DelayProfile::Random { low, high } => low + (high - low) * drawn(),
            DelayProfile::Spikes { probability, size } if drawn() < probability => size,
            DelayProfile::Spikes { .. } => 0.0,
            DelayProfile::Slow { rank: slow, size } if slow == rank => size,
            DelayProfile::Slow { .. } => 0.0,
            DelayProfile::Trace { .. } => {
                self.trace.as_ref().and_then(|trace| trace.get(&(rank, round))).copied().unwrap_or_default()
            }
        };
        // The cast saturates: a delay past the end of the clock is as long as the clock.
        Duration::from_nanos((units * self.unit.as_nanos() as f64).round() as u64)
    }
}

fn read_trace(file: &Path, ranks: usize) -> Result<HashMap<(Rank, u64), f64>, DelayError> {
    let text = fs::read_to_string(file).map_err(|source| DelayError::TraceFile { file: file.to_owned(), source })?;
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut trace = HashMap::new();
    let mut first_lines = HashMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let wrong = |why: String| DelayError::Trace { file: file.to_owned(), line, why };
        let fields: Vec<&str> = text.split('#').next().unwrap_or_default().split_whitespace().collect();
        let (rank, round, units) = match fields[..] {
            [] => continue,
            [rank, round, units] => (rank, round, units),
            _ => return Err(wrong(format!("expected `rank round units`, found {} fields", fields.len()))),
        };
        let rank: Rank = rank.parse().map_err(|_| wrong(format!("`{rank}` is not a rank")))?;
        if rank >= ranks {
            return Err(wrong(format!("a group of {ranks} has no rank {rank}")));
        }
        let round: u64 = round.parse().map_err(|_| wrong(format!("`{round}` is not a round")))?;
        let number = units.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
        let number = number.ok_or_else(|| wrong(format!("`{units}` is not a finite number of units")))?;
        if let Some(first) = first_lines.insert((rank, round), line) {
            return Err(wrong(format!("rank {rank} in round {round} stands already on line {first}")));
        }
        trace.insert((rank, round), number);
    }
    Ok(trace)
}
