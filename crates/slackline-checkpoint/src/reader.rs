//! The elements of a tensor as a stream of bytes.

use std::fmt;
use std::io::{self, BufRead, Read};

use crate::tensor::Walk;

/// Reads the elements of a tensor in row-major order, as little-endian bytes: see
/// [`Checkpoint::reader`](crate::Checkpoint::reader).
///
/// It is buffered: nothing is gained by wrapping it in a `BufReader`.
pub struct TensorReader<'c> {
    walk: Walk<'c>,
    block: Vec<u8>,
    /// Bytes of `block` that have been read.
    used: usize,
}

impl<'c> TensorReader<'c> {
    pub(crate) fn new(walk: Walk<'c>) -> Self {
        TensorReader { walk, block: Vec::new(), used: 0 }
    }
}

impl BufRead for TensorReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.block.len() {
            // Empty unless a block was read whole: after an error, its bytes must not be taken for the tensor's.
            let read = self.walk.next_block(&mut self.block);
            if !matches!(read, Ok(true)) {
                self.block.clear();
            }
            self.used = 0;
            read?;
        }
        Ok(&self.block[self.used..])
    }

    fn consume(&mut self, bytes: usize) {
        self.used = self.block.len().min(self.used + bytes);
    }
}

impl Read for TensorReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(into)?;
        self.consume(n);
        Ok(n)
    }
}

impl fmt::Debug for TensorReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorReader").finish_non_exhaustive()
    }
}
