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

/// Lays rows of `length` values out side by side, sixteen to a panel `[length]` of lines: value `at` of row `16 * p + l` becomes
/// lane `l` of line `p * length + at`. Lanes without a row keep what they have.
pub(crate) fn fill_panels<'a>(length: usize, rows: impl Iterator<Item = &'a [f32]>, panels: &mut [Line]) {
    for (row, values) in rows.enumerate() {
        let panel = &mut panels[row / LANES * length..][..length];
        for (line, &value) in panel.iter_mut().zip(values) {
            line.0[row % LANES] = value;
        }
    }
}

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
    layer.check(isa, input, samples, out);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, here and below.
        Isa::Avx2 => unsafe { avx2::panels(layer, input, samples, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::panels(layer, input, samples, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon if samples < 4 => unsafe { panels::<neon::Neon, 3, 2>(layer, input, samples, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { panels::<neon::Neon, 6, 1>(layer, input, samples, out) },
        // SAFETY: every machine has the instructions.
        _ => unsafe { panels::<Portable, 1, 1>(layer, input, samples, out) },
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
    layer.check(isa, input, samples, out);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, here and below.
        Isa::Avx2 => unsafe { avx2::lanes(layer, input, samples, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::lanes(layer, input, samples, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { lanes::<neon::Neon>(layer, input, samples, out) },
        // SAFETY: every machine has the instructions.
        _ => unsafe { lanes::<Portable>(layer, input, samples, out) },
    }
}

impl Layer<'_> {
    /// Compares the lengths.
    fn check(&self, isa: Isa, input: &[f32], samples: usize, out: &[f32]) {
        assert!(Isa::available().contains(&isa), "this machine has no {isa}");
        assert_eq!(self.bias.len(), self.outputs.div_ceil(LANES), "lines of biases");
        assert_eq!(Some(input.len()), samples.checked_mul(self.inputs), "samples * inputs values");
        assert_eq!(Some(out.len()), samples.checked_mul(self.outputs), "samples * outputs values");
    }
}

/// The vectors of one sample, of which the products of all pairs are wanted.
pub(crate) struct Pairs<'a> {
    /// Vector 0 of all samples, `[samples, dim]`.
    pub(crate) bottom: &'a [f32],
    /// The other vectors, a block like this each.
    pub(crate) tables: &'a [&'a [f32]],
    pub(crate) dim: usize,
    /// Which sample.
    pub(crate) sample: usize,
    /// Whether a vector makes a pair with itself.
    pub(crate) itself: bool,
}

impl<'a> Pairs<'a> {
    /// Number of vectors.
    pub(crate) fn count(&self) -> usize {
        self.tables.len() + 1
    }

    /// Vector `number` of the sample.
    pub(crate) fn vector(&self, number: usize) -> &'a [f32] {
        let block = if number == 0 { self.bottom } else { self.tables[number - 1] };
        &block[self.sample * self.dim..][..self.dim]
    }
}

/// Products of the pairs `(i, j)`, `i > j` (with `itself`: `i >= j`), in the order (1,0), (2,0), (2,1), …: each begins with 0,
/// and the products of the values are added from first to last, each rounded once with its sum. `panels` is room for the
/// vectors as [`fill_panels`] lays them out.
///
/// # Panics
///
/// If a slice does not have the stated length, or the machine does not have `isa`.
pub(crate) fn all_pairs(isa: Isa, given: &Pairs<'_>, panels: &mut [Line], out: &mut [f32]) {
    let count = given.count();
    assert!(Isa::available().contains(&isa), "this machine has no {isa}");
    assert_eq!(panels.len(), count.div_ceil(LANES) * given.dim, "lines of panels");
    assert_eq!(out.len(), count * (count + 1) / 2 - if given.itself { 0 } else { count }, "pairs");
    fill_panels(given.dim, (0..count).map(|number| given.vector(number)), panels);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, here and below.
        Isa::Avx2 => unsafe { avx2::pairs(given, panels, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::pairs(given, panels, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { pairs::<neon::Neon>(given, panels, out) },
        // SAFETY: every machine has the instructions.
        _ => unsafe { pairs::<Portable>(given, panels, out) },
    }
}

/// See [`wide`]. `ROWS` samples and `PANELS` panels are computed together, so that a weight that is loaded serves all the
/// samples and a value all the panels. All samples pass one group of panels before the next, so that it stays in the cache.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn panels<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    input: &[f32],
    samples: usize,
    out: &mut [f32],
) {
    let count = layer.outputs.div_ceil(LANES);
    let mut panel = 0;
    while panel + PANELS <= count {
        // SAFETY: the caller's.
        unsafe { strip::<V, ROWS, PANELS>(layer, panel, input, samples, out) };
        panel += PANELS;
    }
    while panel < count {
        // SAFETY: the caller's.
        unsafe { strip::<V, ROWS, 1>(layer, panel, input, samples, out) };
        panel += 1;
    }
}

/// All samples through the panels from `panel` on, in tiles of nearly the same number of samples.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn strip<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    panel: usize,
    input: &[f32],
    samples: usize,
    out: &mut [f32],
) {
    let tiles = samples.div_ceil(ROWS);
    let mut sample = 0;
    for tile in 0..tiles {
        let end = samples * (tile + 1) / tiles;
        let (input, out) = (&input[sample * layer.inputs..], &mut out[sample * layer.outputs..]);
        match end - sample {
            // SAFETY: the caller's, here and below.
            1 => unsafe { outputs::<V, 1, PANELS>(layer, panel, input, out) },
            // SAFETY: as above.
            2 if ROWS >= 2 => unsafe { outputs::<V, 2, PANELS>(layer, panel, input, out) },
            // SAFETY: as above.
            3 if ROWS >= 3 => unsafe { outputs::<V, 3, PANELS>(layer, panel, input, out) },
            // SAFETY: as above.
            4 if ROWS >= 4 => unsafe { outputs::<V, 4, PANELS>(layer, panel, input, out) },
            // SAFETY: as above.
            5 if ROWS >= 5 => unsafe { outputs::<V, 5, PANELS>(layer, panel, input, out) },
            // SAFETY: as above.
            6 if ROWS >= 6 => unsafe { outputs::<V, 6, PANELS>(layer, panel, input, out) },
            rows => unreachable!("{rows} of at most {ROWS} samples"),
        }
        sample = end;
    }
}

/// The outputs of some panels for the first `ROWS` samples.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn outputs<V: Vector, const ROWS: usize, const PANELS: usize>(
    layer: &Layer<'_>,
    panel: usize,
    input: &[f32],
    out: &mut [f32],
) {
    let rows: [_; ROWS] = std::array::from_fn(|row| &input[row * layer.inputs..][..layer.inputs]);
    let panels: [_; PANELS] = std::array::from_fn(|p| &layer.weight[(panel + p) * layer.inputs..][..layer.inputs]);
    // SAFETY: the caller's.
    let start: [V; PANELS] = std::array::from_fn(|p| unsafe { V::load(&layer.bias[panel + p].0) });
    // SAFETY: the caller's, and all slices have this length.
    let sums = unsafe { tile(rows, panels, layer.inputs, start) };
    for (row, sums) in sums.into_iter().enumerate() {
        for (p, sum) in sums.into_iter().enumerate() {
            let first = (panel + p) * LANES;
            let sum = if layer.relu { sum.relu() } else { sum };
            store(sum, &mut out[row * layer.outputs + first..(row + 1) * layer.outputs]);
        }
    }
}

/// Stores sixteen values, or as many as there is room for.
#[inline(always)]
fn store<V: Vector>(values: V, room: &mut [f32]) {
    match room.first_chunk_mut() {
        Some(room) => values.store(room),
        None => values.store_part(room),
    }
}

/// The sums of some rows with some panels, in order, beginning with `start`.
///
/// # Safety
///
/// The machine has the instructions of `V`; every row has `length` values, and every panel `length` lines.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const PANELS: usize>(
    rows: [&[f32]; ROWS],
    panels: [&[Line]; PANELS],
    length: usize,
    start: [V; PANELS],
) -> [[V; PANELS]; ROWS] {
    let mut sums = [start; ROWS];
    for at in 0..length {
        // SAFETY: `at < length`.
        let lines: [&Line; PANELS] = std::array::from_fn(|p| unsafe { panels[p].get_unchecked(at) });
        // SAFETY: the caller's.
        let lines: [V; PANELS] = lines.map(|line| unsafe { V::load(&line.0) });
        for (row, sums) in rows.iter().zip(&mut sums) {
            // SAFETY: `at < length`.
            let value = unsafe { *row.get_unchecked(at) };
            // SAFETY: the caller's.
            let value = unsafe { V::splat(value) };
            for (line, sum) in lines.iter().zip(sums) {
                *sum = value.fused(*line, *sum);
            }
        }
    }
    sums
}

/// See [`narrow`]. Samples are computed side by side, since a sum waits for the one before it.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn lanes<V: Vector>(layer: &Layer<'_>, input: &[f32], samples: usize, out: &mut [f32]) {
    let mut sample = 0;
    while sample < samples {
        let (input, out) = (&input[sample * layer.inputs..], &mut out[sample * layer.outputs..]);
        if sample + 4 <= samples {
            // SAFETY: the caller's.
            unsafe { row_sums::<V, 4>(layer, input, out) };
            sample += 4;
        } else {
            // SAFETY: the caller's.
            unsafe { row_sums::<V, 1>(layer, input, out) };
            sample += 1;
        }
    }
}

/// All outputs of the first `ROWS` samples.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn row_sums<V: Vector, const ROWS: usize>(layer: &Layer<'_>, input: &[f32], out: &mut [f32]) {
    let rows: [_; ROWS] = std::array::from_fn(|row| &input[row * layer.inputs..][..layer.inputs]);
    let blocks = layer.inputs.div_ceil(LANES);
    for output in 0..layer.outputs {
        // SAFETY: the caller's.
        let mut sums = [unsafe { V::splat(0.0) }; ROWS];
        for (block, line) in layer.weight[output * blocks..][..blocks].iter().enumerate() {
            // SAFETY: the caller's.
            let weight = unsafe { V::load(&line.0) };
            for (row, sum) in rows.iter().zip(&mut sums) {
                let row = &row[block * LANES..];
                let values = match row.first_chunk() {
                    // SAFETY: the caller's.
                    Some(values) => unsafe { V::load(values) },
                    // SAFETY: the caller's.
                    None => unsafe { V::load_part(row) },
                };
                *sum = values.fused(weight, *sum);
            }
        }
        let bias = layer.bias[output / LANES].0[output % LANES];
        for (row, sum) in sums.into_iter().enumerate() {
            let value = sum.sum() + bias;
            out[row * layer.outputs + output] = if layer.relu && value < 0.0 { 0.0 } else { value };
        }
    }
}

/// Rows of the triangle that are computed together.
const TRIANGLE_ROWS: usize = 4;

/// See [`all_pairs`].
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn pairs<V: Vector>(pairs: &Pairs<'_>, panels: &[Line], out: &mut [f32]) {
    let count = pairs.count();
    let mut first = 0;
    while first < count {
        if first + TRIANGLE_ROWS <= count {
            // SAFETY: the caller's.
            unsafe { triangle_rows::<V, TRIANGLE_ROWS>(pairs, panels, first, out) };
            first += TRIANGLE_ROWS;
        } else {
            // SAFETY: the caller's.
            unsafe { triangle_rows::<V, 1>(pairs, panels, first, out) };
            first += 1;
        }
    }
}

/// The rows of the triangle from `first` on. Row `i` has `i` pairs, with `itself` one more, which begin after those of all rows
/// before it.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn triangle_rows<V: Vector, const ROWS: usize>(
    pairs: &Pairs<'_>,
    panels: &[Line],
    first: usize,
    out: &mut [f32],
) {
    let more = usize::from(pairs.itself);
    let rows: [_; ROWS] = std::array::from_fn(|row| pairs.vector(first + row));
    // The last row has the most pairs.
    for panel in 0..(first + ROWS - 1 + more).div_ceil(LANES) {
        let lines = &panels[panel * pairs.dim..][..pairs.dim];
        // SAFETY: the caller's.
        let zero = unsafe { V::splat(0.0) };
        // SAFETY: the caller's, and vectors and panels have `dim` values and lines.
        let sums = unsafe { tile(rows, [lines], pairs.dim, [zero]) };
        for (row, [sum]) in sums.into_iter().enumerate() {
            let i = first + row;
            let before = i * (i + 1) / 2 - if pairs.itself { 0 } else { i };
            let row = &mut out[before..][..i + more];
            if panel * LANES < row.len() {
                store(sum, &mut row[panel * LANES..]);
            }
        }
    }
}

/// See [`peak_flops`]. Adds products to `SUMS` sums of sixteen, which wait for nothing but themselves.
///
/// # Safety
///
/// The machine has the instructions of `V`.
#[inline(always)]
unsafe fn turns<V: Vector, const SUMS: usize>(turns: usize) -> f32 {
    // SAFETY: the caller's.
    let times = unsafe { V::splat(std::hint::black_box(0.999)) };
    // SAFETY: the caller's.
    let plus = unsafe { V::splat(std::hint::black_box(0.001)) };
    let mut sums = [plus; SUMS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = sum.fused(times, plus);
        }
    }
    sums.into_iter().map(V::sum).sum()
}
