//! The header of a `.npy` array: format versions 1 to 3, little-endian, in C order.
//!
//! The format is specified in NumPy's NEP 1 and in `numpy.lib.format`.

use std::io::{self, Read};

/// Bytes of a header. NumPy itself warns above 10 000.
const MAX_HEADER: usize = 64 << 10;

/// The element types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F4,
    F8,
    I1,
    I2,
    I4,
    I8,
    U1,
    U2,
    U4,
    Bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
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

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Element::I1 | Element::U1 | Element::Bool => 1,
            Element::I2 | Element::U2 => 2,
            Element::F4 | Element::I4 | Element::U4 => 4,
            Element::F8 | Element::I8 => 8,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Element::F4 => "float32",
            Element::F8 => "float64",
            Element::I1 => "int8",
            Element::I2 => "int16",
            Element::I4 => "int32",
            Element::I8 => "int64",
            Element::U1 => "uint8",
            Element::U2 => "uint16",
            Element::U4 => "uint32",
            Element::Bool => "bool",
        }
    }

    /// Decodes floats; `None` for other types.
    pub(crate) fn f32_decoder(self) -> Option<fn(&[u8]) -> f32> {
        match self {
            Element::F4 => Some(|b| f32::from_le_bytes(array(b))),
            Element::F8 => Some(|b| f64::from_le_bytes(array(b)) as f32),
            _ => None,
        }
    }

    /// Decodes integers and booleans; `None` for other types.
    pub(crate) fn i64_decoder(self) -> Option<fn(&[u8]) -> i64> {
        match self {
            Element::F4 | Element::F8 => None,
            Element::I1 => Some(|b| i64::from(i8::from_le_bytes(array(b)))),
            Element::I2 => Some(|b| i64::from(i16::from_le_bytes(array(b)))),
            Element::I4 => Some(|b| i64::from(i32::from_le_bytes(array(b)))),
            Element::I8 => Some(|b| i64::from_le_bytes(array(b))),
            Element::U1 | Element::Bool => Some(|b| i64::from(b[0])),
            Element::U2 => Some(|b| i64::from(u16::from_le_bytes(array(b)))),
            Element::U4 => Some(|b| i64::from(u32::from_le_bytes(array(b)))),
        }
    }

    fn parse(descr: &str) -> Result<Element, String> {
        Ok(match descr {
            "<f4" => Element::F4,
            "<f8" => Element::F8,
            "|i1" | "<i1" => Element::I1,
            "<i2" => Element::I2,
            "<i4" => Element::I4,
            "<i8" => Element::I8,
            "|u1" | "<u1" => Element::U1,
            "<u2" => Element::U2,
            "<u4" => Element::U4,
            "|b1" => Element::Bool,
            _ if descr.starts_with('>') => return Err(format!("type '{descr}' is big-endian")),
            _ => return Err(format!("type '{descr}' is not supported")),
        })
    }
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
    let (element, shape) = parse_dictionary(text).map_err(HeaderError::Malformed)?;
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    let count =
        count.filter(|count| count.checked_mul(element.bytes()).is_some_and(|bytes| bytes <= isize::MAX as usize));
    let Some(count) = count else {
        return Err(HeaderError::Malformed(format!("shape {shape:?} is too large")));
    };
    Ok(Header { element, shape, count, bytes: (prefix + length) as u64 })
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("elements are cut to their size")
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
fn parse_dictionary(text: &str) -> Result<(Element, Vec<usize>), String> {
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
    if fortran.ok_or_else(|| missing("fortran_order"))? {
        return Err("Fortran order is not supported".to_owned());
    }
    Ok((element, shape.ok_or_else(|| missing("shape"))?))
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
            self.rest = &self.rest[digits..];
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
        let parse = parse_dictionary;
        let found = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (32, 13), }          \n");
        assert_eq!(found, Ok((Element::F4, vec![32, 13])));
        assert_eq!(parse("{'descr': '<i8', 'fortran_order': False, 'shape': (7,), }\n"), Ok((Element::I8, vec![7])));
        assert_eq!(parse("{\"shape\":(),\"fortran_order\":False,\"descr\":\"|u1\"}"), Ok((Element::U1, vec![])));
    }

    #[test]
    fn what_it_does_not() {
        for (header, problem) in [
            ("", "instead of '{'"),
            ("{'descr': '<f4', 'fortran_order': False}", "no 'shape'"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", "big-endian"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "'|O' is not supported"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", "Fortran"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "\"-1,)}\" instead of a size"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 99999999999999999999)}", "a size"),
            ("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", "appears twice"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "the end"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "'''"),
            ("{'shape': (1 2)}", "')'"),
        ] {
            let found = parse_dictionary(header).unwrap_err();
            assert!(found.contains(problem), "{header}: {found}");
        }
    }
}
