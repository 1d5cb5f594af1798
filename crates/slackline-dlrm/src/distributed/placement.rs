//! What is known of the messages before there is a batch.

use std::ops::Range;

use slackline_embedding::Plan;

use crate::Wire;

/// A plan as one of its ranks sees it.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) plan: Plan,
    pub(super) rank: usize,
    /// The precision of pooled vectors in messages.
    pub(super) wire: Wire,
    /// One a table.
    pub(super) sources: Vec<Source>,
}

/// Where the vectors of a table come from. Numbers of parts are places in [`Plan::parts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Every rank holds the table; its place in [`Plan::replicated`].
    Replicated(usize),
    /// One rank sends them.
    Whole { part: usize },
    /// One rank sends those that need other rows than hot ones. `hot` is the table's place among those with hot rows.
    Hot { part: usize, hot: usize },
    /// Each part sends its columns, or its share of the sums.
    Parts(Range<usize>),
}

impl Placement {
    pub(super) fn new(plan: Plan, rank: usize) -> Self {
        let (mut next, mut hot, mut replicated) = (0, 0, 0);
        let mut source = |table: usize| {
            let first = next;
            next += plan.parts()[first..].iter().take_while(|part| part.table == table).count();
            match next - first {
                0 => {
                    replicated += 1;
                    Source::Replicated(replicated - 1)
                }
                1 if plan.hot_rows(table).is_empty() => Source::Whole { part: first },
                1 => {
                    hot += 1;
                    Source::Hot { part: first, hot: hot - 1 }
                }
                _ => Source::Parts(first..next),
            }
        };
        let sources = (0..plan.tables().len()).map(&mut source).collect();
        Placement { plan, rank, wire: Wire::F32, sources }
    }

    /// The place of a table among those with hot rows.
    pub(super) fn hot(&self, table: usize) -> Option<usize> {
        match self.sources[table] {
            Source::Hot { hot, .. } => Some(hot),
            _ => None,
        }
    }
}
