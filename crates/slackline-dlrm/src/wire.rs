//! Pooled vectors in messages: their precision, writing and reading.

use std::fmt;
use std::str::FromStr;

use bytemuck::{AnyBitPattern, Pod};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use slackline_embedding::{Bags, EmbeddingTable, Output, Pooling, pool_finite};

use crate::Result;

/// The precision of pooled vectors in messages between ranks.
///
/// Sums are computed in single precision and rounded once, to the nearest value. A rank's own vectors are rounded as well,
/// so that predictions are the same for any number of ranks. A sum that would become infinite is refused with table and sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// `f32`: 4 bytes, exact.
    #[default]
    F32,
    /// `f16`: 2 bytes, 11 significant bits, up to 65504.
    F16,
    /// `bf16`: 2 bytes, 8 significant bits, the range of `f32`.
    Bf16,
}

impl Wire {
    /// All precisions.
    pub const ALL: [Wire; 3] = [Wire::F32, Wire::F16, Wire::Bf16];

    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Wire::F32 => 4,
            Wire::F16 | Wire::Bf16 => 2,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Wire::F32 => "f32",
            Wire::F16 => "f16",
            Wire::Bf16 => "bf16",
        })
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Wire::ALL.into_iter().find(|wire| wire.to_string() == text);
        found.ok_or_else(|| "not one of f32, f16 and bf16".to_owned())
    }
}

/// The pooled vectors of a message, in place if they are `f32` and aligned, otherwise copied to `spare`.
pub(crate) fn read_pooled<'a>(bytes: &'a [u8], wire: Wire, spare: &'a mut Vec<f32>) -> &'a [f32] {
    if wire == Wire::F32
        && let Ok(values) = bytemuck::try_cast_slice(bytes)
    {
        return values;
    }
    spare.clear();
    match wire {
        Wire::F32 => spare.extend(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value))),
        Wire::F16 => widen(bytes, spare, f16::from_le_bytes, |narrow, wide| narrow.convert_to_f32_slice(wide)),
        Wire::Bf16 => widen(bytes, spare, bf16::from_le_bytes, |narrow, wide| narrow.convert_to_f32_slice(wide)),
    }
    spare
}

/// Converts values of 2 bytes to single precision, all at once if they are aligned.
fn widen<T: AnyBitPattern + Into<f32>>(
    bytes: &[u8],
    wide: &mut Vec<f32>,
    one: impl Fn([u8; 2]) -> T,
    all: impl Fn(&[T], &mut [f32]),
) {
    match bytemuck::try_cast_slice(bytes) {
        Ok(narrow) => {
            wide.resize(narrow.len(), 0.0);
            all(narrow, wide);
        }
        Err(_) => wide.extend(bytes.as_chunks().0.iter().map(|value| one(*value).into())),
    }
}

/// A room of a message as values, if it is aligned for them.
pub(crate) fn output_in(bytes: &mut [u8], wire: Wire) -> Option<Output<'_>> {
    Some(match wire {
        Wire::F32 => Output::F32(bytemuck::try_cast_slice_mut(bytes).ok()?),
        Wire::F16 => Output::F16(bytemuck::try_cast_slice_mut(bytes).ok()?),
        Wire::Bf16 => Output::Bf16(bytemuck::try_cast_slice_mut(bytes).ok()?),
    })
}

/// Pools into `out`, which is replaced by one vector a sample, rounded to the precision of messages.
pub(crate) fn pool_rounded(table: &dyn EmbeddingTable, bags: &Bags<'_>, wire: Wire, out: &mut Vec<f32>) -> Result<()> {
    let values = bags.len() * table.dim();
    out.resize(values, 0.0);
    match wire {
        Wire::F32 => table.pool(bags, Pooling::Sum, out)?,
        Wire::F16 => {
            let mut narrow = vec![f16::ZERO; values];
            pool_finite(table, bags, Pooling::Sum, Output::F16(&mut narrow))?;
            narrow.convert_to_f32_slice(out);
        }
        Wire::Bf16 => {
            let mut narrow = vec![bf16::ZERO; values];
            pool_finite(table, bags, Pooling::Sum, Output::Bf16(&mut narrow))?;
            narrow.convert_to_f32_slice(out);
        }
    }
    Ok(())
}

/// Lets `write` fill a room of a message with values, in place if the room is aligned for them.
pub(crate) fn write_pooled(bytes: &mut [u8], wire: Wire, write: impl FnOnce(Output<'_>) -> Result<()>) -> Result<()> {
    match wire {
        Wire::F32 => in_place(bytes, |values| write(Output::F32(values))),
        Wire::F16 => in_place(bytes, |values| write(Output::F16(values))),
        Wire::Bf16 => in_place(bytes, |values| write(Output::Bf16(values))),
    }
}

fn in_place<T: Pod>(bytes: &mut [u8], write: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
    if let Ok(values) = bytemuck::try_cast_slice_mut(bytes) {
        return write(values);
    }
    let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    write(&mut values)?;
    bytes.copy_from_slice(bytemuck::cast_slice(&values));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_pass_through_rooms_on_any_address() {
        let values = [1.5, -2.0, f32::MIN_POSITIVE];
        for wire in Wire::ALL {
            assert_eq!(wire.to_string().parse(), Ok(wire));
            let mut memory = [0u8; 32];
            let start = memory.as_ptr().align_offset(4);
            for shift in 0..4 {
                let room = &mut memory[start + shift..start + shift + 3 * wire.bytes()];
                write_pooled(room, wire, |out| {
                    match out {
                        Output::F32(out) => out.copy_from_slice(&values),
                        Output::F16(out) => out.convert_from_f32_slice(&values),
                        Output::Bf16(out) => out.convert_from_f32_slice(&values),
                    }
                    Ok(())
                })
                .unwrap();
                // Too small for half precision.
                let smallest = if wire == Wire::F16 { 0.0 } else { f32::MIN_POSITIVE };
                assert_eq!(read_pooled(room, wire, &mut Vec::new()), [1.5, -2.0, smallest], "{wire}, shift {shift}");
            }
        }
    }
}
