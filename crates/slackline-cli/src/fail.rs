//! Exit codes, and errors on one line.

use std::fmt;
use std::io::{self, Write};

/// Success.
pub(crate) const OK: u8 = 0;
/// The command failed; standard error has the reason.
pub(crate) const FAILURE: u8 = 1;
/// The command line was not understood.
pub(crate) const USAGE: u8 = 2;

/// A usage error that is found after the arguments are parsed: the exit code is [`USAGE`].
#[derive(Debug)]
pub(crate) struct Misuse(pub(crate) String);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// The error and its causes on one line. A cause that the line ends with already is not repeated.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !line.ends_with(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    line
}

/// Prints on standard error why the command failed.
pub(crate) fn tell(why: &str) {
    say(&format!("slackline: error: {why}\n"));
}

/// Prints on standard error. There is nowhere to report that this fails, so it is no failure: the exit code says the same.
pub(crate) fn say(text: &str) {
    // One write, so that lines of several ranks do not mix.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The exit code of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Misuse>()) { USAGE } else { FAILURE }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_none_twice() {
        let system = io::Error::from_raw_os_error(2);
        let said = system.to_string();
        let error = anyhow::Error::new(system).context(format!("clicks.tsv: cannot open: {said}")).context("infer");
        assert_eq!(one_line(&error), format!("infer: clicks.tsv: cannot open: {said}"));
        let multi_line = anyhow!("first\n  second").context("table 3");
        assert_eq!(one_line(&multi_line), "table 3: first second");
    }

    #[test]
    fn misuse_has_its_own_code_wherever_it_stands_in_the_chain() {
        assert_eq!(code_of(&anyhow!("no such file")), FAILURE);
        let misuse: Result<(), _> = Err(Misuse("no such format".into()));
        assert_eq!(code_of(&misuse.context("infer").unwrap_err()), USAGE);
    }
}
