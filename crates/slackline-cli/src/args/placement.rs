//! The arguments of the commands about placement.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use glob::Pattern;
use slackline_embedding::{Forced, Split};

use super::{FORMATS, ReadingArgs, at_least_one, batch, ranks};

/// Place a model's tables on ranks, and estimate the cost
///
/// Tables stay whole, are split by columns or rows, or are replicated on every rank, so that all ranks have about the same
/// lookup cost and none exceeds its memory. With a profile (slackline profile) the costs are those measured on a trace;
/// without one they are typical values. `slackline infer --plan` reads the result.
#[derive(Args, Debug)]
#[command(after_help = PLAN_HELP)]
pub(crate) struct PlanArgs {
    /// Model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Number of ranks
    #[arg(long, value_name = "N", value_parser = ranks())]
    pub(crate) ranks: usize,
    /// Lookup counts and times of a trace, written by `slackline profile`
    #[arg(long, value_name = "FILE.json")]
    pub(crate) profile: Option<PathBuf>,
    /// Measure lookup costs on this machine instead of using typical values; takes a second
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// Memory limit per rank, such as 64G; the suffixes K, M, G and T are powers of 1024 [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = byte_count)]
    pub(crate) memory: Option<u64>,
    /// How tables may be split; splitting by rows changes the rounding of sums, splitting by columns changes no bit of the
    /// predictions
    #[arg(long, value_enum, default_value_t = Cut::Columns)]
    pub(crate) split: Cut,
    /// Replicate tables of up to this size on every rank, so that their vectors are never sent
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = byte_count)]
    pub(crate) replicate: u64,
    /// Copy the rows that the profile's trace looks up most to every rank, in at most this many bytes per rank; changes no
    /// bit of the predictions
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = byte_count, requires = "profile")]
    pub(crate) hot: u64,
    /// Place the tables whose names match PATTERN: rank:N, whole, columns:N, rows:N or replicated. May be repeated; the
    /// last match wins
    #[arg(long, value_name = "PATTERN=HOW")]
    pub(crate) place: Vec<Placed>,
    /// Accept a plan in which the busiest rank costs at most RATIO times the mean
    #[arg(long, value_name = "RATIO", default_value_t = 1.05, value_parser = ratio)]
    pub(crate) balance: f64,
    /// Write the plan to this file; an existing one is replaced
    #[arg(long, value_name = "FILE.json")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

const PLAN_HELP: &str = "\
Examples:
  slackline plan model --ranks 4
  slackline plan model --ranks 4 --profile profile.json --split both --memory 64G --output plan.json
  slackline plan model --ranks 8 --place 'emb_l.2.*=columns:4' --place 'emb_l.1?.*=replicated'
  slackline plan model --ranks 4 --profile profile.json --hot 256M --output plan.json

Exit codes: 0 success; 1 failure, such as tables that do not fit into the memory, with the reason on standard error; 2 \
usage error.";

/// Count a trace's lookups in each table, and measure how long they take
///
/// The tables are looked up one after the other on one core, as a rank does it. `slackline plan --profile` reads the
/// result.
#[derive(Args, Debug)]
#[command(after_help = format!("{FORMATS}\n{PROFILE_HELP}"))]
pub(crate) struct ProfileArgs {
    /// Model directory
    #[arg(value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// The trace: rows as for `slackline infer`
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Samples per batch; take the value that `slackline infer` will use, since what stays cached depends on it
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = batch())]
    pub(crate) batch: usize,
    /// Stop after this many samples [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) samples: Option<usize>,
    /// Record the N rows of each table that are looked up most
    #[arg(long, value_name = "N", default_value_t = 65536)]
    pub(crate) hot: usize,
    /// File to write, or to replace
    #[arg(long, value_name = "FILE.json")]
    pub(crate) output: PathBuf,
}

const PROFILE_HELP: &str = "\
Examples:
  slackline profile model --input clicks.tsv --output profile.json
  slackline profile model --input clicks.tsv --samples 100000 --batch 2048 --output profile.json

Exit codes: 0 success; 1 failure, with the reason on standard error; 2 usage error.";

/// How tables may be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cut {
    /// Keep tables whole
    Never,
    /// By columns
    Columns,
    /// By rows
    Rows,
    /// By columns, and by rows where there are too few columns
    Both,
}

impl From<Cut> for Split {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Never => Split::Never,
            Cut::Columns => Split::Columns,
            Cut::Rows => Split::Rows,
            Cut::Both => Split::Both,
        }
    }
}

/// Where the tables of matching names go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) pattern: Pattern,
    pub(crate) how: Forced,
}

impl FromStr for Placed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "expected PATTERN=HOW, where HOW is rank:N, whole, columns:N, rows:N or replicated";
        let (pattern, place) = text.rsplit_once('=').ok_or(how)?;
        let pattern = Pattern::new(pattern).map_err(|error| format!("pattern: {error}"))?;
        let number = |text: &str| text.parse().map_err(|_| how.to_owned());
        let how = match place.split_once(':') {
            None if place == "whole" => Forced::Whole,
            None if place == "replicated" => Forced::Replicated,
            Some(("rank", rank)) => Forced::Rank(number(rank)?),
            Some(("columns", count)) => Forced::Columns(number(count)?),
            Some(("rows", count)) => Forced::Rows(number(count)?),
            _ => return Err(how.to_owned()),
        };
        Ok(Placed { pattern, how })
    }
}

fn byte_count(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let shift = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let count = digits.parse::<u64>().ok().zip(shift).and_then(|(count, shift)| count.checked_mul(1 << shift));
    count.ok_or_else(|| "expected a number of bytes, such as 4096, 64K, 512M or 2G".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio: &f64| *ratio >= 1.0 && ratio.is_finite());
    ratio.ok_or_else(|| "expected a number of at least 1, such as 1.05".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_and_sizes_are_read() {
        let placed: Placed = "emb_l.*=columns:4".parse().unwrap();
        assert!(placed.pattern.matches("emb_l.7.weight") && placed.how == Forced::Columns(4));
        assert!("a=rank:x".parse::<Placed>().is_err() && "a=here".parse::<Placed>().is_err());
        assert_eq!(byte_count("64K"), Ok(65536));
        assert_eq!((byte_count("2GiB"), byte_count("7"), byte_count("1MB")), (Ok(2 << 30), Ok(7), Ok(1 << 20)));
        assert!(byte_count("many").is_err() && byte_count("-1").is_err() && byte_count("99999999999T").is_err());
        assert!(ratio("0.9").is_err() && ratio("inf").is_err());
    }
}
