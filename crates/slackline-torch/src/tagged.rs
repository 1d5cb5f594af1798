//! Messages from one rank to another, matched by tags.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slackline_collective::{CollectiveError, Endpoint, Rank, Streams};

use crate::operation::{Header, send_piece};
use crate::plan::Piece;
use crate::{Failure, Memory, Ticket};

struct Sending {
    piece: Piece,
    number: u64,
    tag: u32,
    begun: Duration,
    until: Duration,
    ticket: Arc<Ticket>,
}

struct Receiving {
    /// `None`: from any.
    from: Option<Rank>,
    tag: u32,
    memory: Memory,
    /// The message has begun to come.
    matched: bool,
    number: u64,
    begun: Duration,
    until: Duration,
    ticket: Arc<Ticket>,
}

/// A message that nobody had asked for when it came.
struct Unclaimed {
    tag: u32,
    bytes: Vec<u8>,
    total: usize,
}

/// Where the message that is coming from a peer goes.
enum Coming {
    Nothing,
    /// To this receive.
    Claimed(Receiving, usize),
    /// To the last of the unclaimed messages of that peer.
    Unclaimed,
}

/// The messages with tags of one rank.
pub(crate) struct Tagged {
    sends: Vec<VecDeque<Sending>>,
    receives: VecDeque<Receiving>,
    coming: Vec<Coming>,
    unclaimed: Vec<VecDeque<Unclaimed>>,
    sent: u64,
    asked: u64,
}

impl Tagged {
    pub(crate) fn new(ranks: usize) -> Self {
        Tagged {
            sends: (0..ranks).map(|_| VecDeque::new()).collect(),
            receives: VecDeque::new(),
            coming: (0..ranks).map(|_| Coming::Nothing).collect(),
            unclaimed: (0..ranks).map(|_| VecDeque::new()).collect(),
            sent: 0,
            asked: 0,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let claimed = self.coming.iter().any(|coming| matches!(coming, Coming::Claimed(..)));
        self.receives.is_empty() && !claimed && self.sends.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn send(
        &mut self,
        to: Rank,
        tag: u32,
        memory: Memory,
        now: Duration,
        limit: Duration,
        ticket: Arc<Ticket>,
    ) {
        let until = now.saturating_add(limit);
        let piece = Piece::new(to, memory);
        self.sends[to].push_back(Sending { piece, number: self.sent, tag, begun: now, until, ticket });
        self.sent += 1;
    }

    pub(crate) fn receive(
        &mut self,
        from: Option<Rank>,
        tag: u32,
        memory: Memory,
        now: Duration,
        limit: Duration,
        ticket: Arc<Ticket>,
    ) {
        let (number, until) = (self.asked, now.saturating_add(limit));
        self.receives.push_back(Receiving { from, tag, memory, matched: false, number, begun: now, until, ticket });
        self.asked += 1;
    }

    pub(crate) fn poll(&mut self, lane: Streams<'_, impl Endpoint>, most: usize) -> Result<(), CollectiveError> {
        for sends in &mut self.sends {
            while let Some(sending) = sends.front_mut() {
                if !send_piece(lane, &mut sending.piece, sending.number, u64::from(sending.tag), most)? {
                    break;
                }
                sends.pop_front().expect("the first").ticket.close(Ok(None));
            }
        }
        self.claim(lane)?;
        // Messages are looked at only while somebody waits for one, so that those nobody asks for stay in their slots.
        for from in 0..self.coming.len() {
            while self.wants(from) {
                let Some(message) = lane.next_from(from)? else { break };
                let Some((header, payload)) = Header::read(&message) else {
                    return Err(lane.broken(from, message.number(), "a message without a header"));
                };
                self.take(lane, from, header, payload)?;
            }
        }
        let all_left =
            |lane: Streams<'_, _>, own: Rank| (0..self.coming.len()).all(|peer| peer == own || lane.has_left(peer));
        for receiving in &self.receives {
            match receiving.from {
                Some(from) if lane.has_left(from) => return Err(lane.gone(from, receiving.number)),
                None if all_left(lane, lane.rank()) => {
                    let other = usize::from(lane.rank() == 0);
                    return Err(lane.gone(other.min(self.coming.len() - 1), receiving.number));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wants(&self, from: Rank) -> bool {
        !matches!(self.coming[from], Coming::Nothing)
            || self.receives.iter().any(|receiving| receiving.from.is_none_or(|wanted| wanted == from))
    }

    /// Gives what had come unasked to those who ask for it now.
    fn claim(&mut self, lane: Streams<'_, impl Endpoint>) -> Result<(), CollectiveError> {
        let mut at = 0;
        while let Some(receiving) = self.receives.get(at) {
            let peers = receiving.from.map_or(0..self.coming.len(), |from| from..from + 1);
            let found = peers.clone().find_map(|from| {
                let place = self.unclaimed[from].iter().position(|message| message.tag == receiving.tag)?;
                Some((from, place))
            });
            let Some((from, place)) = found else {
                at += 1;
                continue;
            };
            let message = &self.unclaimed[from][place];
            if message.bytes.len() < message.total {
                // It is still coming, as the last of that peer.
                at += 1;
                continue;
            }
            let message = self.unclaimed[from].remove(place).expect("it was found");
            let receiving = self.receives.remove(at).expect("it was looked at");
            if message.total != receiving.memory.len() {
                let (total, expected) = (message.total as u64, receiving.memory.len() as u64);
                let error = lane.unexpected_size(from, receiving.number, total, expected);
                self.receives.push_front(receiving);
                return Err(error);
            }
            receiving.memory.write(0, &message.bytes);
            receiving.ticket.close(Ok(Some(from)));
        }
        Ok(())
    }

    /// Takes one slot of a message.
    fn take(
        &mut self,
        lane: Streams<'_, impl Endpoint>,
        from: Rank,
        header: Header,
        payload: &[u8],
    ) -> Result<(), CollectiveError> {
        let tag = header.signature as u32;
        if header.offset == 0 {
            let matching =
                |receiving: &Receiving| receiving.tag == tag && receiving.from.is_none_or(|wanted| wanted == from);
            self.coming[from] = match self.receives.iter().position(matching) {
                Some(place) => {
                    let mut receiving = self.receives.remove(place).expect("it was found");
                    let expected = receiving.memory.len() as u64;
                    if header.total != expected {
                        let error = lane.unexpected_size(from, receiving.number, header.total, expected);
                        self.receives.push_front(receiving);
                        return Err(error);
                    }
                    receiving.matched = true;
                    Coming::Claimed(receiving, 0)
                }
                None => {
                    let total = header.total as usize;
                    self.unclaimed[from].push_back(Unclaimed { tag, bytes: Vec::new(), total });
                    Coming::Unclaimed
                }
            };
        }
        let out_of_order = |lane: Streams<'_, _>| Err(lane.broken(from, header.number, "pieces out of order"));
        let done = match &mut self.coming[from] {
            Coming::Claimed(receiving, moved) => {
                if header.offset != *moved as u64 || payload.len() > receiving.memory.len() - *moved {
                    return out_of_order(lane);
                }
                receiving.memory.write(*moved, payload);
                *moved += payload.len();
                *moved == receiving.memory.len()
            }
            Coming::Unclaimed => {
                let message = self.unclaimed[from].back_mut().expect("it was begun");
                if header.offset != message.bytes.len() as u64 || payload.len() > message.total - message.bytes.len() {
                    return out_of_order(lane);
                }
                message.bytes.extend_from_slice(payload);
                message.bytes.len() == message.total
            }
            Coming::Nothing => return out_of_order(lane),
        };
        if done {
            match std::mem::replace(&mut self.coming[from], Coming::Nothing) {
                Coming::Claimed(receiving, _) => receiving.ticket.close(Ok(Some(from))),
                _ => self.claim(lane)?,
            }
        }
        Ok(())
    }

    /// When the first of them is late.
    pub(crate) fn due(&self) -> Option<Duration> {
        let sends = self.sends.iter().flatten().map(|sending| sending.until);
        sends.chain(self.waiting().map(|(receiving, _)| receiving.until)).min()
    }

    fn waiting(&self) -> impl Iterator<Item = (&Receiving, Option<Rank>)> {
        let claimed = self.coming.iter().enumerate().filter_map(|(from, coming)| match coming {
            Coming::Claimed(receiving, _) => Some((receiving, Some(from))),
            _ => None,
        });
        self.receives.iter().map(|receiving| (receiving, receiving.from)).chain(claimed)
    }

    /// Whom somebody has waited for too long, for which message, and for how long.
    pub(crate) fn late(&self, now: Duration, own: Rank) -> Option<(Vec<Rank>, u64, Duration)> {
        let send = self.sends.iter().flatten().find(|sending| now >= sending.until);
        if let Some(sending) = send {
            return Some((vec![sending.piece.peer], sending.number, now - sending.begun));
        }
        let (receiving, from) = self.waiting().find(|(receiving, _)| now >= receiving.until)?;
        let any = || (0..self.coming.len()).filter(|peer| *peer != own).collect();
        Some((from.map_or_else(any, |from| vec![from]), receiving.number, now - receiving.begun))
    }

    /// Ends all of them.
    pub(crate) fn fail(&mut self, failure: impl Fn(&str, u64) -> Failure) {
        for sending in self.sends.iter_mut().flat_map(|sends| sends.drain(..)) {
            sending.ticket.close(Err(failure(&format!("send {}", sending.number), sending.number)));
        }
        let claimed = self.coming.iter_mut().filter_map(|coming| match std::mem::replace(coming, Coming::Nothing) {
            Coming::Claimed(receiving, _) => Some(receiving),
            _ => None,
        });
        for receiving in self.receives.drain(..).chain(claimed) {
            receiving.ticket.close(Err(failure(&format!("receive {}", receiving.number), receiving.number)));
        }
    }
}
