//! The alltoallv of bounded lag, for several threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use slackline_collective::{
    Awaited, CollectiveError, Complete, Delivery, Endpoint, Group, GroupOptions, GroupShape, Lane, LaneOptions,
};

use crate::{Failure, Memory, PATIENCE, locked};

const LANE: Lane = Lane(0);

/// How long the thread waits at once.
const WATCH: Duration = Duration::from_millis(20);

/// One rank's end of a sequence of alltoallv rounds, of which the last `lag` may be incomplete while the next begins.
///
/// Nothing here waits but [`pause`](Self::pause), so that whoever waits can look at signals meanwhile. A thread of its own moves
/// the fragments of messages that are larger than a slot; it is started by the first of them.
pub struct BoundedLag<E: Endpoint> {
    shared: Arc<Shared<E>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

struct Shared<E: Endpoint> {
    rounds: Mutex<Option<Rounds<E>>>,
    waker: Waker,
    /// Calls of the program that have the rounds, or want them.
    foreground: AtomicUsize,
    /// There are fragments to be moved.
    busy: AtomicBool,
    closing: AtomicBool,
    bell: (Mutex<()>, Condvar),
}

struct Rounds<E: Endpoint> {
    group: Group<E>,
    lag: usize,
    slot_bytes: usize,
    timeout: Duration,
    members: Vec<usize>,
    name: String,
    published: u64,
    /// Where the rounds that were published and not taken go, oldest first.
    outstanding: VecDeque<Vec<Memory>>,
    /// Rounds that are written where they go and were not handed out.
    ready: VecDeque<u64>,
    left: bool,
    blocked: Duration,
    /// Since when this rank waits, without anything having come.
    waiting: Option<Duration>,
    /// What the last call that found nothing would have waited for.
    awaited: Awaited,
    /// The thread has looked since the program last did: what it has taken in ends no wait.
    stirred: bool,
}

/// What a look for a round brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This round is complete, and its messages are where they belong.
    Round(u64),
    /// None is, and this rank may go on.
    Nothing,
    /// None is, and this rank has to wait for one.
    Due,
}

/// What one rank did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LagStats {
    /// Rounds published.
    pub rounds: u64,
    /// Rounds taken.
    pub taken: u64,
    /// Payload bytes published, to this rank itself included.
    pub bytes_sent: u64,
    /// Payload bytes that have come.
    pub bytes_received: u64,
    /// Messages that were larger than a slot.
    pub fragmented: u64,
    /// Time spent waiting at the bound, or for slots.
    pub blocked: Duration,
    /// Time spent waiting briefly for the newest round.
    pub lingered: Duration,
    /// `lag[n]` counts the rounds at whose publication this rank was `n` rounds ahead of its slowest peer.
    pub lag: Vec<u64>,
}

impl<E: Endpoint + Send + 'static> BoundedLag<E>
where
    Group<E>: Send,
{
    /// The shape of the group's rings.
    pub fn shape(ranks: usize, lag: usize, slot_bytes: usize) -> GroupShape {
        GroupShape { ranks, lanes: vec![LaneOptions::lag(lag).shape(slot_bytes)] }
    }

    /// Joins the group of `endpoint`, whose rings have the [shape](Self::shape) of this lag. A rank that others wait for longer
    /// than `timeout` is late. `members` are the ranks' numbers in the program, which errors name.
    ///
    /// # Errors
    ///
    /// If the endpoint has other rings.
    pub fn new(
        endpoint: E,
        lag: usize,
        delivery: Delivery,
        timeout: Duration,
        members: Vec<usize>,
        name: &str,
    ) -> Result<Self, Failure> {
        let options = GroupOptions::new([LaneOptions { lag, delivery }]).deadline(timeout);
        let group = Group::new(endpoint, options).map_err(|error| Failure::unusable(error.to_string()))?;
        let (waker, slot_bytes) = (group.waker(), group.endpoint().shape().lanes[0].slot_bytes);
        let rounds = Rounds {
            group,
            lag,
            slot_bytes,
            timeout,
            members,
            name: name.to_owned(),
            published: 0,
            outstanding: VecDeque::new(),
            ready: VecDeque::new(),
            left: false,
            blocked: Duration::ZERO,
            waiting: None,
            awaited: Awaited::Message,
            stirred: false,
        };
        let shared = Arc::new(Shared {
            rounds: Mutex::new(Some(rounds)),
            waker,
            foreground: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            bell: (Mutex::new(()), Condvar::new()),
        });
        Ok(BoundedLag { shared, thread: Mutex::new(None), process: std::process::id() })
    }

    /// Publishes the next round, with `send[p]` for rank `p`; what comes from `p` goes into `receive[p]`, and has to be as
    /// long. The number of the round; `None` while an older round is due and incomplete or a slot is missing:
    /// [pause](Self::pause) and call it again.
    ///
    /// # Errors
    ///
    /// A fault of the group; after [`leave`](Self::leave).
    ///
    /// # Panics
    ///
    /// If there is not one of each for each rank.
    pub fn try_submit(&self, send: &[Memory], receive: &[Memory]) -> Result<Option<u64>, Failure> {
        let (number, large) = self.with(|rounds| {
            let number = rounds.submit(send, receive)?;
            let large = |memory: &Memory| memory.len() >= rounds.slot_bytes;
            Ok((number, send.iter().chain(receive).any(large)))
        })?;
        if number.is_some() && large {
            self.start();
        }
        Ok(number)
    }

    /// The next complete round, as the delivery has it. With `all`, whatever the lag, every round that was published is due.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    pub fn try_take(&self, all: bool) -> Result<Taken, Failure> {
        self.with(|rounds| rounds.take(all))
    }

    /// Says that this rank publishes no more rounds. It goes on taking those that it has published.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    pub fn leave(&self) -> Result<(), Failure> {
        self.with(|rounds| {
            rounds.left = true;
            rounds.group.lane(LANE).leave().map_err(|error| rounds.failure(&error))
        })
    }

    /// Whether all that this rank has published is out.
    ///
    /// # Errors
    ///
    /// A fault of the group.
    pub fn is_sent(&self) -> Result<bool, Failure> {
        self.with(|rounds| {
            (rounds.stirred, rounds.awaited) = (false, Awaited::Slot);
            rounds.group.progress().map_err(|error| rounds.failure(&error))?;
            Ok(rounds.group.lane(LANE).is_sent())
        })
    }

    /// Waits until something may have moved, for at most `slice`.
    ///
    /// # Errors
    ///
    /// A fault of the group: also if nothing came for as long as the timeout.
    pub fn pause(&self, slice: Duration) -> Result<(), Failure> {
        self.with(|rounds| rounds.pause(slice))
    }

    /// Says that whoever paused waits no longer, so that its next wait has all of the timeout again.
    ///
    /// # Errors
    ///
    /// If it was closed.
    pub fn abandon(&self) -> Result<(), Failure> {
        self.with(|rounds| {
            rounds.waiting = None;
            Ok(())
        })
    }

    /// What this rank did so far.
    ///
    /// # Errors
    ///
    /// If it was closed.
    pub fn stats(&self) -> Result<LagStats, Failure> {
        self.with(|rounds| Ok(rounds.stats()))
    }

    /// Has the rounds to itself for a moment.
    fn with<T>(&self, call: impl FnOnce(&mut Rounds<E>) -> Result<T, Failure>) -> Result<T, Failure> {
        if self.process != std::process::id() {
            let why = format!("the exchange belongs to process {}, of which this is a fork", self.process);
            return Err(Failure::unusable(why));
        }
        let shared = &*self.shared;
        shared.foreground.fetch_add(1, Ordering::SeqCst);
        if shared.busy.load(Ordering::SeqCst) {
            shared.waker.wake_by_ref();
        }
        let done = match &mut *locked(&shared.rounds) {
            Some(rounds) => call(rounds),
            None => Err(Failure::unusable("the exchange was closed")),
        };
        shared.foreground.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// Has the thread move fragments.
    fn start(&self) {
        self.shared.busy.store(true, Ordering::SeqCst);
        let mut thread = locked(&self.thread);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let named = std::thread::Builder::new().name("slackline lag".to_owned());
            // Without it, fragments move in the calls of this rank.
            *thread = named.spawn(move || shared.work()).ok();
        }
        drop(thread);
        drop(locked(&self.shared.bell.0));
        self.shared.bell.1.notify_all();
    }
}

impl<E: Endpoint> BoundedLag<E> {
    /// Leaves without waiting for others. They fail if they wait for more of this rank.
    pub fn close(&self) {
        if self.process != std::process::id() || self.shared.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        self.shared.waker.wake_by_ref();
        drop(locked(&self.shared.bell.0));
        self.shared.bell.1.notify_all();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
        if let Some(rounds) = locked(&self.shared.rounds).take() {
            // Whatever has become of the group, this rank has ended with it.
            let _ = rounds.group.part(PATIENCE);
        }
    }
}

impl<E: Endpoint> Drop for BoundedLag<E> {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.close();
        } else {
            // The place in the group belongs to the process that made it.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

impl<E: Endpoint> Shared<E> {
    fn work(&self) {
        while !self.closing.load(Ordering::SeqCst) {
            if self.busy.load(Ordering::SeqCst) && self.foreground.load(Ordering::SeqCst) == 0 {
                if let Some(rounds) = &mut *locked(&self.rounds) {
                    let now = rounds.group.endpoint().now();
                    // A fault is told to whoever calls next.
                    let failed = rounds.group.wait(now + WATCH).is_err();
                    rounds.stirred = true;
                    self.busy.store(!failed && rounds.has_fragments(), Ordering::SeqCst);
                }
                std::thread::yield_now();
                continue;
            }
            let bell = locked(&self.bell.0);
            // A call of the program that has the rounds is short, but for a pause, which moves fragments itself.
            let limit =
                if self.busy.load(Ordering::SeqCst) { Duration::from_micros(200) } else { Duration::from_millis(100) };
            if !self.closing.load(Ordering::SeqCst) {
                drop(self.bell.1.wait_timeout(bell, limit));
            }
        }
    }
}

impl<E: Endpoint> Rounds<E> {
    fn failure(&self, error: &CollectiveError) -> Failure {
        let number = self.published - self.outstanding.len() as u64;
        let what = format!("round {number} of the exchange {}", self.name);
        Failure::new(error, &what, Some(number), &self.members)
    }

    fn is_due(&self) -> bool {
        self.outstanding.len() > self.lag
    }

    fn submit(&mut self, send: &[Memory], receive: &[Memory]) -> Result<Option<u64>, Failure> {
        if self.left {
            return Err(Failure::unusable("the exchange was drained: make another for more rounds"));
        }
        let sizes: Vec<usize> = send.iter().map(Memory::len).collect();
        let expected: Vec<usize> = receive.iter().map(Memory::len).collect();
        (self.stirred, self.awaited) = (false, Awaited::Message);
        while self.is_due() {
            if !self.bring_in(false)? {
                return Ok(None);
            }
        }
        self.awaited = Awaited::Slot;
        let begun = self.group.lane(LANE).try_begin(&sizes);
        let Some(mut round) = begun.map_err(|error| self.failure(&error))? else { return Ok(None) };
        round.expect(&expected).map_err(|error| self.failure(&error))?;
        for (room, memory) in round.messages_mut().into_iter().zip(send) {
            memory.read(0, room);
        }
        round.publish().map_err(|error| self.failure(&error))?;
        self.outstanding.push_back(receive.to_vec());
        self.published += 1;
        self.waiting = None;
        Ok(Some(self.published - 1))
    }

    /// Writes the next round where it goes if it is complete; whether it was. `may_linger`: as [`Exchange::take`] does.
    fn bring_in(&mut self, may_linger: bool) -> Result<bool, Failure> {
        let lane = self.group.lane(LANE);
        let complete = if may_linger { lane.take() } else { lane.try_take() };
        let Some(complete) = complete.map_err(|error| self.failure(&error))? else { return Ok(false) };
        write(&complete, self.outstanding.front());
        let number = complete.number();
        drop(complete);
        // After it has left, a rank is handed rounds that others still publish, without a place for them here.
        if self.outstanding.pop_front().is_some() {
            self.ready.push_back(number);
        }
        self.waiting = None;
        Ok(true)
    }

    fn take(&mut self, all: bool) -> Result<Taken, Failure> {
        (self.stirred, self.awaited) = (false, Awaited::Message);
        if let Some(number) = self.ready.pop_front() {
            return Ok(Taken::Round(number));
        }
        if self.outstanding.is_empty() {
            return Ok(Taken::Nothing);
        }
        let due = all || self.left || self.is_due();
        let came = if due && all && !self.left { self.flush()? } else { self.bring_in(!due)? };
        Ok(match (came, self.ready.pop_front()) {
            (true, Some(number)) => Taken::Round(number),
            _ if due => Taken::Due,
            _ => Taken::Nothing,
        })
    }

    /// As `bring_in`, whatever the delivery.
    fn flush(&mut self) -> Result<bool, Failure> {
        let lane = self.group.lane(LANE);
        let complete = lane.try_flush().map_err(|error| self.failure(&error))?;
        let Some(complete) = complete else { return Ok(false) };
        write(&complete, self.outstanding.front());
        self.ready.push_back(complete.number());
        drop(complete);
        self.outstanding.pop_front();
        self.waiting = None;
        Ok(true)
    }

    fn pause(&mut self, slice: Duration) -> Result<(), Failure> {
        if std::mem::take(&mut self.stirred) {
            return Ok(());
        }
        let begin = self.group.endpoint().now();
        let since = *self.waiting.get_or_insert(begin);
        let late = since.saturating_add(self.timeout);
        if begin >= late {
            let error = self.group.lane(LANE).late(self.awaited, begin - since);
            return Err(self.failure(&error));
        }
        let until = begin.saturating_add(slice).min(late);
        let waited = self.group.wait(until);
        self.blocked += self.group.endpoint().now().saturating_sub(begin);
        waited.map_err(|error| self.failure(&error))
    }

    fn has_fragments(&self) -> bool {
        let large = |memory: &Memory| memory.len() >= self.slot_bytes;
        !self.group.lane(LANE).is_sent() || self.outstanding.iter().flatten().any(large)
    }

    fn stats(&self) -> LagStats {
        let lane = self.group.stats(LANE);
        // The round just published counts in the lead, not in the lag.
        let ahead = lane.lead.get(1..).unwrap_or_default();
        let mut lag = ahead.to_vec();
        if let Some(level) = lane.lead.first() {
            lag.resize(lag.len().max(1), 0);
            lag[0] += level;
        }
        LagStats {
            rounds: lane.rounds,
            taken: lane.taken,
            bytes_sent: lane.bytes_sent,
            bytes_received: lane.bytes_received,
            fragmented: lane.fragmented,
            blocked: self.blocked + lane.blocked_on_bound + lane.blocked_on_credit,
            lingered: lane.lingered,
            lag,
        }
    }
}

fn write<E: Endpoint>(complete: &Complete<'_, E>, to: Option<&Vec<Memory>>) {
    for (from, memory) in to.into_iter().flatten().enumerate() {
        // As long as it was declared to be, which was checked.
        memory.write(0, complete.message(from));
    }
}
