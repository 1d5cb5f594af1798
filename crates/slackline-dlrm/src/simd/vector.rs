//! What the dense kernels need of sixteen `f32`, and sixteen that every machine has.

/// Values of a [`Vector`], and outputs of a panel of packed weights.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`, in however many registers.
///
/// A value of it is the proof that the machine has its instructions: the unsafe functions that make one ask for that, and so
/// the ones that compute with it need not.
pub(super) trait Vector: Copy {
    /// # Safety
    ///
    /// The machine has the vector's instructions.
    unsafe fn splat(value: f32) -> Self;

    /// # Safety
    ///
    /// The machine has the vector's instructions, and sixteen values stand at `at`.
    unsafe fn load(at: *const f32) -> Self;

    /// # Safety
    ///
    /// There is room for sixteen values at `at`.
    unsafe fn store(self, at: *mut f32);

    /// `self * times + plus`, rounded once.
    fn fused(self, times: Self, plus: Self) -> Self;

    /// `max(x, 0)` of each; NaN stays NaN.
    fn relu(self) -> Self;

    /// The sum of all: lane `i` and lane `i + 8` first, then `i` and `i + 4`, then 2, then 1.
    fn sum(self) -> f32;

    /// The first `count` values at `at`, and zeros.
    ///
    /// # Safety
    ///
    /// The machine has the vector's instructions, and `count <= 16` values stand at `at`.
    #[inline(always)]
    unsafe fn load_part(at: *const f32, count: usize) -> Self {
        let mut values = [0f32; LANES];
        // SAFETY: the caller's, and sixteen stand in the array.
        unsafe {
            std::ptr::copy_nonoverlapping(at, values.as_mut_ptr(), count);
            Self::load(values.as_ptr())
        }
    }

    /// Stores the first `count` values.
    ///
    /// # Safety
    ///
    /// There is room for `count <= 16` values at `at`.
    #[inline(always)]
    unsafe fn store_part(self, at: *mut f32, count: usize) {
        let mut values = [0f32; LANES];
        // SAFETY: the caller's, and there is room for sixteen in the array.
        unsafe {
            self.store(values.as_mut_ptr());
            std::ptr::copy_nonoverlapping(values.as_ptr(), at, count);
        }
    }
}

/// Sixteen values for which the compiler finds the instructions.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Vector for Portable {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's.
        Portable(unsafe { at.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn fused(self, times: Self, plus: Self) -> Self {
        Portable(std::array::from_fn(|lane| self.0[lane].mul_add(times.0[lane], plus.0[lane])))
    }

    #[inline(always)]
    fn relu(self) -> Self {
        Portable(self.0.map(|value| if value < 0.0 { 0.0 } else { value }))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut values = self.0;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                values[lane] += values[lane + half];
            }
        }
        values[0]
    }
}
