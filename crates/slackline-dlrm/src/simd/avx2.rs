//! AVX2 and FMA: sixteen values in two registers.

use std::arch::x86_64::*;

use super::vector::Vector;
use super::{Layer, Pairs};

/// [`super::panels`], compiled for these instructions: of sixteen registers twelve are sums.
///
/// # Safety
///
/// As [`super::panels`], and the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn panels(layer: &Layer<'_>, input: *const f32, samples: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match samples {
            1 => super::panels::<Avx2, 1, 4>(layer, input, samples, out),
            2 => super::panels::<Avx2, 2, 3>(layer, input, samples, out),
            3 => super::panels::<Avx2, 3, 2>(layer, input, samples, out),
            _ => super::panels::<Avx2, 6, 1>(layer, input, samples, out),
        }
    }
}

/// [`super::lanes`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::lanes`], and the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn lanes(layer: &Layer<'_>, input: *const f32, samples: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { super::lanes::<Avx2>(layer, input, samples, out) }
}

/// [`super::pairs`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::pairs`], and the machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn pairs(pairs: &Pairs<'_>, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { super::pairs::<Avx2>(pairs, out) }
}

/// [`super::peak::turns`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn peak(turns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { super::peak::turns::<Avx2, 6>(turns) }
}

/// The values 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller vouches for the machine.
        let value = unsafe { _mm256_set1_ps(value) };
        Avx2(value, value)
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller vouches for the machine and the sixteen values.
        unsafe { Avx2(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller vouches for the room, and a vector exists only where the machine has the instructions.
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(8), self.1);
        }
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        // SAFETY: a vector exists only where the machine has the instructions.
        unsafe { Avx2(_mm256_fmadd_ps(self.0, times.0, plus.0), _mm256_fmadd_ps(self.1, times.1, plus.1)) }
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: as in `fused`.
        unsafe {
            let zero = _mm256_setzero_ps();
            let clip = |x| _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, zero), x);
            Avx2(clip(self.0), clip(self.1))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as in `fused`.
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }
}

/// Lane `i` and lane `i + 4` first, then `i` and `i + 2`, then both.
///
/// # Safety
///
/// The machine has AVX.
#[inline(always)]
pub(super) unsafe fn sum_of_eight(values: __m256) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
