//! One operation under way: pieces of memory to send and to receive, in phases.

use std::sync::Arc;
use std::time::Duration;

use slackline_collective::{CollectiveError, Endpoint, Rank, Streams};

use crate::plan::{Phase, Piece, Plan};
use crate::{Failure, Ticket};

/// Bytes before the payload of every slot.
pub(crate) const HEADER: usize = 32;

/// What a slot carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The operation, by its place among all of the group.
    pub(crate) number: u64,
    /// What is done: all ranks have to mean the same.
    pub(crate) signature: u64,
    /// Bytes of the whole piece.
    pub(crate) total: u64,
    /// Of which those before are in earlier slots.
    pub(crate) offset: u64,
}

impl Header {
    pub(crate) fn write(&self, slot: &mut [u8]) {
        for (place, word) in [self.number, self.signature, self.total, self.offset].into_iter().enumerate() {
            slot[8 * place..8 * place + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn read(slot: &[u8]) -> Option<(Header, &[u8])> {
        let (header, payload) = slot.split_at_checked(HEADER)?;
        let word = |place: usize| u64::from_le_bytes(header[8 * place..8 * place + 8].try_into().expect("eight bytes"));
        Some((Header { number: word(0), signature: word(1), total: word(2), offset: word(3) }, payload))
    }
}

/// What ranks compare: the name of an operation, a detail (its root or what it reduces how), and the phase.
fn signature(plan: &Plan, phase: u8) -> u64 {
    u64::from(plan.code) | u64::from(phase) << 8 | u64::from(plan.reducer) << 16 | u64::from(plan.root) << 32
}

/// What a signature says, for an error.
fn spell(signature: u64) -> String {
    let root = signature >> 32;
    let name = Plan::name_of(signature as u8);
    if root == 0 { name.to_owned() } else { format!("{name} of root {root}") }
}

pub(crate) struct Operation {
    pub(crate) number: u64,
    pub(crate) name: &'static str,
    pub(crate) ticket: Arc<Ticket>,
    /// By the group's clock, when it is late.
    pub(crate) until: Duration,
    pub(crate) begun: Duration,
    plan: Plan,
    phase: u8,
}

impl Operation {
    pub(crate) fn new(number: u64, plan: Plan, begun: Duration, timeout: Duration, ticket: Arc<Ticket>) -> Self {
        let until = begun.saturating_add(timeout);
        Operation { number, name: plan.name(), ticket, until, begun, plan, phase: 0 }
    }

    /// Sends what there is room for; `true` if nothing of this operation is left to be sent, now or in a later phase.
    pub(crate) fn send(&mut self, lane: Streams<'_, impl Endpoint>, most: usize) -> Result<bool, CollectiveError> {
        let (number, signature) = (self.number, signature(&self.plan, self.phase));
        let phase = &mut self.plan.phase;
        while let Some(piece) = phase.sends.get_mut(phase.sent) {
            if !send_piece(lane, piece, number, signature, most)? {
                // The others may have room.
                for piece in phase.sends.iter_mut().skip(phase.sent + 1) {
                    send_piece(lane, piece, number, signature, most)?;
                }
                return Ok(false);
            }
            phase.sent += 1;
        }
        Ok(phase.next.is_none())
    }

    /// Receives what has come from peers that are not `taken` by an earlier operation, and notes in it those from which
    /// something is still to come.
    pub(crate) fn receive(
        &mut self,
        lane: Streams<'_, impl Endpoint>,
        taken: &mut [bool],
    ) -> Result<(), CollectiveError> {
        let (number, signature) = (self.number, signature(&self.plan, self.phase));
        let phase = &mut self.plan.phase;
        for piece in phase.receives.iter_mut().filter(|piece| !piece.is_done()) {
            while !taken[piece.peer] && !piece.is_done() {
                let Some(message) = lane.next_from(piece.peer)? else {
                    if lane.has_left(piece.peer) {
                        return Err(lane.gone(piece.peer, number));
                    }
                    break;
                };
                let Some((header, payload)) = Header::read(&message) else {
                    return Err(lane.broken(piece.peer, number, "a message without a header"));
                };
                if (header.number, header.signature) != (number, signature) {
                    let (theirs, own) = (spell(header.signature), spell(signature));
                    let why = format!("number {} is {theirs} there and number {number} is {own} here", header.number);
                    return Err(lane.broken(piece.peer, number, &why));
                }
                if header.total != piece.memory.len() as u64 {
                    return Err(lane.unexpected_size(piece.peer, number, header.total, piece.memory.len() as u64));
                }
                if header.offset != piece.moved as u64 || payload.len() > piece.memory.len() - piece.moved {
                    return Err(lane.broken(piece.peer, number, "pieces out of order"));
                }
                piece.memory.write(piece.moved, payload);
                piece.moved += payload.len();
                piece.begun = true;
            }
            taken[piece.peer] |= !piece.is_done();
        }
        if phase.next.is_some() {
            taken.fill(true);
        }
        Ok(())
    }

    /// Goes on to the next phase where this one is done; `true` if it was the last.
    pub(crate) fn advance(&mut self) -> bool {
        let phase = &mut self.plan.phase;
        if phase.sent < phase.sends.len() || !phase.receives.iter().all(Piece::is_done) {
            return false;
        }
        if let Some(finish) = phase.finish.take() {
            finish();
        }
        match phase.next.take() {
            Some(next) => {
                self.plan.phase = *next;
                self.phase += 1;
                false
            }
            None => true,
        }
    }

    /// Another phase follows the current one.
    pub(crate) fn has_more_phases(&self) -> bool {
        self.plan.phase.next.is_some()
    }

    /// The peers that keep it from ending.
    pub(crate) fn missing(&self) -> Vec<Rank> {
        let Phase { sends, receives, .. } = &self.plan.phase;
        let unfinished = |pieces: &[Piece]| -> Vec<Rank> {
            pieces.iter().filter(|piece| !piece.is_done()).map(|piece| piece.peer).collect()
        };
        let mut missing = unfinished(receives);
        if missing.is_empty() {
            missing = unfinished(sends);
        }
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    pub(crate) fn close(&self, end: Result<(), Failure>) {
        self.ticket.close(end.map(|()| None));
    }
}

/// Sends as much of a piece as there is room for; `true` if that is all.
pub(crate) fn send_piece(
    lane: Streams<'_, impl Endpoint>,
    piece: &mut Piece,
    number: u64,
    signature: u64,
    most: usize,
) -> Result<bool, CollectiveError> {
    while !piece.is_done() {
        let length = (piece.memory.len() - piece.moved).min(most);
        let Some(mut room) = lane.room(piece.peer, HEADER + length)? else {
            if lane.has_left(piece.peer) {
                return Err(lane.gone(piece.peer, number));
            }
            return Ok(false);
        };
        let header = Header { number, signature, total: piece.memory.len() as u64, offset: piece.moved as u64 };
        header.write(&mut room);
        piece.memory.read(piece.moved, &mut room[HEADER..]);
        room.publish();
        piece.moved += length;
        piece.begun = true;
    }
    Ok(true)
}
