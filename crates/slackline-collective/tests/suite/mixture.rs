//! Rounds and streams on several lanes of one group, called in any order, over the simulation, which finds a wait without end.

use std::collections::VecDeque;
use std::time::Duration;

use slackline_collective::{
    Arrived, CollectiveError, Complete, Delivery, Exchange, Group, GroupOptions, HEADER_BYTES, LaneOptions, Streams,
};
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Endpoint, GroupShape, Lane, LaneShape};

#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

#[derive(Clone, Debug)]
struct OneLane {
    streams: bool,
    /// Rounds: calls that wait are made on this lane alone, since ranks that wait on different lanes wait for each other.
    waits: bool,
    keeps_up: bool,
    options: LaneOptions,
    slots: LaneShape,
    /// Complete rounds that a rank holds while it begins another.
    held: usize,
    largest: u64,
    /// Rounds, or messages to each peer, by rank.
    quota: Vec<u64>,
}

/// What all ranks know. The last lane is for streams, on which ranks say that they have published everything.
#[derive(Clone, Debug)]
struct Mixture {
    seed: u64,
    ranks: usize,
    lanes: Vec<OneLane>,
    slowest_us: u64,
}

impl Mixture {
    fn new(seed: u64) -> Self {
        let random = &mut Random(seed);
        let ranks = 1 + random.below(4) as usize;
        let mut lanes = Vec::new();
        for number in 0..1 + random.below(3) {
            let streams = random.one_in(2);
            let waits = number == 0 && !streams;
            let keeps_up = !streams && random.one_in(2);
            let lag = if streams { 0 } else { random.below(3) as usize };
            let held = random.below(3) as usize;
            let fixed = waits && random.one_in(3);
            let delivery = if fixed { Delivery::Fixed } else { Delivery::Elastic };
            let capacity = 1 + random.below(100);
            let slots = match (streams, waits) {
                (true, _) => 1 + random.below(3) as usize,
                (_, true) => lag + 1 + held + random.below(2) as usize * (lag + 1),
                _ => 2 * lag + 2 + held,
            };
            // A round that nobody waits for has to begin without waiting.
            let whole = capacity - 1;
            let largest =
                if streams || waits { [0, whole, 3 * capacity, 600][random.below(4) as usize] } else { whole };
            let alike = 1 + random.below(8);
            let quota = (0..ranks).map(|_| if streams || waits || keeps_up { random.below(9) } else { alike });
            // Keeping up begins rounds while others are held; fragments take all slots but those that are held.
            let held = if keeps_up || largest > whole { 0 } else { held };
            lanes.push(OneLane {
                streams,
                waits,
                keeps_up,
                options: LaneOptions { lag, delivery },
                slots: LaneShape { slots, slot_bytes: capacity as usize + HEADER_BYTES },
                held,
                largest,
                quota: quota.collect(),
            });
        }
        lanes.push(OneLane {
            streams: true,
            waits: false,
            keeps_up: false,
            options: LaneOptions::lag(0),
            slots: LaneShape { slots: 1, slot_bytes: 128 },
            held: 0,
            largest: 0,
            quota: vec![0; ranks],
        });
        Mixture { seed, ranks, lanes, slowest_us: [1, 5, 50, 500][random.below(4) as usize] }
    }

    fn length(&self, lane: usize, from: usize, to: usize, number: u64) -> usize {
        let at = [lane as u64, from as u64, to as u64, number]
            .iter()
            .fold(self.seed, |hash, word| Random(hash ^ word).next());
        if at.is_multiple_of(3) { 0 } else { ((at >> 8) % (self.lanes[lane].largest + 1)) as usize }
    }

    fn content(&self, lane: usize, from: usize, to: usize, number: u64) -> Vec<u8> {
        let mut bytes = Random(self.seed ^ (((lane * 7 + from) * 7 + to) as u64) << 32 ^ number);
        (0..self.length(lane, from, to, number)).map(|_| bytes.next() as u8).collect()
    }
}

/// Messages that are not empty: lane, from, to, number.
type Log = Vec<(usize, usize, usize, u64)>;

enum Held<'g, E: Endpoint> {
    Round(Complete<'g, E>),
    #[expect(dead_code, reason = "held to be dropped")]
    Message(Arrived<'g, E>),
}

struct Member<'m, 'g, E: Endpoint> {
    mixture: &'m Mixture,
    group: &'g Group<E>,
    random: Random,
    /// Rounds begun by hand, or messages sent to each peer.
    done: Vec<Vec<u64>>,
    left: Vec<bool>,
    held: Vec<VecDeque<Held<'g, E>>>,
    sent: Log,
    got: Log,
    next_round: Vec<u64>,
    next_message: Vec<Vec<u64>>,
}

type Ended<T> = Result<T, CollectiveError>;

impl<'g, E: Endpoint> Member<'_, 'g, E> {
    fn rounds(&self, lane: usize) -> Exchange<'g, E> {
        self.group.lane(Lane(lane as u16))
    }

    fn streams(&self, lane: usize) -> Streams<'g, E> {
        self.group.streams(Lane(lane as u16))
    }

    fn rest(&mut self) {
        if self.random.one_in(3) {
            let most = 2 * self.mixture.slowest_us;
            let time = Duration::from_nanos(self.random.below(1000 * most));
            self.group.endpoint().sleep(time);
        }
    }

    fn let_go(&mut self, lane: usize) {
        while !self.held[lane].is_empty() {
            let at = self.random.below(self.held[lane].len() as u64) as usize;
            drop(self.held[lane].remove(at));
        }
    }

    fn let_all_go(&mut self) {
        (0..self.held.len()).for_each(|lane| self.let_go(lane));
    }

    fn note_round(&mut self, lane: usize, complete: Complete<'g, E>) {
        let own = self.group.rank();
        let one = &self.mixture.lanes[lane];
        if one.keeps_up {
            assert!(complete.number() >= self.next_round[lane], "rounds in order");
        } else {
            assert_eq!(complete.number(), self.next_round[lane], "rounds in order");
        }
        self.next_round[lane] = complete.number() + 1;
        for from in 0..self.mixture.ranks {
            let message = complete.message(from);
            if !message.is_empty() {
                let content = self.mixture.content(lane, from, own, complete.number());
                assert!(*message == content, "round {} of lane {lane} from {from} to {own}", complete.number());
                self.got.push((lane, from, own, complete.number()));
            }
        }
        if self.random.one_in(2) {
            self.held[lane].push_back(Held::Round(complete));
        }
    }

    fn note_message(&mut self, lane: usize, message: Arrived<'g, E>) {
        let (own, from, number) = (self.group.rank(), message.from(), message.number());
        assert_eq!(number, self.next_message[lane][from], "messages in order");
        self.next_message[lane][from] += 1;
        assert!(*message == self.mixture.content(lane, from, own, number)[..], "lane {lane} from {from} to {own}");
        if !message.is_empty() {
            self.got.push((lane, from, own, number));
        }
        if self.random.one_in(2) {
            self.held[lane].push_back(Held::Message(message));
        }
    }

    /// Begins one round if it may; whether it did.
    fn begin(&mut self, lane: usize) -> Ended<bool> {
        let (own, ranks, one) = (self.group.rank(), self.mixture.ranks, &self.mixture.lanes[lane]);
        if self.left[lane] || self.done[lane][0] >= one.quota[own] {
            return Ok(false);
        }
        // Slots come back in order, so what counts is how old the oldest is.
        let oldest = self.next_round[lane].saturating_sub(one.held as u64);
        self.held[lane].retain(|held| matches!(held, Held::Round(complete) if complete.number() >= oldest));
        for other in 0..self.held.len() {
            if other != lane && !self.mixture.lanes[other].streams {
                self.let_go(other);
            }
        }
        let exchange = self.rounds(lane);
        loop {
            // With keep-up the number is known only once the round is open, so sizes are found in two steps.
            let mut sizes = vec![0; ranks];
            let number = match exchange.begin(&sizes) {
                Err(CollectiveError::TakeFirst { .. }) => return Ok(false),
                round => round?.number(),
            };
            (0..ranks).for_each(|to| sizes[to] = self.mixture.length(lane, own, to, number));
            let mut round = match exchange.begin(&sizes) {
                Err(CollectiveError::TakeFirst { .. }) => return Ok(false),
                round => round?,
            };
            if round.number() != number {
                continue;
            }
            if self.random.one_in(4) {
                self.rest();
                round.progress()?;
                if self.random.one_in(2) {
                    drop(round);
                    return Ok(true);
                }
            }
            for (to, room) in round.messages_mut().into_iter().enumerate() {
                room.copy_from_slice(&self.mixture.content(lane, own, to, number));
                if !room.is_empty() {
                    self.sent.push((lane, own, to, number));
                }
            }
            if !one.keeps_up && self.random.one_in(2) {
                let length = |from: usize| {
                    if number < one.quota[from] { self.mixture.length(lane, from, own, number) } else { 0 }
                };
                round.expect(&(0..ranks).map(length).collect::<Vec<_>>())?;
            }
            round.publish()?;
            self.done[lane][0] += 1;
            if self.random.one_in(2) {
                self.let_go(lane);
            }
            return Ok(true);
        }
    }

    /// Takes what there is of a lane's rounds; whether there was anything.
    fn take(&mut self, lane: usize) -> Ended<bool> {
        let (exchange, waits) = (self.rounds(lane), self.mixture.lanes[lane].waits);
        let how = if waits && !self.left[lane] { self.random.below(4) } else { 0 };
        let mut any = false;
        loop {
            if how > 0 {
                self.let_all_go();
            }
            let complete = match how {
                0 | 1 => exchange.try_take()?,
                2 => exchange.take()?,
                _ => exchange.flush()?,
            };
            let Some(complete) = complete else { return Ok(any) };
            self.note_round(lane, complete);
            any = true;
            if how == 0 {
                self.rest();
            }
        }
    }

    fn send(&mut self, lane: usize) -> Ended<bool> {
        let (own, ranks, one) = (self.group.rank(), self.mixture.ranks, &self.mixture.lanes[lane]);
        let streams = self.streams(lane);
        let mut rooms = Vec::new();
        for to in 0..ranks {
            if self.left[lane] || self.done[lane][to] >= one.quota[own] {
                continue;
            }
            let number = self.done[lane][to];
            let bytes = self.mixture.content(lane, own, to, number);
            let Some(mut room) = streams.room(to, bytes.len())? else { continue };
            if self.random.one_in(4) {
                drop(room);
                room = streams.send(to, bytes.len())?;
            }
            room.copy_from_slice(&bytes);
            self.done[lane][to] += 1;
            if !bytes.is_empty() {
                self.sent.push((lane, own, to, number));
            }
            rooms.push(room);
            if self.random.one_in(2) {
                self.rest();
                while let Some(room) = rooms.pop() {
                    room.publish();
                }
                return Ok(true);
            }
        }
        let any = !rooms.is_empty();
        rooms.into_iter().for_each(|room| room.publish());
        Ok(any)
    }

    fn receive(&mut self, lane: usize) -> Ended<bool> {
        let streams = self.streams(lane);
        let by_peer = self.random.one_in(2);
        let mut any = false;
        let peers = if by_peer { self.mixture.ranks } else { 1 };
        for from in 0..peers {
            while let Some(message) = if by_peer { streams.next_from(from)? } else { streams.next()? } {
                self.note_message(lane, message);
                any = true;
            }
            self.rest();
        }
        Ok(any)
    }

    fn leave(&mut self, lane: usize) -> Ended<()> {
        self.left[lane] = true;
        if self.mixture.lanes[lane].streams { self.streams(lane).leave() } else { self.rounds(lane).leave() }
    }

    fn is_through(&self, lane: usize) -> bool {
        let one = &self.mixture.lanes[lane];
        self.left[lane] || self.done[lane].iter().all(|done| *done >= one.quota[self.group.rank()])
    }

    fn run(&mut self) -> Ended<()> {
        let lanes = self.mixture.lanes.len() - 1;
        let (control, mut told, mut heard) = (self.streams(lanes), 0, 0);
        for lane in 0..lanes {
            let one = &self.mixture.lanes[lane];
            if one.streams {
                self.streams(lane);
            } else {
                self.rounds(lane).keep_up(one.keeps_up);
            }
        }
        loop {
            let mut any = false;
            let first = self.random.below(lanes as u64) as usize;
            for lane in (0..lanes).map(|lane| (lane + first) % lanes) {
                if self.mixture.lanes[lane].streams {
                    any |= self.send(lane)?;
                    self.rest();
                    any |= self.receive(lane)?;
                } else {
                    any |= self.begin(lane)?;
                    self.rest();
                    any |= self.take(lane)?;
                }
                let early = self.mixture.lanes[lane].streams || self.mixture.lanes[lane].waits;
                if early && self.is_through(lane) && !self.left[lane] {
                    self.leave(lane)?;
                    any = true;
                }
            }
            if (0..lanes).all(|lane| self.is_through(lane)) {
                while told < self.mixture.ranks {
                    let Some(room) = control.room(told, 0)? else { break };
                    room.publish();
                    (told, any) = (told + 1, true);
                }
            }
            while let Some(message) = control.next()? {
                assert!(message.is_empty());
                (heard, any) = (heard + 1, true);
            }
            if heard == self.mixture.ranks && told == self.mixture.ranks {
                break;
            }
            if any && !self.random.one_in(4) {
                self.rest();
                continue;
            }
            self.let_all_go();
            if self.random.one_in(20) {
                let waker = self.group.waker();
                self.rest();
                waker.wake();
            }
            if !any {
                self.group.wait(Duration::MAX)?;
            }
        }
        self.let_all_go();
        for lane in 0..lanes {
            self.leave(lane)?;
        }
        for lane in 0..lanes {
            self.let_all_go();
            if self.mixture.lanes[lane].streams {
                while let Some(message) = self.streams(lane).drain()? {
                    self.note_message(lane, message);
                    self.let_all_go();
                }
            } else {
                while let Some(complete) = self.rounds(lane).drain()? {
                    self.note_round(lane, complete);
                    self.let_all_go();
                }
            }
        }
        Ok(())
    }
}

fn member<E: Endpoint>(endpoint: E, mixture: &Mixture) -> Ended<(Log, Log)> {
    let (rank, ranks, lanes) = (endpoint.rank(), mixture.ranks, mixture.lanes.len());
    let options = GroupOptions::new(mixture.lanes.iter().map(|lane| lane.options).collect::<Vec<_>>());
    let group = Group::new(endpoint, options)?;
    let done = mixture.lanes.iter().map(|lane| vec![0; if lane.streams { ranks } else { 1 }]).collect();
    let mut member = Member {
        mixture,
        group: &group,
        random: Random(mixture.seed ^ (rank as u64 + 1) << 48),
        done,
        left: vec![false; lanes],
        held: (0..lanes).map(|_| VecDeque::new()).collect(),
        sent: Log::new(),
        got: Log::new(),
        next_round: vec![0; lanes],
        next_message: vec![vec![0; ranks]; lanes],
    };
    member.run()?;
    let (sent, got) = (std::mem::take(&mut member.sent), std::mem::take(&mut member.got));
    drop(member);
    for (number, lane) in mixture.lanes.iter().enumerate().filter(|(_, lane)| !lane.streams) {
        let lag = group.stats(Lane(number as u16)).observed_lag();
        assert!(lag <= lane.options.lag, "lag {lag} on a lane of {}", lane.options.lag);
    }
    group.finish()?;
    Ok((sent, got))
}

fn check(seed: u64) -> Result<(), String> {
    let mixture = Mixture::new(seed);
    let shape = GroupShape { ranks: mixture.ranks, lanes: mixture.lanes.iter().map(|lane| lane.slots).collect() };
    let mut config = SimConfig::new(shape, seed);
    config.latency = Duration::from_nanos(200)..=Duration::from_micros(mixture.slowest_us);
    config.time_limit = Duration::from_secs(250);
    let report = sim::run(&config, |endpoint| member(Checked::new(endpoint), &mixture));
    let ranks = report.map_err(|error| format!("{error}"))?.values().map_err(|error| format!("{error:?}"))?;
    let (mut sent, mut got) = (Log::new(), Log::new());
    for rank in ranks {
        let (out, came) = rank.map_err(|error| error.to_string())?;
        sent.extend(out);
        got.extend(came);
    }
    sent.sort_unstable();
    got.sort_unstable();
    if sent == got { Ok(()) } else { Err("not what was sent".to_owned()) }
}

#[test]
fn rounds_and_streams_called_in_any_order_lose_nothing_and_wait_for_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("MIXTURE_FIRST").unwrap_or(0);
    let count = number("MIXTURE_CASES").unwrap_or(400);
    let mut failed = Vec::new();
    for seed in first..first + count {
        if let Err(why) = check(seed) {
            failed.push(format!("{seed}: {why}\n{:?}", Mixture::new(seed)));
            if failed.len() == 5 {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
