//! Sends numbers of all ranks to rank 0, in messages of bounded size.

use anyhow::{Context, Result};
use slackline_collective::{Endpoint, Exchange, Rank};

/// The largest message.
const CHUNK_BYTES: usize = 1 << 14;

/// The slots of the lane for `ranks` ranks: what one rank receives at once stays the same in a large group, where a message may
/// come in fragments.
pub(super) fn slot_bytes(ranks: usize) -> usize {
    (16 * CHUNK_BYTES / ranks).clamp(512, CHUNK_BYTES)
}

const CHUNK: usize = CHUNK_BYTES / size_of::<f32>();

/// Sends `values` of every rank to rank 0, which passes them to `sink` with their rank, those of one rank in order. All
/// ranks call this; on other ranks `sink` is not called. `control` has no lag.
///
/// Cost: one round per [`CHUNK_BYTES`] of the rank with the most values; in each, every rank sends one message to rank 0.
pub(super) fn to_first<E: Endpoint>(
    control: &mut Exchange<'_, E>,
    values: &[f32],
    mut sink: impl FnMut(Rank, &mut dyn Iterator<Item = f32>) -> Result<()>,
) -> Result<()> {
    let lengths = control.all_gather(&(values.len() as u64).to_le_bytes())?;
    let mut sizes = vec![0; lengths.len()];
    let lengths = lengths.iter().map(|length| Some(u64::from_le_bytes(length.as_slice().try_into().ok()?)));
    let lengths = lengths.collect::<Option<Vec<_>>>().context("a rank did not announce how many numbers it sends")?;
    let most = lengths.into_iter().max().unwrap_or(0);
    let mut chunks = values.chunks(CHUNK);
    for _ in 0..most.div_ceil(CHUNK as u64) {
        let chunk = chunks.next().unwrap_or(&[]);
        sizes[0] = size_of_val(chunk);
        let mut round = control.begin(&sizes)?;
        for (room, value) in round.messages_mut()[0].chunks_exact_mut(4).zip(chunk) {
            room.copy_from_slice(&value.to_le_bytes());
        }
        round.publish()?;
        while let Some(complete) = control.take()? {
            for (from, message) in complete.messages().into_iter().enumerate().filter(|(_, m)| !m.is_empty()) {
                let values = message.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")));
                sink(from, &mut { values })?;
            }
        }
    }
    Ok(())
}
