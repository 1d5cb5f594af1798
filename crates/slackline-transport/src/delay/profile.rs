//! The kinds of delay and how they are written.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::DelayError;
use crate::Rank;

/// Who is late, when, and by how many units.
///
/// Written and parsed as one word, also by serde (feature `serde`), so that a command line and a configuration file look
/// the same:
///
/// | written | meaning |
/// |---|---|
/// | `none` | nobody |
/// | `turn:0..2` | round `i` delays rank `i mod P` alone, by a number drawn uniformly from `0 .. 2` |
/// | `random:0..2` | every rank in every round, each by a number of its own drawn uniformly from `0 .. 2` |
/// | `spikes:0.1x10` | every rank in every round with probability 0.1, by 10 |
/// | `slow:rank=0,x1` | rank 0 in every round, by 1: the persistently slow rank that no lag can hide |
/// | `trace:FILE` | what the file says, see [`DelaySchedule::new`](crate::delay::DelaySchedule::new) |
///
/// # Examples
///
/// ```
/// use slackline_transport::delay::DelayProfile;
///
/// let profile: DelayProfile = "turn:0.5..2".parse()?;
/// assert_eq!(profile, DelayProfile::Turn { low: 0.5, high: 2.0 });
/// assert_eq!(profile.to_string(), "turn:0.5..2");
/// # Ok::<(), slackline_transport::delay::DelayError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
#[non_exhaustive]
pub enum DelayProfile {
    /// No delays.
    #[default]
    None,
    /// One rank a round, in turn.
    Turn {
        /// Least delay, in units.
        low: f64,
        /// Largest delay, in units.
        high: f64,
    },
    /// Every rank in every round.
    Random {
        /// Least delay, in units.
        low: f64,
        /// Largest delay, in units.
        high: f64,
    },
    /// Rare and large.
    Spikes {
        /// Of a spike on one rank in one round, `0 ..= 1`.
        probability: f64,
        /// Size of a spike, in units.
        size: f64,
    },
    /// One rank in every round.
    Slow {
        /// The slow rank.
        rank: Rank,
        /// By how many units.
        size: f64,
    },
    /// As recorded in a file.
    Trace {
        /// Where it is.
        file: PathBuf,
    },
}

impl DelayProfile {
    /// Whether the numbers make sense, whoever made the profile.
    pub(super) fn check(&self) -> Result<(), DelayError> {
        let wrong = |why: String| Err(DelayError::Profile { profile: self.to_string(), why });
        let units = |number: f64| number.is_finite() && number >= 0.0;
        match *self {
            Self::None | Self::Trace { .. } => Ok(()),
            Self::Turn { low, high } | Self::Random { low, high } => match units(low) && units(high) && low <= high {
                true => Ok(()),
                false => wrong(format!("{low}..{high} is not a range of finite units from low to high")),
            },
            Self::Spikes { probability, size } => match (0.0..=1.0).contains(&probability) {
                false => wrong(format!("the probability {probability} is not in 0..1")),
                true if !units(size) => wrong(format!("the size {size} is not a finite number of units")),
                true => Ok(()),
            },
            Self::Slow { size, .. } if !units(size) => {
                wrong(format!("the size {size} is not a finite number of units"))
            }
            Self::Slow { .. } => Ok(()),
        }
    }
}

impl fmt::Display for DelayProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Turn { low, high } => write!(f, "turn:{low}..{high}"),
            Self::Random { low, high } => write!(f, "random:{low}..{high}"),
            Self::Spikes { probability, size } => write!(f, "spikes:{probability}x{size}"),
            Self::Slow { rank, size } => write!(f, "slow:rank={rank},x{size}"),
            Self::Trace { file } => write!(f, "trace:{}", file.display()),
        }
    }
}

impl FromStr for DelayProfile {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let wrong = |why: &str| DelayError::Profile { profile: text.to_owned(), why: why.to_owned() };
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let profile = match kind {
            "none" if !text.contains(':') => Self::None,
            "turn" | "random" => {
                let (low, high) = pair(rest, "..").ok_or_else(|| wrong("expected a range of units such as 0..2"))?;
                if kind == "turn" { Self::Turn { low, high } } else { Self::Random { low, high } }
            }
            "spikes" => {
                let (probability, size) =
                    pair(rest, "x").ok_or_else(|| wrong("expected probability and size such as 0.1x10"))?;
                Self::Spikes { probability, size }
            }
            "slow" => {
                let parts = rest.strip_prefix("rank=").and_then(|rest| rest.split_once(",x"));
                let parts = parts.and_then(|(rank, size)| Some((rank.parse().ok()?, size.parse().ok()?)));
                let (rank, size) = parts.ok_or_else(|| wrong("expected rank and size such as rank=0,x1"))?;
                Self::Slow { rank, size }
            }
            "trace" if !rest.is_empty() => Self::Trace { file: rest.into() },
            "trace" => return Err(wrong("expected the name of a file")),
            _ => {
                return Err(wrong(
                    "expected none, turn:LOW..HIGH, random:LOW..HIGH, spikes:PROBABILITYxSIZE, slow:rank=RANK,xSIZE \
                     or trace:FILE",
                ));
            }
        };
        profile.check()?;
        Ok(profile)
    }
}

impl TryFrom<String> for DelayProfile {
    type Error = DelayError;

    fn try_from(text: String) -> Result<Self, DelayError> {
        text.parse()
    }
}

impl From<DelayProfile> for String {
    fn from(profile: DelayProfile) -> String {
        profile.to_string()
    }
}

fn pair(text: &str, between: &str) -> Option<(f64, f64)> {
    let (first, second) = text.split_once(between)?;
    Some((first.parse().ok()?, second.parse().ok()?))
}
