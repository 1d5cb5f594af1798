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
    pub fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.all_gather(&[]).map(drop)
    }

    /// Returns the bytes that each rank gave, in rank order; their lengths may differ. One round, two copies.
    ///
    /// # Errors
    ///
    /// As [`barrier`](Exchange::barrier).
    pub fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let state = self.state();
        let ranks = state.incoming.len();
        if state.options.lag != 0 || state.taken != state.begun {
            let error = CollectiveError::NotSynchronous { lane: state.id, lag: state.options.lag };
            return Err(self.refuse(error));
        }
        let mut round = self.begin(&vec![bytes.len(); ranks])?;
        for message in round.messages_mut() {
            message.copy_from_slice(bytes);
        }
        round.publish()?;
        let complete = self.take()?.expect("without lag, a published round is due");
        Ok((0..ranks).map(|from| complete.message(from).to_vec()).collect())
    }
}
