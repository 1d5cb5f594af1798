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
    /// The machine has the vector's instructions.
    unsafe fn load(values: &[f32; LANES]) -> Self;

    fn store(self, room: &mut [f32; LANES]);

    /// `self * times + plus`, rounded once.
    fn fused(self, times: Self, plus: Self) -> Self;

    /// `max(x, 0)` of each; NaN stays NaN.
    fn relu(self) -> Self;

    /// The sum of all: lane `i` and lane `i + 8` first, then `i` and `i + 4`, then 2, then 1.
    fn sum(self) -> f32;

    /// Fewer than sixteen values, and zeros.
    ///
    /// # Safety
    ///
    /// The machine has the vector's instructions.
    #[inline(always)]
    unsafe fn load_part(values: &[f32]) -> Self {
        let mut line = [0f32; LANES];
        line[..values.len()].copy_from_slice(values);
        // SAFETY: the caller's.
        unsafe { Self::load(&line) }
    }

    /// Stores as many as there is room for, fewer than sixteen.
    #[inline(always)]
    fn store_part(self, room: &mut [f32]) {
        let mut line = [0f32; LANES];
        self.store(&mut line);
        room.copy_from_slice(&line[..room.len()]);
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
    unsafe fn load(values: &[f32; LANES]) -> Self {
        Portable(*values)
    }

    #[inline(always)]
    fn store(self, room: &mut [f32; LANES]) {
        *room = self.0;
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
