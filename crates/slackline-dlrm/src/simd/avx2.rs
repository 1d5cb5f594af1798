//! AVX2 and FMA: sixteen values in two registers.

use std::arch::x86_64::*;

use super::vector::{LANES, Vector};
use super::{Layer, Line, Pairs};

/// [`super::panels`], compiled for these instructions: of sixteen registers twelve are sums.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn panels(layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    match samples {
        // SAFETY: the caller's, here and below.
        1 => unsafe { super::panels::<Avx2, 1, 4>(layer, input, samples, out) },
        // SAFETY: as above.
        2 => unsafe { super::panels::<Avx2, 2, 3>(layer, input, samples, out) },
        // SAFETY: as above.
        3 => unsafe { super::panels::<Avx2, 3, 2>(layer, input, samples, out) },
        // SAFETY: as above.
        _ => unsafe { super::panels::<Avx2, 6, 1>(layer, input, samples, out) },
    }
}

/// [`super::lanes`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn lanes(layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { super::lanes::<Avx2>(layer, input, samples, out) }
}

/// [`super::pairs`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn pairs(pairs: &Pairs<'_>, panels: &[Line], out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { super::pairs::<Avx2>(pairs, panels, out) }
}

/// [`super::turns`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn peak(turns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { super::turns::<Avx2, 6>(turns) }
}

/// Calls an intrinsic with values whose existence proves that the machine has it.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: a vector exists only where the machine has the instructions.
        unsafe { $call }
    };
}

/// Calls an intrinsic where the caller vouches for the machine; what it reads or writes is borrowed.
macro_rules! vouched {
    ($call:expr) => {
        // SAFETY: the caller's, and there are as many values at the place as the vector has.
        unsafe { $call }
    };
}

/// The values 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        let value = vouched!(_mm256_set1_ps(value));
        Avx2(value, value)
    }

    #[inline(always)]
    unsafe fn load(values: &[f32; LANES]) -> Self {
        let (low, high) = values.split_at(8);
        Avx2(vouched!(_mm256_loadu_ps(low.as_ptr())), vouched!(_mm256_loadu_ps(high.as_ptr())))
    }

    #[inline(always)]
    fn store(self, room: &mut [f32; LANES]) {
        let (low, high) = room.split_at_mut(8);
        vouched!(_mm256_storeu_ps(low.as_mut_ptr(), self.0));
        vouched!(_mm256_storeu_ps(high.as_mut_ptr(), self.1));
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        let low = proven!(_mm256_fmadd_ps(self.0, times.0, plus.0));
        Avx2(low, proven!(_mm256_fmadd_ps(self.1, times.1, plus.1)))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        let zero = proven!(_mm256_setzero_ps());
        let clip = |x| {
            let negative = proven!(_mm256_cmp_ps::<_CMP_LT_OQ>(x, zero));
            proven!(_mm256_andnot_ps(negative, x))
        };
        Avx2(clip(self.0), clip(self.1))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        sum_of_eight(proven!(_mm256_add_ps(self.0, self.1)))
    }
}

/// Lane `i` and lane `i + 4` first, then `i` and `i + 2`, then both. The values are those of a [`Vector`].
#[inline(always)]
pub(super) fn sum_of_eight(values: __m256) -> f32 {
    let (low, high) = (proven!(_mm256_castps256_ps128(values)), proven!(_mm256_extractf128_ps::<1>(values)));
    let four = proven!(_mm_add_ps(low, high));
    let two = proven!(_mm_add_ps(four, _mm_movehl_ps(four, four)));
    let other = proven!(_mm_movehdup_ps(two));
    proven!(_mm_cvtss_f32(_mm_add_ss(two, other)))
}
