//! Finding a placement.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::error::Shortfall;
use super::{CostModel, Part, Plan, PlanError, TableCost, check};
use crate::RowFormat;

/// Runs of columns begin on a multiple of this, so that none cuts a cache line of single-precision values.
const COLUMN_GRAIN: usize = 16;

/// The constraints of a placement.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOptions {
    /// The cost model.
    pub model: CostModel,
    /// Bytes that a rank may hold; `None` for no limit.
    pub memory: Option<u64>,
    /// How tables may be cut if whole ones cannot be balanced or are too large.
    pub split: Split,
    /// Tables of up to this many bytes lie on every rank: their vectors are never sent.
    pub replicate: u64,
    /// The planner stops once the largest cost of a rank, divided by the mean, is at most this.
    pub balance: f64,
    /// Forced placements of tables, by number.
    pub forced: BTreeMap<usize, Forced>,
    /// Rows of tables, by number, that every rank is to have a copy of, as far as the table is whole on one rank.
    pub hot: BTreeMap<usize, Vec<u64>>,
}

impl Default for PlanOptions {
    /// Tables whole or cut by columns, which leaves predictions as they are; nothing replicated; no limit.
    fn default() -> Self {
        PlanOptions {
            model: CostModel::default(),
            memory: None,
            split: Split::Columns,
            replicate: 0,
            balance: 1.05,
            forced: BTreeMap::new(),
            hot: BTreeMap::new(),
        }
    }
}

/// How tables may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Tables stay whole.
    Never,
    /// By columns: the same bits as whole tables. Every part is looked up for every index.
    Columns,
    /// By rows: sums are rounded in another order, the same for one plan. Every part sends a vector for every sample.
    Rows,
    /// By columns, and by rows where there are too few columns.
    Both,
}

/// Where a table has to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Whole, on this rank.
    Rank(usize),
    /// Whole, on any rank.
    Whole,
    /// Cut into this many runs of columns.
    Columns(usize),
    /// Cut into this many runs of rows.
    Rows(usize),
    /// On every rank.
    Replicated,
}

/// A part that has no rank yet.
#[derive(Clone, Debug)]
struct Piece {
    table: usize,
    rows: Range<u64>,
    columns: Range<usize>,
    cost: f64,
    bytes: u64,
    lookups: f64,
    rank: Option<usize>,
    whole: bool,
}

impl Plan {
    /// Places tables under some conditions so that no rank has much more work than another.
    ///
    /// Whole tables first, as [`table_wise`](Plan::table_wise). Then, while some rank has more than `balance` times the
    /// mean cost, the most expensive table is halved, if this is allowed and helps; and whatever fits into no rank's
    /// memory is halved until it does. Runs of rows are cut so that each gets equally many lookups, if these were
    /// counted.
    ///
    /// Cost: as [`table_wise`](Plan::table_wise), for each cut.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if there are no ranks, a table's numbers are impossible, a forced placement cannot be, or the tables do
    /// not fit into the memory.
    pub fn make(tables: &[TableCost], ranks: usize, options: &PlanOptions) -> Result<Self, PlanError> {
        check(&options.model, tables, ranks)?;
        if let Some(&table) = options.forced.keys().find(|table| **table >= tables.len()) {
            return Err(PlanError::NoSuchTable { table, tables: tables.len() });
        }
        let planner = Planner { tables, ranks, options };
        let mut replicated = Vec::new();
        let mut pieces = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            match options.forced.get(&number) {
                Some(Forced::Replicated) => replicated.push(number),
                None if ranks > 1 && options.replicate > 0 && table.bytes() <= options.replicate => {
                    replicated.push(number);
                }
                forced => pieces.extend(planner.forced_pieces(number, forced.copied())?),
            }
        }
        let taken: u64 = replicated.iter().map(|&table| tables[table].bytes()).sum::<u64>() + planner.hot_bytes();
        let room = match options.memory {
            Some(limit) if taken > limit => {
                return Err(planner.shortfall(limit, &replicated, None));
            }
            limit => limit.map_or(u64::MAX, |limit| limit - taken),
        };
        let pieces = planner
            .balance(pieces, room)
            .map_err(|failed| planner.shortfall(options.memory.unwrap_or(room), &replicated, failed.as_ref()))?;
        let part = |piece: &Piece| Part {
            table: piece.table,
            rank: piece.rank.expect("every piece has been placed"),
            rows: piece.rows.clone(),
            columns: piece.columns.clone(),
            lookups_per_sample: piece.lookups,
        };
        let parts: Vec<Part> = pieces.iter().map(part).collect();
        let whole = |table: usize| parts.iter().filter(|part| part.table == table).count() == 1;
        let hot = options.hot.iter().filter(|(table, _)| whole(**table)).map(|(table, rows)| (*table, rows.clone()));
        let hot = if ranks > 1 { hot.collect() } else { BTreeMap::new() };
        Plan::with_parts(options.model.clone(), tables, ranks, parts, replicated, hot)
    }
}

struct Planner<'a> {
    tables: &'a [TableCost],
    ranks: usize,
    options: &'a PlanOptions,
}

impl Planner<'_> {
    fn hot_bytes(&self) -> u64 {
        let bytes = |(table, rows): (&usize, &Vec<u64>)| {
            self.tables.get(*table).map_or(0, |table| rows.len() as u64 * table.row_bytes)
        };
        self.options.hot.iter().map(bytes).sum()
    }

    fn piece(&self, table: usize, rows: Range<u64>, columns: Range<usize>) -> Piece {
        let cost = &self.tables[table];
        let lookups = cost.lookups_per_sample * cost.share(&rows);
        let part = Part { table, rank: 0, rows, columns, lookups_per_sample: lookups };
        Piece {
            table,
            cost: self.options.model.part(cost, &part),
            bytes: part.bytes(cost),
            rows: part.rows,
            columns: part.columns,
            lookups,
            rank: None,
            whole: false,
        }
    }

    fn forced_pieces(&self, number: usize, forced: Option<Forced>) -> Result<Vec<Piece>, PlanError> {
        let table = &self.tables[number];
        let whole = self.piece(number, 0..table.rows, 0..table.dim);
        let wrong = |why: String| PlanError::Parts { table: table.name.clone(), why };
        Ok(match forced {
            None | Some(Forced::Replicated) => vec![whole],
            Some(Forced::Whole) => vec![Piece { whole: true, ..whole }],
            Some(Forced::Rank(rank)) if rank < self.ranks => vec![Piece { rank: Some(rank), whole: true, ..whole }],
            Some(Forced::Rank(rank)) => {
                return Err(PlanError::NoSuchRank { table: table.name.clone(), rank, ranks: self.ranks });
            }
            Some(Forced::Columns(count)) => {
                if count == 0 || count > table.dim || !table.cuts.by_columns() {
                    return Err(wrong(format!("cannot be cut into {count} runs of its {} columns", table.dim)));
                }
                // On multiples of the grain, where there are enough of them.
                let grain = if table.dim.is_multiple_of(COLUMN_GRAIN) && table.dim / COLUMN_GRAIN >= count {
                    COLUMN_GRAIN
                } else if table.dim / 2 >= count {
                    2
                } else {
                    1
                };
                let bound = |at: usize| if at == count { table.dim } else { at * (table.dim / grain) / count * grain };
                let run = |at| Piece { whole: true, ..self.piece(number, 0..table.rows, bound(at)..bound(at + 1)) };
                (0..count).map(run).collect()
            }
            Some(Forced::Rows(count)) => {
                if count == 0 || count as u64 > table.rows || !table.cuts.by_rows() {
                    return Err(wrong(format!("cannot be cut into {count} runs of its {} rows", table.rows)));
                }
                let mut bounds = vec![0];
                for at in 1..count {
                    let left = (count - at) as u64;
                    let wanted = table.row_at(&(0..table.rows), at as f64 / count as f64);
                    bounds.push(wanted.clamp(bounds[at - 1] + 1, table.rows - left));
                }
                bounds.push(table.rows);
                let run = |pair: &[u64]| Piece { whole: true, ..self.piece(number, pair[0]..pair[1], 0..table.dim) };
                bounds.windows(2).map(run).collect()
            }
        })
    }

    /// Gives every piece a rank, cutting some. If there is too little room, the error is a piece that has none, or `None` if
    /// all together do not fit.
    fn balance(&self, mut pieces: Vec<Piece>, room: u64) -> Result<Vec<Piece>, Option<Piece>> {
        let all = pieces.iter().map(|piece| u128::from(piece.bytes)).sum::<u128>();
        if all > u128::from(room) * self.ranks as u128 {
            return Err(None);
        }
        // What fits nowhere is cut first, down to what does; all together they fit, so these are not many cuts.
        while let Some(at) = pieces.iter().position(|piece| piece.bytes > room) {
            let Some(halves) = self.halves(&pieces[at]) else { return Err(Some(pieces[at].clone())) };
            pieces.splice(at..=at, halves);
        }
        let mut cuts = 8 * self.ranks + self.tables.len();
        let mut best = loop {
            match self.assign(&pieces, room) {
                Ok(placed) => break placed,
                Err(at) => {
                    // Smaller pieces pack better: the largest that can be cut.
                    cuts -= 1;
                    let cut = (0..pieces.len()).filter(|at| cuts > 0 && self.halves(&pieces[*at]).is_some());
                    let Some(largest) = cut.max_by_key(|at| (pieces[*at].bytes, Reverse(*at))) else {
                        return Err(Some(pieces[at].clone()));
                    };
                    let halves = self.halves(&pieces[largest]).expect("asked just now");
                    pieces.splice(largest..=largest, halves);
                }
            }
        };
        // Without further cuts: evening out the bytes may happen to even out the cost.
        let mut uncut = best.clone();
        self.even_out_bytes(&mut uncut);
        // Pieces whose cut did not help.
        let mut hopeless = Vec::new();
        for _ in 0..8 * self.ranks + self.tables.len() {
            let loads = self.loads(&best);
            let (largest, mean) = (largest(&loads), loads.iter().sum::<f64>() / self.ranks as f64);
            if largest <= self.options.balance * mean {
                break;
            }
            let candidates = (0..best.len()).filter(|at| {
                let piece = &best[*at];
                !hopeless.contains(&(piece.table, piece.rows.start, piece.columns.start))
            });
            let Some(at) = candidates.max_by(|a, b| best[*a].cost.total_cmp(&best[*b].cost)) else { break };
            let key = (best[at].table, best[at].rows.start, best[at].columns.start);
            let mut cut = best.clone();
            let better = self.halves(&best[at]).and_then(|halves| {
                cut.splice(at..=at, halves);
                cut.iter_mut().filter(|piece| !self.is_fixed(piece)).for_each(|piece| piece.rank = None);
                let placed = self.assign(&cut, room).ok()?;
                let after = self.loads(&placed);
                // With two equally busy ranks, the first cut relieves only one: accept it if it evens out the costs.
                let evener = squares(&after) < squares(&loads) * 0.999;
                let most = self::largest(&after);
                (most < largest * 0.995 || (most <= largest && evener)).then_some(placed)
            });
            match better {
                Some(placed) => best = placed,
                None => hopeless.push(key),
            }
        }
        self.even_out_bytes(&mut best);
        let is_better = largest(&self.loads(&best)) < largest(&self.loads(&uncut));
        Ok(if is_better { best } else { uncut })
    }

    fn is_fixed(&self, piece: &Piece) -> bool {
        matches!(self.options.forced.get(&piece.table), Some(Forced::Rank(_)))
    }

    /// The error of too little memory. `part` is what has no room, if all together would fit.
    fn shortfall(&self, limit: u64, replicated: &[usize], part: Option<&Piece>) -> PlanError {
        const SHOWN: usize = 4;
        let (tables, hot) = (self.tables, self.hot_bytes());
        let of_replicated = replicated.iter().map(|table| tables[*table].bytes()).sum::<u64>();
        let too_much = of_replicated + hot > limit;
        let mut largest: Vec<&TableCost> = (0..tables.len())
            .filter(|table| replicated.is_empty() || replicated.contains(table) == too_much)
            .map(|table| &tables[table])
            .collect();
        largest.sort_by_key(|table| Reverse(table.bytes()));
        largest.truncate(SHOWN);
        let total = tables.iter().map(TableCost::bytes).sum();
        let with = |format: RowFormat| {
            let narrow = |table: &TableCost| match table.stored_bytes {
                // Compressed tables hold other rows than those that are looked up.
                Some(stored) => stored,
                None => table.bytes().min(table.rows.saturating_mul(format.row_bytes(table.dim) as u64)),
            };
            tables.iter().map(narrow).sum::<u64>()
        };
        let formats = [("f16", RowFormat::F16), ("int8", RowFormat::Int8), ("int4", RowFormat::Int4)];
        PlanError::Memory(Box::new(Shortfall {
            total,
            ranks: self.ranks,
            limit,
            replicated: of_replicated,
            hot,
            largest: largest.into_iter().map(|table| (table.name.clone(), table.bytes())).collect(),
            part: part.map(|piece| {
                let may_be_cut = self.halves(piece).is_some();
                (tables[piece.table].name.clone(), piece.bytes, may_be_cut)
            }),
            narrower: formats
                .map(|(name, format)| (name, with(format)))
                .into_iter()
                .filter(|(_, bytes)| *bytes < total)
                .collect(),
        }))
    }

    /// Longest processing time first, among the ranks that have room; else the piece that fits nowhere.
    fn assign(&self, pieces: &[Piece], room: u64) -> Result<Vec<Piece>, usize> {
        let mut pieces = pieces.to_vec();
        let mut loads = vec![(0.0, 0u64); self.ranks];
        for (at, piece) in pieces.iter().enumerate() {
            if let Some(rank) = piece.rank {
                loads[rank].0 += piece.cost;
                loads[rank].1 += piece.bytes;
                if loads[rank].1 > room {
                    return Err(at);
                }
            }
        }
        let mut order: Vec<usize> = (0..pieces.len()).filter(|at| pieces[*at].rank.is_none()).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&pieces[a], &pieces[b]);
            // Under a limit, what is large compared with it goes first, since it has the fewest places.
            let tight = |piece: &Piece| piece.bytes > room / 4;
            let place = |piece: &Piece| (piece.table, piece.columns.start, piece.rows.start);
            let cost = tight(b).cmp(&tight(a)).then(b.cost.total_cmp(&a.cost));
            cost.then(b.bytes.cmp(&a.bytes)).then(place(a).cmp(&place(b)))
        });
        for at in order {
            let piece = &mut pieces[at];
            let fitting = (0..self.ranks).filter(|rank| loads[*rank].1 + piece.bytes <= room);
            let lighter = |a: &usize, b: &usize| {
                let (a, b) = (loads[*a], loads[*b]);
                a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
            };
            let Some(rank) = fitting.min_by(lighter) else { return Err(at) };
            piece.rank = Some(rank);
            loads[rank].0 += piece.cost;
            loads[rank].1 += piece.bytes;
        }
        Ok(pieces)
    }

    fn loads(&self, pieces: &[Piece]) -> Vec<f64> {
        let mut loads = vec![0.0; self.ranks];
        pieces.iter().for_each(|piece| loads[piece.rank.expect("placed")] += piece.cost);
        loads
    }

    /// The piece in two, if it may be cut.
    fn halves(&self, piece: &Piece) -> Option<[Piece; 2]> {
        let table = &self.tables[piece.table];
        let split = self.options.split;
        if piece.whole || split == Split::Never {
            return None;
        }
        let middle = piece.columns.start + (piece.columns.len() / 2).next_multiple_of(COLUMN_GRAIN);
        if split != Split::Rows && table.cuts.by_columns() && middle < piece.columns.end {
            let half = |columns| self.piece(piece.table, piece.rows.clone(), columns);
            return Some([half(piece.columns.start..middle), half(middle..piece.columns.end)]);
        }
        if split == Split::Columns || !table.cuts.by_rows() || piece.rows.end - piece.rows.start < 2 {
            return None;
        }
        let middle = table.row_at(&piece.rows, 0.5).clamp(piece.rows.start + 1, piece.rows.end - 1);
        let half = |rows| self.piece(piece.table, rows, piece.columns.clone());
        Some([half(piece.rows.start..middle), half(middle..piece.rows.end)])
    }

    /// Moves or swaps pieces away from the rank with the most bytes while that lowers the larger bytes of the two ranks and
    /// no rank's cost goes above what is the largest cost now.
    fn even_out_bytes(&self, pieces: &mut [Piece]) {
        let limit = largest(&self.loads(pieces));
        let rank_of = |piece: &Piece| piece.rank.expect("placed");
        // Every step makes the ranks' bytes, sorted, lexicographically smaller, so the steps end by themselves; the count
        // bounds the time.
        for _ in 0..4 * pieces.len() {
            let costs = self.loads(pieces);
            let mut bytes = vec![0; self.ranks];
            pieces.iter().for_each(|piece| bytes[rank_of(piece)] += piece.bytes);
            let heavy = (0..self.ranks).max_by_key(|&rank| (bytes[rank], Reverse(rank))).expect("there is a rank");
            let mut best = None;
            // A step that gains less than a thousandth is not worth its time, nor a plan that is harder to follow.
            let mut lowest = bytes[heavy] - bytes[heavy] / 1024;
            let movable = |at: &usize| !self.is_fixed(&pieces[*at]);
            for out in (0..pieces.len()).filter(|at| rank_of(&pieces[*at]) == heavy).filter(movable) {
                // A move to each other rank, or a swap with each piece there.
                let moves = (0..self.ranks).map(|rank| (rank, None));
                let swaps = (0..pieces.len()).filter(movable).map(|back| (rank_of(&pieces[back]), Some(back)));
                for (rank, back) in moves.chain(swaps).filter(|(rank, _)| *rank != heavy) {
                    let (returned, cost) = back.map_or((0, 0.0), |back| (pieces[back].bytes, pieces[back].cost));
                    let here = bytes[heavy] - pieces[out].bytes + returned;
                    let there = bytes[rank] - returned + pieces[out].bytes;
                    let cost_here = costs[heavy] - pieces[out].cost + cost;
                    let cost_there = costs[rank] - cost + pieces[out].cost;
                    if here.max(there) < lowest && cost_here.max(cost_there) <= limit {
                        lowest = here.max(there);
                        best = Some((out, rank, back));
                    }
                }
            }
            let Some((out, rank, back)) = best else { return };
            pieces[out].rank = Some(rank);
            if let Some(back) = back {
                pieces[back].rank = Some(heavy);
            }
        }
    }
}

fn largest(loads: &[f64]) -> f64 {
    loads.iter().copied().fold(0.0, f64::max)
}

fn squares(loads: &[f64]) -> f64 {
    loads.iter().map(|load| load * load).sum()
}
