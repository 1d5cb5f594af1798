//! Placements that cannot be made.

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
    /// No rank has room for a table or a piece of it.
    #[error("table {table} needs {bytes} bytes; the limit is {limit} bytes a rank, of which at most {room} are free")]
    Memory {
        /// The table.
        table: String,
        /// The bytes to be placed.
        bytes: u64,
        /// What a rank may hold.
        limit: u64,
        /// The free bytes of the rank that has most.
        room: u64,
    },
}
