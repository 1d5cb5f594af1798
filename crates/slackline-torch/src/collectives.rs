//! One rank's end of a group for several threads: whoever needs an operation drives all of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slackline_collective::{Endpoint, Group, GroupOptions, GroupShape, LaneOptions, LaneShape};

use crate::queue::{OVERHEAD, Order, Queue, Submission};
use crate::{Failure, Memory, PATIENCE, Plan, Ticket, locked};

/// How a group's rings are made; equal on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Payload of a slot. A larger message goes in several, and needs its receiver to take them when all are full.
    pub slot_bytes: usize,
    /// Slots of a ring: how many pieces of messages are under way from one rank to another.
    pub slots: usize,
}

impl Settings {
    /// Up to a megabyte under way between two ranks; less in a group so large that its rings would take half a gigabyte.
    pub fn for_ranks(ranks: usize) -> Self {
        const SLOTS: usize = 8;
        let slot_bytes = ((256 << 20) / (ranks * ranks * SLOTS)).clamp(4 << 10, 128 << 10);
        Settings { slot_bytes, slots: SLOTS }
    }

    /// The shape of a group's rings.
    pub fn shape(&self, ranks: usize) -> GroupShape {
        let lane = LaneShape { slots: self.slots.max(1), slot_bytes: self.slot_bytes.max(1) + OVERHEAD };
        GroupShape { ranks, lanes: vec![lane, lane] }
    }
}

/// How long the group's own thread waits at once.
const WATCH: Duration = Duration::from_millis(100);

/// One rank's end of a group. Any thread may submit operations and wait for them; all ranks submit their collectives in the same
/// order.
///
/// Submitting sends at once what the rings have room for, which needs no action of the receiver. Whoever waits moves all that
/// is under way. A thread of the group's own does so while nobody waits, for operations that were submitted to be waited for
/// later or that are larger than a slot; it is started by the first of them.
pub struct Collectives<E: Endpoint> {
    shared: Arc<Shared<E>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    rank: usize,
    ranks: usize,
    slot_bytes: usize,
    /// The process that made it: a fork has neither its threads nor its place in the group.
    process: u32,
}

struct Shared<E: Endpoint> {
    /// `None` once it was closed.
    queue: Mutex<Option<Queue<E>>>,
    inbox: Mutex<Vec<Submission>>,
    waker: Waker,
    /// Threads of the program that drive, or want to.
    foreground: AtomicUsize,
    /// The thread has something to do.
    background: AtomicBool,
    closing: AtomicBool,
    bell: Mutex<()>,
    rung: Condvar,
    listeners: AtomicUsize,
}

impl<E: Endpoint + Send + 'static> Collectives<E>
where
    Group<E>: Send,
{
    /// Joins the group of `endpoint`, whose rings have the [shape](Settings::shape) of the settings. `members` are the ranks'
    /// numbers in the program, which errors name, and `name` is the group's.
    ///
    /// # Errors
    ///
    /// If the endpoint has other rings.
    pub fn new(endpoint: E, members: Vec<usize>, name: &str) -> Result<Self, Failure> {
        let lanes = [LaneOptions::lag(0), LaneOptions::lag(0)];
        // Waits have their own deadlines; this one is for what has to get out, which is a farewell at most.
        let options = GroupOptions::new(lanes).deadline(Duration::MAX);
        let group = Group::new(endpoint, options).map_err(|error| Failure::unusable(error.to_string()))?;
        let (rank, ranks, waker) = (group.rank(), group.ranks(), group.waker());
        let slot_bytes = group.endpoint().shape().lanes[0].slot_bytes - OVERHEAD;
        let queue = Queue::new(group, members.into(), name.into());
        let shared = Arc::new(Shared {
            queue: Mutex::new(Some(queue)),
            inbox: Mutex::new(Vec::new()),
            waker,
            foreground: AtomicUsize::new(0),
            background: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            bell: Mutex::new(()),
            rung: Condvar::new(),
            listeners: AtomicUsize::new(0),
        });
        Ok(Collectives { shared, thread: Mutex::new(None), rank, ranks, slot_bytes, process: std::process::id() })
    }

    /// This rank's number in the group.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks of the group.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Begins a collective. With `later`, it moves on while nobody waits for it.
    pub fn submit(&self, plan: Plan, timeout: Duration, later: bool) -> Arc<Ticket> {
        let large = plan.bytes() > self.slot_bytes;
        self.order(Order::Collective(plan), timeout, later || large)
    }

    /// Begins to send `memory` to another rank.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn send(&self, to: usize, tag: u32, memory: Memory, timeout: Duration) -> Arc<Ticket> {
        assert!(to < self.ranks, "rank {to} of a group of {}", self.ranks);
        self.order(Order::Send { to, tag, memory }, timeout, true)
    }

    /// Begins to receive a message that fills `memory`, with this tag, from a rank or from any.
    ///
    /// # Panics
    ///
    /// If there is no such rank.
    pub fn receive(&self, from: Option<usize>, tag: u32, memory: Memory, timeout: Duration) -> Arc<Ticket> {
        assert!(from.is_none_or(|from| from < self.ranks), "rank {from:?} of a group of {}", self.ranks);
        self.order(Order::Receive { from, tag, memory }, timeout, true)
    }

    fn order(&self, order: Order, timeout: Duration, later: bool) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket::default());
        let submission = Submission { order, timeout, ticket: Arc::clone(&ticket) };
        if let Err(failure) = self.check() {
            ticket.close(Err(failure));
            return ticket;
        }
        locked(&self.shared.inbox).push(submission);
        match self.shared.queue.try_lock() {
            Ok(mut queue) => {
                self.shared.advance(&mut queue);
                drop(queue);
                self.shared.ring();
            }
            // Whoever drives has to look.
            Err(_) => self.shared.waker.wake_by_ref(),
        }
        if later && !ticket.is_done() {
            self.start();
        }
        ticket
    }

    /// Starts the thread or gives it something to do.
    fn start(&self) {
        self.shared.background.store(true, Ordering::SeqCst);
        let mut thread = locked(&self.thread);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let named = std::thread::Builder::new().name("slackline".to_owned());
            // Without it, what was submitted moves when somebody waits.
            *thread = named.spawn(move || shared.work()).ok();
        }
        drop(thread);
        self.shared.ring();
    }

    /// Waits for an operation, for at most `slice`; whether it has ended.
    pub fn wait(&self, ticket: &Ticket, slice: Duration) -> bool {
        if ticket.is_done() || self.is_fork() {
            return ticket.is_done();
        }
        let shared = &*self.shared;
        shared.foreground.fetch_add(1, Ordering::SeqCst);
        let until = Instant::now() + slice;
        while !ticket.is_done() {
            let now = Instant::now();
            if now >= until {
                break;
            }
            match shared.queue.try_lock() {
                Ok(mut queue) => {
                    shared.advance(&mut queue);
                    if queue.is_none() {
                        ticket.close(Err(Failure::unusable("the group was closed")));
                    } else if !ticket.is_done()
                        && let Some(queue) = &mut *queue
                    {
                        queue.wait(until - now);
                        queue.poll();
                    }
                    drop(queue);
                    shared.ring();
                }
                Err(_) => {
                    shared.waker.wake_by_ref();
                    shared.listen(until - now, || ticket.is_done() || shared.queue.try_lock().is_ok());
                }
            }
        }
        shared.foreground.fetch_sub(1, Ordering::SeqCst);
        if shared.background.load(Ordering::SeqCst) {
            shared.ring();
        }
        ticket.is_done()
    }

    fn is_fork(&self) -> bool {
        self.process != std::process::id()
    }

    fn check(&self) -> Result<(), Failure> {
        if self.is_fork() {
            let why = format!(
                "the group belongs to process {}, of which this is a fork: make a group of its own",
                self.process
            );
            return Err(Failure::unusable(why));
        }
        if self.shared.closing.load(Ordering::SeqCst) {
            return Err(Failure::unusable("the group was closed"));
        }
        Ok(())
    }
}

impl<E: Endpoint> Collectives<E> {
    /// Leaves the group without waiting for others. What is under way here fails, and others fail that wait for this rank.
    pub fn close(&self) {
        // A fork has nothing to leave, and its locks may be held by threads that it does not have.
        if self.process != std::process::id() || self.shared.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        self.shared.waker.wake_by_ref();
        self.shared.ring();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
        if let Some(queue) = locked(&self.shared.queue).take() {
            queue.close(PATIENCE);
        }
        for Submission { ticket, .. } in locked(&self.shared.inbox).drain(..) {
            ticket.close(Err(Failure::unusable("the group was closed")));
        }
        self.shared.ring();
    }
}

impl<E: Endpoint> Drop for Collectives<E> {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.close();
        } else {
            // The mapping and its counters belong to the process that made them.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

impl<E: Endpoint> Shared<E> {
    /// Takes what was submitted and moves what can be moved.
    fn advance(&self, queue: &mut Option<Queue<E>>) {
        let orders = std::mem::take(&mut *locked(&self.inbox));
        match queue {
            Some(queue) => {
                orders.into_iter().for_each(|order| queue.accept(order));
                queue.poll();
            }
            None => {
                orders.into_iter().for_each(|order| order.ticket.close(Err(Failure::unusable("the group was closed"))))
            }
        }
    }

    /// Tells those who listen to look again.
    fn ring(&self) {
        if self.listeners.load(Ordering::SeqCst) > 0 {
            drop(locked(&self.bell));
            self.rung.notify_all();
        }
    }

    /// Listens for the bell, unless there is no need to.
    fn listen(&self, limit: Duration, needless: impl Fn() -> bool) {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        let bell = locked(&self.bell);
        if !needless() {
            drop(self.rung.wait_timeout(bell, limit));
        }
        self.listeners.fetch_sub(1, Ordering::SeqCst);
    }

    fn has_work(&self) -> bool {
        self.background.load(Ordering::SeqCst) && self.foreground.load(Ordering::SeqCst) == 0
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// What the thread does.
    fn work(&self) {
        while !self.is_closing() {
            if self.has_work()
                && let Ok(mut queue) = self.queue.try_lock()
            {
                while self.has_work() && !self.is_closing() {
                    // Before the look: what is submitted after it asks again.
                    self.background.store(false, Ordering::SeqCst);
                    self.advance(&mut queue);
                    let Some(queue) = &mut *queue else { return };
                    if queue.is_idle() {
                        break;
                    }
                    self.background.store(true, Ordering::SeqCst);
                    queue.wait(WATCH);
                }
                drop(queue);
                self.ring();
            }
            self.listen(WATCH, || self.is_closing() || (self.has_work() && self.queue.try_lock().is_ok()));
        }
    }
}
