//! 64-bit Arm: sixteen values in four registers.

use std::arch::aarch64::*;

use super::vector::Vector;

#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 4]);

impl Vector for Neon {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: every such machine has NEON.
        Neon([unsafe { vdupq_n_f32(value) }; 4])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller vouches for the sixteen values.
        Neon(std::array::from_fn(|four| unsafe { vld1q_f32(at.add(4 * four)) }))
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        for (four, values) in self.0.into_iter().enumerate() {
            // SAFETY: the caller vouches for the room.
            unsafe { vst1q_f32(at.add(4 * four), values) }
        }
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        // SAFETY: every such machine has NEON.
        Neon(std::array::from_fn(|four| unsafe { vfmaq_f32(plus.0[four], self.0[four], times.0[four]) }))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        // SAFETY: every such machine has NEON.
        Neon(self.0.map(|x| unsafe { vbslq_f32(vcltzq_f32(x), vdupq_n_f32(0.0), x) }))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: every such machine has NEON.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}
