//! Tensors in parts: boxes of rows and columns, each in a file of its own, put together in row-major order in bounded memory.

use crate::CheckpointError;
use crate::layout::{BLOCK, Piece};
use crate::shape::row_major;
use crate::source::{Source, Sources};

/// Parts that one row may be cut into.
const MAX_SIDE_BY_SIDE: usize = 1024;

/// Bytes of one index of the first dimension: it is put together as a whole.
const MAX_ROW: u64 = 64 << 20;

/// Bytes of a part that are read at a time.
const CHUNK: usize = 1 << 20;

/// A tensor in parts, checked: each of its elements is in exactly one part.
#[derive(Debug)]
pub(crate) struct Parts {
    shape: Vec<usize>,
    item: usize,
    /// Sorted by their first row.
    parts: Vec<Part>,
}

/// One box of a tensor.
#[derive(Debug)]
pub(crate) struct Part {
    /// The index of its first element, along each dimension.
    pub(crate) offsets: Vec<usize>,
    /// Where its elements are; the shape of the layout is that of the box.
    pub(crate) piece: Piece,
}

impl Part {
    fn sizes(&self) -> &[usize] {
        &self.piece.layout.shape
    }

    fn rows(&self) -> std::ops::Range<usize> {
        self.offsets[0]..self.offsets[0] + self.sizes()[0]
    }

    fn overlaps(&self, other: &Part) -> bool {
        let apart = |d: usize| {
            self.offsets[d] >= other.offsets[d] + other.sizes()[d]
                || other.offsets[d] >= self.offsets[d] + self.sizes()[d]
        };
        !(0..self.offsets.len()).any(apart)
    }
}

impl Parts {
    /// Checks that the parts make up a tensor of at least one dimension. Its size in bytes must fit in 63 bits.
    pub(crate) fn new(shape: &[usize], item: usize, mut parts: Vec<Part>) -> Result<Self, String> {
        let row = shape[1..].iter().map(|&len| len as u64).product::<u64>() * item as u64;
        if row > MAX_ROW {
            return Err(format!(
                "it is in parts, and one of its rows has {row} bytes, more than the limit of {MAX_ROW}"
            ));
        }
        for part in &parts {
            let (offsets, sizes) = (&part.offsets, part.sizes());
            let fits = offsets.len() == shape.len()
                && sizes.len() == shape.len()
                && shape
                    .iter()
                    .zip(offsets.iter().zip(sizes))
                    .all(|(&len, (&offset, &size))| offset.checked_add(size).is_some_and(|end| end <= len));
            if !fits {
                return Err(format!("a part of shape {sizes:?} at {offsets:?} is outside of its shape {shape:?}"));
            }
        }
        parts.retain(|part| !part.sizes().contains(&0));
        parts.sort_by(|a, b| a.offsets.cmp(&b.offsets));
        let mut beside: Vec<&Part> = Vec::new();
        for part in &parts {
            beside.retain(|other| other.rows().end > part.offsets[0]);
            if let Some(other) = beside.iter().find(|other| other.overlaps(part)) {
                return Err(format!("its parts at {:?} and {:?} overlap", other.offsets, part.offsets));
            }
            if beside.len() == MAX_SIDE_BY_SIDE {
                return Err(format!("more than {MAX_SIDE_BY_SIDE} of its parts are side by side"));
            }
            beside.push(part);
        }
        // Parts that are inside the tensor and do not overlap are all of it exactly if they have as many elements.
        let elements = |shape: &[usize]| shape.iter().map(|&len| len as u128).product::<u128>();
        let (all, found) = (elements(shape), parts.iter().map(|part| elements(part.sizes())).sum::<u128>());
        if found != all {
            return Err(format!(
                "its parts have {found} of the {all} elements of its shape {shape:?}: there is a hole"
            ));
        }
        Ok(Parts { shape: shape.to_vec(), item, parts })
    }

    /// Bytes that all parts together take in their files.
    pub(crate) fn extent(&self) -> u64 {
        self.parts.iter().map(|part| part.piece.extent).fold(0, u64::saturating_add)
    }

    /// Walks over the elements in row-major order, from row `first` on, in blocks of about [`BLOCK`] bytes.
    pub(crate) fn walk<'a>(&'a self, sources: &'a Sources, first: usize) -> PartsWalk<'a> {
        let row_bytes = self.shape[1..].iter().product::<usize>() * self.item;
        let rows = if self.shape.contains(&0) { 0 } else { self.shape[0] };
        let rows_at_once = (BLOCK / row_bytes.max(1)).max(1);
        PartsWalk { tensor: self, sources, row: first, rows, row_bytes, rows_at_once, next: 0, current: Vec::new() }
    }

    /// Copies what a part has of these rows to its places in the block.
    fn fill(
        &self,
        block: &mut [u8],
        rows: std::ops::Range<usize>,
        part: &Part,
        source: &Source,
    ) -> Result<(), CheckpointError> {
        let from = rows.start.max(part.offsets[0]);
        let to = rows.end.min(part.rows().end);
        let layout = part.piece.layout.rows(from - part.offsets[0], to - part.offsets[0]);
        // The last dimensions that the part has all of are one run in the block, with the one before them.
        let mut cut = self.shape.len() - 1;
        while cut > 0 && layout.shape[cut] == self.shape[cut] {
            cut -= 1;
        }
        let run = layout.shape[cut..].iter().product::<usize>() * self.item;
        let strides = row_major(&self.shape);
        let place = |mut number: usize| {
            let mut at = 0;
            for d in (0..self.shape.len()).rev() {
                let index = if d < cut { number % layout.shape[d] } else { 0 };
                if d < cut {
                    number /= layout.shape[d];
                }
                let offset = if d == 0 { from - rows.start } else { part.offsets[d] };
                at += (index + offset) * strides[d] as usize;
            }
            at * self.item
        };
        let (mut done, mut read) = (0, Vec::new());
        let mut walk = layout.clone().walk(source, CHUNK);
        while walk.next_block(&mut read)? {
            let mut bytes = &read[..];
            while !bytes.is_empty() {
                let (number, within) = (done / run, done % run);
                let n = bytes.len().min(run - within);
                let to = place(number) + within;
                block[to..to + n].copy_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                done += n;
            }
        }
        Ok(())
    }
}

/// A walk over the elements of a tensor in parts, in row-major order.
pub(crate) struct PartsWalk<'a> {
    tensor: &'a Parts,
    sources: &'a Sources,
    /// The next row.
    row: usize,
    rows: usize,
    row_bytes: usize,
    rows_at_once: usize,
    /// The first part that has not been reached.
    next: usize,
    /// The parts that have rows of the last block or later ones.
    current: Vec<&'a Part>,
}

impl PartsWalk<'_> {
    /// Replaces `block` by the next rows; `false` at the end.
    pub(crate) fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, CheckpointError> {
        if self.row >= self.rows {
            return Ok(false);
        }
        let rows = self.row..(self.row + self.rows_at_once).min(self.rows);
        while let Some(part) = self.tensor.parts.get(self.next).filter(|part| part.offsets[0] < rows.end) {
            self.current.push(part);
            self.next += 1;
        }
        self.current.retain(|part| part.rows().end > rows.start);
        block.resize(rows.len() * self.row_bytes, 0);
        for part in &self.current {
            self.tensor.fill(block, rows.clone(), part, self.sources.get(part.piece.source))?;
        }
        self.row = rows.end;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::Layout;

    /// A tensor of the numbers 0, 1, 2, …, one file of all its boxes one after another, and the boxes.
    fn boxes(shape: &[usize], cuts: &[Vec<usize>]) -> (tempfile::NamedTempFile, Sources, Vec<Part>) {
        let mut bytes = Vec::new();
        let mut parts = Vec::new();
        let bounds: Vec<Vec<usize>> = shape
            .iter()
            .zip(cuts)
            .map(|(&len, cuts)| {
                let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).chain([0, len]).collect();
                bounds.sort_unstable();
                bounds
            })
            .collect();
        let mut corners: Vec<Vec<usize>> = vec![vec![]];
        for bounds in &bounds {
            let longer = |c: &Vec<usize>| (0..bounds.len() - 1).map(|i| [&c[..], &[i]].concat()).collect::<Vec<_>>();
            corners = corners.iter().flat_map(longer).collect();
        }
        let strides = row_major(shape);
        for corner in corners {
            let offsets: Vec<usize> = corner.iter().zip(&bounds).map(|(&i, b)| b[i]).collect();
            let sizes: Vec<usize> = corner.iter().zip(&bounds).map(|(&i, b)| b[i + 1] - b[i]).collect();
            let at = bytes.len() as u64;
            let mut numbers = vec![0u64];
            for d in 0..shape.len() {
                let along = |n: u64| (0..sizes[d]).map(move |i| (i, n));
                let number = |(i, n): (usize, u64)| n + (offsets[d] + i) as u64 * strides[d];
                numbers = numbers.into_iter().flat_map(along).map(number).collect();
            }
            numbers.iter().for_each(|n| bytes.extend_from_slice(&(*n as u32).to_le_bytes()));
            let layout = Layout { at, item: 4, strides: row_major(&sizes), shape: sizes };
            let extent = 4 * numbers.len() as u64;
            parts.push(Part { offsets, piece: Piece { source: 0, layout, extent } });
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let sources = Sources::new(Source::open(file.path()).unwrap(), Vec::new());
        (file, sources, parts)
    }

    proptest! {
        #[test]
        fn any_cut_of_a_tensor_comes_out_in_row_major_order(
            dimensions in prop::collection::vec((1usize..9, prop::collection::vec(0usize..20, 0..4)), 1..4),
            rows_at_once in 1usize..6,
            first in 0usize..10,
            shuffle: prop::sample::Index,
        ) {
            let (shape, cuts): (Vec<usize>, Vec<_>) = dimensions.into_iter().unzip();
            let (_file, sources, mut parts) = boxes(&shape, &cuts);
            let turn = shuffle.index(parts.len());
            parts.rotate_left(turn);
            let parts = Parts::new(&shape, 4, parts).unwrap();
            let (mut walk, mut block, mut values) = (parts.walk(&sources, first), Vec::new(), Vec::new());
            walk.rows_at_once = rows_at_once;
            while walk.next_block(&mut block).unwrap() {
                values.extend(block.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)));
            }
            let row: usize = shape[1..].iter().product();
            let all = (shape[0] * row) as u32;
            prop_assert_eq!(values, ((first * row) as u32..all.max((first * row) as u32)).collect::<Vec<_>>());
        }

        #[test]
        fn a_box_too_few_or_too_many_is_refused(
            dimensions in prop::collection::vec((1usize..9, prop::collection::vec(0usize..20, 0..4)), 1..4),
            which: prop::sample::Index,
            twice: bool,
        ) {
            let (shape, cuts): (Vec<usize>, Vec<_>) = dimensions.into_iter().unzip();
            let (_file, _sources, mut parts) = boxes(&shape, &cuts);
            parts.retain(|part| !part.sizes().contains(&0));
            let at = which.index(parts.len());
            let part = parts.remove(at);
            if twice {
                let Part { offsets, piece: Piece { source, layout, extent } } = &part;
                let piece = Piece { source: *source, layout: layout.clone(), extent: *extent };
                parts.push(Part { offsets: offsets.clone(), piece });
                parts.push(part);
            }
            let refused = Parts::new(&shape, 4, parts).unwrap_err();
            prop_assert!(refused.contains(if twice { "overlap" } else { "hole" }), "{}", refused);
        }
    }

    #[test]
    fn tensors_larger_than_a_block_come_out_in_row_major_order() {
        let shape = [3000, 1500];
        let (_file, sources, parts) = boxes(&shape, &[vec![1400, 1401, 2900], vec![700, 1]]);
        let parts = Parts::new(&shape, 4, parts).unwrap();
        for first in [0, 1397, 2999] {
            let mut next = first as u32 * 1500;
            let (mut walk, mut block) = (parts.walk(&sources, first), Vec::new());
            while walk.next_block(&mut block).unwrap() {
                for &bytes in block.as_chunks().0 {
                    assert_eq!(u32::from_le_bytes(bytes), next);
                    next += 1;
                }
            }
            assert_eq!(next, 3000 * 1500);
        }
    }
}
