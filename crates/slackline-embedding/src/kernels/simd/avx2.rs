//! AVX2, FMA and F16C: vectors of 8.

use std::arch::x86_64::*;

use super::vector::Vector;
use super::{Format, Index, Job};
use crate::Output;

/// [`super::samples`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn samples<F: Format, I: Index>(job: &Job<'_, I>, out: Output<'_>) {
    // SAFETY: the caller's.
    unsafe { super::samples::<Avx2, F, I>(job, out) }
}

/// [`super::store_halves`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::store_halves`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn store_halves(values: &[Avx2], room: Output<'_>) {
    // SAFETY: the caller's.
    unsafe { super::store_halves(values, room) }
}

/// 8 values.
#[derive(Clone, Copy)]
struct Avx2(__m256);

/// Calls an intrinsic with values whose existence proves that the machine has it.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a vector exists only where the machine has the instructions.
        Avx2(unsafe { $call })
    };
}

/// Calls an intrinsic where the caller vouches for the machine (and for the memory, if it loads).
macro_rules! vouched {
    ($call:expr) => {
        // SAFETY: the caller's.
        unsafe { $call }
    };
}

impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Avx2(vouched!(_mm256_set1_ps(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        proven!(_mm256_add_ps(self.0, other.0))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        proven!(_mm256_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        proven!(_mm256_div_ps(self.0, other.0))
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        proven!(_mm256_fmadd_ps(self.0, times.0, plus.0))
    }

    #[inline(always)]
    unsafe fn load_f32(at: *const u8) -> Self {
        Avx2(vouched!(_mm256_loadu_ps(at.cast())))
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        let halves = vouched!(_mm_loadu_si128(at.cast()));
        Avx2(vouched!(_mm256_cvtph_ps(halves)))
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        let halves = vouched!(_mm_loadu_si128(at.cast()));
        let wide = vouched!(_mm256_cvtepu16_epi32(halves));
        let bits = vouched!(_mm256_slli_epi32::<16>(wide));
        Avx2(vouched!(_mm256_castsi256_ps(bits)))
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self {
        let bytes = vouched!(_mm_loadl_epi64(at.cast()));
        let wide = vouched!(_mm256_cvtepu8_epi32(bytes));
        Avx2(vouched!(_mm256_cvtepi32_ps(wide)))
    }

    #[inline(always)]
    unsafe fn load_u4(at: *const u8) -> Self {
        // All 32 bits in every lane, each shifted to its own 4.
        let word = vouched!(at.cast::<i32>().read_unaligned());
        let words = vouched!(_mm256_set1_epi32(word));
        let shifts = vouched!(_mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
        let shifted = vouched!(_mm256_srlv_epi32(words, shifts));
        let low = vouched!(_mm256_set1_epi32(15));
        let codes = vouched!(_mm256_and_si256(shifted, low));
        Avx2(vouched!(_mm256_cvtepi32_ps(codes)))
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
        vouched!(_mm256_storeu_ps(at.cast(), self.0));
    }

    #[inline(always)]
    unsafe fn stream_f32(self, at: *mut u8) {
        vouched!(_mm256_stream_ps(at.cast(), self.0));
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        let halves = vouched!(_mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(self.0));
        vouched!(_mm_storeu_si128(at.cast(), halves));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut u8) {
        let bits = vouched!(_mm256_castps_si256(self.0));
        let upper = vouched!(_mm256_srli_epi32::<16>(bits));
        let one = vouched!(_mm256_set1_epi32(1));
        let odd = vouched!(_mm256_and_si256(upper, one));
        let below_half = vouched!(_mm256_set1_epi32(0x7fff));
        let nudge = vouched!(_mm256_add_epi32(odd, below_half));
        let nudged = vouched!(_mm256_add_epi32(bits, nudge));
        let rounded = vouched!(_mm256_srli_epi32::<16>(nudged));
        // A NaN may have been rounded to infinity: its upper half, made quiet, instead.
        let quiet_bit = vouched!(_mm256_set1_epi32(0x40));
        let quiet = vouched!(_mm256_or_si256(upper, quiet_bit));
        let is_nan = vouched!(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
        let is_nan = vouched!(_mm256_castps_si256(is_nan));
        let chosen = vouched!(_mm256_blendv_epi8(rounded, quiet, is_nan));
        // 8 times 32 bits to 8 times 16: packed within each half of the register, then the halves brought together.
        let packed = vouched!(_mm256_packus_epi32(chosen, chosen));
        let joined = vouched!(_mm256_permute4x64_epi64::<0b10_00>(packed));
        let low = vouched!(_mm256_castsi256_si128(joined));
        vouched!(_mm_storeu_si128(at.cast(), low));
    }
    #[inline(always)]
    unsafe fn store_halves(values: &[Self], room: Output<'_>) {
        // SAFETY: the caller's.
        unsafe { store_halves(values, room) }
    }
}
