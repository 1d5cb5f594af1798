//! 64-bit Arm: sixteen values in four registers.

use std::arch::aarch64::*;

use super::vector::{LANES, Vector};

/// Calls an intrinsic, which every such machine has.
macro_rules! always {
    ($call:expr) => {
        // SAFETY: every 64-bit Arm has NEON; what is read or written is borrowed, and as long as the vector.
        unsafe { $call }
    };
}

#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 4]);

impl Vector for Neon {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Neon([always!(vdupq_n_f32(value)); 4])
    }

    #[inline(always)]
    unsafe fn load(values: &[f32; LANES]) -> Self {
        Neon(std::array::from_fn(|four| {
            let values = &values[4 * four..][..4];
            always!(vld1q_f32(values.as_ptr()))
        }))
    }

    #[inline(always)]
    fn store(self, room: &mut [f32; LANES]) {
        for (values, room) in self.0.into_iter().zip(room.chunks_exact_mut(4)) {
            always!(vst1q_f32(room.as_mut_ptr(), values));
        }
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        Neon(std::array::from_fn(|four| always!(vfmaq_f32(plus.0[four], self.0[four], times.0[four]))))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        let zero = always!(vdupq_n_f32(0.0));
        Neon(self.0.map(|x| {
            let negative = always!(vcltzq_f32(x));
            always!(vbslq_f32(negative, zero, x))
        }))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        let (even, odd) = (always!(vaddq_f32(a, c)), always!(vaddq_f32(b, d)));
        let four = always!(vaddq_f32(even, odd));
        let (low, high) = (always!(vget_low_f32(four)), always!(vget_high_f32(four)));
        let two = always!(vadd_f32(low, high));
        always!(vget_lane_f32::<0>(two)) + always!(vget_lane_f32::<1>(two))
    }
}
