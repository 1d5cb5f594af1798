//! The header of a `.npy` array: format versions 1 to 3.
//!
//! The format is specified in NumPy's NEP 1 and in `numpy.lib.format`.

use std::io::{self, Read};

use crate::element::Element;

/// Bytes of a header. NumPy itself warns above 10 000.
const MAX_HEADER: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    /// Whether the first index runs fastest, and not the last.
    pub(crate) fortran: bool,
    /// Product of the shape.
    pub(crate) count: usize,
    /// Bytes of the header, with magic number and padding.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) enum HeaderError {
    Io(io::Error),
    Malformed(String),
}

/// Reads the header, and leaves `reader` at the first element.
pub(crate) fn read_header(reader: &mut impl Read) -> Result<Header, HeaderError> {
    let start: [u8; 8] = exact(reader)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err(HeaderError::Malformed("no .npy magic number".to_owned()));
    }
    let (length, prefix) = match start[6] {
        1 => (usize::from(u16::from_le_bytes(exact(reader)?)), 10),
        2 | 3 => (usize::try_from(u32::from_le_bytes(exact(reader)?)).unwrap_or(usize::MAX), 12),
        version => return Err(HeaderError::Malformed(format!(".npy version {version} is not known"))),
    };
    if length > MAX_HEADER {
        return Err(HeaderError::Malformed(format!("header of {length} bytes")));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(truncated)?;
    let text = std::str::from_utf8(&text).map_err(|_| HeaderError::Malformed("header is not text".to_owned()))?;
    let (element, fortran, shape) = parse_dictionary(text).map_err(HeaderError::Malformed)?;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let count =
        count.filter(|count| count.checked_mul(element.bytes()).is_some_and(|bytes| bytes <= isize::MAX as usize));
    let Some(count) = count else {
        return Err(HeaderError::Malformed(format!("shape {shape:?} is too large")));
    };
    Ok(Header { element, shape, fortran, count, bytes: (prefix + length) as u64 })
}

fn exact<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], HeaderError> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(truncated)?;
    Ok(bytes)
}

fn truncated(error: io::Error) -> HeaderError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => HeaderError::Malformed("truncated header".to_owned()),
        _ => HeaderError::Io(error),
    }
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (32, 13), }`, keys in any order, each exactly once.
fn parse_dictionary(text: &str) -> Result<(Element, bool, Vec<usize>), String> {
    let mut rest = Literal { rest: text };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    rest.expect('{')?;
    while !rest.eat('}') {
        let key = rest.string()?;
        rest.expect(':')?;
        let repeated = match key {
            "descr" => descr.replace(rest.string()?).is_some(),
            "fortran_order" => fortran.replace(rest.truth()?).is_some(),
            "shape" => shape.replace(rest.tuple()?).is_some(),
            _ => return Err(format!("unknown header key '{key}'")),
        };
        if repeated {
            return Err(format!("header key '{key}' appears twice"));
        }
        if !rest.eat(',') {
            rest.expect('}')?;
            break;
        }
    }
    rest.end()?;
    let missing = |key: &str| format!("header has no '{key}'");
    let element = Element::parse(descr.ok_or_else(|| missing("descr"))?)?;
    let fortran = fortran.ok_or_else(|| missing("fortran_order"))?;
    Ok((element, fortran, shape.ok_or_else(|| missing("shape"))?))
}

/// The rest of a Python literal.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn eat(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_ascii_start();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.eat(wanted) { Ok(()) } else { Err(self.unexpected(&format!("'{wanted}'"))) }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        if self.eat('[') {
            return Err("a structured array (named fields); save its fields as arrays of their own".to_owned());
        }
        let quote = if self.eat('"') {
            '"'
        } else {
            self.expect('\'')?;
            '\''
        };
        let (string, rest) = self.rest.split_once(quote).ok_or_else(|| self.unexpected("a string"))?;
        self.rest = rest;
        Ok(string)
    }

    fn truth(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_ascii_start();
        for (name, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(name) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        self.expect('(')?;
        let mut sizes = Vec::new();
        while !self.eat(')') {
            self.rest = self.rest.trim_ascii_start();
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let size = self.rest[..digits].parse().map_err(|_| self.unexpected("a size"))?;
            // Python 2 wrote its long integers with this suffix.
            self.rest = self.rest[digits..].strip_prefix('L').unwrap_or(&self.rest[digits..]);
            sizes.push(size);
            if !self.eat(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(sizes)
    }

    fn end(&self) -> Result<(), String> {
        if self.rest.trim_ascii().is_empty() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        let found: String = self.rest.chars().take(20).collect();
        format!("header has {found:?} instead of {wanted}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_numpy_writes() {
        let parse = |text| parse_dictionary(text).map(|(element, fortran, shape)| (element.name(), fortran, shape));
        let found = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (32, 13), }          \n");
        assert_eq!(found, Ok(("float32", false, vec![32, 13])));
        let found = parse("{'descr': '>i8', 'fortran_order': True, 'shape': (7L,), }\n");
        assert_eq!(found, Ok(("int64", true, vec![7])));
        assert_eq!(parse("{\"shape\":(),\"fortran_order\":False,\"descr\":\"|u1\"}"), Ok(("uint8", false, vec![])));
    }

    #[test]
    fn what_it_does_not() {
        for (header, problem) in [
            ("", "instead of '{'"),
            ("{'descr': '<f4', 'fortran_order': False}", "no 'shape'"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "'|O' is not supported: pickled"),
            ("{'descr': '<U8', 'fortran_order': False, 'shape': (1,)}", "'<U8' is not supported: text"),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "'<c8' is not supported: expected an integer"),
            ("{'descr': '', 'fortran_order': False, 'shape': (1,)}", "'' is not supported"),
            ("{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}", "instead of True or False"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "\"-1,)}\" instead of a size"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999999999999)}", "a size"),
            ("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", "appears twice"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "the end"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "structured"),
            ("{'shape': (1 2)}", "')'"),
        ] {
            let found = parse_dictionary(header).unwrap_err();
            assert!(found.contains(problem), "{header}: {found}");
        }
    }
}
