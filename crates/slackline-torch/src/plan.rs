//! What each collective sends, receives and computes on one rank.

use slackline_collective::Rank;

use crate::{Memory, Reducer};

/// Up to so many bytes, an all-reduce sends everything to everybody at once; above, each rank reduces its share for all.
const WHOLE: usize = 8 << 10;

/// Work on what has come.
type Finish = Box<dyn FnOnce() + Send>;

/// What one rank does for a collective.
///
/// All ranks make the same one, each with its own memory. Memory for the messages of several ranks is given in rank order.
pub struct Plan {
    pub(crate) code: u8,
    pub(crate) root: u32,
    pub(crate) reducer: u16,
    pub(crate) phase: Phase,
}

/// Messages that go and come without order, and what is done when all have come.
#[derive(Default)]
pub(crate) struct Phase {
    pub(crate) sends: Vec<Piece>,
    /// How many of them are all sent, from the first.
    pub(crate) sent: usize,
    pub(crate) receives: Vec<Piece>,
    pub(crate) finish: Option<Finish>,
    pub(crate) next: Option<Box<Phase>>,
}

/// Memory that goes to a peer or comes from it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) peer: Rank,
    pub(crate) memory: Memory,
    pub(crate) moved: usize,
    /// One message has gone or come, if only an empty one.
    pub(crate) begun: bool,
}

impl Piece {
    pub(crate) fn new(peer: Rank, memory: Memory) -> Self {
        Piece { peer, memory, moved: 0, begun: false }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.begun && self.moved == self.memory.len()
    }
}

const NAMES: [&str; 9] =
    ["all_to_all", "all_gather", "all_reduce", "broadcast", "gather", "scatter", "reduce", "reduce_scatter", "barrier"];

impl Plan {
    fn new(name: &str, phase: Phase) -> Self {
        let code = NAMES.iter().position(|known| *known == name).expect("a name of the list") as u8;
        Plan { code, root: 0, reducer: 0, phase }
    }

    fn rooted(self, root: Rank) -> Self {
        Plan { root: root as u32, ..self }
    }

    fn reducing(self, reducer: Reducer) -> Self {
        Plan { reducer: reducer.code() + 1, ..self }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        NAMES[usize::from(self.code)]
    }

    pub(crate) fn name_of(code: u8) -> &'static str {
        NAMES.get(usize::from(code)).copied().unwrap_or("no collective")
    }

    /// Bytes to be sent and received.
    pub(crate) fn bytes(&self) -> usize {
        let pieces = self.phase.sends.iter().chain(&self.phase.receives);
        pieces.map(|piece| piece.memory.len()).sum()
    }

    /// `send[p]` goes to rank `p`, `receive[p]` comes from it.
    ///
    /// # Panics
    ///
    /// If what this rank sends to itself has another length than what it receives; and if there is not one of each for each
    /// rank.
    pub fn all_to_all(rank: Rank, send: Vec<Memory>, receive: Vec<Memory>) -> Self {
        assert_eq!(send.len(), receive.len(), "one of each for each rank");
        receive[rank].copy_from(&send[rank]);
        Plan::new(
            "all_to_all",
            Phase { sends: others(rank, send), receives: others(rank, receive), ..Phase::default() },
        )
    }

    /// Every rank's `send` goes to all; `receive[p]` comes from `p`.
    pub fn all_gather(rank: Rank, send: &Memory, receive: Vec<Memory>) -> Self {
        receive[rank].copy_from(send);
        let sends = others(rank, vec![send.clone(); receive.len()]);
        Plan::new("all_gather", Phase { sends, receives: others(rank, receive), ..Phase::default() })
    }

    /// What `root` has in `memory`, all have after it.
    pub fn broadcast(rank: Rank, ranks: usize, root: Rank, memory: &Memory) -> Self {
        let phase = if rank == root {
            Phase { sends: others(rank, vec![memory.clone(); ranks]), ..Phase::default() }
        } else {
            Phase { receives: vec![Piece::new(root, memory.clone())], ..Phase::default() }
        };
        Plan::new("broadcast", phase).rooted(root)
    }

    /// Every rank's `send` goes to `root`, which gives memory for all of them.
    pub fn gather(rank: Rank, root: Rank, send: &Memory, receive: Vec<Memory>) -> Self {
        Plan::new("gather", to_root(rank, root, send, receive, None)).rooted(root)
    }

    /// `send[p]` of `root` goes to rank `p`. Other ranks give none.
    pub fn scatter(rank: Rank, root: Rank, send: Vec<Memory>, receive: &Memory) -> Self {
        let phase = if rank == root {
            receive.copy_from(&send[rank]);
            Phase { sends: others(rank, send), ..Phase::default() }
        } else {
            Phase { receives: vec![Piece::new(root, receive.clone())], ..Phase::default() }
        };
        Plan::new("scatter", phase).rooted(root)
    }

    /// The `memory` of all ranks, reduced, goes into that of `root`. Others keep theirs.
    pub fn reduce(rank: Rank, ranks: usize, root: Rank, memory: &Memory, reducer: Reducer) -> Self {
        let phase = if rank == root {
            let parts: Vec<Memory> = (0..ranks).map(|_| Memory::zeroed(memory.len())).collect();
            let (reduced, out) = (parts.clone(), memory.clone());
            let finish: Finish = Box::new(move || reducer.reduce(&reduced, &out));
            to_root(rank, root, memory, parts, Some(finish))
        } else {
            to_root(rank, root, memory, Vec::new(), None)
        };
        Plan::new("reduce", phase).rooted(root).reducing(reducer)
    }

    /// `send[p]` of all ranks, reduced, goes into `receive` of rank `p`.
    pub fn reduce_scatter(rank: Rank, send: Vec<Memory>, receive: &Memory, reducer: Reducer) -> Self {
        let phase = share(rank, send, receive, reducer);
        Plan::new("reduce_scatter", phase).reducing(reducer)
    }

    /// The `memory` of all ranks, reduced, goes into that of all.
    pub fn all_reduce(rank: Rank, ranks: usize, memory: &Memory, reducer: Reducer) -> Self {
        let phase = if memory.len() <= WHOLE {
            let parts: Vec<Memory> = (0..ranks).map(|_| Memory::zeroed(memory.len())).collect();
            parts[rank].copy_from(memory);
            let sends = others(rank, vec![memory.clone(); ranks]);
            let receives = others(rank, parts.clone());
            let out = memory.clone();
            Phase { sends, receives, finish: Some(Box::new(move || reducer.reduce(&parts, &out))), ..Phase::default() }
        } else {
            let shares = shares(memory, ranks, reducer.element_bytes());
            let mut first = share(rank, shares.clone(), &shares[rank], reducer);
            let sends = others(rank, vec![shares[rank].clone(); ranks]);
            first.next = Some(Box::new(Phase { sends, receives: others(rank, shares), ..Phase::default() }));
            first
        };
        Plan::new("all_reduce", phase).reducing(reducer)
    }

    /// All ranks have come.
    pub fn barrier(rank: Rank, ranks: usize) -> Self {
        let nothing = vec![Memory::EMPTY; ranks];
        let (sends, receives) = (others(rank, nothing.clone()), others(rank, nothing));
        Plan::new("barrier", Phase { sends, receives, ..Phase::default() })
    }
}

/// One piece for each rank but this one, beginning with the next, so that not all begin with the same.
fn others(rank: Rank, memory: Vec<Memory>) -> Vec<Piece> {
    let ranks = memory.len();
    let mut pieces: Vec<Piece> =
        memory.into_iter().enumerate().map(|(peer, memory)| Piece::new(peer, memory)).collect();
    pieces.rotate_left(rank);
    pieces.remove(0);
    debug_assert_eq!(pieces.len() + 1, ranks);
    pieces
}

fn to_root(rank: Rank, root: Rank, send: &Memory, receive: Vec<Memory>, finish: Option<Finish>) -> Phase {
    if rank == root {
        receive[rank].copy_from(send);
        Phase { receives: others(rank, receive), finish, ..Phase::default() }
    } else {
        Phase { sends: vec![Piece::new(root, send.clone())], ..Phase::default() }
    }
}

/// Each rank gets all ranks' part for it and reduces them into `out`.
fn share(rank: Rank, send: Vec<Memory>, out: &Memory, reducer: Reducer) -> Phase {
    let parts: Vec<Memory> = (0..send.len()).map(|_| Memory::zeroed(send[rank].len())).collect();
    parts[rank].copy_from(&send[rank]);
    let (receives, out) = (others(rank, parts.clone()), out.clone());
    let finish: Finish = Box::new(move || reducer.reduce(&parts, &out));
    Phase { sends: others(rank, send), receives, finish: Some(finish), ..Phase::default() }
}

/// The elements in as many parts as there are ranks, as even as they can be.
fn shares(memory: &Memory, ranks: usize, element: usize) -> Vec<Memory> {
    let elements = memory.len() / element;
    let at = |rank: usize| elements * rank / ranks * element;
    (0..ranks).map(|rank| memory.part(at(rank)..at(rank + 1))).collect()
}
