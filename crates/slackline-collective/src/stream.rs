//! Streams: the messages of one ordered pair of ranks on one lane, of any size, in order.
//!
//! A stream knows slots, credit, fragments and the farewell of one pair, and nothing of rounds or of other pairs. Message `n`
//! of a stream is round `n` where rounds use the lane, and the `n`-th request or answer where streams do.
//!
//! A message that is shorter than a slot is published as it is and lies in place until its reader is done. A larger one goes
//! in fragments, each a full slot with a [header](header); its sender keeps what did not fit, its receiver puts it together.
//! Nothing here waits.

mod aligned;
mod header;
mod incoming;
mod outgoing;

pub(crate) use aligned::AlignedBytes;
pub(crate) use incoming::{Incoming, Received};
pub(crate) use outgoing::{Outgoing, Room};

pub use header::HEADER_BYTES;
