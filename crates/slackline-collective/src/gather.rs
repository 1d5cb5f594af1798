//! Barrier and all-gather: one round of a lane without lag.

use slackline_transport::Endpoint;

use crate::{CollectiveError, Exchange};

impl<E: Endpoint> Exchange<'_, E> {
    /// Waits until every rank has called it. One round of empty messages.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::NotSynchronous`] on a lane with lag or with rounds outstanding, and those of
    /// [`take`](Exchange::take).
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        self.all_gather(&[]).map(drop)
    }

    /// Returns the bytes that each rank gave, in rank order; their lengths may differ. One round, two copies.
    ///
    /// # Errors
    ///
    /// As [`barrier`](Exchange::barrier).
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let ranks = self.synchronous()?;
        let mut round = self.begin(&vec![bytes.len(); ranks])?;
        for message in round.messages_mut() {
            message.copy_from_slice(bytes);
        }
        round.publish()?;
        let complete = self.take()?.expect("without lag, a published round is due");
        Ok((0..ranks).map(|from| complete.message(from).to_vec()).collect())
    }
}
