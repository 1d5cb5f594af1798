//! Arithmetic on shapes and strides that come from a file, and reading a shape.

use std::fmt;

use serde_core::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::limits::MAX_DIMENSIONS;

/// The product of `shape`, or `None` if it does not fit in 63 bits. A tensor with an empty dimension has no elements,
/// whatever its other dimensions are.
pub(crate) fn elements(shape: &[usize]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let product = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
    i64::try_from(product).ok().map(|_| product)
}

/// Bytes from the first element of a tensor to the end of its last; `None` if they do not fit in 63 bits. Zero if it has
/// no elements.
pub(crate) fn extent(shape: &[usize], strides: &[u64], item: u64) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0u64, |sum, (&len, &stride)| sum.checked_add((len as u64 - 1).checked_mul(stride)?))?;
    let bytes = last.checked_add(1)?.checked_mul(item)?;
    i64::try_from(bytes).ok().map(|_| bytes)
}

/// The strides, in elements, of a tensor in row-major order.
pub(crate) fn row_major(shape: &[usize]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension] as u64);
    }
    strides
}

/// One number for each dimension, at most [`MAX_DIMENSIONS`] of them: more are refused while they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dimensions(pub(crate) Vec<usize>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimensionsVisitor;
        impl<'de> Visitor<'de> for DimensionsVisitor {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of the lengths of a tensor's dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Vec::new();
                while let Some(len) = items.next_element()? {
                    if dimensions.len() == MAX_DIMENSIONS {
                        return Err(A::Error::custom(format!("more than {MAX_DIMENSIONS} dimensions")));
                    }
                    dimensions.push(len);
                }
                Ok(Dimensions(dimensions))
            }
        }
        deserializer.deserialize_seq(DimensionsVisitor)
    }
}

/// The place along each dimension of an element by its number in row-major order.
pub(crate) fn position(shape: &[usize], mut number: usize) -> Vec<usize> {
    let mut position: Vec<usize> = Vec::with_capacity(shape.len());
    for &len in shape.iter().rev() {
        position.push(number % len.max(1));
        number /= len.max(1);
    }
    position.reverse();
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_that_does_not_fit_is_told() {
        assert_eq!(extent(&[3, 2], &[1, 3], 4), Some(24));
        assert_eq!(extent(&[3, 0], &[u64::MAX, 1], 4), Some(0));
        assert_eq!(extent(&[3], &[u64::MAX / 2], 1), None);
        assert_eq!(extent(&[usize::MAX, usize::MAX], &[1, 1], 1), None);
        assert_eq!(extent(&[], &[], 16), Some(16));
    }
}
