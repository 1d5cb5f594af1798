//! AVX-512 F, BW and VL: vectors of 16.

use std::arch::x86_64::*;

use super::vector::Vector;
use super::{Format, Index, Job};
use crate::Output;

/// [`super::samples`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn samples<F: Format, I: Index>(job: &Job<'_, I>, out: Output<'_>) {
    // SAFETY: the caller's.
    unsafe { super::samples::<Avx512, F, I>(job, out) }
}

/// [`super::store_halves`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::store_halves`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
#[inline(never)]
unsafe fn store_halves(values: &[Avx512], room: Output<'_>) {
    // SAFETY: the caller's.
    unsafe { super::store_halves(values, room) }
}

/// 16 values.
#[derive(Clone, Copy)]
struct Avx512(__m512);

/// Calls an intrinsic with values whose existence proves that the machine has it.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a vector exists only where the machine has the instructions.
        Avx512(unsafe { $call })
    };
}

/// Calls an intrinsic where the caller vouches for the machine (and for the memory, if it loads).
macro_rules! vouched {
    ($call:expr) => {
        // SAFETY: the caller's.
        unsafe { $call }
    };
}

impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Avx512(vouched!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        proven!(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        proven!(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        proven!(_mm512_div_ps(self.0, other.0))
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        proven!(_mm512_fmadd_ps(self.0, times.0, plus.0))
    }

    #[inline(always)]
    unsafe fn load_f32(at: *const u8) -> Self {
        Avx512(vouched!(_mm512_loadu_ps(at.cast())))
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        let halves = vouched!(_mm256_loadu_si256(at.cast()));
        Avx512(vouched!(_mm512_cvtph_ps(halves)))
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        let halves = vouched!(_mm256_loadu_si256(at.cast()));
        let wide = vouched!(_mm512_cvtepu16_epi32(halves));
        let bits = vouched!(_mm512_slli_epi32::<16>(wide));
        Avx512(vouched!(_mm512_castsi512_ps(bits)))
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self {
        let bytes = vouched!(_mm_loadu_si128(at.cast()));
        let wide = vouched!(_mm512_cvtepu8_epi32(bytes));
        Avx512(vouched!(_mm512_cvtepi32_ps(wide)))
    }

    #[inline(always)]
    unsafe fn load_u4(at: *const u8) -> Self {
        // The lower 32 bits in 8 lanes, the upper in the others, each shifted to its own 4.
        let lower = vouched!(_mm512_set1_epi32(at.cast::<i32>().read_unaligned()));
        let words = vouched!(_mm512_mask_set1_epi32(lower, 0xff00, at.wrapping_add(4).cast::<i32>().read_unaligned()));
        let shifts = vouched!(_mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28));
        let shifted = vouched!(_mm512_srlv_epi32(words, shifts));
        // Looks at the low 4 bits only, and saves the conversion.
        let numbers = vouched!(_mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.));
        Avx512(vouched!(_mm512_permutexvar_ps(shifted, numbers)))
    }

    #[inline(always)]
    unsafe fn two_halves(bytes: [u8; 4]) -> (f32, f32) {
        let both = vouched!(_mm_cvtsi32_si128(i32::from_le_bytes(bytes)));
        let values = vouched!(_mm_cvtph_ps(both));
        let first = vouched!(_mm_cvtss_f32(values));
        let second = vouched!(_mm_movehdup_ps(values));
        (first, vouched!(_mm_cvtss_f32(second)))
    }

    #[inline(always)]
    unsafe fn store_f32(self, at: *mut u8) {
        vouched!(_mm512_storeu_ps(at.cast(), self.0));
    }

    #[inline(always)]
    unsafe fn stream_f32(self, at: *mut u8) {
        vouched!(_mm512_stream_ps(at.cast(), self.0));
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        let halves = vouched!(_mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(self.0));
        vouched!(_mm256_storeu_si256(at.cast(), halves));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut u8) {
        let bits = vouched!(_mm512_castps_si512(self.0));
        let upper = vouched!(_mm512_srli_epi32::<16>(bits));
        let one = vouched!(_mm512_set1_epi32(1));
        let odd = vouched!(_mm512_and_si512(upper, one));
        let below_half = vouched!(_mm512_set1_epi32(0x7fff));
        let nudge = vouched!(_mm512_add_epi32(odd, below_half));
        let nudged = vouched!(_mm512_add_epi32(bits, nudge));
        let rounded = vouched!(_mm512_srli_epi32::<16>(nudged));
        // A NaN may have been rounded to infinity: its upper half, made quiet, instead.
        let quiet_bit = vouched!(_mm512_set1_epi32(0x40));
        let quiet = vouched!(_mm512_or_si512(upper, quiet_bit));
        let is_nan = vouched!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0));
        let chosen = vouched!(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
        let halves = vouched!(_mm512_cvtepi32_epi16(chosen));
        vouched!(_mm256_storeu_si256(at.cast(), halves));
    }
    #[inline(always)]
    unsafe fn store_halves(values: &[Self], room: Output<'_>) {
        // SAFETY: the caller's.
        unsafe { store_halves(values, room) }
    }
}
