//! Exit codes, and errors on one line.

use std::fmt;
use std::io::{self, Write};

use slackline_dlrm::Printable;

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

/// Characters of a message that are shown; from a longer one the middle is left out.
const LONGEST: usize = 3000;

/// The error and its causes on one line. A cause that the line ends with already is not repeated. Names in it may come from a
/// file of unknown origin: what a terminal would obey is escaped, and words are shortened.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = printable(&cause.to_string());
        if !line.ends_with(&cause) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&cause);
        }
    }
    let count = line.chars().count();
    if count > LONGEST {
        let (begin, end) = (line.chars().take(LONGEST / 2), line.chars().skip(count - LONGEST / 2));
        line = begin.chain(" … ".chars()).chain(end).collect();
    }
    line
}

/// The words of a text on one line, each as [`Printable`].
fn printable(text: &str) -> String {
    // The whitespace that separates words in messages; that of other scripts, and other controls, are escaped.
    let words = text.split([' ', '\n', '\t', '\r']).filter(|word| !word.is_empty());
    words.map(|word| Printable(word).to_string()).collect::<Vec<_>>().join(" ")
}

/// Prints on standard error why the command failed.
pub(crate) fn tell(why: &str) {
    say(&format!("slackline: error: {}\n", printable(why)));
}

/// Prints on standard error, with everything but line ends escaped that a terminal would obey. There is nowhere to report that
/// this fails, so it is no failure: the exit code says the same.
pub(crate) fn say(text: &str) {
    // One write, so that lines of several ranks do not mix.
    let _ = io::stderr().write_all(Printable::lines(text).as_bytes());
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
    fn names_from_a_file_cannot_speak_to_the_terminal() {
        let hostile =
            anyhow!("no tensor `a\u{1b}[31m\n\u{9b}slackline: error: fake\u{202e}\u{2028}`").context("\u{7}x.pt");
        let line = one_line(&hostile);
        assert!(!line.contains(Printable::is_unprintable), "{line:?}");
        assert!(line.starts_with("\\u{7}x.pt: no tensor `a\\u{1b}[31m"), "{line}");
        let long = one_line(&anyhow!("tensor {} is missing", "y".repeat(1 << 20)));
        assert!(long.len() < 350 && long.starts_with("tensor yyy") && long.ends_with("is missing"), "{long}");
        let many = one_line(&anyhow!("{}", "y ".repeat(1 << 20)));
        assert!(many.len() < LONGEST + 10, "{}", many.len());
    }

    #[test]
    fn misuse_has_its_own_code_wherever_it_stands_in_the_chain() {
        assert_eq!(code_of(&anyhow!("no such file")), FAILURE);
        let misuse: Result<(), _> = Err(Misuse("no such format".into()));
        assert_eq!(code_of(&misuse.context("infer").unwrap_err()), USAGE);
    }
}
