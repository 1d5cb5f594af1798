//! The kernels of the dense part: written once over sixteen values, compiled for every instruction set.
//!
//! Every output has one order of summing, which follows from the layer's shape alone: neither the number of samples in a
//! call, nor a sample's place among them, nor the instructions change a bit. The oracles are in [`crate::packed`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod vector;

use slackline_embedding::kernels::Isa;

pub use self::peak::peak_flops;
pub(crate) use self::vector::LANES;
use self::vector::{Portable, Vector};

/// Sixteen values that begin a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; LANES]);

/// A layer's packed weights.
pub(crate) struct Layer<'a> {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// For [`wide`] `[panels][inputs]`, a line the weights of one input and sixteen outputs; for [`narrow`]
    /// `[outputs][blocks]`, a line the weights of sixteen inputs and one output. What is missing to a line is 0.
    pub(crate) weight: &'a [Line],
    /// `[outputs]`, rounded up to lines.
    pub(crate) bias: &'a [Line],
    /// Whether negative outputs become 0.
    pub(crate) relu: bool,
}

/// `out[s][o]` is the bias, to which the products of input and weight are added from the first input to the last, each
/// rounded once with its sum.
///
/// # Panics
///
/// If a slice does not have the stated length, or the machine does not have `isa`.
pub(crate) fn wide(isa: Isa, layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    let count = layer.outputs.div_ceil(LANES);
    assert_eq!(layer.weight.len(), count * layer.inputs, "lines of weights");
    let (input, out) = layer.checked(isa, input, samples, out);
    // SAFETY: the machine has the instructions, `samples * inputs` values are read and `samples * outputs` written, as
    // compared above; so many lines of weights and biases stand in the layer.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::panels(layer, input, samples, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::panels(layer, input, samples, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => match samples {
                1 => panels::<neon::Neon, 1, 4>(layer, input, samples, out),
                2 | 3 => panels::<neon::Neon, 3, 2>(layer, input, samples, out),
                _ => panels::<neon::Neon, 6, 1>(layer, input, samples, out),
            },
            _ => panels::<Portable, 1, 1>(layer, input, samples, out),
        }
    }
}

/// `out[s][o]` is the sum of sixteen sums and the bias: sum `l` has the products of the inputs `l`, `l + 16`, …, each rounded
/// once with its sum; they are added as [`Vector::sum`] says.
///
/// # Panics
///
/// If a slice does not have the stated length, or the machine does not have `isa`.
pub(crate) fn narrow(isa: Isa, layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    let blocks = layer.inputs.div_ceil(LANES);
    assert_eq!(layer.weight.len(), layer.outputs * blocks, "lines of weights");
    let (input, out) = layer.checked(isa, input, samples, out);
    // SAFETY: as in `wide`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::lanes(layer, input, samples, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::lanes(layer, input, samples, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => lanes::<neon::Neon>(layer, input, samples, out),
            _ => lanes::<Portable>(layer, input, samples, out),
        }
    }
}

impl Layer<'_> {
    /// Where to read and write, after the lengths were compared.
    fn checked(&self, isa: Isa, input: &[f32], samples: usize, out: &mut [f32]) -> (*const f32, *mut f32) {
        assert!(Isa::available().contains(&isa), "this machine has no {isa}");
        assert_eq!(self.bias.len(), self.outputs.div_ceil(LANES), "lines of biases");
        assert_eq!(Some(input.len()), samples.checked_mul(self.inputs), "samples * inputs values");
        assert_eq!(Some(out.len()), samples.checked_mul(self.outputs), "samples * outputs values");
        (input.as_ptr(), out.as_mut_ptr())
    }
}

/// The vectors of one sample, of which the products of all pairs are wanted.
pub(crate) struct Pairs<'a> {
    /// All of one length.
    pub(crate) vectors: &'a [&'a [f32]],
    /// The same vectors as panels, `[panels][length]`: value `d` of vector `16 * p + l` is lane `l` of line `p * length + d`.
    pub(crate) panels: &'a [Line],
    /// Whether a vector makes a pair with itself.
    pub(crate) itself: bool,
}

/// Products of the pairs `(i, j)`, `i > j` (with `itself`: `i >= j`), in the order (1,0), (2,0), (2,1), …: each begins with 0,
/// and the products of the values are added from first to last, each rounded once with its sum.
///
/// # Panics
///
/// If a slice does not have the stated length, or the machine does not have `isa`.
pub(crate) fn all_pairs(isa: Isa, given: &Pairs<'_>, out: &mut [f32]) {
    let (count, length) = (given.vectors.len(), given.vectors.first().map_or(0, |vector| vector.len()));
    assert!(Isa::available().contains(&isa), "this machine has no {isa}");
    assert!(given.vectors.iter().all(|vector| vector.len() == length), "vectors of one length");
    assert_eq!(given.panels.len(), count.div_ceil(LANES) * length, "lines of panels");
    assert_eq!(out.len(), count * (count + 1) / 2 - if given.itself { 0 } else { count }, "pairs");
    let out = out.as_mut_ptr();
    // SAFETY: the machine has the instructions, and the lengths were compared.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::pairs(given, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::pairs(given, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => pairs::<neon::Neon>(given, out),
            _ => pairs::<Portable>(given, out),
        }
    }
}

/// See [`wide`]. `ROWS` samples and `PANELS` panels are computed together, so that a weight that is loaded serves all the
/// samples and a value all the panels. All samples pass one group of panels before the next, so that it stays in the cache.
///
/// # Safety
///
/// The machine has the instructions of `V`; `samples * inputs` values stand at `input`, there is room for
/// `samples * outputs` at `out`, and the layer has the lines of all panels.
#[inline(always)]
unsafe fn panels<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    input: *const f32,
    samples: usize,
    out: *mut f32,
) {
    let count = layer.outputs.div_ceil(LANES);
    let mut panel = 0;
    // SAFETY: the caller's; panels `panel .. panel + PANELS` are below `count`.
    unsafe {
        while panel + PANELS <= count {
            strip::<V, ROWS, PANELS>(layer, panel, input, samples, out);
            panel += PANELS;
        }
        while panel < count {
            strip::<V, ROWS, 1>(layer, panel, input, samples, out);
            panel += 1;
        }
    }
}

/// All samples through some panels, in tiles of nearly the same number of samples.
///
/// # Safety
///
/// As [`panels`], and the layer has `PANELS` panels from `panel` on.
#[inline(always)]
unsafe fn strip<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    panel: usize,
    input: *const f32,
    samples: usize,
    out: *mut f32,
) {
    let tiles = samples.div_ceil(ROWS);
    let mut sample = 0;
    for tile in 0..tiles {
        let end = samples * (tile + 1) / tiles;
        // SAFETY: the samples `sample .. end` are below `samples`.
        unsafe {
            let (input, out) = (input.add(sample * layer.inputs), out.add(sample * layer.outputs));
            match end - sample {
                1 => outputs::<V, 1, PANELS>(layer, panel, input, out),
                2 if ROWS >= 2 => outputs::<V, 2, PANELS>(layer, panel, input, out),
                3 if ROWS >= 3 => outputs::<V, 3, PANELS>(layer, panel, input, out),
                4 if ROWS >= 4 => outputs::<V, 4, PANELS>(layer, panel, input, out),
                5 if ROWS >= 5 => outputs::<V, 5, PANELS>(layer, panel, input, out),
                6 if ROWS >= 6 => outputs::<V, 6, PANELS>(layer, panel, input, out),
                rows => unreachable!("{rows} of at most {ROWS} samples"),
            }
        }
        sample = end;
    }
}

/// The outputs of some panels for some samples.
///
/// # Safety
///
/// As [`strip`], with `ROWS` samples.
#[inline(always)]
unsafe fn outputs<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    panel: usize,
    input: *const f32,
    out: *mut f32,
) {
    let at = |panel: usize| layer.weight.as_ptr().wrapping_add(panel * layer.inputs).cast::<f32>();
    // SAFETY: the caller's: rows and panels exist, and a line has sixteen values.
    unsafe {
        let rows: [_; ROWS] = std::array::from_fn(|row| input.add(row * layer.inputs));
        let weights: [_; PANELS] = std::array::from_fn(|p| at(panel + p));
        let start: [V; PANELS] = std::array::from_fn(|p| V::load(layer.bias.as_ptr().add(panel + p).cast()));
        let sums = tile(rows, weights, layer.inputs, start);
        for (row, sums) in sums.into_iter().enumerate() {
            for (p, sum) in sums.into_iter().enumerate() {
                let first = (panel + p) * LANES;
                let out = out.add(row * layer.outputs + first);
                let sum = if layer.relu { sum.relu() } else { sum };
                if layer.outputs - first >= LANES {
                    sum.store(out);
                } else {
                    sum.store_part(out, layer.outputs - first);
                }
            }
        }
    }
}

/// The sums of some rows with some panels, in order, beginning with `start`.
///
/// # Safety
///
/// The machine has the instructions of `V`; `length` values stand at every row, and `length` lines at every panel.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const PANELS: usize>(
    rows: [*const f32; ROWS],
    panels: [*const f32; PANELS],
    length: usize,
    start: [V; PANELS],
) -> [[V; PANELS]; ROWS] {
    let mut sums = [start; ROWS];
    for at in 0..length {
        // SAFETY: `at < length`.
        let lines: [V; PANELS] = std::array::from_fn(|p| unsafe { V::load(panels[p].add(at * LANES)) });
        for (row, sums) in rows.iter().zip(&mut sums) {
            // SAFETY: as above.
            let value = unsafe { V::splat(*row.add(at)) };
            for (line, sum) in lines.iter().zip(sums) {
                *sum = value.fused(*line, *sum);
            }
        }
    }
    sums
}

/// See [`narrow`].
///
/// # Safety
///
/// As [`panels`], with the lines of all blocks.
#[inline(always)]
unsafe fn lanes<V: Vector>(layer: &Layer<'_>, input: *const f32, samples: usize, out: *mut f32) {
    let mut sample = 0;
    // SAFETY: the caller's; a tile's samples are below `samples`.
    unsafe {
        while sample + 4 <= samples {
            row_sums::<V, 4>(layer, input.add(sample * layer.inputs), out.add(sample * layer.outputs));
            sample += 4;
        }
        while sample < samples {
            row_sums::<V, 1>(layer, input.add(sample * layer.inputs), out.add(sample * layer.outputs));
            sample += 1;
        }
    }
}

/// All outputs of some samples: side by side, since one sum waits for the one before it.
///
/// # Safety
///
/// As [`lanes`], with `ROWS` samples.
#[inline(always)]
unsafe fn row_sums<V: Vector, const ROWS: usize>(layer: &Layer<'_>, input: *const f32, out: *mut f32) {
    let (blocks, whole) = (layer.inputs.div_ceil(LANES), layer.inputs / LANES);
    for output in 0..layer.outputs {
        // SAFETY: the caller's: `output` and `block` exist, and a block that is not whole is read in part.
        unsafe {
            let weights = layer.weight.as_ptr().add(output * blocks).cast::<f32>();
            let mut sums = [V::splat(0.0); ROWS];
            for block in 0..whole {
                let weight = V::load(weights.add(block * LANES));
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(input.add(row * layer.inputs + block * LANES)).fused(weight, *sum);
                }
            }
            if whole < blocks {
                let weight = V::load(weights.add(whole * LANES));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let values = V::load_part(input.add(row * layer.inputs + whole * LANES), layer.inputs % LANES);
                    *sum = values.fused(weight, *sum);
                }
            }
            let bias = layer.bias[output / LANES].0[output % LANES];
            for (row, sum) in sums.into_iter().enumerate() {
                let value = sum.sum() + bias;
                *out.add(row * layer.outputs + output) = if layer.relu && value < 0.0 { 0.0 } else { value };
            }
        }
    }
}

/// Rows of the triangle that are computed together.
const TRIANGLE_ROWS: usize = 4;

/// See [`all_pairs`].
///
/// # Safety
///
/// The machine has the instructions of `V`, the panels have the lines of all vectors, and there is room for all pairs.
#[inline(always)]
unsafe fn pairs<V: Vector>(pairs: &Pairs<'_>, out: *mut f32) {
    let count = pairs.vectors.len();
    let mut first = 0;
    // SAFETY: the rows `first .. first + ROWS` are below `count`.
    unsafe {
        while first + TRIANGLE_ROWS <= count {
            triangle_rows::<V, TRIANGLE_ROWS>(pairs, first, out);
            first += TRIANGLE_ROWS;
        }
        while first < count {
            triangle_rows::<V, 1>(pairs, first, out);
            first += 1;
        }
    }
}

/// Some rows of the triangle.
///
/// # Safety
///
/// As [`pairs`], and vectors `first .. first + ROWS` exist.
#[inline(always)]
unsafe fn triangle_rows<V: Vector, const ROWS: usize>(pairs: &Pairs<'_>, first: usize, out: *mut f32) {
    let more = usize::from(pairs.itself);
    let length = pairs.vectors[0].len();
    let rows: [_; ROWS] = std::array::from_fn(|row| pairs.vectors[first + row].as_ptr());
    // The last row has the most pairs.
    let panels = (first + ROWS - 1 + more).div_ceil(LANES);
    for panel in 0..panels {
        // SAFETY: vectors and panels have `length` values and lines; row `i` has `i + more` pairs, which begin after those
        // of all rows before it.
        unsafe {
            let lines = pairs.panels.as_ptr().add(panel * length).cast::<f32>();
            let sums = tile(rows, [lines], length, [V::splat(0.0)]);
            for (row, [sum]) in sums.into_iter().enumerate() {
                let i = first + row;
                let before = i * (i + 1) / 2 - if pairs.itself { 0 } else { i };
                let left = (i + more).saturating_sub(panel * LANES);
                if left >= LANES {
                    sum.store(out.add(before + panel * LANES));
                } else if left > 0 {
                    sum.store_part(out.add(before + panel * LANES), left);
                }
            }
        }
    }
}
