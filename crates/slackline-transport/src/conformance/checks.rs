//! What each rank does in each check.

use std::cell::Cell;
use std::time::Duration;

use super::{Check, PATIENCE};
use crate::{Checked, Endpoint, Lane, LaneShape, POISON_BYTES, PeerState, Rank};

/// `Err` says what was noticed.
type Outcome = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

/// Of [`Check::shape`]: three slots; the lane that the ranks meet on; slots of the smallest size; one slot.
const DATA: Lane = Lane(0);
const MEETING: Lane = Lane(1);
const SMALL: Lane = Lane(2);
const SINGLE: Lane = Lane(3);

/// Messages of each ring in [`Check::Order`] and [`Check::Empty`].
const MESSAGES: u64 = 60;

/// Long enough for the others to fall asleep.
const WHILE: Duration = Duration::from_millis(20);

pub(super) fn run<E: Endpoint>(check: Check, endpoint: Checked<E>) -> Outcome {
    let members = endpoint.shape().ranks;
    let member = Member { endpoint, members, met: Cell::new(0) };
    match check {
        Check::Fresh => member.fresh(),
        Check::Order => member.converse(&[DATA, SMALL, SINGLE], content),
        Check::Empty => member.converse(&[DATA, SMALL], |_, _, _, _, _| Vec::new()),
        Check::Full => member.full(),
        Check::Held => member.held(),
        Check::Landings => member.landings(),
        Check::Wakes => member.wakes(),
        Check::Deadlines => member.deadlines(),
        Check::Leaves => return member.leaves(),
        Check::Dies => return member.dies(),
        Check::Poison => member.poison(),
        Check::PoisonRace => member.poison_race(),
    }?;
    member.endpoint.detach();
    Ok(())
}

/// What a message of a ring holds: none to all of the bytes of its slot.
fn content(lane: Lane, from: Rank, to: Rank, number: u64, slot_bytes: usize) -> Vec<u8> {
    let mut word = u64::from(lane.0) << 48 ^ (from as u64) << 32 ^ (to as u64) << 16 ^ number;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let length = match number % 4 {
        0 => slot_bytes,
        1 => 0,
        _ => (word >> 32) as usize % (slot_bytes + 1),
    };
    (0..length).map(|at| (word >> (at % 8)) as u8 ^ at as u8).collect()
}

struct Member<E> {
    endpoint: Checked<E>,
    /// Ranks `0 .. members` take part in the next meeting.
    members: usize,
    met: Cell<u64>,
}

impl<E: Endpoint> Member<E> {
    fn fresh(&self) -> Outcome {
        let Member { endpoint, members, .. } = self;
        let asked = Check::Fresh.shape(*members).rounded().map_err(|error| error.to_string())?;
        ensure!(*endpoint.shape() == asked, "the shape is {:?}, not {asked:?}", endpoint.shape());
        ensure!(endpoint.rank() < *members, "its rank is not below {members}");
        ensure!(endpoint.poisoned().is_none(), "a new group is poisoned");
        for (lane, LaneShape { slots, .. }) in asked.lanes.iter().enumerate() {
            let lane = Lane(lane as u16);
            for peer in 0..*members {
                let state = endpoint.peer_state(peer);
                ensure!(state == PeerState::Alive, "rank {peer} of a new group is {state:?}");
                let free = endpoint.free_slots(lane, peer);
                ensure!(free == *slots, "lane {lane}: {free} of {slots} slots towards rank {peer} are free");
                // Another rank may be at the meeting already.
                if lane != MEETING {
                    let landed = endpoint.landed(lane, peer);
                    ensure!(landed == 0, "lane {lane}: {landed} messages from rank {peer} have landed");
                }
            }
            let room = |peer| endpoint.room(lane, peer).ok_or(format!("lane {lane}: no room towards rank {peer}"));
            let mut rooms = (0..*members).map(room).collect::<Result<Vec<_>, _>>()?;
            for (peer, room) in rooms.iter_mut().enumerate() {
                room.fill(peer as u8 + 1);
                ensure!(endpoint.room(lane, peer).is_none(), "lane {lane}: a room towards rank {peer} was lent twice");
            }
            drop(rooms);
            for peer in 0..*members {
                let kept = room(peer)?.iter().all(|byte| *byte == peer as u8 + 1);
                ensure!(kept, "lane {lane}: the room towards rank {peer}, lent again, lost what was written");
            }
        }
        self.meet()
    }

    /// Sends messages over each ring of these lanes and takes those of all peers, releasing them as late as possible.
    fn converse(&self, lanes: &[Lane], content: fn(Lane, Rank, Rank, u64, usize) -> Vec<u8>) -> Outcome {
        let (own, shape) = (self.endpoint.rank(), self.endpoint.shape().clone());
        let rings: Vec<(Lane, Rank)> =
            lanes.iter().flat_map(|lane| (0..shape.ranks).map(|peer| (*lane, peer))).collect();
        let mut sent = vec![0; rings.len()];
        let mut taken = vec![0; rings.len()];
        let mut released = vec![0; rings.len()];
        self.until("all messages", |endpoint| {
            for (ring, &(lane, peer)) in rings.iter().enumerate() {
                let LaneShape { slots, slot_bytes } = shape.lanes[lane.index()];
                while sent[ring] < MESSAGES && endpoint.free_slots(lane, peer) > 0 {
                    let bytes = content(lane, own, peer, sent[ring], slot_bytes);
                    if !bytes.is_empty() {
                        let room = endpoint.room(lane, peer);
                        let mut room = room.ok_or_else(|| format!("lane {lane}: no room towards rank {peer}"))?;
                        room[..bytes.len()].copy_from_slice(&bytes);
                    }
                    endpoint.publish(lane, peer, bytes.len());
                    sent[ring] += 1;
                }
                let landed = endpoint.landed(lane, peer);
                ensure!(landed <= MESSAGES, "lane {lane}: {landed} messages from rank {peer}, which sent {MESSAGES}");
                for number in taken[ring]..landed {
                    let wanted = content(lane, peer, own, number, slot_bytes);
                    let came = endpoint.message(lane, peer, number);
                    let what = || format!("lane {lane}: message {number} from rank {peer}");
                    ensure!(came.len() == wanted.len(), "{}: {} bytes of {}", what(), came.len(), wanted.len());
                    let wrong = came.iter().zip(&wanted).position(|(came, wanted)| came != wanted);
                    ensure!(wrong.is_none(), "{} differs from byte {} on", what(), wrong.unwrap_or(0));
                }
                taken[ring] = landed;
                let keep = if landed == MESSAGES { 0 } else { slots as u64 - 1 };
                let upto = landed.saturating_sub(keep);
                if upto > released[ring] {
                    released[ring] = upto;
                    endpoint.release(lane, peer, upto);
                }
            }
            endpoint.notify();
            Ok(sent.iter().chain(&taken).all(|count| *count == MESSAGES))
        })?;
        self.meet()
    }

    fn full(&self) -> Outcome {
        let (own, ranks) = (self.endpoint.rank(), self.members);
        let (next, before) = ((own + 1) % ranks, (own + ranks - 1) % ranks);
        let slots = self.endpoint.shape().lanes[DATA.index()].slots as u64;
        for number in 0..slots {
            self.send(DATA, next, &[number as u8])?;
        }
        self.endpoint.notify();
        self.until("a ring full of messages", |endpoint| Ok(endpoint.landed(DATA, before) == slots))?;
        self.meet()?;
        // All rings are full, and nobody has released anything.
        let free = self.endpoint.free_slots(DATA, next);
        ensure!(free == 0, "{free} free slots towards rank {next} in a full ring");
        ensure!(self.endpoint.room(DATA, next).is_none(), "a room towards rank {next} in a full ring");
        self.send(SINGLE, next, b"beside a full ring")?;
        self.until("a message beside a full ring", |endpoint| Ok(endpoint.landed(SINGLE, before) == 1))?;
        self.meet()?;
        self.endpoint.release(DATA, before, 1);
        self.endpoint.notify();
        self.until("a released slot", |endpoint| Ok(endpoint.free_slots(DATA, next) > 0))?;
        let free = self.endpoint.free_slots(DATA, next);
        ensure!(free == 1, "{free} free slots towards rank {next}, which has released 1");
        self.send(DATA, next, &[slots as u8])?;
        self.endpoint.notify();
        self.until("a message in a released slot", |endpoint| Ok(endpoint.landed(DATA, before) == slots + 1))?;
        for number in 1..=slots {
            let came = self.endpoint.message(DATA, before, number);
            ensure!(*came == [number as u8], "message {number} of a full ring is {came:?}");
        }
        self.endpoint.release(DATA, before, slots + 1);
        self.endpoint.notify();
        self.until("the released slots", |endpoint| Ok(endpoint.free_slots(DATA, next) > 0))?;
        self.meet()
    }

    fn held(&self) -> Outcome {
        let (own, members) = (self.endpoint.rank(), self.members);
        for peer in 0..members {
            self.send(DATA, peer, &[own as u8; 9])?;
        }
        self.endpoint.notify();
        self.until("a message of each rank", |endpoint| Ok((0..members).all(|peer| endpoint.landed(DATA, peer) == 1)))?;
        let mut held = Vec::new();
        for peer in 0..members {
            let room = self.endpoint.room(DATA, peer);
            let mut room = room.ok_or_else(|| format!("no room towards rank {peer} beside its message"))?;
            room[..9].fill(100 + own as u8);
            held.push((self.endpoint.message(DATA, peer, 0), room));
        }
        // Everything else goes on meanwhile.
        self.meet()?;
        for peer in 0..members {
            self.send(SMALL, peer, &[own as u8])?;
        }
        self.endpoint.notify();
        let landed = |endpoint: &Checked<E>, lane, count| (0..members).all(|peer| endpoint.landed(lane, peer) == count);
        self.until("messages beside those that are held", |endpoint| Ok(landed(endpoint, SMALL, 1)))?;
        for (peer, (message, room)) in held.into_iter().enumerate() {
            ensure!(*message == [peer as u8; 9], "the message of rank {peer} is {message:?} after it was held");
            ensure!(room[..9] == [100 + own as u8; 9], "the room towards rank {peer} has changed while it was held");
            drop(room);
            self.endpoint.publish(DATA, peer, 9);
            self.endpoint.notify();
            drop(message);
            self.endpoint.release(DATA, peer, 1);
        }
        self.until("what was written while messages were held", |endpoint| Ok(landed(endpoint, DATA, 2)))?;
        for peer in 0..members {
            let came = self.endpoint.message(DATA, peer, 1);
            ensure!(*came == [100 + peer as u8; 9], "rank {peer} wrote {came:?} while it held a message");
        }
        self.meet()
    }

    fn landings(&self) -> Outcome {
        let (own, members) = (self.endpoint.rank(), self.members);
        let next = (own + 1) % members;
        for turn in 1..=2 {
            self.send(DATA, next, b"news")?;
            self.endpoint.notify();
            let before = (own + members - 1) % members;
            self.until("news of a message", |endpoint| {
                let mut landings = Vec::new();
                endpoint.landings(DATA, &mut |from, landed| landings.push((from, landed)));
                for &(from, landed) in &landings {
                    let most = if from == before { turn } else { 0 };
                    ensure!(landed <= most, "news of {landed} messages from rank {from}, which sent {most}");
                }
                Ok(landings.contains(&(before, turn)))
            })?;
            // Nobody is a message ahead.
            self.meet()?;
        }
        Ok(())
    }

    fn wakes(&self) -> Outcome {
        let first = self.endpoint.rank() == 0;
        if !first {
            self.send(SINGLE, 0, b"fills the ring")?;
        }
        let others = 1..self.members;
        for peer in others.clone().filter(|_| first) {
            self.until("a message", |endpoint| Ok(endpoint.landed(SINGLE, peer) == 1))?;
        }
        self.meet()?;
        if first {
            self.endpoint.sleep(WHILE);
            for peer in others.clone() {
                self.send(DATA, peer, b"wake up")?;
            }
            self.endpoint.notify();
            self.endpoint.sleep(WHILE);
            others.clone().for_each(|peer| self.endpoint.release(SINGLE, peer, 1));
            self.endpoint.notify();
        } else {
            self.until("a message that wakes", |endpoint| Ok(endpoint.landed(DATA, 0) == 1))?;
            self.until("a released slot that wakes", |endpoint| Ok(endpoint.free_slots(SINGLE, 0) == 1))?;
        }
        self.meet()
    }

    fn deadlines(&self) -> Outcome {
        self.meet()?;
        let endpoint = &self.endpoint;
        let begin = endpoint.now();
        endpoint.wait(Duration::ZERO).map_err(|error| error.to_string())?;
        let took = endpoint.now().checked_sub(begin).ok_or("the clock went backwards")?;
        ensure!(took < PATIENCE / 2, "a wait whose deadline had passed took {took:?}");
        let begin = endpoint.now();
        while endpoint.now() < begin + WHILE {
            endpoint.wait(begin + WHILE).map_err(|error| error.to_string())?;
        }
        let took = endpoint.now() - begin;
        ensure!(took < PATIENCE / 2, "a wait of {WHILE:?} took {took:?}");
        let waker = endpoint.waker();
        let woken = std::thread::spawn(move || waker.wake()).join();
        ensure!(woken.is_ok(), "a waker panicked");
        let begin = endpoint.now();
        endpoint.wait(begin + PATIENCE).map_err(|error| error.to_string())?;
        let took = endpoint.now() - begin;
        ensure!(took < PATIENCE / 2, "a wait after its waker was called took {took:?}");
        let begin = endpoint.now();
        endpoint.sleep(WHILE);
        let took = endpoint.now() - begin;
        ensure!((WHILE..PATIENCE / 2).contains(&took), "a sleep of {WHILE:?} took {took:?}");
        self.meet()
    }

    fn leaves(self) -> Outcome {
        let last = self.members - 1;
        self.meet()?;
        if self.endpoint.rank() == last {
            for peer in 0..last {
                self.send(DATA, peer, b"one")?;
                self.send(DATA, peer, b"two")?;
            }
            self.endpoint.notify();
            self.endpoint.detach();
            return Ok(());
        }
        self.until("a peer that leaves", |endpoint| Ok(endpoint.peer_state(last) != PeerState::Alive))?;
        let state = self.endpoint.peer_state(last);
        ensure!(state == PeerState::Left, "rank {last} has detached and is {state:?}");
        // A look may bring one message at a time, but needs no wait.
        let landed = (0..3).map(|_| self.endpoint.landed(DATA, last)).last();
        ensure!(landed == Some(2), "rank {last} has left and {landed:?} of its 2 messages are here");
        let came = [0, 1].map(|number| self.endpoint.message(DATA, last, number));
        ensure!(*came[0] == *b"one" && *came[1] == *b"two", "rank {last} has left, and its messages are {came:?}");
        drop(came);
        self.endpoint.release(DATA, last, 2);
        self.carry_on()
    }

    fn dies(self) -> Outcome {
        let last = self.members - 1;
        let dies = self.endpoint.rank() == last;
        for peer in (0..last).filter(|_| dies) {
            self.send(DATA, peer, b"remember me")?;
        }
        self.endpoint.notify();
        if !dies {
            self.until("a message", |endpoint| Ok(endpoint.landed(DATA, last) == 1))?;
        }
        self.meet()?;
        if dies {
            // Dropped here, without detaching.
            return Ok(());
        }
        self.until("a peer that dies", |endpoint| Ok(endpoint.peer_state(last) != PeerState::Alive))?;
        let state = self.endpoint.peer_state(last);
        ensure!(state == PeerState::Dead, "rank {last} has not detached and is {state:?}");
        let came = self.endpoint.message(DATA, last, 0);
        ensure!(*came == *b"remember me", "rank {last} is dead, and its message is {came:?}");
        drop(came);
        self.endpoint.release(DATA, last, 1);
        self.carry_on()
    }

    /// The ranks but the last, which has ended, still have a working group.
    fn carry_on(mut self) -> Outcome {
        self.members -= 1;
        self.meet()?;
        self.endpoint.detach();
        Ok(())
    }

    fn poison(&self) -> Outcome {
        let reason = [b'x'; POISON_BYTES];
        self.meet()?;
        if self.endpoint.rank() == 0 {
            self.endpoint.sleep(WHILE);
            self.endpoint.poison(&reason);
        }
        self.until("a poison", |endpoint| Ok(endpoint.poisoned().is_some()))?;
        ensure!(
            self.endpoint.poisoned() == Some(&reason),
            "the poison is not the {POISON_BYTES} bytes that were given"
        );
        self.endpoint.poison(b"second");
        ensure!(self.endpoint.poisoned() == Some(&reason), "a second poison replaced the first");
        Ok(())
    }

    fn poison_race(&self) -> Outcome {
        self.meet()?;
        let own = [b'a' + self.endpoint.rank() as u8 % 26; 8];
        self.endpoint.poison(&own);
        let Some(reason) = self.endpoint.poisoned().map(<[u8]>::to_vec) else {
            return Err("a rank that has poisoned the group finds no poison".into());
        };
        for peer in 0..self.members {
            self.send(DATA, peer, &reason)?;
        }
        self.endpoint.notify();
        for peer in 0..self.members {
            self.until("another rank's reason", |endpoint| Ok(endpoint.landed(DATA, peer) == 1))?;
            let theirs = self.endpoint.message(DATA, peer, 0);
            ensure!(*theirs == *reason, "rank {peer} knows the reason {theirs:?}, this rank {reason:?}");
        }
        Ok(())
    }

    /// A message to all members, and one from each.
    fn meet(&self) -> Outcome {
        for peer in 0..self.members {
            self.send(MEETING, peer, &self.met.get().to_le_bytes())?;
        }
        self.endpoint.notify();
        self.met.set(self.met.get() + 1);
        let (members, met) = (self.members, self.met.get());
        self.until("all ranks at a meeting", |endpoint| {
            Ok((0..members).all(|peer| endpoint.landed(MEETING, peer) >= met))
        })?;
        for peer in 0..members {
            let came = self.endpoint.message(MEETING, peer, met - 1);
            ensure!(*came == (met - 1).to_le_bytes(), "message {} on lane {MEETING} is {came:?}", met - 1);
            drop(came);
            self.endpoint.release(MEETING, peer, met);
        }
        self.endpoint.notify();
        Ok(())
    }

    /// Publishes a message, which needs a free slot, without a notification.
    fn send(&self, lane: Lane, to: Rank, bytes: &[u8]) -> Outcome {
        let free = self.endpoint.free_slots(lane, to);
        ensure!(free > 0, "lane {lane}: no free slot towards rank {to}, which has released enough");
        let room = self.endpoint.room(lane, to);
        room.ok_or_else(|| format!("lane {lane}: no room towards rank {to}"))?[..bytes.len()].copy_from_slice(bytes);
        self.endpoint.publish(lane, to, bytes.len());
        Ok(())
    }

    /// Waits until `done` says so.
    fn until(&self, what: &str, mut done: impl FnMut(&Checked<E>) -> Result<bool, String>) -> Outcome {
        let endpoint = &self.endpoint;
        let begin = endpoint.now();
        loop {
            endpoint.progress();
            let (done, took) = (done(endpoint)?, endpoint.now() - begin);
            ensure!(took < PATIENCE / 2, "waited {took:.1?} for {what}");
            if done {
                return Ok(());
            }
            endpoint.wait(begin + PATIENCE).map_err(|error| format!("waiting for {what}: {error}"))?;
        }
    }
}
