//! Generations: a value that is replaced while requests read it. Each request sees one generation.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::EmbeddingTable;

/// A value that can replace another of its kind while requests go on.
pub trait Successor {
    /// The reason why a value cannot replace the current one.
    type Unfit;

    /// Checks that every request that is valid for `current` is valid for this value.
    ///
    /// # Errors
    ///
    /// The first difference that would make a valid request invalid.
    fn check(&self, current: &Self) -> Result<(), Self::Unfit>;
}

/// The generation that requests are answered from, and the way to the next one.
///
/// A request takes the current [`Generation`] once and uses it until it is answered, so it never mixes two.
/// [`switch`](Self::switch) puts the next one in place for all requests that begin afterwards, and returns the old one as
/// [`Retired`]: the caller waits there until the last reader is gone, and then gets the old value and drops it. So unmapping or
/// freeing many GiB is never done by a request.
///
/// Both generations take memory from the moment the next one is opened until the old one is dropped.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use slackline_embedding::{Bags, EmbeddingTable, Generations, HeapTable, Pooling, TableSet};
///
/// let set = |value: f32| TableSet::new(vec![Arc::new(HeapTable::from_fn("colour", 3, 1, |_, _| value))]);
/// let generations = Generations::new(set(1.0));
///
/// let before = generations.current();
/// let retired = generations.switch(set(2.0))?;
/// let after = generations.current();
/// for (generation, number, value) in [(&before, 0, 1.0), (&after, 1, 2.0)] {
///     let table = &generation[0];
///     let mut out = [0.0];
///     table.pool(&Bags::new("colour", table.rows(), &[2i64], &[0i64, 1], None)?, Pooling::Sum, &mut out)?;
///     assert_eq!((generation.number(), out), (number, [value]));
/// }
///
/// let retired = retired.wait(Duration::ZERO).expect_err("one request still reads it");
/// assert_eq!(retired.readers(), 1);
/// drop(before);
/// drop(retired.wait(Duration::ZERO).expect("nobody reads it any more"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Generations<T> {
    current: ArcSwap<Held<T>>,
    /// Taken by whoever switches: it tells when the last reader of the current generation is gone.
    switching: Mutex<Receiver<Infallible>>,
}

/// The part of a generation that its readers share.
#[derive(Debug)]
struct Held<T> {
    number: u64,
    /// Before `_open`, since fields are dropped in their order: whoever sees the channel closed finds the value released.
    value: Arc<T>,
    /// Nothing is ever sent: that the channel closes is the message.
    _open: Sender<Infallible>,
}

impl<T> Generations<T> {
    /// Begins with this generation, whose number is 0.
    pub fn new(first: T) -> Self {
        let (_open, closed) = mpsc::channel();
        let held = Held { number: 0, value: Arc::new(first), _open };
        Generations { current: ArcSwap::from_pointee(held), switching: Mutex::new(closed) }
    }

    /// The current generation, for one request.
    ///
    /// It does not change when generations are switched, and it keeps its generation in memory: drop it when the request is
    /// answered.
    ///
    /// Cost: a few atomic operations on memory of this thread, however many threads do the same. It never waits, not even for
    /// a switch. A thread that holds more than eight at a time pays for a counter that it shares with all threads.
    pub fn current(&self) -> Generation<T> {
        Generation(self.current.load())
    }

    /// Puts the next generation in place, whose number is one more. Requests that begin after the call see it; those under
    /// way keep theirs.
    ///
    /// Cost: one allocation, and a look at every thread that ever read; the old generation is not dropped here. Concurrent
    /// switches are done one after the other.
    ///
    /// # Errors
    ///
    /// Those of [`Successor::check`]. The current generation then stays, and `next` is dropped.
    pub fn switch(&self, next: T) -> Result<Retired<T>, T::Unfit>
    where
        T: Successor,
    {
        // A check that panicked has changed nothing.
        let mut switching = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        next.check(&current.value)?;
        let (_open, closed) = mpsc::channel();
        let next = Held { number: current.number + 1, value: Arc::new(next), _open };
        self.current.store(Arc::new(next));
        let last = std::mem::replace(&mut *switching, closed);
        Ok(Retired {
            number: current.number,
            value: Arc::clone(&current.value),
            readers: Arc::downgrade(&current),
            last,
        })
    }
}

/// One generation, as a request holds it. Dropping it costs an atomic operation. The last reader frees the generation only if
/// the [`Retired`] handle was dropped before.
pub struct Generation<T>(arc_swap::Guard<Arc<Held<T>>>);

impl<T> Generation<T> {
    /// Its number: 0 for the first, and one more with each switch.
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

impl<T> Deref for Generation<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Generation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number()).field("value", &**self).finish()
    }
}

/// A generation that was replaced, and may still be read.
///
/// If it is dropped instead of waited for, the generation is dropped with its last reader, on that reader's thread.
#[derive(Debug)]
#[must_use = "the last reader pays for dropping the old generation, unless somebody waits for it"]
pub struct Retired<T> {
    number: u64,
    value: Arc<T>,
    readers: Weak<Held<T>>,
    last: Receiver<Infallible>,
}

impl<T> Retired<T> {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many readers it still has; the number never grows.
    pub fn readers(&self) -> usize {
        self.readers.strong_count()
    }

    /// Sleeps until the last reader is gone, and returns the generation, to be dropped.
    ///
    /// # Errors
    ///
    /// The handle itself if there are readers left after `timeout`. Wait again with it.
    pub fn wait(self, timeout: Duration) -> Result<T, Self> {
        match self.last.recv_timeout(timeout) {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Timeout) => Err(self),
            Err(RecvTimeoutError::Disconnected) => {
                Ok(Arc::into_inner(self.value).expect("a reader releases the value before it closes the channel"))
            }
        }
    }
}

/// The tables of one generation, in the order of the model.
///
/// Tables are only borrowed from it, so that none of them outlives the [`Generation`] that a request holds.
#[derive(Debug)]
pub struct TableSet(Vec<Arc<dyn EmbeddingTable>>);

impl TableSet {
    /// Tables of any kind: in shards, in memory, or compressed.
    pub fn new(tables: Vec<Arc<dyn EmbeddingTable>>) -> Self {
        TableSet(tables)
    }

    /// The number of tables.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All tables, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &dyn EmbeddingTable> {
        self.0.iter().map(|table| &**table)
    }
}

impl std::ops::Index<usize> for TableSet {
    type Output = dyn EmbeddingTable;

    /// # Panics
    ///
    /// If there is no such table.
    fn index(&self, number: usize) -> &Self::Output {
        &*self.0[number]
    }
}

/// Names, order and columns stay, since callers ask by the first two and have room for the third. Rows may be more but not
/// fewer: an index that was right stays right. How rows are stored may change.
impl Successor for TableSet {
    type Unfit = UnfitTables;

    fn check(&self, current: &Self) -> Result<(), UnfitTables> {
        if self.len() != current.len() {
            return Err(UnfitTables::Count { expected: current.len(), found: self.len() });
        }
        for (number, (new, old)) in self.iter().zip(current.iter()).enumerate() {
            let table = || old.name().to_owned();
            if new.name() != old.name() {
                return Err(UnfitTables::Name { number, expected: table(), found: new.name().to_owned() });
            }
            if new.dim() != old.dim() {
                return Err(UnfitTables::Dim { table: table(), expected: old.dim(), found: new.dim() });
            }
            if new.rows() < old.rows() {
                return Err(UnfitTables::Rows { table: table(), least: old.rows(), found: new.rows() });
            }
        }
        Ok(())
    }
}

/// Why tables cannot replace those that are being served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitTables {
    /// Another number of tables.
    #[error("{found} tables cannot replace {expected}")]
    Count {
        /// The tables being served.
        expected: usize,
        /// The new ones.
        found: usize,
    },
    /// Another table.
    #[error("table {number}: {found} cannot replace {expected}")]
    Name {
        /// The number of the table.
        number: usize,
        /// The table being served.
        expected: String,
        /// The new one.
        found: String,
    },
    /// Pooled vectors of another length.
    #[error("table {table}: rows of {found} columns cannot replace rows of {expected}")]
    Dim {
        /// The table.
        table: String,
        /// The columns being served.
        expected: usize,
        /// The new ones.
        found: usize,
    },
    /// Indices that were right would no longer be.
    #[error("table {table}: {found} rows are fewer than the {least} that are served")]
    Rows {
        /// The table.
        table: String,
        /// The rows being served.
        least: u64,
        /// The new ones.
        found: u64,
    },
}
