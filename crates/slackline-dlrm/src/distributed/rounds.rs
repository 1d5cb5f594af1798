//! The distributed pass over the rounds of any [`Collective`].

use slackline_collective::{Collective, CompleteRound, OpenRound};
use slackline_data::Batch;

use super::{Answered, DistributedModel};
use crate::Result;

impl DistributedModel {
    /// [`pool`](Self::pool), then [`bottom`](Self::bottom): all of this rank's work on a batch that needs no other rank.
    /// The batch may be reused as soon as this returns.
    ///
    /// # Errors
    ///
    /// Those of [`pool`](Self::pool).
    pub fn submit(&mut self, collective: &mut impl Collective, batch: &Batch) -> Result<()> {
        self.pool(collective, batch)?;
        self.bottom();
        Ok(())
    }

    /// [Prepares](Self::prepare) a batch, begins a round with the sizes of its messages, pools into them and publishes.
    /// Keeps the dense features of this rank's samples, so the batch may be reused.
    ///
    /// Cost: each row that is looked up is read once, and each pooled vector written once, to where the transport sends it
    /// from (the receiver's memory, if they share it). Lookups of a table that is cut by rows, or has hot rows, are copied
    /// first.
    ///
    /// # Errors
    ///
    /// Those of [`prepare`](Self::prepare), before anything is sent: the other ranks wait for this rank's vectors, so tell
    /// them with `Group::give_up`. And [`DlrmError::Pool`](crate::DlrmError::Pool),
    /// [`DlrmError::Collective`](crate::DlrmError::Collective).
    pub fn pool(&mut self, collective: &mut impl Collective, batch: &Batch) -> Result<()> {
        let mut prepared = self.prepare(batch)?;
        let mut round = collective.begin(prepared.send_sizes(), prepared.receive_sizes())?;
        if round.needs_progress() {
            // Messages of earlier rounds move on between the parts.
            while prepared.pool_turn(&mut round.messages_mut())? {
                round.progress()?;
            }
        } else {
            prepared.pool_into(&mut round.messages_mut())?;
        }
        let number = round.number();
        round.publish()?;
        prepared.finish(number)
    }

    /// [Answers](Self::answer) a round that the collective handed out, reading its messages where they landed, and gives its
    /// slots back before it returns. `out` is replaced by the predictions of this rank's samples, in order.
    ///
    /// # Errors
    ///
    /// Those of [`answer`](Self::answer).
    pub fn complete(&mut self, complete: impl CompleteRound, out: &mut Vec<f32>) -> Result<Answered> {
        let messages: Vec<&[u8]> = (0..self.plan().ranks()).map(|from| complete.message(from)).collect();
        self.answer(complete.number(), &messages, out)
    }
}
