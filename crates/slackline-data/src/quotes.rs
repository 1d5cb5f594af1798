//! Quoted fields of a text: RFC 4180's rules, with any separator.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// Whether a record goes on after a line end, because a quoted field is open there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quotes {
    separator: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a field.
    Start,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two that stand for one.
    Closing,
}

impl Quotes {
    pub(crate) fn new(separator: u8) -> Self {
        Quotes { separator, state: State::Start }
    }

    /// Whether a quoted field is open after these bytes, which follow those of earlier calls.
    pub(crate) fn open_after(&mut self, bytes: &[u8]) -> bool {
        if self.state != State::Quoted && memchr(b'"', bytes).is_none() {
            return false;
        }
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (State::Start, b'"') | (State::Closing, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::Closing,
                (State::Quoted, _) => State::Quoted,
                (_, byte) if byte == self.separator => State::Start,
                _ => State::Plain,
            };
        }
        self.state == State::Quoted
    }
}

/// The fields of a record; `Err` is what is wrong with its quotes.
pub(crate) fn fields(record: &[u8], separator: u8) -> Result<Vec<Cow<'_, [u8]>>, &'static str> {
    if memchr(b'"', record).is_none() {
        return Ok(record.split(|&byte| byte == separator).map(Cow::Borrowed).collect());
    }
    let mut fields = Vec::new();
    let mut rest = record;
    loop {
        let Some(quoted) = rest.strip_prefix(b"\"") else {
            let end = memchr(separator, rest);
            fields.push(Cow::Borrowed(&rest[..end.unwrap_or(rest.len())]));
            match end {
                Some(end) => rest = &rest[end + 1..],
                None => return Ok(fields),
            }
            continue;
        };
        let mut quotes = memchr_iter(b'"', quoted);
        let end = loop {
            let at = quotes.next().ok_or("a quoted field is not closed")?;
            if quoted.get(at + 1) != Some(&b'"') {
                break at;
            }
            quotes.next();
        };
        fields.push(unescaped(&quoted[..end]));
        match quoted.get(end + 1) {
            None => return Ok(fields),
            Some(&byte) if byte == separator => rest = &quoted[end + 2..],
            Some(_) => return Err("text after the closing quote of a field"),
        }
    }
}

/// The content of a quoted field: two quotes stand for one.
fn unescaped(content: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'"', content).is_none() {
        return Cow::Borrowed(content);
    }
    let mut text = Vec::with_capacity(content.len());
    let mut bytes = content.iter();
    while let Some(&byte) = bytes.next() {
        text.push(byte);
        if byte == b'"' {
            bytes.next();
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(record: &str) -> Result<Vec<String>, &'static str> {
        let fields = fields(record.as_bytes(), b',')?;
        Ok(fields.iter().map(|field| String::from_utf8(field.to_vec()).unwrap()).collect())
    }

    #[test]
    fn fields_of_quoted_records() {
        for (record, expected) in [
            ("", &[""][..]),
            ("a,b", &["a", "b"]),
            ("\"a\",\"b\"", &["a", "b"]),
            ("\"a,b\",\"c\"\"d\",", &["a,b", "c\"d", ""]),
            ("\"\",\"\"\"\"", &["", "\""]),
            ("5\" disc,x", &["5\" disc", "x"]),
            ("\"two\nlines\",1", &["two\nlines", "1"]),
        ] {
            assert_eq!(of(record).unwrap(), expected, "{record}");
        }
        assert_eq!(of("\"a,b"), Err("a quoted field is not closed"));
        assert_eq!(of("\"a\"b,c"), Err("text after the closing quote of a field"));
    }

    #[test]
    fn a_record_goes_on_while_a_field_is_open() {
        for (record, open) in
            [("a,\"b", true), ("a,\"b\"", false), ("a,\"b\"\"", true), ("5\" disc", false), ("\"", true)]
        {
            assert_eq!(Quotes::new(b',').open_after(record.as_bytes()), open, "{record}");
        }
        let mut quotes = Quotes::new(b',');
        assert!(quotes.open_after(b"\"a") && quotes.open_after(b"\nplain, text") && !quotes.open_after(b"\nb\",c"));
    }
}
