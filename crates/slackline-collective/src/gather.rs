//! Barrier, all-gather and agreement: one round of a lane without lag.

use slackline_transport::Endpoint;
use xxhash_rust::xxh3::xxh3_128;

use crate::{CollectiveError, Exchange, Terms};

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

    /// Compares what each rank has with what all others have. Every rank has to call it. One round of digests; where they differ,
    /// another in which the ranks say what they have.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Disagree`], the same on every rank, and those of [`all_gather`](Self::all_gather).
    pub fn agree(&self, terms: &Terms) -> Result<(), CollectiveError> {
        let own = terms.to_bytes();
        let digests = self.all_gather(&xxh3_128(&own).to_le_bytes())?;
        if digests.iter().all(|digest| *digest == digests[0]) {
            return Ok(());
        }
        Ok(Terms::compare(&self.all_gather(&own)?)?)
    }
}
