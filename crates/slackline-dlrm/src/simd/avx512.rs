//! AVX-512 F, BW and VL: sixteen values in a register.

use std::arch::x86_64::*;

use super::vector::Vector;
use super::{Layer, Pairs};

/// [`super::panels`], compiled for these instructions: of 32 registers 24 are sums.
///
/// # Safety
///
/// As [`super::panels`], and the machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn panels(layer: &Layer<'_>, input: *const f32, samples: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { super::panels::<Avx512, 6, 4>(layer, input, samples, out) }
}

/// [`super::lanes`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::lanes`], and the machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn lanes(layer: &Layer<'_>, input: *const f32, samples: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { super::lanes::<Avx512>(layer, input, samples, out) }
}

/// [`super::pairs`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::pairs`], and the machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn pairs(pairs: &Pairs<'_>, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { super::pairs::<Avx512>(pairs, out) }
}

/// [`super::peak::turns`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn peak(turns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { super::peak::turns::<Avx512, 16>(turns) }
}

#[derive(Clone, Copy)]
struct Avx512(__m512);

/// The lowest `count` bits.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

impl Vector for Avx512 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the machine.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller vouches for the machine and the sixteen values.
        Avx512(unsafe { _mm512_loadu_ps(at) })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller vouches for the room, and a vector exists only where the machine has the instructions.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        // SAFETY: a vector exists only where the machine has the instructions.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, times.0, plus.0) })
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: as in `fused`.
        unsafe {
            let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, _mm512_setzero_ps());
            Avx512(_mm512_maskz_mov_ps(!negative, self.0))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `fused`; AVX-512 F has AVX.
        unsafe {
            let high = _mm256_castsi256_ps(_mm512_extracti64x4_epi64::<1>(_mm512_castps_si512(self.0)));
            super::avx2::sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(self.0), high))
        }
    }

    #[inline(always)]
    unsafe fn load_part(at: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for the machine and `count` values; lanes that are masked out are not read.
        Avx512(unsafe { _mm512_maskz_loadu_ps(first(count), at) })
    }

    #[inline(always)]
    unsafe fn store_part(self, at: *mut f32, count: usize) {
        // SAFETY: the caller vouches for room for `count` values; lanes that are masked out are not written.
        unsafe { _mm512_mask_storeu_ps(at, first(count), self.0) }
    }
}
