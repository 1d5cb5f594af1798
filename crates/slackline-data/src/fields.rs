//! The values in the columns of Criteo's click logs.

use crate::preprocessing::DenseTransform;

pub(crate) fn parse_dense(field: &[u8], transform: DenseTransform) -> Option<f32> {
    let (negative, digits) = match field.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, field),
    };
    // Fifteen digits are exact in f64.
    let value = if !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit) {
        let value = digits.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0')) as f64;
        if negative { -value } else { value }
    } else {
        parse_finite(field)?
    };
    transform.apply(value)
}

pub(crate) fn parse_label(field: &[u8]) -> Option<f32> {
    match field {
        b"0" => Some(0.0),
        b"1" => Some(1.0),
        _ => parse_finite(field).filter(|label| (0.0..=1.0).contains(label)).map(|label| label as f32),
    }
}

pub(crate) fn parse_finite(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The number that a category stands for; 0 for an empty field, `None` where it is no number.
pub(crate) fn parse_hex(field: &[u8]) -> Option<u64> {
    if field.len() > 16 {
        return None;
    }
    let (mut value, mut wrong) = (0u64, 0u8);
    for &digit in field {
        let nibble = NIBBLES[usize::from(digit)];
        wrong |= nibble;
        value = value << 4 | u64::from(nibble & 15);
    }
    (wrong < 16).then_some(value)
}

/// The value of a hexadecimal digit, 16 where it is none.
static NIBBLES: [u8; 256] = {
    let mut nibbles = [16; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[b"0123456789abcdef"[digit] as usize] = digit as u8;
        nibbles[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    nibbles
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_fields() {
        assert_eq!(parse_hex(b""), Some(0));
        assert_eq!(parse_hex(b"68fd1e64"), Some(0x68fd_1e64));
        assert_eq!(parse_hex(b"FFFFFFFFFFFFFFFF"), Some(u64::MAX));
        for bad in ["10000000000000000", "0x1", "g", " 1", "1 ", "-1", "1.0", "é"] {
            assert_eq!(parse_hex(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn dense_fields() {
        let parse = |field| parse_dense(field, DenseTransform::Ln1p);
        assert_eq!(parse(b"0"), Some(0.0));
        assert_eq!(parse(b"-3"), Some(0.0));
        assert_eq!(parse(b"-0.5"), Some(0.0));
        assert_eq!(parse(b"260.0"), parse(b"260"));
        assert_eq!(parse(b"17668"), Some((17669f64).ln() as f32));
        assert_eq!(parse(b"123456789012345678"), Some((123456789012345679f64).ln() as f32));
        for bad in ["-", "--1", "nan", "inf", "1e999", "1,0", "0x10", " 1", "1_000"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_dense(b"-2", DenseTransform::Ln3), Some(0.0));
        assert_eq!(parse_dense(b"-2.5", DenseTransform::Ln3), Some(0.5f64.ln() as f32));
        assert_eq!(parse_dense(b"-3", DenseTransform::Ln3), None);
        assert_eq!(parse_dense(b"-3.25", DenseTransform::None), Some(-3.25));
        assert_eq!(parse_dense(b"1e39", DenseTransform::None), None);
    }

    #[test]
    fn labels() {
        assert_eq!(parse_label(b"1.0"), Some(1.0));
        for bad in ["", "2", "-1", "yes", "nan"] {
            assert_eq!(parse_label(bad.as_bytes()), None, "{bad}");
        }
    }
}
