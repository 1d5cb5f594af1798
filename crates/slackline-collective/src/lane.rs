//! One lane of a group: a stream to and from each peer, and the rounds that are counted on them.
//!
//! Everything here is arithmetic on counters and never waits; [`Group`](crate::Group) waits.

use std::collections::VecDeque;
use std::time::Duration;

use slackline_transport::{Endpoint, Lane, LaneShape, Rank};
use smallvec::SmallVec;

use crate::rounds::{Reached, Rounds};
use crate::stream::{Incoming, Outgoing, Received, Room};
use crate::{LaneOptions, LaneStats};

/// In a group of up to so many, each peer is asked what has come from it. In a larger one the endpoint is asked who moved.
const ASKED_ALL: usize = 16;

/// Room for the messages of a round, in rank order.
pub(crate) type Rooms<'e> = Vec<Room<'e>>;

/// The messages of a round, in rank order.
pub(crate) type Messages<'e> = Vec<Received<'e>>;

/// One size for each rank.
pub(crate) type Sizes = SmallVec<[usize; 8]>;

/// What the user of a lane has not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum News {
    #[default]
    Nothing,
    /// Something has come from this peer, and nothing else.
    Of(Rank),
    More,
}

impl News {
    #[inline(always)]
    fn add(&mut self, from: Rank) {
        let none_of_others = *self == News::Nothing || *self == News::Of(from);
        *self = if none_of_others { News::Of(from) } else { News::More };
    }
}

pub(crate) struct LaneState {
    pub(crate) id: Lane,
    pub(crate) options: LaneOptions,
    pub(crate) incoming: Vec<Incoming>,
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) rounds: Rounds,
    /// The lane is used message by message and not by rounds.
    pub(crate) streams: bool,
    /// Some outbox is not empty.
    pub(crate) unsent: bool,
    /// Since when, as far as somebody has looked.
    pub(crate) unsent_since: Option<Duration>,
    /// Since the user of the lane last looked, a whole message has come or a peer has left, or the last of what waited for slots
    /// is out.
    pub(crate) news: News,
    /// Peers with messages that were not handed out, for streams: each once, in the order in which the messages came.
    pub(crate) ready: VecDeque<Rank>,
    /// Peers towards which there was no room when it was asked for, for streams.
    pub(crate) wanted: Vec<Rank>,
    /// A round has begun and is not published.
    pub(crate) open: bool,
    /// Empty rounds are published and taken without a call, as long as others publish theirs.
    pub(crate) keeps_up: bool,
    /// When this rank last lingered for a round, and how many it had published then.
    pub(crate) lingered: Option<(Duration, u64)>,
    /// A round was published since the lead was noted.
    lead_is_due: bool,
    /// The sizes that are declared for the round that is open (none: empty).
    pub(crate) expecting: Sizes,
    /// Sizes that this rank declared it would receive, by round, from the oldest that is not taken yet.
    pub(crate) expected: VecDeque<(u64, Sizes)>,
    /// A peer may be asleep for lack of a slot, so that giving slots back has to wake it. Not so while the rings have the
    /// `2 lag + 2` slots from which no rank waits for one, no message was in fragments, and no round was published while an
    /// older one was held.
    pub(crate) peers_may_lack_slots: bool,
    /// Rounds that are handed out and not given back.
    held: u32,
    pub(crate) stats: LaneStats,
    /// Empty: memory for the next round.
    spare_rooms: Vec<SpareRoom>,
    spare_messages: Vec<SpareMessage>,
}

/// As large as a [`Room`] and a [`Received`], so that an empty list of them keeps the memory of one of those. Unlike them it can
/// go to another thread with its group.
type SpareRoom = [usize; size_of::<Room<'static>>() / size_of::<usize>()];
type SpareMessage = [usize; size_of::<Received<'static>>() / size_of::<usize>()];

/// The memory of an empty list, for another of elements of the same size. Collecting in place keeps it.
#[inline(always)]
fn emptied<A, B>(list: &mut Vec<A>) -> Vec<B> {
    std::mem::take(list).into_iter().map(|_| unreachable!("the list is empty")).collect()
}

#[inline(always)]
fn reached(stream: &Incoming) -> Reached {
    Reached { arrived: stream.arrived(), left: stream.has_left() }
}

impl LaneState {
    pub(crate) fn new(id: Lane, options: LaneOptions, ranks: usize, slots: LaneShape) -> Self {
        LaneState {
            id,
            options,
            incoming: (0..ranks).map(|from| Incoming::new(id, from, slots)).collect(),
            outgoing: (0..ranks).map(|to| Outgoing::new(id, to)).collect(),
            rounds: Rounds::new(options.lag, options.delivery, ranks),
            streams: false,
            unsent: false,
            unsent_since: None,
            news: News::Nothing,
            ready: VecDeque::new(),
            wanted: Vec::new(),
            open: false,
            keeps_up: false,
            lingered: None,
            lead_is_due: false,
            expecting: Sizes::new(),
            expected: VecDeque::new(),
            peers_may_lack_slots: slots.slots < options.slots(),
            held: 0,
            stats: LaneStats::default(),
            spare_rooms: Vec::new(),
            spare_messages: Vec::new(),
        }
    }

    /// Takes in what has landed and sends what waits for slots. `Ok(true)`: peers are to be notified; `Err` names the peer
    /// that broke the protocol and how.
    #[inline(never)]
    pub(crate) fn progress(&mut self, endpoint: &impl Endpoint) -> Result<bool, (Rank, &'static str)> {
        endpoint.progress();
        let mut moved = false;
        if self.incoming.len() <= ASKED_ALL {
            for from in 0..self.incoming.len() {
                let landed = endpoint.landed(self.id, from);
                if landed != self.incoming[from].scanned() {
                    moved |= self.take_in(endpoint, from, landed)?;
                }
            }
        } else {
            moved |= self.take_in_news(endpoint)?;
        }
        if self.unsent {
            moved |= self.pump(endpoint);
        }
        Ok(moved)
    }

    /// The same for a group in which most peers have sent nothing since the last look.
    #[inline(never)]
    fn take_in_news(&mut self, endpoint: &impl Endpoint) -> Result<bool, (Rank, &'static str)> {
        let mut moved = Ok(false);
        endpoint.landings(self.id, &mut |from, landed| {
            if let Ok(before) = moved {
                moved = self.take_in(endpoint, from, landed).map(|moved| moved | before);
            }
        });
        moved
    }

    /// Takes in what has landed from one peer.
    #[inline(always)]
    fn take_in(&mut self, endpoint: &impl Endpoint, from: Rank, landed: u64) -> Result<bool, (Rank, &'static str)> {
        let stream = &mut self.incoming[from];
        let (before, waiting) = (reached(stream), stream.waiting());
        let spent = stream.scan(endpoint, landed, &mut self.stats.bytes_received).map_err(|why| (from, why))?;
        self.peers_may_lack_slots |= !stream.is_plain();
        let now = reached(stream);
        self.rounds.note(before, now);
        self.news.add(from);
        if self.streams && waiting == 0 && stream.waiting() > 0 {
            self.ready.push_back(from);
        }
        Ok(spent)
    }

    /// Sends what waits for slots; `true` where something went.
    #[cold]
    fn pump(&mut self, endpoint: &impl Endpoint) -> bool {
        let mut moved = false;
        for outgoing in &mut self.outgoing {
            moved |= outgoing.pump(endpoint);
        }
        self.unsent = !self.outgoing.iter().all(Outgoing::is_sent);
        if moved || !self.unsent {
            self.unsent_since = None;
        }
        if !self.unsent {
            self.news = News::More;
        }
        moved
    }

    /// This rank uses the lane, and it is not over: a peer that ends without having left it has broken off.
    pub(crate) fn in_use(&self) -> bool {
        if self.streams {
            return !self.rounds.has_left() || self.is_awaited();
        }
        (self.rounds.begun() > 0 || self.rounds.has_left() || self.keeps_up) && (self.unsent || !self.rounds.finished())
    }

    /// Something has to get out, or a peer has not left.
    pub(crate) fn is_awaited(&self) -> bool {
        self.unsent || !self.incoming.iter().all(Incoming::has_left)
    }

    /// A peer still owes this rank something on this lane, or takes something.
    pub(crate) fn needs(&self, peer: Rank) -> bool {
        self.in_use() && !(self.incoming[peer].has_left() && self.outgoing[peer].is_sent())
    }

    /// The peers without which the next round is not complete.
    pub(crate) fn missing(&self) -> Vec<Rank> {
        let peers = self.incoming.iter().enumerate();
        peers.filter(|(_, stream)| self.rounds.lacks(reached(stream))).map(|(rank, _)| rank).collect()
    }

    /// A round can begin without waiting: each peer has a free slot and nothing older waits for one.
    #[inline(always)]
    pub(crate) fn has_credit(&self, endpoint: &impl Endpoint) -> bool {
        if self.unsent {
            return false;
        }
        for outgoing in &self.outgoing {
            if !outgoing.has_credit(endpoint) {
                return false;
            }
        }
        true
    }

    /// The peers that keep a round from beginning.
    pub(crate) fn without_credit(&self, endpoint: &impl Endpoint) -> Vec<Rank> {
        let peers = self.outgoing.iter().enumerate();
        peers.filter(|(_, outgoing)| !outgoing.has_credit(endpoint)).map(|(rank, _)| rank).collect()
    }

    /// The peers towards which something that was published waits for slots.
    pub(crate) fn unsent_to(&self) -> Vec<Rank> {
        let peers = self.outgoing.iter().enumerate();
        peers.filter(|(_, outgoing)| !outgoing.is_sent()).map(|(rank, _)| rank).collect()
    }

    /// Says farewell to all, once.
    pub(crate) fn leave(&mut self, endpoint: &impl Endpoint) {
        if !self.rounds.has_left() {
            self.rounds.leave();
            for outgoing in &mut self.outgoing {
                outgoing.leave(endpoint);
            }
            self.unsent = true;
            endpoint.notify();
        }
    }

    /// Notes how far ahead this rank is, once a round: on the first look at what has landed after it was published.
    #[inline(always)]
    pub(crate) fn record_lead(&mut self, own: Rank) {
        if std::mem::take(&mut self.lead_is_due) {
            let mut slowest = self.rounds.begun();
            for (from, stream) in self.incoming.iter().enumerate() {
                if from != own && !stream.has_left() {
                    slowest = slowest.min(stream.arrived());
                }
            }
            self.stats.record_lead((self.rounds.begun() - slowest) as usize);
        }
    }

    /// Sends the messages of a round, one for each peer.
    #[inline(never)]
    pub(crate) fn publish(&mut self, endpoint: &impl Endpoint, rooms: &mut Rooms<'_>) {
        for (outgoing, room) in self.outgoing.iter_mut().zip(rooms.drain(..)) {
            self.stats.bytes_sent += room.bytes().len() as u64;
            self.stats.fragmented += u64::from(matches!(room, Room::Staged(_)));
            self.unsent |= outgoing.publish(endpoint, room);
        }
        self.peers_may_lack_slots |= self.held > 0;
        endpoint.notify();
        self.spare_rooms = emptied(rooms);
        self.rounds.publish();
        self.lead_is_due = true;
        self.stats.rounds += 1;
    }

    /// Room for the messages of a round; `None` while some peer has no free slot, or something older waits for one.
    #[inline(never)]
    pub(crate) fn rooms<'e, E: Endpoint>(&mut self, endpoint: &'e E, sizes: &[usize]) -> Option<Rooms<'e>> {
        if self.unsent {
            return None;
        }
        let mut rooms: Rooms<'e> = emptied(&mut self.spare_rooms);
        for (to, &size) in self.outgoing.iter_mut().zip(sizes) {
            // Mostly a slot is known to be free, and the endpoint need not be asked to look.
            let Some(room) = to.room(endpoint, size).or_else(|| to.look_for_room(endpoint, size)) else {
                self.take_back(&mut rooms);
                return None;
            };
            rooms.push(room);
        }
        Some(rooms)
    }

    /// Takes back the rooms of a round that is not published.
    #[cold]
    pub(crate) fn take_back(&mut self, rooms: &mut Rooms<'_>) {
        for (outgoing, room) in self.outgoing.iter_mut().zip(rooms.drain(..)) {
            outgoing.take_back(room);
        }
    }

    /// The messages of the next round, in rank order, which are handed out with this.
    #[inline(never)]
    pub(crate) fn take_round<'e, E: Endpoint>(&mut self, endpoint: &'e E) -> Messages<'e> {
        let mut messages: Messages<'e> = emptied(&mut self.spare_messages);
        let mut missing = 0;
        for stream in &mut self.incoming {
            messages.push(stream.take(endpoint));
            missing += usize::from(stream.waiting() == 0 && !stream.has_left());
        }
        self.rounds.take(missing);
        self.held += 1;
        self.stats.taken += 1;
        messages
    }

    /// Gives back the messages of a round.
    #[inline(never)]
    pub(crate) fn give_back_round(&mut self, endpoint: &impl Endpoint, messages: &mut Messages<'_>) {
        for (stream, message) in self.incoming.iter_mut().zip(messages.iter()) {
            stream.done_with(message);
        }
        messages.clear();
        for stream in &mut self.incoming {
            stream.release(endpoint);
        }
        self.held -= 1;
        self.spare_messages = emptied(messages);
    }

    /// Nothing of the next round, which is complete, is for this rank.
    pub(crate) fn next_is_empty(&self, endpoint: &impl Endpoint) -> bool {
        self.incoming.iter().all(|stream| stream.next_is_empty(endpoint))
    }

    /// The next message of `from`, which is handed out with this.
    pub(crate) fn take_message<'e, E: Endpoint>(&mut self, endpoint: &'e E, from: Rank) -> Option<(u64, Received<'e>)> {
        let stream = &mut self.incoming[from];
        if stream.waiting() == 0 {
            return None;
        }
        let number = stream.arrived() - stream.waiting();
        let message = stream.take(endpoint);
        let more = stream.waiting() > 0;
        if let Some(place) = self.ready.iter().position(|ready| *ready == from) {
            self.ready.remove(place);
        }
        if more {
            self.ready.push_back(from);
        }
        self.stats.taken += 1;
        Some((number, message))
    }
}
