//! What the arithmetic of a core allows, to compare with.

use std::hint::black_box;
use std::time::Instant;

use slackline_embedding::kernels::Isa;

use super::turns;
use super::vector::{LANES, Portable};

/// Turns of the loop that is timed: some milliseconds.
const TURNS: usize = 1 << 19;

/// Floating-point operations a second of this thread if it did nothing but multiply and add in registers, with the
/// instructions that [`DenseModel`](crate::DenseModel) uses: the best of five tries, which take some milliseconds each. What
/// a dense layer reaches is a share of this. It falls when the processor is shared or slows down, so measure both in turns.
pub fn peak_flops() -> f64 {
    let work: fn() -> f32 = match Isa::best() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions.
        Isa::Avx2 => || unsafe { super::avx2::peak(TURNS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => || unsafe { super::avx512::peak(TURNS) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: every such machine has them.
        Isa::Neon => || unsafe { turns::<super::neon::Neon, 6>(TURNS) },
        // SAFETY: every machine has them.
        _ => || unsafe { turns::<Portable, 2>(TURNS) },
    };
    let sums = match Isa::best() {
        Isa::Avx512 => 16,
        Isa::Avx2 | Isa::Neon => 6,
        _ => 2,
    };
    let flops = (TURNS * sums * LANES * 2) as f64;
    let seconds = (0..5).map(|_| {
        let begin = Instant::now();
        black_box(work());
        begin.elapsed().as_secs_f64()
    });
    flops / seconds.fold(f64::INFINITY, f64::min)
}
