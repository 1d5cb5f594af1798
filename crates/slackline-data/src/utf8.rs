//! Text as editors of all systems save it.

/// The text of a file, without the byte order mark that some editors begin it with.
///
/// # Errors
///
/// What else it is, in words: text in UTF-16, or no UTF-8.
///
/// # Examples
///
/// ```
/// assert_eq!(slackline_data::utf8(b"\xef\xbb\xbf{}"), Ok("{}"));
/// assert!(slackline_data::utf8(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16"));
/// ```
pub fn utf8(bytes: &[u8]) -> Result<&str, &'static str> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=0x7f, 0, ..] | [1..=0x7f, 0, 1..=0x7f, 0, ..] = bytes {
        return Err(UTF_16);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "no UTF-8 text")?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

pub(crate) const UTF_16: &str = "text in UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8";
