//! Text of unknown origin (names in a file, say) on a terminal.

use std::fmt::{self, Write};

/// Characters of a name that are shown; from longer ones the middle is left out.
const SHOWN: usize = 256;

/// Text that is safe to print on a terminal, on one line: `Display` writes control characters, line ends, and the invisible
/// characters that reorder text as escapes such as `\u{1b}`, and leaves out the middle of what is very long.
///
/// ```
/// use slackline_dlrm::Printable;
///
/// assert_eq!(Printable("emb_l.0\u{1b}[31m\n").to_string(), "emb_l.0\\u{1b}[31m\\n");
/// assert!(Printable(&"x".repeat(100_000)).to_string().len() < 300);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl Printable<'_> {
    /// Whether a character changes how a terminal shows the text around it, or does not show itself: controls (C0, C1 and
    /// DEL), line and paragraph separators, marks of direction, and other invisible ones.
    pub fn is_unprintable(character: char) -> bool {
        character.is_control()
            || matches!(
                character,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
            )
    }

    /// All of the text, whose lines stay lines: other unprintable characters are escaped.
    pub fn lines(text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '\n' => out.push('\n'),
                other => push(&mut out, other).expect("a string takes everything"),
            }
        }
        out
    }
}

fn push(out: &mut impl Write, character: char) -> fmt::Result {
    if Printable::is_unprintable(character) {
        write!(out, "{}", character.escape_default())
    } else {
        out.write_char(character)
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.chars().count();
        if count <= SHOWN {
            return self.0.chars().try_for_each(|character| push(f, character));
        }
        let ends = SHOWN / 2;
        self.0.chars().take(ends).try_for_each(|character| push(f, character))?;
        write!(f, "…({} characters)…", count - 2 * ends)?;
        self.0.chars().skip(count - ends).try_for_each(|character| push(f, character))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unprintable_is_left_and_the_rest_stays() {
        for text in ["\u{7f}\u{9b}31m", "a\r\nb", "\u{202e}txt\u{2066}", "\u{85}\u{2028}\u{2029}", "\0\t\u{7}"] {
            let shown = Printable(text).to_string();
            assert!(!shown.contains(Printable::is_unprintable), "{shown:?}");
            assert!(!Printable::lines(text).contains(|c| c != '\n' && Printable::is_unprintable(c)));
        }
        let plain = "größe ∑ 表 emb_l.0.weight \\x";
        assert_eq!(Printable(plain).to_string(), plain);
        assert_eq!(Printable::lines("a\nb\u{1b}"), "a\nb\\u{1b}");
        let long = format!("begin{}end", "x".repeat(1000));
        let shown = Printable(&long).to_string();
        assert!(
            shown.starts_with("beginx") && shown.ends_with("xend") && shown.contains("…(752 characters)…"),
            "{shown}"
        );
    }
}
