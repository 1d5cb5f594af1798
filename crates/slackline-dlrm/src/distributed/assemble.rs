//! From messages to one block of pooled vectors a table.

use slackline_embedding::Plan;

use super::layout::Counts;
use crate::Wire;
use crate::wire::read_pooled;

/// The messages of a round, and what this rank pooled itself.
pub(super) struct Received<'a> {
    pub(super) plan: &'a Plan,
    pub(super) rank: usize,
    pub(super) wire: Wire,
    pub(super) samples: usize,
    pub(super) counts: &'a Counts,
    /// One a rank.
    pub(super) messages: &'a [&'a [u8]],
    /// One a replicated table.
    pub(super) replicated: &'a [&'a [f32]],
    /// One a table with hot rows.
    pub(super) hot: &'a [(Vec<bool>, Vec<f32>)],
}

/// Room for messages that are not read in place, and for tables that come in parts.
#[derive(Debug)]
pub(super) struct Assembly {
    /// For each part of the plan, in its order, its place among its rank's.
    places: Vec<usize>,
    /// One a rank.
    copies: Vec<Vec<f32>>,
    /// One a table; empty for those that come whole.
    tables: Vec<Vec<f32>>,
}

impl Assembly {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut next = vec![0; plan.ranks()];
        let place = |rank: usize| {
            next[rank] += 1;
            next[rank] - 1
        };
        Assembly {
            places: plan.parts().iter().map(|part| part.rank).map(place).collect(),
            copies: vec![Vec::new(); plan.ranks()],
            tables: vec![Vec::new(); plan.tables().len()],
        }
    }

    /// The pooled vectors `[samples, dim]` of every table, in order.
    pub(super) fn blocks<'a>(&'a mut self, received: &Received<'a>) -> Vec<&'a [f32]> {
        let Received { plan, rank, samples, .. } = *received;
        let vectors_of = |table| received.counts.samples(table, rank, plan.ranks()).len();
        // The values of each rank's parts.
        let mut of_rank: Vec<Vec<&[f32]>> = Vec::with_capacity(plan.ranks());
        for ((from, message), copy) in received.messages.iter().enumerate().zip(&mut self.copies) {
            let mut values = read_pooled(message, received.wire, copy);
            let of_part = plan.parts_of(from).iter().map(|part| {
                let (first, rest) = values.split_at(vectors_of(part.table) * part.columns.len());
                values = rest;
                first
            });
            of_rank.push(of_part.collect());
        }
        let mut blocks: Vec<&[f32]> = vec![&[]; plan.tables().len()];
        for (&table, block) in plan.replicated().iter().zip(received.replicated) {
            blocks[table] = block;
        }
        let parts = plan.parts().iter().zip(&self.places).map(|(part, place)| (part, of_rank[part.rank][*place]));
        let mut parts = parts.peekable();
        let mut hot = received.hot.iter();
        for (table, room) in self.tables.iter_mut().enumerate() {
            if parts.peek().is_none_or(|(part, _)| part.table != table) {
                continue;
            }
            let dim = plan.tables()[table].dim;
            if plan.rank_of(table).is_some() && plan.hot_rows(table).is_empty() {
                blocks[table] = parts.next().expect("peeked").1;
                continue;
            }
            room.resize(samples * dim, 0.0);
            if !plan.hot_rows(table).is_empty() {
                let (is_here, here) = hot.next().expect("one for each table with hot rows");
                let (mut here, mut sent) = (here.chunks_exact(dim), parts.next().expect("whole").1.chunks_exact(dim));
                for (is_here, out) in is_here.iter().zip(room.chunks_exact_mut(dim)) {
                    let next = if *is_here { here.next() } else { sent.next() };
                    out.copy_from_slice(next.expect("each sample is here or was sent"));
                }
                blocks[table] = room;
                continue;
            }
            while let Some((part, values)) = parts.next_if(|(part, _)| part.table == table) {
                let columns = part.columns.clone();
                for (out, values) in room.chunks_exact_mut(dim).zip(values.chunks_exact(columns.len())) {
                    let out = &mut out[columns.clone()];
                    // The sums of the first run of rows, then those of the next, in this order on every rank.
                    if part.rows.start == 0 {
                        out.copy_from_slice(values);
                    } else {
                        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
                    }
                }
            }
            blocks[table] = room;
        }
        blocks
    }
}
