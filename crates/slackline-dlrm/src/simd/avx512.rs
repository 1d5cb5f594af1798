//! AVX-512 F, BW and VL: sixteen values in a register.

use std::arch::x86_64::*;

use super::vector::{LANES, Vector};
use super::{Layer, Line, Pairs};

/// [`super::panels`], compiled for these instructions: of 32 registers 24 are sums.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn panels(layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { super::panels::<Avx512, 6, 4>(layer, input, samples, out) }
}

/// [`super::lanes`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn lanes(layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { super::lanes::<Avx512>(layer, input, samples, out) }
}

/// [`super::pairs`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn pairs(pairs: &Pairs<'_>, panels: &[Line], out: &mut [f32]) {
    // SAFETY: the caller's.
    unsafe { super::pairs::<Avx512>(pairs, panels, out) }
}

/// [`super::turns`], compiled for these instructions.
///
/// # Safety
///
/// The machine has AVX-512 F, BW and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn peak(turns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { super::turns::<Avx512, 16>(turns) }
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

#[derive(Clone, Copy)]
struct Avx512(__m512);

/// The lowest `count` bits.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    debug_assert!(count < LANES);
    ((1u32 << count) - 1) as __mmask16
}

impl Vector for Avx512 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Avx512(vouched!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    unsafe fn load(values: &[f32; LANES]) -> Self {
        Avx512(vouched!(_mm512_loadu_ps(values.as_ptr())))
    }

    #[inline(always)]
    fn store(self, room: &mut [f32; LANES]) {
        vouched!(_mm512_storeu_ps(room.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        Avx512(proven!(_mm512_fmadd_ps(self.0, times.0, plus.0)))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        let zero = proven!(_mm512_setzero_ps());
        let negative = proven!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, zero));
        Avx512(proven!(_mm512_maskz_mov_ps(!negative, self.0)))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let bits = proven!(_mm512_castps_si512(self.0));
        let high = proven!(_mm512_extracti64x4_epi64::<1>(bits));
        let (low, high) = (proven!(_mm512_castps512_ps256(self.0)), proven!(_mm256_castsi256_ps(high)));
        super::avx2::sum_of_eight(proven!(_mm256_add_ps(low, high)))
    }

    #[inline(always)]
    unsafe fn load_part(values: &[f32]) -> Self {
        // Lanes that are masked out are not read.
        Avx512(vouched!(_mm512_maskz_loadu_ps(first(values.len()), values.as_ptr())))
    }

    #[inline(always)]
    fn store_part(self, room: &mut [f32]) {
        // Lanes that are masked out are not written.
        vouched!(_mm512_mask_storeu_ps(room.as_mut_ptr(), first(room.len()), self.0));
    }
}
