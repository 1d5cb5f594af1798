//! Reads and adds a row's values, format by format.

use half::{bf16, f16};

use super::vector::Vector;
use crate::Rows;

/// Where the parts of a quantised row are; zeros for other formats.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    values_at: usize,
    scale_at: usize,
    half: bool,
}

impl Parts {
    pub(super) fn of(rows: Rows<'_>) -> Self {
        match rows.format().quantised(rows.dim()) {
            None => Parts { values_at: 0, scale_at: 0, half: false },
            Some(parts) => Parts { values_at: parts.values_at, scale_at: parts.scale_at, half: parts.half },
        }
    }
}

/// A row format, or two that differ in [`Parts`] only.
pub(super) trait Format {
    /// What belongs to a whole row: scale and bias, times the weight, of a quantised one; else the weight.
    ///
    /// # Safety
    ///
    /// `row` is the first byte of a row, and the machine has the instructions of `V`.
    unsafe fn head<V: Vector, const WEIGHTED: bool>(parts: &Parts, row: *const u8, weight: f32) -> (f32, f32);

    /// Adds the values from a column on to a vector of sums.
    ///
    /// # Safety
    ///
    /// `row` is the first byte of a row that has `V::LANES` columns from `column` on; `column` is a multiple of that.
    unsafe fn add<V: Vector, const WEIGHTED: bool>(
        sum: V,
        parts: &Parts,
        row: *const u8,
        column: usize,
        first: V,
        second: V,
    ) -> V;

    /// Adds the value of one column to a sum.
    ///
    /// # Safety
    ///
    /// `row` is the first byte of a row that has this column.
    unsafe fn add_one<const WEIGHTED: bool>(
        sum: f32,
        parts: &Parts,
        row: *const u8,
        column: usize,
        first: f32,
        second: f32,
    ) -> f32;
}

/// # Safety
///
/// The bytes are inside of the row.
#[inline(always)]
unsafe fn read<const N: usize>(row: *const u8, at: usize) -> [u8; N] {
    // SAFETY: the caller's; bytes are aligned everywhere.
    unsafe { row.wrapping_add(at).cast::<[u8; N]>().read() }
}

macro_rules! floats {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $load:ident, $value:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Format for $name {
            #[inline(always)]
            unsafe fn head<V: Vector, const WEIGHTED: bool>(_: &Parts, _: *const u8, weight: f32) -> (f32, f32) {
                (weight, 0.0)
            }

            #[inline(always)]
            unsafe fn add<V: Vector, const WEIGHTED: bool>(
                sum: V,
                _: &Parts,
                row: *const u8,
                column: usize,
                weight: V,
                _: V,
            ) -> V {
                // SAFETY: the caller's: that many columns, of so many bytes each.
                let values = unsafe { V::$load(row.wrapping_add($bytes * column)) };
                sum.add(if WEIGHTED { weight.mul(values) } else { values })
            }

            #[inline(always)]
            unsafe fn add_one<const WEIGHTED: bool>(
                sum: f32,
                _: &Parts,
                row: *const u8,
                column: usize,
                weight: f32,
                _: f32,
            ) -> f32 {
                // SAFETY: the caller's.
                let value: f32 = $value(unsafe { read::<$bytes>(row, $bytes * column) });
                sum + if WEIGHTED { weight * value } else { value }
            }
        }
    };
}

floats!(
    /// Single precision.
    F32, 4, load_f32, f32::from_le_bytes
);
floats!(
    /// Half precision.
    F16, 2, load_f16, |bytes| f16::from_le_bytes(bytes).to_f32()
);
floats!(
    /// The upper half of single precision.
    Bf16, 2, load_bf16, |bytes| bf16::from_le_bytes(bytes).to_f32()
);

/// # Safety
///
/// As [`Format::head`], for a quantised row.
#[inline(always)]
unsafe fn scale_and_bias<V: Vector, const WEIGHTED: bool>(parts: &Parts, row: *const u8, weight: f32) -> (f32, f32) {
    let (scale, bias) = if parts.half {
        // SAFETY: two values of 2 bytes stand there.
        let both = unsafe { read::<4>(row, parts.scale_at) };
        // SAFETY: the caller's.
        unsafe { V::two_halves(both) }
    } else {
        // SAFETY: two values of 4 bytes stand there.
        let both = u64::from_le_bytes(unsafe { read::<8>(row, parts.scale_at) });
        (f32::from_bits(both as u32), f32::from_bits((both >> 32) as u32))
    };
    if WEIGHTED { (scale * weight, bias * weight) } else { (scale, bias) }
}

macro_rules! quantised {
    ($(#[$doc:meta])* $name:ident, $columns_a_byte:literal, $load:ident, $code:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Format for $name {
            #[inline(always)]
            unsafe fn head<V: Vector, const WEIGHTED: bool>(parts: &Parts, row: *const u8, weight: f32) -> (f32, f32) {
                // SAFETY: the caller's.
                unsafe { scale_and_bias::<V, WEIGHTED>(parts, row, weight) }
            }

            #[inline(always)]
            unsafe fn add<V: Vector, const WEIGHTED: bool>(
                sum: V,
                parts: &Parts,
                row: *const u8,
                column: usize,
                scale: V,
                bias: V,
            ) -> V {
                // SAFETY: the caller's: that many columns from here on.
                let codes = unsafe { V::$load(row.wrapping_add(parts.values_at + column / $columns_a_byte)) };
                codes.fused(scale, sum.add(bias))
            }

            #[inline(always)]
            unsafe fn add_one<const WEIGHTED: bool>(
                sum: f32,
                parts: &Parts,
                row: *const u8,
                column: usize,
                scale: f32,
                bias: f32,
            ) -> f32 {
                // SAFETY: the caller's.
                let [byte] = unsafe { read::<1>(row, parts.values_at + column / $columns_a_byte) };
                f32::from($code(byte, column)).mul_add(scale, sum + bias)
            }
        }
    };
}

quantised!(
    /// A byte for each column.
    Int8, 1, load_u8, |byte: u8, _: usize| byte
);
quantised!(
    /// Half a byte for each column, the even one in the low half.
    Int4, 2, load_u4, |byte: u8, column: usize| byte >> (column % 2 * 4) & 15
);
