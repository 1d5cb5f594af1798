//! Floating-point elements as `f32`.
//!
//! The two 16-bit conversions are written here: the crate `half` brings seven other crates, which take longer to compile
//! than this one. The tests compare every value with `half`.

use crate::DType;

/// Appends the little-endian elements of a type as `f32`.
pub(crate) type Convert = fn(&[u8], &mut Vec<f32>);

/// The conversion from a floating-point type; `None` for other types. Exact but for `f64`, which is rounded to the nearest.
pub(crate) fn to_f32(dtype: &DType) -> Option<Convert> {
    Some(match dtype {
        DType::F32 => |bytes, into| into.extend(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))),
        DType::F64 => |bytes, into| into.extend(bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32)),
        DType::F16 => |bytes, into| into.extend(bytes.as_chunks().0.iter().map(|&x| f16(u16::from_le_bytes(x)))),
        DType::BF16 => |bytes, into| into.extend(bytes.as_chunks().0.iter().map(|&x| bf16(u16::from_le_bytes(x)))),
        _ => return None,
    })
}

/// The first element that is finite and infinite as `f32`: its number and value.
pub(crate) fn overflow(dtype: &DType, bytes: &[u8], values: &[f32]) -> Option<(usize, f64)> {
    if *dtype != DType::F64 {
        return None;
    }
    let wide = bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x)).zip(values);
    let found = wide.enumerate().find(|(_, (wide, value))| value.is_infinite() && wide.is_finite());
    found.map(|(at, (wide, _))| (at, wide))
}

/// The first bit of an `f32`'s mantissa: set in every NaN that arithmetic makes.
const QUIET: u32 = 1 << 22;

fn f16(bits: u16) -> f32 {
    let (sign, magnitude) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff));
    let magnitude = match magnitude {
        0x7c00 => f32::INFINITY.to_bits(),
        0x7c01.. => f32::INFINITY.to_bits() | magnitude << 13 | QUIET,
        // The exponents are biased by 15 and 127. The product is exact, also of subnormal numbers.
        _ => (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 127 - 15) << 23)).to_bits(),
    };
    f32::from_bits(sign | magnitude)
}

fn bf16(bits: u16) -> f32 {
    let wide = u32::from(bits) << 16;
    let nan = wide & 0x7fff_ffff > f32::INFINITY.to_bits();
    f32::from_bits(if nan { wide | QUIET } else { wide })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_float_is_what_the_crate_half_makes_of_it() {
        for bits in 0..=u16::MAX {
            assert_eq!(f16(bits).to_bits(), half::f16::from_bits(bits).to_f32().to_bits(), "f16 {bits:#06x}");
            assert_eq!(bf16(bits).to_bits(), half::bf16::from_bits(bits).to_f32().to_bits(), "bf16 {bits:#06x}");
        }
    }
}
