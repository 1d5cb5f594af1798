//! Numbers from all ranks to rank 0, in pieces of bounded size.

use anyhow::{Context, Result};
use slackline_collective::{Endpoint, Exchange, Rank};

/// The largest message that a rank sends while it hands in its numbers.
pub(super) const CHUNK_BYTES: usize = 1 << 14;

const CHUNK: usize = CHUNK_BYTES / size_of::<f32>();

/// Brings `values` of every rank to rank 0, which gets them in pieces, those of one rank in order, each with its rank.
/// All ranks call this; on the others `sink` is not called. `control` has no lag.
///
/// Cost: a round for each [`CHUNK_BYTES`] of the rank with the most, in which each rank sends one message to rank 0.
pub(super) fn to_first<E: Endpoint>(
    control: &mut Exchange<'_, E>,
    values: &[f32],
    mut sink: impl FnMut(Rank, &mut dyn Iterator<Item = f32>) -> Result<()>,
) -> Result<()> {
    let lengths = control.all_gather(&(values.len() as u64).to_le_bytes())?;
    let mut sizes = vec![0; lengths.len()];
    let lengths = lengths.iter().map(|length| Some(u64::from_le_bytes(length.as_slice().try_into().ok()?)));
    let lengths = lengths.collect::<Option<Vec<_>>>().context("a rank did not say how many numbers it has")?;
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
