//! The distributed model over a collective that the test steps itself, without threads and without a transport.

use std::cell::RefCell;
use std::collections::BTreeMap;

use half::{bf16, f16};
use slackline_data::Batch;
use slackline_dlrm::{Answered, Collective, Distributed, DistributedModel, DlrmError, Local, Model, Wire, samples_of};
use slackline_embedding::{Forced, Plan, PlanOptions};

use crate::common::{Small, bits};
use crate::distributed::{batches, costs, expected, five, member};
use crate::fake::{Fake, Post};

/// A model whose pooled vectors are small whole numbers: sums are exact in any order and in every precision of messages.
fn exact() -> Small {
    let mut small = five();
    // Without negative zeros.
    small.tables.iter_mut().flatten().for_each(|value| *value = (*value * 8.0).round() + 0.0);
    small
}

/// Batches without weights.
fn unweighted(small: &Small, sizes: &[usize]) -> Vec<Batch> {
    let mut batches = batches(small, sizes, 40);
    batches.iter_mut().flat_map(|batch| &mut batch.tables).for_each(|table| table.weights.clear());
    batches
}

/// A plan of each kind, and one with tables of all kinds.
fn plans(small: &Small, ranks: usize) -> Vec<(&'static str, Plan)> {
    let all = |how: fn(usize) -> Forced| (0..5).map(|table| (table, how(table))).collect::<BTreeMap<_, _>>();
    let rows = small.config.rows().to_vec();
    let every = |step: u64, table: usize| (0..rows[table] as u64).filter(|row| row % step == 0).collect::<Vec<_>>();
    let hot = |tables: &[usize]| tables.iter().map(|table| (*table, every(2, *table))).collect();
    let none = BTreeMap::new();
    let by_rows: BTreeMap<_, _> = (0..5).map(|table| (table, Forced::Rows(rows[table].min(3)))).collect();
    let of_all_kinds: BTreeMap<_, _> = [(0, Forced::Rows(2)), (1, Forced::Columns(3)), (2, Forced::Replicated)].into();
    [
        ("table-wise", all(|_| Forced::Whole), none.clone()),
        ("all on one rank", all(|_| Forced::Rank(0)), none.clone()),
        ("row-wise", by_rows, none.clone()),
        ("column-wise", all(|table| Forced::Columns(2 + table % 3)), none.clone()),
        ("hot rows", all(|_| Forced::Whole), hot(&[0, 3, 4])),
        ("all rows hot", all(|_| Forced::Whole), (0..5).map(|table| (table, every(1, table))).collect()),
        ("replicated", all(|_| Forced::Replicated), none),
        ("of all kinds", of_all_kinds, hot(&[4])),
    ]
    .map(|(name, forced, hot)| {
        let options = PlanOptions { forced, hot, ..PlanOptions::default() };
        (name, Plan::make(&costs(small), ranks, &options).unwrap())
    })
    .into()
}

fn group(small: &Small, plan: &Plan, wire: Wire) -> (std::rc::Rc<RefCell<Post>>, Vec<Distributed<Fake>>) {
    let (post, ends) = Post::group(plan.ranks());
    let rank = |(rank, end)| Distributed::new(member(small, plan, rank).with_wire(wire), end).unwrap();
    (post, ends.into_iter().enumerate().map(rank).collect())
}

/// Takes answers until there are none, and returns their number.
fn collect(
    model: &mut dyn Model,
    found: &mut Vec<(u64, u32)>,
    next: impl Fn(&mut dyn Model, &mut Vec<f32>) -> Result<Option<Answered>, DlrmError>,
) -> usize {
    let (mut out, mut answers) = (Vec::new(), 0);
    while let Some(answered) = next(model, &mut out).unwrap() {
        assert_eq!(answered.samples, out.len());
        found.extend((answered.first_sample..).zip(bits(&out)));
        answers += 1;
    }
    answers
}

/// Steps all ranks through all batches. `due` says, after each batch, how many rounds may be handed out in all. Returns the
/// predictions in order, and how many rounds rank 0 took after each batch and at the end.
fn step(
    post: &RefCell<Post>,
    ranks: &mut [Distributed<Fake>],
    batches: &[Batch],
    due: impl Fn(usize) -> usize,
) -> (Vec<(u64, u32)>, Vec<usize>) {
    let (mut found, mut taken) = (Vec::new(), Vec::new());
    for (number, batch) in batches.iter().enumerate() {
        ranks.iter_mut().for_each(|rank| rank.submit(batch).unwrap());
        post.borrow_mut().due = due(number);
        let answers = ranks.iter_mut().map(|rank| collect(rank, &mut found, |model, out| model.take(out)));
        taken.push(answers.collect::<Vec<_>>()[0]);
    }
    let answers = ranks.iter_mut().map(|rank| collect(rank, &mut found, |model, out| model.drain(out)));
    taken.push(answers.collect::<Vec<_>>()[0]);
    found.sort_unstable();
    (found, taken)
}

#[test]
fn every_kind_of_plan_gives_the_bits_of_the_local_model_on_any_wire() {
    let small = exact();
    let batches = unweighted(&small, &[9, 1, 0, 17, 3]);
    let mut local = Local::new(small.local());
    let mut expected = Vec::new();
    for batch in &batches {
        local.submit(batch).unwrap();
        assert_eq!(collect(&mut local, &mut expected, |model, out| model.take(out)), 1);
    }
    assert_eq!(expected.len(), 30);
    for ranks in [1, 2, 3, 5] {
        for (name, plan) in plans(&small, ranks) {
            for wire in Wire::ALL {
                let (post, mut members) = group(&small, &plan, wire);
                let (found, taken) = step(&post, &mut members, &batches, |_| usize::MAX);
                assert!(found == expected, "{name}, {ranks} ranks, {wire}\n{plan}");
                assert_eq!(taken, [1, 1, 1, 1, 1, 0]);
            }
        }
    }
}

#[test]
fn messages_hold_what_the_plan_says_and_nothing_else() {
    let small = exact();
    let batch = &unweighted(&small, &[23])[0];
    let sum = |table: usize, sample: usize, rows: &std::ops::Range<u64>, column: usize| -> f32 {
        let input = &batch.tables[table];
        let bag = &input.indices[input.offsets[sample] as usize..input.offsets[sample + 1] as usize];
        let rows = bag.iter().filter(|row| rows.contains(&(**row as u64)));
        rows.fold(0.0, |sum, row| sum + small.tables[table][*row as usize * small.config.dim() + column])
    };
    let sent = |plan: &Plan, table: usize, sample: usize| {
        let (hot, input) = (plan.hot_rows(table), &batch.tables[table]);
        let bag = &input.indices[input.offsets[sample] as usize..input.offsets[sample + 1] as usize];
        hot.is_empty() || bag.iter().any(|row| !hot.contains(&(*row as u64)))
    };
    for (name, plan) in plans(&small, 3) {
        for wire in Wire::ALL {
            for rank in 0..3 {
                let mut model = member(&small, &plan, rank).with_wire(wire);
                let mut prepared = model.prepare(batch).unwrap();
                let mut messages: Vec<Vec<u8>> = prepared.send_sizes().iter().map(|size| vec![0xff; *size]).collect();
                prepared.pool_into(&mut messages.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).unwrap();
                for (to, message) in messages.iter().enumerate() {
                    let mut expected = Vec::new();
                    for part in plan.parts_of(rank) {
                        for sample in samples_of(23, to, 3).filter(|sample| sent(&plan, part.table, *sample)) {
                            for column in part.columns.clone() {
                                let value = sum(part.table, sample, &part.rows, column);
                                match wire {
                                    Wire::F32 => expected.extend(value.to_le_bytes()),
                                    Wire::F16 => expected.extend(f16::from_f32(value).to_le_bytes()),
                                    Wire::Bf16 => expected.extend(bf16::from_f32(value).to_le_bytes()),
                                }
                            }
                        }
                    }
                    assert!(*message == expected, "{name}, {wire}, from {rank} to {to}");
                }
            }
        }
    }
}

#[test]
fn rounds_that_come_late_or_several_at_once_give_the_same_bits() {
    let small = five();
    let batches = batches(&small, &[9, 1, 0, 17, 3, 8], 41);
    let expected = expected(&small, &batches);
    for (name, plan) in plans(&small, 3).into_iter().filter(|(name, _)| !["row-wise", "of all kinds"].contains(name)) {
        let run = |due: fn(usize) -> usize| {
            let (post, mut ranks) = group(&small, &plan, Wire::F32);
            let (found, taken) = step(&post, &mut ranks, &batches, due);
            assert!(found == expected, "{name}");
            assert!(ranks.iter().all(|rank| rank.model().pending() == 0));
            taken
        };
        assert_eq!(run(|number| number.saturating_sub(1)), [0, 0, 1, 1, 1, 1, 2], "two rounds late");
        assert_eq!(run(|number| number.next_multiple_of(2)), [0, 2, 0, 2, 0, 2, 0], "two at once");
        assert_eq!(run(|_| 0), [0, 0, 0, 0, 0, 0, 6], "all at the end");
    }
}

#[test]
fn a_flush_answers_all_that_was_submitted_and_more_may_follow() {
    let small = five();
    let batches = batches(&small, &[9, 4, 17, 3], 43);
    let (post, mut ranks) = group(&small, &plans(&small, 2)[0].1, Wire::F32);
    post.borrow_mut().due = 0;
    let mut local = [Local::new(small.local())];
    let flushed = |ranks: &mut [&mut dyn Model]| {
        let mut found = Vec::new();
        for half in batches.chunks(2) {
            for batch in half {
                ranks.iter_mut().for_each(|rank| rank.submit(batch).unwrap());
            }
            for rank in &mut *ranks {
                assert_eq!(collect(*rank, &mut found, |model, out| model.flush(out)), 2);
            }
        }
        found.sort_unstable();
        found
    };
    fn objects<M: Model>(models: &mut [M]) -> Vec<&mut dyn Model> {
        models.iter_mut().map(|model| model as &mut dyn Model).collect()
    }
    let found = flushed(&mut objects(&mut ranks));
    assert_eq!(found, flushed(&mut objects(&mut local)));
    assert_eq!(found, expected(&small, &batches));
}

#[test]
fn a_message_of_the_wrong_size_is_refused_with_both_sizes() {
    let small = five();
    let batches = batches(&small, &[8, 6], 2);
    for (name, plan) in plans(&small, 2).into_iter().filter(|(name, _)| !["all rows hot", "replicated"].contains(name))
    {
        let (post, mut ranks) = group(&small, &plan, Wire::F32);
        post.borrow_mut().cut = Some((1, 0, 1));
        let mut out = Vec::new();
        for rank in &mut ranks {
            batches.iter().for_each(|batch| rank.submit(batch).unwrap());
        }
        assert_eq!(ranks[1].take(&mut out).unwrap().unwrap().round, 0, "{name}");
        let error = ranks[1].take(&mut out).unwrap_err();
        let DlrmError::MessageSize { round: 1, rank: 1, from: 0, expected, found } = error else { panic!("{error}") };
        assert_eq!(expected, found + 1, "{name}");
    }
}

#[test]
fn rounds_out_of_order_are_refused_and_the_right_one_is_still_answered() {
    let small = five();
    let batches = batches(&small, &[8, 6], 2);
    let (_post, mut ranks) = group(&small, &plans(&small, 2)[0].1, Wire::F32);
    let mut out = Vec::new();
    for rank in &mut ranks {
        batches.iter().for_each(|batch| rank.submit(batch).unwrap());
    }
    let rank = &mut ranks[1];
    let refused = |rank: &mut Distributed<Fake>, next: usize, out: &mut Vec<f32>| {
        rank.collective_mut().taken = next;
        let error = rank.take(out).unwrap_err();
        let DlrmError::UnexpectedRound { rank: 1, round, expected } = error else { panic!("{error}") };
        assert_eq!(round, next as u64);
        expected
    };
    assert_eq!(refused(rank, 1, &mut out), Some(0));
    rank.collective_mut().taken = 0;
    assert_eq!(rank.take(&mut out).unwrap().unwrap().round, 0);
    assert_eq!(refused(rank, 0, &mut out), Some(1));
    assert_eq!(rank.take(&mut out).unwrap().unwrap().round, 1);
    assert_eq!(refused(rank, 0, &mut out), None);
}

#[test]
fn what_does_not_belong_together_or_comes_too_late_is_refused() {
    let small = five();
    let plan = &plans(&small, 2)[0].1;
    let (_post, mut ends) = Post::group(2);
    let refused = Distributed::new(member(&small, plan, 0), ends.remove(1)).err().unwrap().to_string();
    assert_eq!(refused, "the model is the part of rank 0 of 2, and the collective the end of rank 1 of 2");
    let (_post, mut ends) = Post::group(3);
    let refused = Distributed::new(member(&small, plan, 0), ends.remove(0)).err().unwrap();
    assert!(matches!(refused, DlrmError::Member { rank: 0, ranks: 2, found: 0, of: 3 }), "{refused}");

    let mut local = Local::new(small.local());
    let mut bad = small.batch(3, 0, 1);
    let good = bad.clone();
    bad.tables.pop();
    // A batch that is refused has no answer, and no number.
    assert!(matches!(local.submit(&bad), Err(DlrmError::BatchShape { .. })));
    local.submit(&good).unwrap();
    let mut out = Vec::new();
    assert_eq!(local.drain(&mut out).unwrap(), Some(Answered { round: 0, first_sample: 0, samples: 3 }));
    assert_eq!(local.drain(&mut out).unwrap(), None);
    assert!(matches!(local.submit(&good), Err(DlrmError::Drained)));
    assert!(local.work().lookups > std::time::Duration::ZERO && local.work().sent == 0);
}

#[test]
fn messages_move_on_while_the_threads_of_a_rank_pool() {
    let small = five();
    let batches = batches(&small, &[6000, 5999], 21);
    let plan = Plan::placed(&costs(&small), 2, vec![0, 0, 0, 1, 0]).unwrap();
    let run = |threads: usize, needs_progress: bool| {
        let (post, ends) = Post::group(2);
        post.borrow_mut().needs_progress = needs_progress;
        let model = |rank| {
            let model = member(&small, &plan, rank);
            let pool = || rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            if threads > 1 && rank == 0 { model.with_threads(pool().into()) } else { model }
        };
        let mut ranks: Vec<(DistributedModel, _)> = (0..2).map(model).zip(ends).collect();
        let (mut calls, mut found, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for batch in &batches {
            for (model, end) in &mut ranks {
                let before = post.borrow().progressed;
                model.submit(end, batch).unwrap();
                calls.push(post.borrow().progressed - before);
            }
            for (model, end) in &mut ranks {
                let answered = model.complete(end.take().unwrap().unwrap(), &mut out).unwrap();
                found.extend((answered.first_sample..).zip(bits(&out)));
            }
        }
        assert!(found == expected(&small, &batches), "{threads} threads, progress: {needs_progress}");
        calls
    };
    // One thread: after every part. Rank 0 has 4 parts, rank 1 has 1.
    assert_eq!(run(1, true), [4, 1, 4, 1]);
    // Two threads of rank 0 pool two parts at a time: these have more lookups than it takes to keep both busy.
    assert_eq!(run(2, true), [2, 1, 2, 1]);
    assert_eq!((run(1, false), run(2, false)), (vec![0; 4], vec![0; 4]));
}
