//! NEON of 64-bit Arm, which every such machine has: vectors of 4.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::vector::Vector;
use crate::Output;

/// [`super::store_halves`], compiled for these instructions.
///
/// # Safety
///
/// As [`super::store_halves`].
#[inline(never)]
unsafe fn store_halves(values: &[Neon], room: Output<'_>) {
    // SAFETY: the caller's.
    unsafe { super::store_halves(values, room) }
}

/// 4 values.
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t);

/// Calls an intrinsic of a target on which every machine has it.
macro_rules! always {
    ($call:expr) => {
        // SAFETY: NEON belongs to the target; what is loaded or stored the caller vouches for.
        unsafe { $call }
    };
}

impl Neon {
    fn array(self) -> [f32; 4] {
        let mut values = [0.0; 4];
        always!(vst1q_f32(values.as_mut_ptr(), self.0));
        values
    }
}

impl Vector for Neon {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Neon(always!(vdupq_n_f32(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Neon(always!(vaddq_f32(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Neon(always!(vmulq_f32(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Neon(always!(vdivq_f32(self.0, other.0)))
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        Neon(always!(vfmaq_f32(plus.0, self.0, times.0)))
    }

    #[inline(always)]
    unsafe fn load_f32(at: *const u8) -> Self {
        let bytes = always!(vld1q_u8(at));
        Neon(always!(vreinterpretq_f32_u8(bytes)))
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        let halves = always!(at.cast::<[[u8; 2]; 4]>().read());
        let values = halves.map(|half| f16::from_le_bytes(half).to_f32());
        Neon(always!(vld1q_f32(values.as_ptr())))
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        let halves = always!(vld1_u8(at));
        let halves = always!(vreinterpret_u16_u8(halves));
        let wide = always!(vshll_n_u16::<16>(halves));
        Neon(always!(vreinterpretq_f32_u32(wide)))
    }

    #[inline(always)]
    unsafe fn load_u8(at: *const u8) -> Self {
        let word = always!(at.cast::<u32>().read_unaligned());
        let bytes = always!(vcreate_u8(u64::from(word)));
        let pairs = always!(vmovl_u8(bytes));
        let pairs = always!(vget_low_u16(pairs));
        let wide = always!(vmovl_u16(pairs));
        Neon(always!(vcvtq_f32_u32(wide)))
    }

    #[inline(always)]
    unsafe fn load_u4(at: *const u8) -> Self {
        // All 16 bits in every lane, each shifted to its own 4.
        let word = always!(at.cast::<u16>().read_unaligned());
        let words = always!(vdupq_n_u32(u32::from(word)));
        let shifts = always!(vld1q_s32([0, -4, -8, -12].as_ptr()));
        let shifted = always!(vshlq_u32(words, shifts));
        let low = always!(vdupq_n_u32(15));
        let codes = always!(vandq_u32(shifted, low));
        Neon(always!(vcvtq_f32_u32(codes)))
    }

    #[inline(always)]
    unsafe fn store_f32(self, at: *mut u8) {
        let bytes = always!(vreinterpretq_u8_f32(self.0));
        always!(vst1q_u8(at, bytes));
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        let halves = self.array().map(|value| f16::from_f32(value).to_le_bytes());
        always!(at.cast::<[[u8; 2]; 4]>().write(halves));
    }

    #[inline(always)]
    unsafe fn store_bf16(self, at: *mut u8) {
        let halves = self.array().map(|value| bf16::from_f32(value).to_le_bytes());
        always!(at.cast::<[[u8; 2]; 4]>().write(halves));
    }
    #[inline(always)]
    unsafe fn store_halves(values: &[Self], room: Output<'_>) {
        // SAFETY: the caller's.
        unsafe { store_halves(values, room) }
    }
}
