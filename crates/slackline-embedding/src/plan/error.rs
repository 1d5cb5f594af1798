//! Placements that cannot be made.

use std::fmt;

use super::MAX_RANKS;

/// A placement that cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// More ranks than a plan is made for.
    #[error("{ranks} ranks; a plan has at most {MAX_RANKS}")]
    TooManyRanks {
        /// The number asked for.
        ranks: usize,
    },
    /// There is no rank to place tables on.
    #[error("a plan for 0 ranks")]
    NoRanks,
    /// A number of lookups, or a measured time, that is negative, not a number, or too large to add up.
    #[error("table {table}: {lookups} lookups per sample")]
    Lookups {
        /// The table.
        table: String,
        /// The number given.
        lookups: f64,
    },
    /// The tables are larger than any memory.
    #[error("table {table}: {rows} rows of {row_bytes} bytes and the tables before it are more than 64 bits can count")]
    TooLarge {
        /// The table at which the sum overflows.
        table: String,
        /// Its rows.
        rows: u64,
        /// The bytes of each.
        row_bytes: u64,
    },
    /// A table was placed on a rank that does not exist.
    #[error("table {table} is placed on rank {rank} of {ranks} ranks")]
    NoSuchRank {
        /// The table.
        table: String,
        /// The rank given.
        rank: usize,
        /// The number of ranks.
        ranks: usize,
    },
    /// A part, a replica or hot rows of a table that does not exist.
    #[error("table number {table} is placed, but there are only {tables} tables")]
    NoSuchTable {
        /// The number given.
        table: usize,
        /// The tables.
        tables: usize,
    },
    /// The number of ranks given differs from the number of tables.
    #[error("{placed} placements for {tables} tables")]
    Placements {
        /// The tables.
        tables: usize,
        /// The placements.
        placed: usize,
    },
    /// The parts of a table do not cover each of its values exactly once.
    #[error("table {table}: {why}")]
    Parts {
        /// The table.
        table: String,
        /// What is missing, twice, or cannot be.
        why: String,
    },
    /// The ranks have too little memory.
    #[error("{0}")]
    Memory(Box<Shortfall>),
}

/// What all tables take, what all ranks have, and what would do. Bytes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shortfall {
    /// All tables, each counted once.
    pub total: u64,
    /// The ranks.
    pub ranks: usize,
    /// What a rank may hold.
    pub limit: u64,
    /// Of replicated tables, on every rank.
    pub replicated: u64,
    /// Of copies of hot rows, on every rank.
    pub hot: u64,
    /// The tables that matter with their bytes, largest first: of what every rank has to hold, if that is too much by itself,
    /// otherwise of what is placed once.
    pub largest: Vec<(String, u64)>,
    /// The part that has no room, if all parts together have: its table, its bytes, and whether it may be cut further.
    pub part: Option<(String, u64, bool)>,
    /// All tables with rows of a narrower format, by its name, where that is less.
    pub narrower: Vec<(&'static str, u64)>,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortfall { total, ranks, limit, replicated, hot, largest, part, narrower } = self;
        let everywhere = replicated + hot;
        let memory = u128::from(*limit) * *ranks as u128;
        write!(
            f,
            "too little memory: all tables take {total} bytes, and {ranks} ranks of {limit} bytes have {memory}"
        )?;
        let of_these = format!("{everywhere} bytes of replicated tables ({replicated}) and hot rows ({hot})");
        if everywhere > *limit {
            write!(f, "; each rank has to hold {of_these}, {} too many", everywhere - limit)?;
        } else if everywhere > 0 {
            write!(f, "; each rank holds {of_these}")?;
        }
        let once = u128::from(total - replicated.min(total));
        let room = limit.saturating_sub(everywhere);
        if let Some((table, bytes, may_be_cut)) = part {
            let whole = if *may_be_cut { "" } else { ", which is not cut further," };
            write!(f, "; table {table}: a part of {bytes} bytes{whole} has no room")?;
        } else if everywhere <= *limit {
            write!(f, "; {} bytes are lacking", once.saturating_sub(u128::from(room) * *ranks as u128))?;
        }
        let largest: Vec<String> = largest.iter().map(|(table, bytes)| format!("{table} {bytes}")).collect();
        write!(f, "; the largest tables: {}", largest.join(", "))?;
        let mut ways = Vec::new();
        if room > 0 && part.is_none() {
            ways.push(format!("at least {} ranks", once.div_ceil(u128::from(room)).max(*ranks as u128 + 1)));
        }
        let wanted = once.div_ceil(*ranks as u128) + u128::from(everywhere);
        let wanted = part.as_ref().map_or(wanted, |(_, bytes, _)| wanted.max(u128::from(bytes + everywhere)));
        ways.push(format!("at least {} bytes a rank", wanted.max(u128::from(*limit) + 1)));
        if part.as_ref().is_some_and(|(_, _, may_be_cut)| !may_be_cut) {
            ways.push("cutting this table (--split both)".to_owned());
        }
        if everywhere > 0 {
            ways.push("fewer replicated tables or hot rows".to_owned());
        }
        let narrower: Vec<String> = narrower.iter().map(|(format, bytes)| format!("{format} {bytes}")).collect();
        if !narrower.is_empty() {
            ways.push(format!("narrower rows (all tables: {})", narrower.join(", ")));
        }
        write!(f, "; what would help: {}", ways.join("; "))
    }
}
