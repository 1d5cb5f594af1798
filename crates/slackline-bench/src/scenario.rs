//! Scenarios: which rank is late in which round, and whether lag is expected to help. TOML files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use slackline_transport::delay::{DelayProfile, DelaySchedule};

use crate::BenchError;

/// What a run is expected to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Lag hides delays.
    Gain,
    /// A negative control: lag has nothing to hide, or nothing that it can hide.
    None,
}

/// What the ranks do in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkKind {
    /// Inference with a synthetic recommendation model.
    Model,
    /// Sleep for one unit and exchange messages of a chosen size.
    Slept,
}

/// One scenario.
///
/// # Examples
///
/// ```
/// use slackline_bench::scenario::{Expect, Scenario};
///
/// let text = r#"
///     name = "bursts"
///     words = "Now and then a rank is late by four iterations."
///     delay = "spikes:0.1x4"
///     expect = "gain"
/// "#;
/// let scenario = Scenario::parse("bursts.toml", text)?;
/// assert_eq!(scenario.expect, Expect::Gain);
/// # Ok::<(), slackline_bench::BenchError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// A short name: letters, digits, `-` and `_`.
    pub name: String,
    /// What happens and what it shows, for the report.
    pub words: String,
    /// Who is late by how many iterations.
    pub delay: DelayProfile,
    /// Whether lag is expected to help.
    pub expect: Expect,
    /// The work; what the command line says where this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkKind>,
}

const BUILT_IN: [(&str, &str); 5] = [
    ("balanced", include_str!("../scenarios/balanced.toml")),
    ("turn", include_str!("../scenarios/turn.toml")),
    ("random", include_str!("../scenarios/random.toml")),
    ("spikes", include_str!("../scenarios/spikes.toml")),
    ("slow", include_str!("../scenarios/slow.toml")),
];

/// The longest scenario file that is read.
const MOST_BYTES: u64 = 1 << 20;

/// The names of the built-in scenarios, in the order in which they run.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

impl Scenario {
    /// A built-in scenario by its name, or any other from its file (a name that ends in `.toml` or has a slash).
    ///
    /// # Errors
    ///
    /// [`BenchError::UnknownScenario`], [`BenchError::File`], [`BenchError::Scenario`].
    pub fn load(name: &str) -> Result<Self, BenchError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        if !name.ends_with(".toml") && !name.contains('/') {
            let known = built_in().collect::<Vec<_>>().join(", ");
            return Err(BenchError::UnknownScenario { name: name.to_owned(), known });
        }
        let file = File::open(Path::new(name)).map_err(BenchError::file("opening", name))?;
        let mut text = String::new();
        file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(BenchError::file("reading", name))?;
        if text.len() as u64 > MOST_BYTES {
            let why = format!("more than {MOST_BYTES} bytes, which is no scenario");
            return Err(BenchError::Scenario { file: name.to_owned(), why });
        }
        Self::parse(name, &text)
    }

    /// A scenario from its text; `file` is for messages.
    ///
    /// # Errors
    ///
    /// [`BenchError::Scenario`] names the file, the line and the key.
    pub fn parse(file: &str, text: &str) -> Result<Self, BenchError> {
        let wrong = |why: String| BenchError::Scenario { file: file.to_owned(), why };
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if scenario.name.is_empty() || !scenario.name.chars().all(plain) {
            return Err(wrong(format!("name = {:?}: use letters, digits, '-' and '_'", scenario.name)));
        }
        if scenario.words.trim().is_empty() {
            return Err(wrong("words: say what the scenario shows".to_owned()));
        }
        Ok(scenario)
    }

    /// Checks that the delays make sense for a group of `ranks`, before any rank is started.
    ///
    /// # Errors
    ///
    /// [`BenchError::Scenario`], for instance where the slow rank is not in the group.
    pub fn check(&self, ranks: usize) -> Result<(), BenchError> {
        DelaySchedule::new(&self.delay, 0, ranks, std::time::Duration::from_millis(1))
            .map(drop)
            .map_err(|error| BenchError::Scenario { file: self.name.clone(), why: format!("delay: {error}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Scenario::parse("mine.toml", text).expect_err("the text is malformed").to_string()
    }

    #[test]
    fn the_built_in_scenarios_are_well_formed_and_carry_their_own_names() {
        for name in built_in() {
            let scenario = Scenario::load(name).unwrap();
            assert_eq!(scenario.name, name);
            scenario.check(2).unwrap();
        }
        assert_eq!(built_in().filter(|name| Scenario::load(name).unwrap().expect == Expect::None).count(), 2);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let good = "name = \"a\"\nwords = \"b\"\ndelay = \"none\"\nexpect = \"gain\"\n";
        Scenario::parse("mine.toml", good).unwrap();

        let unknown = refused(&format!("{good}lag = 3\n"));
        assert!(unknown.contains("mine.toml") && unknown.contains("line 5") && unknown.contains("lag"), "{unknown}");
        let delay = refused(&good.replace("none", "often:3"));
        assert!(delay.contains("mine.toml") && delay.contains("delay") && delay.contains("often:3"), "{delay}");
        let expect = refused(&good.replace("gain", "loss"));
        assert!(expect.contains("expect") && expect.contains("loss"), "{expect}");
        let missing = refused(&good.replace("words = \"b\"\n", ""));
        assert!(missing.contains("words"), "{missing}");
        let name = refused(&good.replace("\"a\"", "\"a b\""));
        assert!(name.contains("mine.toml") && name.contains("name = \"a b\""), "{name}");
    }

    #[test]
    fn a_slow_rank_outside_the_group_and_an_unknown_name_are_refused() {
        let scenario = Scenario { delay: "slow:rank=3,x1".parse().unwrap(), ..Scenario::load("slow").unwrap() };
        let text = scenario.check(2).expect_err("two ranks have no rank 3").to_string();
        assert!(text.contains("slow") && text.contains("rank 3"), "{text}");
        let text = Scenario::load("quick").expect_err("there is no such scenario").to_string();
        assert!(text.contains("quick") && text.contains("balanced"), "{text}");
        let text = Scenario::load("no/such.toml").expect_err("there is no such file").to_string();
        assert!(text.contains("no/such.toml"), "{text}");
    }
}
