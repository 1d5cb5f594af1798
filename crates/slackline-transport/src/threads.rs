//! Ranks that are threads of one process.

use std::io;
use std::sync::Arc;

use crate::shm::{Group, Layout, Region, RingEndpoint, check_memory};
use crate::sync::Reach;
use crate::{GroupShape, TransportError};

/// What a rank keeps of each peer and lane beside the rings, here and in the layers above: with 512 ranks and three lanes 1.6 KiB
/// were measured. All ranks are in one process, so that it counts for the limit of one container.
const BOOKS: usize = 2048;

/// One thread's end of a group. Move it to its thread.
pub type ThreadEndpoint = RingEndpoint;

/// A group whose ranks are threads of this process: one endpoint a rank, in rank order.
///
/// The rings are one mapping, whose pages are allocated when they are first written: slots that are never used cost only
/// address space. If its slots have 256 KiB or more, it uses huge pages where the kernel has them.
///
/// An endpoint that is dropped before it has detached, because its thread panics or returns early, is dead to its peers at
/// once.
///
/// # Errors
///
/// [`TransportError::Shape`] for a shape without ranks, lanes or slots, or past the address space;
/// [`TransportError::Memory`] for one that needs more memory than is available; [`TransportError::System`] if the system has no memory to map.
///
/// # Examples
///
/// ```
/// use slackline_transport::{Endpoint, GroupShape, Lane, LaneShape, threads};
///
/// let shape = GroupShape { ranks: 2, lanes: vec![LaneShape { slots: 4, slot_bytes: 1024 }] };
/// let mut group = threads::group(&shape)?.into_iter();
/// let (one, two) = (group.next().unwrap(), group.next().unwrap());
/// let lane = Lane(0);
///
/// std::thread::scope(|threads| {
///     threads.spawn(move || {
///         assert_eq!(one.free_slots(lane, 1), 4);
///         one.room(lane, 1).unwrap()[..5].copy_from_slice(b"hello");
///         one.publish(lane, 1, 5);
///         one.notify();
///         one.detach();
///     });
///     threads.spawn(move || {
///         while two.landed(lane, 0) == 0 {
///             two.wait(two.now() + std::time::Duration::from_secs(1)).unwrap();
///         }
///         assert_eq!(*two.message(lane, 0, 0), *b"hello");
///         two.release(lane, 0, 1);
///         two.notify();
///         two.detach();
///     });
/// });
/// # Ok::<(), slackline_transport::TransportError>(())
/// ```
pub fn group(shape: &GroupShape) -> Result<Vec<ThreadEndpoint>, TransportError> {
    let shape = shape.rounded()?;
    let layout = Layout::new(&shape)?;
    let ranks = shape.ranks;
    let failed = |action| move |source: io::Error| TransportError::System { rank: 0, action, source };
    let books = ranks.saturating_mul(ranks).saturating_mul(shape.lanes.len()).saturating_mul(BOOKS);
    check_memory((layout.bytes as u64).saturating_add(books as u64))?;
    let region = Region::anonymous(layout.bytes).map_err(failed("mapping memory for the rings"))?;
    let group = Group::create(region, shape, layout, Reach::Process, [0; 2]);
    (0..ranks).map(|rank| RingEndpoint::take(Arc::clone(&group), rank)).collect()
}
