//! The operations that a kernel needs of a vector of `f32`, and a vector that every machine has.

use half::{bf16, f16};

use crate::Output;
use crate::kernels::Cache;

/// Some `f32` in a register.
///
/// A value of it is the proof that the machine has its instructions: the unsafe functions that make one ask for that, and
/// so the ones that compute with it need not.
pub(super) trait Vector: Copy {
    /// Values in a vector; even.
    const LANES: usize;

    /// Whether the loops are compiled in many variants for it, for speed, and not in few.
    const FAST: bool = true;

    /// # Safety
    ///
    /// The machine has the vector's instructions.
    unsafe fn splat(value: f32) -> Self;

    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// `self * times + plus`, rounded once.
    fn fused(self, times: Self, plus: Self) -> Self;

    /// # Safety
    ///
    /// The machine has the vector's instructions, and `LANES` little-endian values stand at `at`, on any address.
    unsafe fn load_f32(at: *const u8) -> Self;

    /// # Safety
    ///
    /// As [`load_f32`](Self::load_f32).
    unsafe fn load_f16(at: *const u8) -> Self;

    /// # Safety
    ///
    /// As [`load_f32`](Self::load_f32).
    unsafe fn load_bf16(at: *const u8) -> Self;

    /// The numbers that `LANES` bytes are.
    ///
    /// # Safety
    ///
    /// As [`load_f32`](Self::load_f32).
    unsafe fn load_u8(at: *const u8) -> Self;

    /// The numbers that the halves of `LANES / 2` bytes are, the low half first.
    ///
    /// # Safety
    ///
    /// As [`load_f32`](Self::load_f32).
    unsafe fn load_u4(at: *const u8) -> Self;

    /// Two half-precision values that stand side by side.
    ///
    /// # Safety
    ///
    /// The machine has the vector's instructions.
    #[inline(always)]
    unsafe fn two_halves(bytes: [u8; 4]) -> (f32, f32) {
        let [a, b, c, d] = bytes;
        (half_to_f32([a, b]), half_to_f32([c, d]))
    }

    /// # Safety
    ///
    /// There is room for `LANES` values at `at`, on any address.
    unsafe fn store_f32(self, at: *mut u8);

    /// [`store_f32`](Self::store_f32) past the caches, where the machine can: the line is not read before it is
    /// written, and evicts nothing. Other threads may see it later than stores after it, unless there is a [`fence`]
    /// between.
    ///
    /// # Safety
    ///
    /// As [`store_f32`](Self::store_f32), and `at` is a multiple of the vector's bytes.
    #[inline(always)]
    unsafe fn stream_f32(self, at: *mut u8) {
        // SAFETY: the caller's.
        unsafe { self.store_f32(at) }
    }

    /// Rounded to the nearest, ties to even.
    ///
    /// # Safety
    ///
    /// As [`store_f32`](Self::store_f32).
    unsafe fn store_f16(self, at: *mut u8);

    /// Rounded to the nearest, ties to even.
    ///
    /// # Safety
    ///
    /// As [`store_f32`](Self::store_f32).
    unsafe fn store_bf16(self, at: *mut u8);

    /// [`super::store_halves`], compiled once for the vector's instructions.
    ///
    /// # Safety
    ///
    /// As [`super::store_halves`].
    unsafe fn store_halves(values: &[Self], room: Output<'_>);
}

/// Asks for the cache line of an address, which need not be anything's. For a `cache` that is known where this is compiled.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, cache: Cache) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match cache {
            // SAFETY: a hint, which never faults; every x86-64 has it.
            Cache::First => unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) },
            // SAFETY: as above.
            Cache::Second => unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) },
        }
    }
    #[cfg(target_arch = "aarch64")]
    match cache {
        // SAFETY: a hint, which never faults and changes nothing.
        Cache::First => unsafe {
            std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        },
        // SAFETY: as above.
        Cache::Second => unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
        },
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, cache);
}

/// Orders streamed stores: a thread that sees a store after this also sees everything streamed before it.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// [`f16::to_f32`] without its check of the processor's features, which costs more than the conversion.
#[inline(always)]
fn half_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (sign, rest) = ((bits & 0x8000) << 16, bits & 0x7fff);
    // Exponent and fraction moved into place, 112 too small in the exponent; the product is exact, subnormals included.
    let magnitude = f32::from_bits(rest << 13) * f32::from_bits((127 + 112) << 23);
    // Infinities and NaNs came out as values of 65536 and more.
    let magnitude = if rest >= 0x7c00 { f32::from_bits(0x7f80_0000 | (rest & 0x3ff) << 13) } else { magnitude };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// An array, which the compiler puts into whatever registers there are.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; Portable::LANES]);

impl Portable {
    /// # Safety
    ///
    /// `N` bytes stand at `at`.
    #[inline(always)]
    unsafe fn bytes<const N: usize>(at: *const u8) -> [u8; N] {
        // SAFETY: the caller's; bytes are aligned everywhere.
        unsafe { at.cast::<[u8; N]>().read() }
    }

    #[inline(always)]
    fn zip(self, other: Self, with: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| with(self.0[lane], other.0[lane])))
    }

    /// # Safety
    ///
    /// There is room for that many bytes at `at`.
    #[inline(always)]
    unsafe fn put<const N: usize>(self, at: *mut u8, bytes_of: impl Fn(f32) -> [u8; N]) {
        for (lane, value) in self.0.into_iter().enumerate() {
            // SAFETY: the caller's; bytes are aligned everywhere.
            unsafe { at.wrapping_add(N * lane).cast::<[u8; N]>().write(bytes_of(value)) };
        }
    }
}

impl Vector for Portable {
    const LANES: usize = 8;
    const FAST: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; Self::LANES])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        Portable(std::array::from_fn(|lane| self.0[lane].mul_add(times.0[lane], plus.0[lane])))
    }

    #[inline(always)]
    unsafe fn load_f32(at: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes: [u8; 32] = unsafe { Self::bytes(at) };
        let values = bytes.as_chunks::<4>().0;
        Portable(std::array::from_fn(|lane| f32::from_le_bytes(values[lane])))
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes: [u8; 16] = unsafe { Self::bytes(at) };
        let values = bytes.as_chunks::<2>().0;
        Portable(std::array::from_fn(|lane| f16::from_le_bytes(values[lane]).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes: [u8; 16] = unsafe { Self::bytes(at) };
        let values = bytes.as_chunks::<2>().0;
        Portable(std::array::from_fn(|lane| bf16::from_le_bytes(values[lane]).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes: [u8; Self::LANES] = unsafe { Self::bytes(at) };
        Portable(bytes.map(f32::from))
    }

    #[inline(always)]
    unsafe fn load_u4(at: *const u8) -> Self {
        // SAFETY: the caller's.
        let bytes: [u8; Self::LANES / 2] = unsafe { Self::bytes(at) };
        Portable(std::array::from_fn(|lane| f32::from(bytes[lane / 2] >> (lane % 2 * 4) & 15)))
    }

    #[inline(always)]
    unsafe fn store_f32(self, at: *mut u8) {
        // SAFETY: the caller's.
        unsafe { self.put(at, f32::to_le_bytes) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        // SAFETY: the caller's.
        unsafe { self.put(at, |value| f16::from_f32(value).to_le_bytes()) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut u8) {
        // SAFETY: the caller's.
        unsafe { self.put(at, |value| bf16::from_f32(value).to_le_bytes()) }
    }
    #[inline(never)]
    unsafe fn store_halves(values: &[Self], room: Output<'_>) {
        // SAFETY: the caller's.
        unsafe { super::store_halves(values, room) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_half_precision_values_are_read_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (half_to_f32(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}");
        }
    }
}
