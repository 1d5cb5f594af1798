//! The distributed pass over threads: the same bits as the local one, whatever the ranks, the lag and the delivery.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use slackline_collective::{
    CollectiveError, Delivery, Endpoint, Exchange, Group, GroupOptions, GroupShape, Lane, LaneOptions,
};
use slackline_data::{Batch, TableInput};
use slackline_dlrm::{DistributedModel, DlrmError, ModelConfig, Wire, largest_message, samples_of};
use slackline_embedding::{Forced, Plan, PlanOptions, TableCost};
use slackline_transport::threads;

use crate::common::{Small, bits, small_models};

pub(crate) const LANE: Lane = Lane(0);

pub(crate) fn costs(small: &Small) -> Vec<TableCost> {
    let dim = small.config.dim();
    let cost = |(table, &rows): (usize, &usize)| {
        TableCost::new(format!("t{table}"), rows as u64, dim, dim as u64 * 4).lookups(2.0)
    };
    small.config.rows().iter().enumerate().map(cost).collect()
}

pub(crate) fn member(small: &Small, plan: &Plan, rank: usize) -> DistributedModel {
    DistributedModel::new(small.dense(), small.rank_tables(plan, rank), plan.clone(), rank).unwrap()
}

/// One rank's loop; its predictions as (number of the sample, bits).
fn run<E: Endpoint>(
    model: &mut DistributedModel,
    exchange: &mut Exchange<'_, E>,
    batches: &[Batch],
) -> Result<Vec<(u64, u32)>, DlrmError> {
    let (mut all, mut out) = (Vec::new(), Vec::new());
    let mut keep = |answered: slackline_dlrm::Answered, out: &[f32]| {
        assert_eq!(answered.samples, out.len());
        all.extend(bits(out).into_iter().zip(answered.first_sample..).map(|(bits, sample)| (sample, bits)));
    };
    for (number, batch) in batches.iter().enumerate() {
        // Every other batch in two steps, and now and then without the second, which then happens in `complete`.
        match number % 3 {
            0 => model.submit(exchange, batch)?,
            1 => {
                model.pool(exchange, batch)?;
                model.bottom();
            }
            _ => model.pool(exchange, batch)?,
        }
        while let Some(complete) = exchange.take()? {
            let answered = model.complete(complete, &mut out)?;
            keep(answered, &out);
        }
    }
    while let Some(complete) = exchange.drain()? {
        let answered = model.complete(complete, &mut out)?;
        keep(answered, &out);
    }
    assert_eq!(model.pending(), 0);
    Ok(all)
}

/// Runs every rank on a thread of its own and returns what each of them returned.
pub(crate) fn on_threads<T: Send>(
    lane: LaneOptions,
    slot: usize,
    ranks: usize,
    work: impl Fn(usize, &mut Group<threads::ThreadEndpoint>) -> T + Sync,
) -> Vec<T> {
    let shape = GroupShape { ranks, lanes: vec![lane.shape(slot)] };
    let endpoints = threads::group(&shape).unwrap();
    std::thread::scope(|scope| {
        let threads = endpoints.into_iter().enumerate().map(|(rank, endpoint)| {
            let work = &work;
            scope.spawn(move || {
                let options = GroupOptions::new([lane]).deadline(Duration::from_secs(60));
                work(rank, &mut Group::new(endpoint, options).unwrap())
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// All predictions of all ranks, in the order of the samples.
fn predict(small: &Small, plan: &Plan, lane: LaneOptions, slot: usize, batches: &[Batch]) -> Vec<(u64, u32)> {
    predict_over(Wire::F32, small, plan, lane, slot, batches)
}

fn predict_over(
    wire: Wire,
    small: &Small,
    plan: &Plan,
    lane: LaneOptions,
    slot: usize,
    batches: &[Batch],
) -> Vec<(u64, u32)> {
    let of_rank = on_threads(lane, slot, plan.ranks(), |rank, group| {
        run(&mut member(small, plan, rank).with_wire(wire), &mut group.lane(LANE), batches).unwrap()
    });
    let mut all = of_rank.concat();
    all.sort_unstable();
    all
}

pub(crate) fn expected(small: &Small, batches: &[Batch]) -> Vec<(u64, u32)> {
    let (mut model, mut out, mut all) = (small.local(), Vec::new(), Vec::new());
    for batch in batches {
        model.predict(batch, &mut out).unwrap();
        all.extend(bits(&out).into_iter().zip(batch.first_sample..).map(|(bits, sample)| (sample, bits)));
    }
    all
}

pub(crate) fn batches(small: &Small, sizes: &[usize], seed: u64) -> Vec<Batch> {
    let mut first = 0;
    let batch = |(number, &samples): (usize, &usize)| {
        first += samples as u64;
        small.batch(samples, first - samples as u64, seed.wrapping_add(number as u64))
    };
    sizes.iter().enumerate().map(batch).collect()
}

/// A plan whose tables are replicated (0), cut by columns (1) or rows (2), whole with hot rows (3), or placed by the planner;
/// and whether one is cut by rows.
pub(crate) fn mixed_plan(small: &Small, ranks: usize, kinds: &[usize]) -> (Plan, bool) {
    let dim = small.config.dim();
    let mut by_rows = false;
    let mut options = PlanOptions::default();
    for (table, (kind, rows)) in kinds.iter().zip(small.config.rows()).enumerate() {
        match kind {
            0 => {
                options.forced.insert(table, Forced::Replicated);
            }
            1 => {
                options.forced.insert(table, Forced::Columns(dim.min(3)));
            }
            2 => {
                by_rows |= *rows > 1;
                options.forced.insert(table, Forced::Rows(2.min(*rows)));
            }
            3 => {
                options.forced.insert(table, Forced::Whole);
                options.hot.insert(table, (0..*rows as u64).filter(|row| row % 3 != 1).collect());
            }
            _ => {}
        }
    }
    (Plan::make(&costs(small), ranks, &options).unwrap(), by_rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_plan_gives_the_bits_of_the_local_pass_but_for_the_order_of_sums_by_rows(
        small in small_models(),
        ranks in prop_oneof![Just(1usize), Just(2), Just(3), Just(4)],
        kinds in proptest::collection::vec(0usize..6, 9),
        lag in 0usize..3,
        sizes in proptest::collection::vec(0usize..20, 0..8),
        wire in prop_oneof![Just(Wire::F32), Just(Wire::F16)],
        roomy: bool,
        seed: u64,
    ) {
        let (plan, by_rows) = mixed_plan(&small, ranks, &kinds);
        let batches = batches(&small, &sizes, seed);
        let largest = largest_message(&plan, sizes.iter().copied().max().unwrap_or(0));
        let slot = if roomy { largest.max(1) } else { 41 };
        let over = |lane, slot| predict_over(wire, &small, &plan, lane, slot, &batches);
        let found = over(LaneOptions::lag(lag), slot);
        // A plan gives the same bits whatever the lag and the rooms.
        prop_assert_eq!(&found, &over(LaneOptions { lag: 4, delivery: Delivery::Fixed }, 4096));
        if by_rows {
            let expected = expected(&small, &batches);
            let bound = if wire == Wire::F32 { 1e-4 } else { 0.05 };
            let close = |((a, one), (b, other)): (&(u64, u32), &(u64, u32))| {
                a == b && (f32::from_bits(*one) - f32::from_bits(*other)).abs() <= bound
            };
            prop_assert!(found.len() == expected.len() && found.iter().zip(&expected).all(close));
        } else if wire == Wire::F32 {
            prop_assert_eq!(found, expected(&small, &batches));
        } else {
            let whole = Plan::table_wise(&costs(&small), 1).unwrap();
            prop_assert_eq!(found, predict_over(wire, &small, &whole, LaneOptions::lag(0), 4096, &batches));
        }
    }

    #[test]
    fn ranks_that_warm_up_give_the_same_bits_and_count_nothing_of_it(
        small in small_models(),
        sizes in proptest::collection::vec(0usize..20, 1..5),
        threads in 1usize..3,
        seed: u64,
    ) {
        let mut options = PlanOptions::default();
        options.forced.insert(0, Forced::Replicated);
        let last = small.config.rows().len() - 1;
        if last > 0 {
            options.hot.insert(last, (0..small.config.rows()[last] as u64).step_by(2).collect());
        }
        let plan = Plan::make(&costs(&small), 2, &options).unwrap();
        let batches = batches(&small, &sizes, seed);
        let slot = largest_message(&plan, 20).max(1);
        let of_rank = |warm: bool| on_threads(LaneOptions::lag(1), slot, 2, |rank, group| {
            let mut model = member(&small, &plan, rank);
            if threads > 1 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                model = model.with_threads(pool.into());
            }
            if warm {
                let held = plan.parts_of(rank).len() + plan.replicated().len() + usize::from(last > 0);
                assert_eq!(model.warm_up().unwrap(), 2048 * held);
                assert_eq!((model.work(), model.pending()), (slackline_dlrm::RankWork::default(), 0));
            }
            run(&mut model, &mut group.lane(LANE), &batches).unwrap()
        });
        prop_assert_eq!(of_rank(true), of_rank(false));
    }

    #[test]
    fn every_number_of_ranks_lag_and_delivery_gives_the_bits_of_the_local_pass(
        small in small_models(),
        ranks in prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(8)],
        lag in prop_oneof![Just(0usize), Just(1), Just(2), Just(4), Just(8)],
        delivery in prop_oneof![Just(Delivery::Elastic), Just(Delivery::Fixed)],
        sizes in proptest::collection::vec(0usize..20, 0..14),
        roomy: bool,
        seed: u64,
    ) {
        let plan = Plan::table_wise(&costs(&small), ranks).unwrap();
        let batches = batches(&small, &sizes, seed);
        // Without room, messages go in fragments; then the receiver reads copies.
        let largest = largest_message(&plan, sizes.iter().copied().max().unwrap_or(0));
        let slot = if roomy { largest.max(1) } else { 40 };
        let found = predict(&small, &plan, LaneOptions { lag, delivery }, slot, &batches);
        prop_assert_eq!(found, expected(&small, &batches));
    }
}

/// A model with five tables of different sizes.
pub(crate) fn five() -> Small {
    let text = std::fs::read_to_string(crate::common::golden("dot.json")).unwrap();
    Small::new(slackline_dlrm::ModelConfig::from_json(&text).unwrap().config, 5)
}

#[test]
fn every_combination_of_ranks_lag_and_delivery_on_one_model() {
    let small = five();
    let batches = batches(&small, &[9, 1, 0, 17, 3, 8, 8, 2, 30, 5], 40);
    let expected = expected(&small, &batches);
    for ranks in [1, 2, 3, 4, 8] {
        let plan = Plan::table_wise(&costs(&small), ranks).unwrap();
        let slot = largest_message(&plan, 30);
        for lag in [0, 1, 2, 4, 8] {
            for delivery in [Delivery::Elastic, Delivery::Fixed] {
                let found = predict(&small, &plan, LaneOptions { lag, delivery }, slot, &batches);
                assert_eq!(found, expected, "{ranks} ranks, lag {lag}, {delivery} delivery");
            }
        }
    }
}

#[test]
fn a_narrow_wire_gives_the_same_bits_for_any_number_of_ranks_and_comes_close() {
    let small = five();
    let batches = batches(&small, &[9, 1, 0, 17], 11);
    let exact = expected(&small, &batches);
    for (wire, bound) in [(Wire::F16, 2e-3), (Wire::Bf16, 2e-2)] {
        let over = |ranks, slot| {
            let plan = Plan::table_wise(&costs(&small), ranks).unwrap();
            predict_over(wire, &small, &plan, LaneOptions::lag(2), slot, &batches)
        };
        let one = over(1, 4096);
        // Fragments of 41 bytes: values that lie on odd addresses.
        assert!([(2, 4096), (3, 41), (8, 4096)].into_iter().all(|(ranks, slot)| over(ranks, slot) == one), "{wire}");
        assert_ne!(one, exact, "{wire} rounds");
        let far = |((_, one), (_, exact)): (&(u64, u32), &(u64, u32))| {
            (f32::from_bits(*one) - f32::from_bits(*exact)).abs() > bound
        };
        assert!(!one.iter().zip(&exact).any(far), "{wire}");
    }
}

#[test]
fn threads_of_a_rank_give_the_same_bits_in_slots_of_any_address() {
    let small = five();
    let batches = batches(&small, &[4000, 3999], 21);
    let threads = |rank| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2 + rank % 2);
        // One rank waits for its threads, the other is one of them.
        let threads = if rank == 0 { threads } else { threads.use_current_thread() };
        std::sync::Arc::new(threads.build().unwrap())
    };
    for wire in [Wire::F32, Wire::F16] {
        let plan = Plan::table_wise(&costs(&small), 2).unwrap();
        // Whole messages, and fragments that lie where values cannot.
        let lookups: usize = batches[0].tables.iter().map(|table| table.indices.len()).sum();
        assert!(lookups > 2 * 8192, "{lookups} lookups are too few to be handed out");
        let alone = predict_over(wire, &small, &plan, LaneOptions::lag(1), 4096, &batches);
        for slot in [largest_message(&plan, 4000), 4095] {
            let together = on_threads(LaneOptions::lag(1), slot, 2, |rank, group| {
                let mut model = member(&small, &plan, rank).with_wire(wire).with_threads(threads(rank));
                run(&mut model, &mut group.lane(LANE), &batches).unwrap()
            });
            let mut together = together.concat();
            together.sort_unstable();
            assert!(together == alone, "{wire}, slots of {slot} bytes");
        }
    }
}

#[test]
fn any_placement_gives_the_same_bits() {
    let small = five();
    let batches = batches(&small, &[7, 12, 1, 4], 3);
    let expected = expected(&small, &batches);
    for placement in [vec![0, 0, 0, 0, 0], vec![2, 2, 2, 2, 2], vec![2, 0, 2, 1, 0], vec![1, 2, 0, 1, 2]] {
        let plan = Plan::placed(&costs(&small), 3, placement.clone()).unwrap();
        let found = predict(&small, &plan, LaneOptions::lag(2), 4096, &batches);
        assert_eq!(found, expected, "placement {placement:?}");
    }
}

#[test]
fn messages_of_the_largest_batch_fit_their_slots() {
    let small = five();
    for ranks in [1, 2, 3, 4, 8] {
        let plan = Plan::table_wise(&costs(&small), ranks).unwrap();
        let largest = largest_message(&plan, 29);
        let batches = batches(&small, &[29, 29, 28], 1);
        let lane = LaneOptions::lag(1);
        let fragmented = on_threads(lane, largest, ranks, |rank, group| {
            run(&mut member(&small, &plan, rank), &mut group.lane(LANE), &batches).unwrap();
            group.stats(LANE).fragmented
        });
        assert_eq!(fragmented, vec![0; ranks]);
        // And it is not larger than it has to be: the rank with most tables sends that much to some rank.
        let tables = (0..ranks).map(|rank| plan.tables_of(rank).len()).max().unwrap();
        let samples = (0..ranks).map(|rank| samples_of(29, rank, ranks).len()).max().unwrap();
        assert_eq!(largest, tables * samples * small.config.dim() * 4);
    }
}

#[cfg(feature = "import")]
#[test]
fn compressed_tables_in_parts_give_the_bits_of_whole_ones() {
    use slackline_dlrm::{ImportOptions, ModelDirectory};
    use slackline_embedding::{Cuts, Load, Verify};

    for name in ["qr_mult", "qr_add", "qr_concat", "md", "hashed", "dot"] {
        let folder = tempfile::tempdir().unwrap();
        let [checkpoint, config, io] =
            ["pt", "json", "npz"].map(|kind| crate::common::golden(&format!("{name}.{kind}")));
        let out = folder.path().join("model");
        slackline_dlrm::import(&checkpoint, &config, &out, &ImportOptions::default(), &mut |_| ()).unwrap();
        let directory = ModelDirectory::open(&out).unwrap();
        let batch = crate::common::whole(&io, directory.config());
        let mut expected = Vec::new();
        crate::common::load_all(&directory).predict(&batch, &mut expected).unwrap();

        let tables = directory.tables();
        let forced = tables.iter().enumerate().map(|(number, table)| {
            // Tables that are cut by rows have their sums rounded in another order, so only one of them.
            let how = match table.cuts {
                Cuts::Both | Cuts::Columns => Forced::Columns(2),
                Cuts::Rows if number == 4 => Forced::Rows(3),
                _ => Forced::Replicated,
            };
            (number, how)
        });
        let plan = Plan::make(&tables, 3, &PlanOptions { forced: forced.collect(), ..PlanOptions::default() }).unwrap();
        let load = |rank| directory.load_rank(&plan, rank, Load::Mapped, Verify::Checksums, &mut |_| ()).unwrap();
        let found = on_threads(LaneOptions::lag(2), 4096, 3, |rank, group| {
            let dense = directory.load_dense().unwrap();
            let mut model = DistributedModel::new(dense, load(rank), plan.clone(), rank).unwrap();
            run(&mut model, &mut group.lane(LANE), std::slice::from_ref(&batch)).unwrap()
        });
        let found: Vec<f32> = found.concat().into_iter().map(|(_, bits)| f32::from_bits(bits)).collect();
        let by_rows = plan.parts().iter().any(|part| part.rows.start > 0);
        assert_eq!(by_rows, name == "md", "{plan}");
        let close = |(one, other): (&f32, &f32)| (one - other).abs() <= 1e-6;
        assert!(found == expected || (by_rows && found.iter().zip(&expected).all(close)), "{name}\n{plan}");
    }
}

#[test]
fn what_hot_rows_save_is_counted() {
    let small = five();
    let batches = batches(&small, &[40, 33], 7);
    let sent = |hot: Option<u64>| {
        let mut options = PlanOptions { forced: [(0, Forced::Rank(0))].into(), ..PlanOptions::default() };
        options
            .hot
            .extend(hot.map(|every| (0, (0..small.config.rows()[0] as u64).filter(|row| row % every == 0).collect())));
        let plan = Plan::make(&costs(&small), 2, &options).unwrap();
        let work = on_threads(LaneOptions::lag(1), 1 << 16, 2, |rank, group| {
            let mut model = member(&small, &plan, rank);
            run(&mut model, &mut group.lane(LANE), &batches).unwrap();
            model.work()
        });
        (work[0].sent + work[1].sent, work[0].saved + work[1].saved)
    };
    let (all, none) = sent(None);
    assert_eq!(none, 0);
    let (some, saved) = sent(Some(2));
    assert!(saved > 0 && some + saved == all, "{some} + {saved} of {all}");
    // Every row of the table: nothing of it is sent.
    let of_table = (20 + 16) * small.config.dim() as u64 * 4;
    assert!((of_table..=of_table + small.config.dim() as u64 * 4).contains(&sent(Some(1)).1));
}

#[test]
fn an_index_outside_of_its_table_is_refused_by_the_rank_that_holds_the_table() {
    let small = five();
    let plan = Plan::placed(&costs(&small), 2, vec![0, 0, 0, 1, 0]).unwrap();
    let mut bad = small.batch(6, 500, 1);
    bad.tables[3].indices = vec![3, 11];
    bad.tables[3].offsets = vec![0, 0, 1, 1, 1, 2, 2];
    let results = on_threads(LaneOptions::lag(0), 4096, 2, |rank, group| {
        let result = run(&mut member(&small, &plan, rank), &mut group.lane(LANE), std::slice::from_ref(&bad));
        let error = result.unwrap_err();
        // As a caller should: tell the others why this rank cannot go on.
        if !matches!(error, DlrmError::Collective(_)) {
            group.give_up(&error.to_string());
        }
        error.to_string()
    });
    assert!(results[1].contains("table t3, sample 504: index 11"), "{}", results[1]);
    assert!(results[0].contains("index 11") && results[0].contains("rank 1"), "{}", results[0]);
}

#[test]
fn ranks_with_different_batches_get_an_error_with_both_sizes() {
    let small = five();
    let plan = Plan::table_wise(&costs(&small), 2).unwrap();
    let results = on_threads(LaneOptions::lag(0), 4096, 2, |rank, group| {
        let batches = batches(&small, if rank == 0 { &[8] } else { &[6] }, 2);
        run(&mut member(&small, &plan, rank), &mut group.lane(LANE), &batches)
    });
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error, DlrmError::Collective(CollectiveError::Fault(_))), "{error}");
        let text = error.to_string();
        assert!(text.contains("bytes"), "{text}");
    }
}

#[test]
fn a_rank_with_fewer_batches_is_told() {
    let small = five();
    let plan = Plan::table_wise(&costs(&small), 2).unwrap();
    let results = on_threads(LaneOptions::lag(4), 4096, 2, |rank, group| {
        let batches = batches(&small, if rank == 0 { &[8, 8, 8] } else { &[8, 8] }, 2);
        run(&mut member(&small, &plan, rank), &mut group.lane(LANE), &batches).unwrap_err().to_string()
    });
    // Rank 1 sees a round that it never submitted, or hears that rank 0 missed its message of that round.
    assert!(results.iter().all(|text| text.contains("round 2") || text.contains("bytes")), "{results:?}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let small = five();
    let plan = Plan::placed(&costs(&small), 2, vec![0, 1, 0, 1, 0]).unwrap();
    let refuse = |tables: &[usize], plan: &Plan, rank| {
        let tables: Vec<_> = tables.iter().map(|&table| small.table(table)).collect();
        DistributedModel::new(small.dense(), tables, plan.clone(), rank).unwrap_err().to_string()
    };
    assert_eq!(refuse(&[1, 3], &plan, 2), "there is no rank 2: the plan has 2 ranks");
    assert_eq!(refuse(&[1], &plan, 1), "this rank: expected 2 tables, found 1");
    assert!(refuse(&[3, 1], &plan, 1).starts_with("table 1 (t3) has 11 rows"));
    let short = Plan::table_wise(&costs(&small)[..4], 2).unwrap();
    assert_eq!(refuse(&[], &short, 0), "the plan: expected 5 tables, found 4");
    let tables = vec![small.table(1), small.table(3)];
    assert_eq!(Arc::strong_count(&tables[0]), 1);
    assert!(DistributedModel::new(small.dense(), tables, plan, 1).is_ok());
}

#[test]
fn a_sum_that_the_wire_would_make_infinite_is_an_error_with_table_and_sample() {
    let config = ModelConfig::from_json(
        r#"{"arch_sparse_feature_size": 4, "arch_embedding_size": "3-5", "arch_mlp_bot": "2-4", "arch_mlp_top": "1"}"#,
    );
    let mut small = Small::new(config.unwrap().config, 3);
    // Two of these rows fit into f16 each, and their sum does not.
    small.tables[1][4 * 2 + 3] = 40000.0;
    let table = |indices: Vec<i64>| TableInput { indices, offsets: vec![0, 1, 2, 4, 5], ..TableInput::default() };
    let (fits, large) = (vec![0, 1, 2, 0, 1], vec![0, 2, 2, 2, 4]);
    let batch = |first_sample, of_second: &[i64]| Batch {
        first_sample,
        samples: 4,
        dense: vec![0.5; 8],
        tables: vec![table(vec![0, 1, 2, 0, 1]), table(of_second.to_vec())],
        ..Batch::default()
    };
    let hot = [(1, vec![0u64])].into();
    let plans = [
        (PlanOptions::default(), 1),
        (PlanOptions::default(), 2),
        (PlanOptions { replicate: 1 << 20, ..PlanOptions::default() }, 2),
        (PlanOptions { forced: [(1, Forced::Columns(2))].into(), ..PlanOptions::default() }, 2),
        (PlanOptions { hot, ..PlanOptions::default() }, 2),
    ];
    for (options, ranks) in plans {
        let plan = Plan::make(&costs(&small), ranks, &options).unwrap();
        let pool = slackline_dlrm::rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for threads in [None, Some(Arc::new(pool))] {
            let answer = |wire: Wire, batch: &Batch| {
                (0..ranks)
                    .map(|rank| {
                        let mut model = member(&small, &plan, rank).with_wire(wire);
                        if let Some(threads) = &threads {
                            model = model.with_threads(threads.clone());
                        }
                        let mut prepared = model.prepare(batch).unwrap();
                        let mut rooms: Vec<Vec<u8>> = prepared.send_sizes().iter().map(|size| vec![0; *size]).collect();
                        let mut rooms: Vec<&mut [u8]> = rooms.iter_mut().map(|room| &mut room[..]).collect();
                        prepared.pool_into(&mut rooms)?;
                        prepared.finish(0)
                    })
                    .collect::<Result<Vec<()>, DlrmError>>()
            };
            answer(Wire::F16, &batch(100, &fits)).unwrap();
            answer(Wire::Bf16, &batch(100, &large)).unwrap();
            answer(Wire::F32, &batch(100, &large)).unwrap();
            let refused = answer(Wire::F16, &batch(100, &large)).unwrap_err().to_string();
            assert_eq!(
                refused, "table t1, sample 102: column 3 of the pooled vector is 80000, too large for f16",
                "{plan}"
            );
        }
    }
    // What is infinite by itself passes, as in single precision.
    small.tables[1][4 * 2 + 3] = f32::INFINITY;
    let plan = Plan::table_wise(&costs(&small), 1).unwrap();
    let mut model = member(&small, &plan, 0).with_wire(Wire::F16);
    let batch = batch(0, &large);
    let mut prepared = model.prepare(&batch).unwrap();
    let mut room = vec![0; prepared.send_sizes()[0]];
    prepared.pool_into(&mut [&mut room]).unwrap();
}
