//! The operations of a group that are under way, in order, on whichever thread drives them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slackline_collective::{CollectiveError, Endpoint, Group, Lane};

use crate::operation::{HEADER, Operation};
use crate::tagged::Tagged;
use crate::{Failure, Plan, Ticket};

/// What was asked for and is not under way.
pub(crate) enum Order {
    Collective(Plan),
    Send { to: usize, tag: u32, memory: crate::Memory },
    Receive { from: Option<usize>, tag: u32, memory: crate::Memory },
}

/// An order, with whom to tell and how long it may take.
pub(crate) struct Submission {
    pub(crate) order: Order,
    pub(crate) timeout: Duration,
    pub(crate) ticket: Arc<Ticket>,
}

/// Bytes of a slot that hold no payload: the header, and as much again, so that a full slot is shorter than its ring's.
pub(crate) const OVERHEAD: usize = 2 * HEADER;

/// All that one rank has under way.
pub(crate) struct Queue<E: Endpoint> {
    group: Group<E>,
    /// The ranks' numbers in the program.
    members: Arc<[usize]>,
    name: Arc<str>,
    operations: VecDeque<Operation>,
    tagged: Tagged,
    /// Collectives begun so far.
    count: u64,
    /// Payload of a slot.
    most: usize,
    failed: Option<Failure>,
}

const COLLECTIVES: Lane = Lane(0);
const TAGGED: Lane = Lane(1);

impl<E: Endpoint> Queue<E> {
    pub(crate) fn new(group: Group<E>, members: Arc<[usize]>, name: Arc<str>) -> Self {
        let most = group.endpoint().shape().lanes[0].slot_bytes - OVERHEAD;
        // Both are in use from the start, so that a rank which ends is missed whatever is waited for.
        let (_, _) = (group.streams(COLLECTIVES), group.streams(TAGGED));
        let tagged = Tagged::new(group.ranks());
        Queue { group, members, name, operations: VecDeque::new(), tagged, count: 0, most, failed: None }
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.operations.is_empty() && self.tagged.is_idle()
    }

    pub(crate) fn accept(&mut self, submission: Submission) {
        let Submission { order, timeout, ticket } = submission;
        if let Some(failure) = &self.failed {
            return ticket.close(Err(failure.clone()));
        }
        let now = self.group.endpoint().now();
        match order {
            Order::Collective(plan) => {
                self.operations.push_back(Operation::new(self.count, plan, now, timeout, ticket));
                self.count += 1;
            }
            Order::Send { to, tag, memory } => self.tagged.send(to, tag, memory, now, timeout, ticket),
            Order::Receive { from, tag, memory } => self.tagged.receive(from, tag, memory, now, timeout, ticket),
        }
    }

    /// Moves all that can be moved. Never waits.
    pub(crate) fn poll(&mut self) {
        if let Err(error) = self.collectives().and_then(|()| self.messages()) {
            self.fail(&error);
        }
    }

    fn messages(&mut self) -> Result<(), CollectiveError> {
        if self.tagged.is_idle() { Ok(()) } else { self.tagged.poll(self.group.streams(TAGGED), self.most) }
    }

    /// Messages of a pair keep the order of the operations: one sends when all before it have sent, and receives from a peer
    /// when all before it have received from that.
    fn collectives(&mut self) -> Result<(), CollectiveError> {
        let lane = self.group.streams(COLLECTIVES);
        let mut taken = vec![false; self.group.ranks()];
        let (mut at, mut may_send) = (0, true);
        while let Some(operation) = self.operations.get_mut(at) {
            if may_send {
                may_send = operation.send(lane, self.most)?;
            }
            operation.receive(lane, &mut taken)?;
            let phased = operation.has_more_phases();
            let done = operation.advance();
            if done {
                self.operations.remove(at).expect("it was looked at").close(Ok(()));
            }
            if done || (phased && !self.operations[at].has_more_phases()) {
                // What is behind it may send and receive now.
                (at, may_send) = (0, true);
                taken.fill(false);
                continue;
            }
            at += 1;
            if !may_send && taken.iter().all(|taken| *taken) {
                break;
            }
        }
        Ok(())
    }

    /// Waits until something may have moved, `slice` has passed, or the waker was called. What is late by then has failed.
    pub(crate) fn wait(&mut self, slice: Duration) {
        let now = self.group.endpoint().now();
        let due = self.operations.iter().map(|operation| operation.until).chain(self.tagged.due()).min();
        let until = due.unwrap_or(Duration::MAX).min(now.saturating_add(slice));
        if let Err(error) = self.group.wait(until) {
            return self.fail(&error);
        }
        let now = self.group.endpoint().now();
        if self.operations.iter().any(|operation| now >= operation.until) {
            // One last look: what is here is not late.
            self.poll();
            if let Some(first) = self.operations.iter().find(|operation| now >= operation.until) {
                let oldest = self.operations.front().unwrap_or(first);
                let (missing, waited) = (oldest.missing(), now.saturating_sub(first.begun));
                let error = self.group.streams(COLLECTIVES).late(missing, oldest.number, waited);
                self.fail(&error);
            }
        }
        if let Some((missing, number, waited)) = self.tagged.late(now, self.group.rank()) {
            self.poll();
            if self.tagged.late(now, self.group.rank()).is_some() {
                let error = self.group.streams(TAGGED).late(missing, number, waited);
                self.fail(&error);
            }
        }
    }

    /// Ends all that is under way, and all that follows.
    fn fail(&mut self, error: &CollectiveError) {
        let failure = |what: &str, number| Failure::new(error, what, number, &self.members);
        for operation in self.operations.drain(..) {
            let what = format!("{} {} of group {}", operation.name, operation.number, self.name);
            operation.close(Err(failure(&what, Some(operation.number))));
        }
        self.tagged.fail(|what, number| failure(&format!("{what} in group {}", self.name), Some(number)));
        let later = format!("after {} collectives of group {}", self.count, self.name);
        self.failed.get_or_insert(failure(&later, Some(self.count)));
    }

    /// Leaves the group. What is under way here fails; peers that wait for this rank see that it has left.
    pub(crate) fn close(mut self, patience: Duration) {
        let closed = Failure::unusable(format!("group {} was closed", self.name));
        self.operations.drain(..).for_each(|operation| operation.close(Err(closed.clone())));
        self.tagged.fail(|_, _| closed.clone());
        // Whatever has become of the group, this rank has ended with it.
        let _ = self.group.part(patience);
    }
}
