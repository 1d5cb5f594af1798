//! A collective without any transport: messages lie in vectors that all ranks share, and one thread steps the ranks in turn.

use std::cell::RefCell;
use std::rc::Rc;

use slackline_dlrm::{Collective, CollectiveError, CompleteRound, Messages, OpenRound};

/// One rank's end. Nothing here waits: a round is handed out if all ranks have published it, and the test says that it is
/// there.
pub(crate) struct Fake {
    post: Rc<RefCell<Post>>,
    rank: usize,
    begun: usize,
    /// The next round to be handed out.
    pub(crate) taken: usize,
}

/// What the ranks share.
#[derive(Debug, Default)]
pub(crate) struct Post {
    ranks: usize,
    /// What each rank has published of each round.
    rounds: Vec<Vec<Option<Published>>>,
    /// `take` hands out rounds before this one only.
    pub(crate) due: usize,
    /// Whether messages move inside calls only.
    pub(crate) needs_progress: bool,
    /// Calls of `progress`.
    pub(crate) progressed: usize,
    /// A message (round, from, to) that loses its last byte on the way.
    pub(crate) cut: Option<(usize, usize, usize)>,
}

#[derive(Clone, Debug, Default)]
struct Published {
    messages: Vec<Vec<u8>>,
    receive: Vec<usize>,
}

impl Post {
    /// The ends of a group whose rounds are all there as soon as they are published.
    pub(crate) fn group(ranks: usize) -> (Rc<RefCell<Self>>, Vec<Fake>) {
        let post = Rc::new(RefCell::new(Post { ranks, due: usize::MAX, ..Post::default() }));
        let end = |rank| Fake { post: Rc::clone(&post), rank, begun: 0, taken: 0 };
        (Rc::clone(&post), (0..ranks).map(end).collect())
    }

    /// The messages of a round to a rank, if all ranks have published it.
    fn messages(&self, round: usize, to: usize) -> Option<Vec<Vec<u8>>> {
        let published = self.rounds.get(round)?.iter().map(Option::as_ref).collect::<Option<Vec<_>>>()?;
        let sizes: Vec<usize> = published.iter().map(|published| published.messages[to].len()).collect();
        assert_eq!(sizes, published[to].receive, "round {round}, rank {to}: sizes that were sent, and declared");
        let mut messages: Vec<Vec<u8>> = published.iter().map(|published| published.messages[to].clone()).collect();
        if let Some((_, from, _)) = self.cut.filter(|(cut, _, at)| (*cut, *at) == (round, to)) {
            messages[from].pop();
        }
        Some(messages)
    }
}

impl Fake {
    fn next(&mut self, due: usize) -> Result<Option<Delivered>, CollectiveError> {
        let number = self.taken;
        if number >= self.begun.min(due) {
            return Ok(None);
        }
        let messages = self.post.borrow().messages(number, self.rank);
        self.taken += usize::from(messages.is_some());
        Ok(messages.map(|messages| Delivered { number: number as u64, messages }))
    }

    fn next_of_all(&mut self) -> Result<Option<Delivered>, CollectiveError> {
        let next = self.next(usize::MAX)?;
        if next.is_none() && self.taken < self.begun {
            return Err(CollectiveError::Other(format!("round {} would never be complete", self.taken).into()));
        }
        Ok(next)
    }
}

impl Collective for Fake {
    type Round<'a> = Open<'a>;
    type Complete<'a> = Delivered;

    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.post.borrow().ranks
    }

    fn begin(&mut self, send: &[usize], receive: &[usize]) -> Result<Open<'_>, CollectiveError> {
        assert_eq!((send.len(), receive.len()), (self.ranks(), self.ranks()), "a size for each rank");
        let messages = send.iter().map(|size| vec![0xff; *size]).collect();
        Ok(Open { end: self, round: Published { messages, receive: receive.to_vec() } })
    }

    fn take(&mut self) -> Result<Option<Delivered>, CollectiveError> {
        let due = self.post.borrow().due;
        self.next(due)
    }

    fn flush(&mut self) -> Result<Option<Delivered>, CollectiveError> {
        self.next_of_all()
    }

    fn drain(&mut self) -> Result<Option<Delivered>, CollectiveError> {
        self.next_of_all()
    }

    fn give_up(&mut self, why: &str) -> CollectiveError {
        CollectiveError::Other(why.into())
    }
}

/// A round that has begun.
pub(crate) struct Open<'a> {
    end: &'a mut Fake,
    round: Published,
}

impl OpenRound for Open<'_> {
    fn number(&self) -> u64 {
        self.end.begun as u64
    }

    fn messages_mut(&mut self) -> Messages<'_> {
        self.round.messages.iter_mut().map(Vec::as_mut_slice).collect()
    }

    fn needs_progress(&self) -> bool {
        self.end.post.borrow().needs_progress
    }

    fn progress(&mut self) -> Result<(), CollectiveError> {
        self.end.post.borrow_mut().progressed += 1;
        Ok(())
    }

    fn publish(self) -> Result<(), CollectiveError> {
        let Open { end: Fake { post, rank, begun, .. }, round } = self;
        let mut post = post.borrow_mut();
        let (rounds, ranks) = ((*begun + 1).max(post.rounds.len()), post.ranks);
        post.rounds.resize_with(rounds, || vec![None; ranks]);
        post.rounds[*begun][*rank] = Some(round);
        *begun += 1;
        Ok(())
    }
}

/// A complete round.
pub(crate) struct Delivered {
    number: u64,
    messages: Vec<Vec<u8>>,
}

impl CompleteRound for Delivered {
    fn number(&self) -> u64 {
        self.number
    }

    fn message(&self, from: usize) -> &[u8] {
        &self.messages[from]
    }
}
