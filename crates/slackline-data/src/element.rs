//! The types of array elements, and their values as the numbers of an input.

/// The type of an element: any number of NumPy that is not complex and has at most 64 bits, in either byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    kind: Kind,
    big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F2,
    F4,
    F8,
    I1,
    I2,
    I4,
    I8,
    U1,
    U2,
    U4,
    U8,
    Bool,
}

impl Element {
    /// `int32`, little-endian.
    pub(crate) const I4: Element = Element { kind: Kind::I4, big_endian: false };

    /// The element of a `descr`: a byte order, a kind and a size in bytes.
    pub(crate) fn parse(descr: &str) -> Result<Element, String> {
        let refuse = |why: &str| Err(format!("type '{descr}' is not supported{why}"));
        let Some((order @ ('<' | '>' | '|' | '='), name)) = descr.chars().next().map(|c| (c, &descr[c.len_utf8()..]))
        else {
            return refuse("");
        };
        let kind = match name {
            "f2" => Kind::F2,
            "f4" => Kind::F4,
            "f8" => Kind::F8,
            "i1" => Kind::I1,
            "i2" => Kind::I2,
            "i4" => Kind::I4,
            "i8" => Kind::I8,
            "u1" => Kind::U1,
            "u2" => Kind::U2,
            "u4" => Kind::U4,
            "u8" => Kind::U8,
            "b1" => Kind::Bool,
            _ if name.starts_with('O') => return refuse(": pickled Python objects, which are never read"),
            _ if name.starts_with(['U', 'S', 'a']) => return refuse(": text; convert it to numbers"),
            _ => return refuse(": expected an integer, bool, float16, float32 or float64"),
        };
        Ok(Element { kind, big_endian: order == '>' })
    }

    pub(crate) fn bytes(self) -> usize {
        match self.kind {
            Kind::I1 | Kind::U1 | Kind::Bool => 1,
            Kind::F2 | Kind::I2 | Kind::U2 => 2,
            Kind::F4 | Kind::I4 | Kind::U4 => 4,
            Kind::F8 | Kind::I8 | Kind::U8 => 8,
        }
    }

    /// NumPy's name.
    pub(crate) fn name(self) -> &'static str {
        match self.kind {
            Kind::F2 => "float16",
            Kind::F4 => "float32",
            Kind::F8 => "float64",
            Kind::I1 => "int8",
            Kind::I2 => "int16",
            Kind::I4 => "int32",
            Kind::I8 => "int64",
            Kind::U1 => "uint8",
            Kind::U2 => "uint16",
            Kind::U4 => "uint32",
            Kind::U8 => "uint64",
            Kind::Bool => "bool",
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self.kind, Kind::F2 | Kind::F4 | Kind::F8)
    }

    pub(crate) fn is_byte(self) -> bool {
        self.kind == Kind::U1
    }

    /// Brings elements into little-endian order, which the decoders expect.
    pub(crate) fn to_little_endian(self, elements: &mut [u8]) {
        if self.big_endian && self.bytes() > 1 {
            elements.chunks_exact_mut(self.bytes()).for_each(<[u8]>::reverse);
        }
    }

    /// Decodes to `f32`: `float64` is rounded, an integer that `f32` does not have is `None`.
    pub(crate) fn f32_decoder(self) -> fn(&[u8]) -> Option<f32> {
        fn exact(value: i64) -> Option<f32> {
            let float = value as f32;
            (float as i128 == i128::from(value)).then_some(float)
        }
        match self.kind {
            Kind::F2 => |b| Some(half::f16::from_le_bytes(array(b)).to_f32()),
            Kind::F4 => |b| Some(f32::from_le_bytes(array(b))),
            Kind::F8 => |b| Some(f64::from_le_bytes(array(b)) as f32),
            Kind::I1 => |b| exact(i8::from_le_bytes(array(b)).into()),
            Kind::I2 => |b| exact(i16::from_le_bytes(array(b)).into()),
            Kind::I4 => |b| exact(i32::from_le_bytes(array(b)).into()),
            Kind::I8 => |b| exact(i64::from_le_bytes(array(b))),
            Kind::U1 | Kind::Bool => |b| Some(f32::from(b[0])),
            Kind::U2 => |b| exact(u16::from_le_bytes(array(b)).into()),
            Kind::U4 => |b| exact(u32::from_le_bytes(array(b)).into()),
            Kind::U8 => |b| exact(i64::try_from(u64::from_le_bytes(array(b))).ok()?),
        }
    }

    /// Decodes to `f64`: an integer above 2^53 is rounded.
    pub(crate) fn f64_decoder(self) -> fn(&[u8]) -> f64 {
        match self.kind {
            Kind::F2 => |b| half::f16::from_le_bytes(array(b)).to_f64(),
            Kind::F4 => |b| f32::from_le_bytes(array(b)).into(),
            Kind::F8 => |b| f64::from_le_bytes(array(b)),
            Kind::I1 => |b| i8::from_le_bytes(array(b)).into(),
            Kind::I2 => |b| i16::from_le_bytes(array(b)).into(),
            Kind::I4 => |b| i32::from_le_bytes(array(b)).into(),
            Kind::I8 => |b| i64::from_le_bytes(array(b)) as f64,
            Kind::U1 | Kind::Bool => |b| b[0].into(),
            Kind::U2 => |b| u16::from_le_bytes(array(b)).into(),
            Kind::U4 => |b| u32::from_le_bytes(array(b)).into(),
            Kind::U8 => |b| u64::from_le_bytes(array(b)) as f64,
        }
    }

    /// Decodes to `i64`: a float with a fraction, and an integer that `i64` does not have, are `None`.
    pub(crate) fn i64_decoder(self) -> fn(&[u8]) -> Option<i64> {
        fn whole(value: f64) -> Option<i64> {
            const END: f64 = 9_223_372_036_854_775_808.0;
            (value.trunc() == value && (-END..END).contains(&value)).then_some(value as i64)
        }
        match self.kind {
            Kind::F2 => |b| whole(half::f16::from_le_bytes(array(b)).to_f64()),
            Kind::F4 => |b| whole(f32::from_le_bytes(array(b)).into()),
            Kind::F8 => |b| whole(f64::from_le_bytes(array(b))),
            Kind::I1 => |b| Some(i8::from_le_bytes(array(b)).into()),
            Kind::I2 => |b| Some(i16::from_le_bytes(array(b)).into()),
            Kind::I4 => |b| Some(i32::from_le_bytes(array(b)).into()),
            Kind::I8 => |b| Some(i64::from_le_bytes(array(b))),
            Kind::U1 | Kind::Bool => |b| Some(b[0].into()),
            Kind::U2 => |b| Some(u16::from_le_bytes(array(b)).into()),
            Kind::U4 => |b| Some(u32::from_le_bytes(array(b)).into()),
            Kind::U8 => |b| i64::try_from(u64::from_le_bytes(array(b))).ok(),
        }
    }

    /// An element for an error message.
    pub(crate) fn text(self, bytes: &[u8]) -> String {
        match self.kind {
            Kind::U8 => u64::from_le_bytes(array(bytes)).to_string(),
            // Debug has an exponent where the other one has hundreds of digits.
            _ if self.is_float() => match self.f64_decoder()(bytes) {
                value if value.abs() < 1e16 => value.to_string(),
                value => format!("{value:?}"),
            },
            _ => self.i64_decoder()(bytes).map_or_else(String::new, |value| value.to_string()),
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("elements are cut to their size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_in_both_orders() {
        for (descr, big, value) in [
            ("f2", &[0x3e, 0x00][..], 1.5),
            ("f4", &1.5f32.to_be_bytes(), 1.5),
            ("f8", &1.5f64.to_be_bytes(), 1.5),
            ("i1", &[0xfe], -2.0),
            ("i2", &(-2i16).to_be_bytes(), -2.0),
            ("i4", &(-2i32).to_be_bytes(), -2.0),
            ("i8", &(-2i64).to_be_bytes(), -2.0),
            ("u1", &[254], 254.0),
            ("u2", &65534u16.to_be_bytes(), 65534.0),
            ("u4", &16_777_216u32.to_be_bytes(), 16_777_216.0),
            ("u8", &7u64.to_be_bytes(), 7.0),
            ("b1", &[1], 1.0),
        ] {
            for order in ['<', '>'] {
                let element = Element::parse(&format!("{order}{descr}")).unwrap();
                assert_eq!(element.bytes(), big.len());
                let mut bytes = big.to_vec();
                if order == '<' {
                    bytes.reverse();
                }
                element.to_little_endian(&mut bytes);
                assert_eq!(element.f64_decoder()(&bytes), value, "{order}{descr}");
                assert_eq!(element.f32_decoder()(&bytes), Some(value as f32), "{order}{descr}");
                let whole = (value.fract() == 0.0).then_some(value as i64);
                assert_eq!(element.i64_decoder()(&bytes), whole, "{order}{descr}");
                assert_eq!(element.text(&bytes), value.to_string(), "{order}{descr}");
            }
        }
    }

    #[test]
    fn nothing_is_lost_silently() {
        let parse = |descr| Element::parse(descr).unwrap();
        assert_eq!(parse("<u8").i64_decoder()(&u64::MAX.to_le_bytes()), None);
        assert_eq!(parse("<u8").text(&u64::MAX.to_le_bytes()), "18446744073709551615");
        assert_eq!(parse("<f8").text(&1e300f64.to_le_bytes()), "1e300");
        assert_eq!(parse("<i4").f32_decoder()(&16_777_217i32.to_le_bytes()), None);
        assert_eq!(parse("<i8").f32_decoder()(&i64::MAX.to_le_bytes()), None);
        for wrong in [0.5, f64::NAN, f64::INFINITY, 9.3e18] {
            assert_eq!(parse("<f8").i64_decoder()(&wrong.to_le_bytes()), None, "{wrong}");
        }
    }
}
