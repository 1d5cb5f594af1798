//! Where the elements of a tensor are in its file, and reading them in row-major order in bounded memory.

use crate::CheckpointError;
use crate::source::Source;

/// The place of a tensor in one file; its extent has been checked against the length of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Position of the first element.
    pub(crate) at: u64,
    /// Bytes of one element.
    pub(crate) item: usize,
    /// Elements along each dimension.
    pub(crate) shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    pub(crate) strides: Vec<u64>,
}

/// A tensor, or a part of one, in one file.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Number of the file.
    pub(crate) source: usize,
    pub(crate) layout: Layout,
    /// Bytes of the file from the first element to the end of the last.
    pub(crate) extent: u64,
}

/// Bytes that are put together at once where the elements are not in row-major order in the file.
pub(crate) const BLOCK: usize = 8 << 20;
/// Bytes of the file that are read at once to pick elements from.
const SPAN: u64 = 1 << 20;
/// The same where at most one byte in [`SPARSE`] is picked.
const SPARSE_SPAN: u64 = 16 << 10;
const SPARSE: u64 = 16;

impl Layout {
    /// Walks over the elements in row-major order. Those that are one run of the file are read in blocks of at most
    /// `run_bytes`, which is at least one element, others in blocks of at most [`BLOCK`] bytes.
    pub(crate) fn walk(self, source: &Source, run_bytes: usize) -> LayoutWalk<'_> {
        let order = if self.shape.contains(&0) {
            Order::Run { at: self.at, left: 0, block: 0 }
        } else if self.is_row_major() {
            let left = self.shape.iter().map(|&d| d as u64).product::<u64>() * self.item as u64;
            Order::Run { at: self.at, left, block: (run_bytes / self.item).max(1) * self.item }
        } else {
            let span = Vec::new();
            Order::Picked { picker: Picker { source, item: self.item, span }, blocks: Blocks::new(self) }
        };
        LayoutWalk { source, order }
    }

    /// The layout of the indices `from .. to` of the first dimension, which it must have.
    pub(crate) fn rows(&self, from: usize, to: usize) -> Self {
        let mut part = self.clone();
        part.shape[0] = to - from;
        if !self.shape.contains(&0) {
            part.at += from as u64 * part.strides[0] * part.item as u64;
        }
        part
    }

    fn is_row_major(&self) -> bool {
        let mut run = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&len, &stride)| {
            let fits = len == 1 || stride == run;
            run *= len as u64;
            fits
        })
    }
}

/// A walk over the elements of a tensor in one file, in row-major order.
pub(crate) struct LayoutWalk<'s> {
    source: &'s Source,
    order: Order<'s>,
}

enum Order<'s> {
    /// The elements are in row-major order in the file.
    Run { at: u64, left: u64, block: usize },
    /// They are not.
    Picked { picker: Picker<'s>, blocks: Blocks },
}

impl LayoutWalk<'_> {
    /// Replaces `block` by the next elements, always whole ones; `false` at the end.
    pub(crate) fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, CheckpointError> {
        match &mut self.order {
            Order::Run { left: 0, .. } => Ok(false),
            Order::Run { at, left, block: most } => {
                let bytes = (*left).min(*most as u64);
                block.resize(bytes as usize, 0);
                self.source.read(*at, block, "a tensor")?;
                *at += bytes;
                *left -= bytes;
                Ok(true)
            }
            Order::Picked { picker, blocks } => {
                let Some((at, axes, bytes)) = blocks.next_block() else { return Ok(false) };
                block.resize(bytes, 0);
                picker.fill(block, at, 0, &axes)?;
                Ok(true)
            }
        }
    }
}

/// One dimension of a block.
#[derive(Debug, Clone, Copy)]
struct Axis {
    len: usize,
    /// Bytes from one index to the next in the file.
    stride: u64,
    /// Bytes from one index to the next in the row-major block.
    out: usize,
}

/// Cuts a tensor into row-major blocks of at most [`BLOCK`] bytes.
struct Blocks {
    layout: Layout,
    /// The dimension that is cut; every block has all of the dimensions after it.
    cut: usize,
    /// Bytes of one index of the cut dimension.
    inner: usize,
    /// Indices of the dimensions up to and including `cut`; `None` after the last block.
    index: Option<Vec<usize>>,
}

impl Blocks {
    fn new(layout: Layout) -> Self {
        let (mut cut, mut inner) = (layout.shape.len() - 1, layout.item);
        while cut > 0 && inner.checked_mul(layout.shape[cut]).is_some_and(|bytes| bytes <= BLOCK) {
            inner *= layout.shape[cut];
            cut -= 1;
        }
        Self { layout, cut, inner, index: Some(vec![0; cut + 1]) }
    }

    /// Position of the first element of the next block, its dimensions by descending stride, and its size in bytes.
    fn next_block(&mut self) -> Option<(u64, Vec<Axis>, usize)> {
        let (layout, cut, item) = (&self.layout, self.cut, self.layout.item as u64);
        let index = self.index.as_mut()?;
        let at = layout.at + index.iter().zip(&layout.strides).map(|(&i, &s)| i as u64 * s * item).sum::<u64>();
        let rows = (BLOCK / self.inner).min(layout.shape[cut] - index[cut]);
        let mut out = layout.item;
        let mut axes = Vec::new();
        for dimension in (cut..layout.shape.len()).rev() {
            let len = if dimension == cut { rows } else { layout.shape[dimension] };
            if len > 1 {
                axes.push(Axis { len, stride: layout.strides[dimension] * item, out });
            }
            out *= len;
        }
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.stride));

        index[cut] += rows;
        let mut dimension = cut;
        while index[dimension] == layout.shape[dimension] {
            index[dimension] = 0;
            if dimension == 0 {
                self.index = None;
                break;
            }
            dimension -= 1;
            index[dimension] += 1;
        }
        Some((at, axes, out))
    }
}

/// Reads spans of the file and picks elements from them.
struct Picker<'s> {
    source: &'s Source,
    item: usize,
    span: Vec<u8>,
}

impl Picker<'_> {
    /// Fills `block` from `out` on with the elements from `at` on along `axes`, which are sorted by descending stride.
    fn fill(&mut self, block: &mut [u8], at: u64, out: usize, axes: &[Axis]) -> Result<(), CheckpointError> {
        let Some((&first, rest)) = axes.split_first() else {
            return self.source.read(at, &mut block[out..out + self.item], "a tensor");
        };
        // Bytes of the file between the first and the last element along `rest`, and how many of them are wanted.
        let rest_span = rest.iter().map(|axis| (axis.len as u64 - 1) * axis.stride).sum::<u64>() + self.item as u64;
        let wanted: u64 = rest.iter().filter(|axis| axis.stride > 0).map(|axis| axis.len as u64).product();
        let sparse = first.stride / SPARSE > wanted * self.item as u64;
        let limit = if sparse { SPARSE_SPAN } else { SPAN };
        if rest_span > limit {
            for i in 0..first.len {
                self.fill(block, at + i as u64 * first.stride, out + i * first.out, rest)?;
            }
            return Ok(());
        }
        // As many indices of the first dimension at a time as fit.
        let many = (limit - rest_span).checked_div(first.stride).map_or(first.len, |n| first.len.min(n as usize + 1));
        for start in (0..first.len).step_by(many) {
            let len = many.min(first.len - start);
            let bytes = (len as u64 - 1) * first.stride + rest_span;
            self.span.resize(bytes as usize, 0);
            self.source.read(at + start as u64 * first.stride, &mut self.span, "a tensor")?;
            pick(&self.span, block, out + start * first.out, self.item, &Axis { len, ..first }, rest);
        }
        Ok(())
    }
}

/// Copies the elements of `span` along `first` and `rest` to their places in `block`.
fn pick(span: &[u8], block: &mut [u8], out: usize, item: usize, first: &Axis, rest: &[Axis]) {
    if let Some((next, rest)) = rest.split_first() {
        for i in 0..first.len {
            pick(&span[i * first.stride as usize..], block, out + i * first.out, item, next, rest);
        }
    } else if first.stride == item as u64 && first.out == item {
        block[out..out + first.len * item].copy_from_slice(&span[..first.len * item]);
    } else {
        for i in 0..first.len {
            let (from, to) = (i * first.stride as usize, out + i * first.out);
            block[to..to + item].copy_from_slice(&span[from..from + item]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of the numbers 0, 1, 2, … of four bytes each.
    fn numbers(count: u32) -> (tempfile::NamedTempFile, Source) {
        let bytes: Vec<u8> = (0..count).flat_map(u32::to_le_bytes).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let source = Source::open(file.path()).unwrap();
        (file, source)
    }

    fn streamed(source: &Source, layout: &Layout, run_bytes: usize) -> Vec<u32> {
        let (mut walk, mut block, mut values) = (layout.clone().walk(source, run_bytes), Vec::new(), Vec::new());
        while walk.next_block(&mut block).unwrap() {
            assert!(!block.is_empty() && block.len() <= if layout.is_row_major() { run_bytes } else { BLOCK });
            values.extend(block.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)));
        }
        values
    }

    /// The elements one by one: element (i, j, …) is number `first + i * strides[0] + j * strides[1] + …`.
    fn one_by_one(layout: &Layout) -> Vec<u32> {
        let mut values = vec![layout.at / 4];
        for (&len, &stride) in layout.shape.iter().zip(&layout.strides) {
            values = values.iter().flat_map(|v| (0..len as u64).map(move |i| v + i * stride)).collect();
        }
        values.into_iter().map(|v| v as u32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_shape_and_strides_come_out_in_row_major_order(
            dimensions in prop::collection::vec((0usize..6, 0u64..40), 0..5),
            first in 0u64..50,
            chunk in 4usize..100,
        ) {
            let (shape, strides): (Vec<_>, Vec<_>) = dimensions.into_iter().unzip();
            let layout = Layout { at: first * 4, item: 4, shape, strides };
            let (_file, source) = numbers(1000);
            prop_assert_eq!(streamed(&source, &layout, chunk), one_by_one(&layout));
        }
    }

    #[test]
    fn tensors_larger_than_a_block_come_out_in_row_major_order() {
        let (_file, source) = numbers(6 << 20);
        let layout = |shape: &[usize], strides: &[u64]| Layout {
            at: 40,
            item: 4,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        let cases = [
            // Transposed; its rows too long for a block; all axes permuted; sparse rows; expanded; far apart elements.
            layout(&[2000, 3000], &[1, 2000]),
            layout(&[2, 3_000_000], &[1, 2]),
            layout(&[30, 500, 400], &[400, 12_000, 1]),
            layout(&[150, 2, 100], &[40_000, 300, 3]),
            layout(&[300, 10_000], &[0, 1]),
            layout(&[2500, 2, 2], &[7, 2_000_000, 1_000_000]),
        ];
        for layout in cases {
            assert!(streamed(&source, &layout, 1 << 16) == one_by_one(&layout), "{layout:?}");
        }
    }
}
